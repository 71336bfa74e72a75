"""TLS of the API, with grpcio as the client."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

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
    """A key of another certificate, or no PEM at all: status 1 and one line."""
    authority = Authority(tmp_path)
    one, another = authority.issue("one"), authority.issue("another")
    nothing = tmp_path / "nothing"
    nothing.write_text("nothing\n")
    for key in (another.key, nothing):
        status, told = refused(
            tmp_path, GRPC_TLS_CERT=str(one.certificate), GRPC_TLS_KEY=str(key), LOG_LEVEL="error"
        )
        assert status == 1
        assert told.startswith("windshift: GRPC_TLS_CERT, GRPC_TLS_KEY, GRPC_TLS_CLIENT_CA: ")
        assert len(told.splitlines()) == 1
