"""A server that other machines reach: only with authorization, or where it is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_process import health, refused
from tests.support.certificates import Authority
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import windshift

ANY = "0.0.0.0"  # noqa: S104 - that is it


@pytest.mark.parametrize("host", [ANY, "::", "192.0.2.1", "some-host"])
def test_others_are_not_let_in_by_mistake(tmp_path: Path, host: str) -> None:
    """Without authorization: status 2, and one line that says what may be set."""
    status, told = refused(tmp_path, GRPC_HOST=host)
    assert status == 2
    assert told == (
        f"windshift: GRPC_HOST: {host!r} may let other machines in, and nothing says who may do what; set "
        "WINDSHIFT_AUTH_FILE, or GRPC_HOST=127.0.0.1, or WINDSHIFT_INSECURE=true to let everybody who "
        "reaches the port do everything\n"
    )


def test_where_it_is_meant(tmp_path: Path, nats_server: NatsServer) -> None:
    """With WINDSHIFT_INSECURE it serves, and says what that means."""
    with windshift(tmp_path, NATS_URL=nats_server.url, GRPC_HOST=ANY, WINDSHIFT_INSECURE="true") as server:
        assert health(server.address) == "SERVING"
        server.wait_for(lambda: "without authorization: whoever reaches" in server.err)
        assert server.stop() == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_alone(tmp_path: Path, nats_server: NatsServer, host: str) -> None:
    """On loopback it serves everybody; the port of probes may be anybody's."""
    with windshift(tmp_path, NATS_URL=nats_server.url, GRPC_HOST=host, HEALTH_HOST=ANY) as server:
        assert server.probe("/readyz").status == 200
        assert server.stop() == 0
        assert "without" not in server.err


def test_client_certificates(tmp_path: Path, nats_server: NatsServer) -> None:
    """Those that are required keep others out; those that are optional do not."""
    authority = Authority(tmp_path)
    own = authority.issue("api")
    settings = {
        "GRPC_HOST": ANY,
        "GRPC_TLS_CERT": str(own.certificate),
        "GRPC_TLS_KEY": str(own.key),
        "GRPC_TLS_CLIENT_CA": str(authority.certificate),
    }
    status, told = refused(tmp_path, **settings, GRPC_TLS_CLIENT_AUTH="optional")
    assert (status, told.partition(",")[0]) == (2, f"windshift: GRPC_HOST: {ANY!r} may let other machines in")
    with windshift(tmp_path, NATS_URL=nats_server.url, **settings) as server:
        assert server.stop() == 0
        assert "without" not in server.err


def test_an_authorization_file(tmp_path: Path, nats_server: NatsServer) -> None:
    """It lets other addresses be served; without TLS the log says that tokens can be read on the way."""
    authority = Authority(tmp_path)
    own = authority.issue("api")
    file = tmp_path / "auth.toml"
    file.touch(mode=0o600)
    settings = {"NATS_URL": nats_server.url, "GRPC_HOST": ANY, "WINDSHIFT_AUTH_FILE": str(file)}
    tls = {"GRPC_TLS_CERT": str(own.certificate), "GRPC_TLS_KEY": str(own.key)}
    for more, warned in (({}, True), ({"GRPC_HOST": "127.0.0.1"}, False), (tls, False)):
        with windshift(tmp_path, **(settings | more)) as server:
            assert server.stop() == 0
            assert ("tokens travel in plain text" in server.err) == warned
            assert "without authorization" not in server.err


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("WINDSHIFT_AUTHFILE", "auth.toml", "there is no such setting; did you mean WINDSHIFT_AUTH_FILE?"),
        ("WINDSHIFT_AUTH_FILE", "", "it is set, and empty; give it a value, or unset it"),
        ("WINDSHIFT_AUTH_FILE", " ", "it is set, and empty; give it a value, or unset it"),
        ("GRPC_TLS_CLIENT_CA", "", "it is set, and empty; give it a value, or unset it"),
        ("GRPC_TLS_CA", "ca.pem", "there is no such setting; did you mean GRPC_TLS_CLIENT_CA?"),
        ("WINDSHIFT_TLS_CERT", "a.pem", "only clients read it; did you mean GRPC_TLS_CERT? If not, unset it"),
        ("NATS_URL", "", "it is set, and empty; give it a value, or unset it"),
    ],
)
def test_what_was_meant(tmp_path: Path, name: str, value: str, told: str) -> None:
    """Authorization, TLS or a NATS that is misspelt or empty is no server, also where an open one may be."""
    found = refused(tmp_path, GRPC_HOST=ANY, WINDSHIFT_INSECURE="true", **{name: value})
    assert found == (2, f"windshift: {name}: {told}\n")
