"""TLS of the API, with grpcio as the client."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.e2e.test_process import health, refused
from tests.support.certificates import Authority, Pair
from tests.support.windshift_process import windshift


def credentials(authority: Authority, own: Pair | None = None) -> grpc.ChannelCredentials:
    """Make a client's credentials: whom it trusts, and what it shows."""
    return grpc.ssl_channel_credentials(
        authority.certificate.read_bytes(),
        own.key.read_bytes() if own else None,
        own.certificate.read_bytes() if own else None,
    )


def test_tls(tmp_path: Path) -> None:
    """With a certificate the API speaks TLS only; probes over HTTP stay as they are."""
    authority = Authority(tmp_path)
    own = authority.issue("api")
    files = {"GRPC_TLS_CERT": str(own.certificate), "GRPC_TLS_KEY": str(own.key)}
    with windshift(tmp_path, **files) as server:
        assert f"API on 127.0.0.1:{server.api_port} (TLS), " in server.out
        assert health(server.address, credentials=credentials(authority)) == "SERVING"
        assert server.probe("/readyz").status == 200
        with pytest.raises(grpc.RpcError) as plain:
            health(server.address)
        assert plain.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.stop() == 0


def test_client_certificates(tmp_path: Path) -> None:
    """With GRPC_TLS_CLIENT_CA only clients that show a certificate of that authority get in."""
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    own, client, other = authority.issue("api"), authority.issue("client"), stranger.issue("other")
    files = {
        "GRPC_TLS_CERT": str(own.certificate),
        "GRPC_TLS_KEY": str(own.key),
        "GRPC_TLS_CLIENT_CA": str(authority.certificate),
    }
    with windshift(tmp_path, **files) as server:
        assert health(server.address, credentials=credentials(authority, client)) == "SERVING"
        for shown in (None, other):
            with pytest.raises(grpc.RpcError) as error:
                health(server.address, credentials=credentials(authority, shown))
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.stop() == 0


def test_unusable_files(tmp_path: Path) -> None:
    """Status 1, and one line that names the variable and the file, and says what is wrong with it."""
    authority = Authority(tmp_path)
    one, another = authority.issue("one"), authority.issue("another")
    right = {
        "GRPC_TLS_CERT": one.certificate,
        "GRPC_TLS_KEY": one.key,
        "GRPC_TLS_CLIENT_CA": authority.certificate,
    }
    nothing, damaged, locked, shared = (
        tmp_path / name for name in ("nothing", "damaged", "locked", "shared")
    )
    nothing.write_text("nothing\n")
    damaged.write_bytes(one.certificate.read_bytes()[:200])
    key = load_pem_private_key(one.key.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    shared.write_bytes(authority.certificate.read_bytes())
    shared.chmod(0o664)
    for variable, file, what in (
        ("GRPC_TLS_CERT", nothing, "holds no certificate in PEM"),
        ("GRPC_TLS_CERT", one.key, "holds no certificate in PEM but a key"),
        ("GRPC_TLS_CERT", damaged, "cut off or damaged"),
        ("GRPC_TLS_KEY", nothing, "holds no private key in PEM"),
        ("GRPC_TLS_KEY", one.certificate, "holds no private key in PEM but a certificate"),
        ("GRPC_TLS_KEY", another.key, f"is not the key of the first certificate in {one.certificate}"),
        ("GRPC_TLS_KEY", locked, "has a password; write it without: openssl pkey -in OLD -out NEW"),
        ("GRPC_TLS_CLIENT_CA", one.key, "holds no certificate in PEM but a key"),
        ("GRPC_TLS_CLIENT_CA", shared, f": a group may write to the file; chmod go-w {shared}"),
    ):
        files = {name: str(path) for name, path in (right | {variable: file}).items()}
        status, told = refused(tmp_path, LOG_LEVEL="error", **files)
        assert status == 1
        assert f"{variable}: {file}" in told
        assert what in told
        assert len(told.splitlines()) == 1


def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    """The server starts, since only clients can refuse it, and the log says that they will."""
    old = Authority(tmp_path).issue("old", lifetime=timedelta(days=-1))
    with windshift(tmp_path, GRPC_TLS_CERT=str(old.certificate), GRPC_TLS_KEY=str(old.key)) as server:
        told = f"clients will not accept the certificate in {old.certificate}: certificate has expired"
        assert told in server.err
        assert server.stop() == 0
