"""`windshift doctor`, and what happens to whoever is not allowed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.authorization.policies import principal, put, token_of
from tests.cli.conftest import Cli
from tests.support.app import running_app
from tests.support.certificates import Authority
from tests.support.nats_server import NatsServer


def states(cli: Cli, *arguments: str, code: int) -> dict[str, tuple[str, str]]:
    """Return what the checks say, by their names."""
    checks = cli("doctor", "-o", "json", *arguments, code=code).json
    return {check["name"]: (check["state"], check["found"]) for check in checks}


def test_all_is_well(cli: Cli) -> None:
    """At a server where all is well every line says so; a consumer that nobody attends to is a warning."""
    assert all(state == "ok" for state, _ in states(cli, code=0).values())
    cli("streams", "ensure", "orders", "--subject", "orders.>", "-q")
    cli("consumers", "ensure", "orders", "lonely", "--from", "start", "-q")
    cli("publish", "orders.x", "1", "-q")
    found = cli("doctor")
    assert "warn  consumer    orders lonely has 1 pending, and nobody is subscribed\n" in found.out
    assert "→ is its program running?" in found.out


def test_nobody_is_there(cli: Cli) -> None:
    """Where nothing answers, the check that fails says what to look at, and the exit code is 1."""
    found = states(cli, "--address", "127.0.0.1:1", code=1)
    assert (found["DNS"][0], found["TCP"][0]) == ("ok", "FAIL")
    assert states(cli, "--address", "no.invalid:1", code=1)["DNS"][0] == "FAIL"


@pytest.fixture(scope="module")
def guarded(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Run a server with TLS and rules; give its address, and a directory with ca.pem and token."""
    folder = tmp_path_factory.mktemp("guarded")
    authority = Authority(folder, "ca")
    pair = authority.issue("server")
    (folder / "token").write_text(token_of("ann"))
    rules = principal("ann", "look") + '\n[role.look]\nstreams = { view = ["*"] }\n'
    put(folder / "auth.toml", rules)
    environment = {
        "GRPC_TLS_CERT": str(pair.certificate),
        "GRPC_TLS_KEY": str(pair.key),
        "WINDSHIFT_AUTH_FILE": str(folder / "auth.toml"),
    }
    with running_app(nats_server.url, **environment) as address:
        yield address, folder


def test_tls_tokens_and_rights(cli: Cli, guarded: tuple[str, Path]) -> None:
    """It tells a wrong authority, a missing token and rights; commands exit with 6 where they are denied."""
    address, folder = guarded
    there = ("--address", address)
    assert states(cli, *there, "--tls", code=1)["TLS"][0] == "FAIL"
    trusted = (*there, "--tls-ca", str(folder / "ca.pem"))
    found = states(cli, *trusted, code=1)
    assert found["TLS"][0] == "warn"  # both are good for a day
    assert found["TLS CA"][0] == "warn"
    assert found["HTTP/2"][0] == "ok"
    assert "UNAUTHENTICATED" in found["server"][1]
    known = (*trusted, "--token-file", str(folder / "token"))
    found = states(cli, *known, code=0)
    assert found["identity"] == ("ok", "ann, by token")
    assert found["rights"] == ("ok", "streams.view")
    denied = json.loads(cli("streams", "ls", *trusted, "-o", "json", code=6).err)["error"]
    assert denied["reason"] == "UNAUTHENTICATED"
    assert "--token-file" in denied["hint"]
    assert "PERMISSION_DENIED" in cli("publish", "orders.x", "1", *known, code=6).err
