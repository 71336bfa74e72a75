"""`windshift doctor`, and what happens to whoever is not allowed."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

import windshift as ws
from tests.authorization.policies import ALL, digest_of, principal, put, token_of
from tests.cli.conftest import Cli
from tests.support.app import running_app
from tests.support.broker import connect, in_seconds
from tests.support.certificates import Authority
from tests.support.nats_server import NatsServer, running_nats
from tests.support.windshift_process import wait_for
from windshift.cli import doctor
from windshift.cli.certificates import expiry
from windshift.server.admin import account

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
GIGA: Final = 2**30
NO_LIMITS: Final = "; the account has no limits, those of NATS servers (max_file_store) are not told"


def states(cli: Cli, *arguments: str, code: int) -> dict[str, tuple[str, str]]:
    """Return what the checks say, by their names."""
    checks = cli("doctor", "-o", "json", *arguments, code=code).json
    return {check["name"]: (check["state"], check["found"]) for check in checks}


@pytest.fixture
def alone(own_nats_server: NatsServer, tmp_path: Path) -> Iterator[Cli]:
    """Give the command line, for a server beside which there is no other that could be missing."""
    with running_app(own_nats_server.url) as address:
        yield Cli(address, "x", tmp_path)


def test_all_is_well(alone: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a server where all is well every line says so; a consumer that nobody attends to is a warning."""
    monkeypatch.setattr(account, "_TIMEOUT", 20.0)
    assert all(state == "ok" for state, _ in states(alone, code=0).values())
    alone("streams", "ensure", "orders", "--subject", "orders.>", "-q")
    alone("consumers", "ensure", "orders", "lonely", "--from", "start", "-q")
    alone("publish", "orders.x", "1", "-q")
    found = alone("doctor")
    assert "warn  consumer    orders lonely has 1 pending, and nobody is subscribed\n" in found.out
    assert "→ is its program running?" in found.out
    told = states(alone, code=0)
    assert {"settings", "TCP", "HTTP/2", "server", "identity", "broker", "servers", "clocks"} <= told.keys()
    assert re.fullmatch(
        r"storage \S+( \(\S+ reserved\))?, memory \S+( \(\S+ reserved\))?, "
        r"streams \d+, consumers \d+; the account has no limits, those of NATS servers .* are not told",
        told["JetStream"][1],
    )
    assert told["clocks"][1].startswith("within 1 s of this machine's: the server")
    assert told["clocks"][1].endswith("NATS")


async def make_foreign(nats_server: NatsServer, stream: str, consumer: str) -> None:
    """Make a stream with an event and a consumer, as another program does."""
    async with connect(nats_server.url) as broker:
        await broker.stream(stream, f"{stream}.>")
        config = {"durable_name": consumer, "ack_policy": "explicit"}
        await broker.api.create_consumer(stream, consumer, config, in_seconds(30))
        await broker.publish(f"{stream}.a")


def test_names_that_other_programs_gave(cli: Cli, nats_server: NatsServer) -> None:
    """The consumers of a stream that no request can name are told of; no name turns the text around."""
    asyncio.run(make_foreign(nats_server, f"{cli.namespace}-a:b\u202e", "c"))
    found = "warn  consumer    a:b\\u202e c has 1 pending, and nobody is subscribed\n"
    wait_for(lambda: found in cli("doctor").out)  # a list may be 5 seconds old
    wait_for(lambda: cli("consumers", "ls", "-o", "json").json != [])
    assert cli("consumers", "ls").out.splitlines()[1].split()[:3] == ["a:b\\u202e", "c", "1"]
    assert "INVALID_FIELD" in cli("consumers", "ls", "a:b", code=2).err


def test_nobody_is_there(cli: Cli) -> None:
    """Where nothing answers, the check that fails says what to look at, and the exit code is 1."""
    found = states(cli, "--address", "127.0.0.1:1", code=1)
    assert found["TCP"][0] == "FAIL"
    assert "server" not in found
    assert states(cli, "--address", "no.invalid:1", code=1)["DNS"][0] == "FAIL"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"", "does not answer in 0.1 s"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak it at port"),
        (bytes([0x15, 3, 3, 0, 2, 2, 70, 0, 0]), "speaks TLS"),
        (b'INFO {"server_id":"N"}\r\n', "has NATS at port"),
    ],
)
def test_something_else_is_there(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, answer: bytes, found: str
) -> None:
    """What listens and is no server without TLS is told by what it answers."""
    monkeypatch.setattr(doctor, "_ANSWER_SECONDS", 20.0 if answer else 0.1)

    def serve(listener: socket.socket) -> None:
        connections = []
        with suppress(OSError):
            while True:
                connections.append(listener.accept()[0])
                connections[-1].sendall(answer)
        for connection in connections:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        there = ("--address", f"127.0.0.1:{listener.getsockname()[1]}", "--timeout", "1s")
        checks = states(cli, *there, code=1)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert checks["TCP"][0] == "ok"
    assert checks["HTTP/2"][0] == "FAIL"
    assert found in checks["HTTP/2"][1]
    assert "server" not in checks  # it would only say the same in other words


@pytest.mark.parametrize(
    ("settings", "found", "hint"),
    [
        ({"lifetime": timedelta(days=-1)}, "certificate has expired", "renew the server's certificate"),
        ({"dns": ["other.example"], "ips": []}, "certificate is not valid for", "connect by a name of"),
        ({"dns": [], "ips": ["192.0.2.1"]}, "certificate is not valid for", "connect by a name of"),
    ],
)
async def test_certificates_that_are_refused(
    cli: Cli, tmp_path: Path, settings: dict[str, Any], found: str, hint: str
) -> None:
    """Each is refused for a reason of its own, and there is something else to do about it."""
    authority = Authority(tmp_path, "ca")
    pair = authority.issue("server", **settings)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.certificate, pair.key)
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        there = ("--address", f"127.0.0.1:{port}", "--tls-ca", str(authority.certificate))
        told = await asyncio.to_thread(lambda: cli("doctor", "-o", "json", *there, code=1))
    checks = {check["name"]: check for check in told.json}
    assert found in checks["TLS"]["found"]
    assert hint in checks["TLS"]["hint"]
    assert "server" not in checks


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
    soon = ("--timeout", "0.75s")
    assert states(cli, *there, *soon, "--tls", code=1)["TLS"][0] == "FAIL"
    assert states(cli, *there, *soon, code=1)["HTTP/2"][0] == "FAIL"
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
    assert found["servers"][0] == "skip"
    assert found["clocks"] == ("ok", "within 1 s of this machine's: the server")
    denied = json.loads(cli("streams", "ls", *trusted, "-o", "json", code=6).err)["error"]
    assert denied["reason"] == "UNAUTHENTICATED"
    assert "--token-file" in denied["hint"]
    assert "PERMISSION_DENIED" in cli("publish", "orders.x", "1", *known, code=6).err


def test_a_tail_whose_token_is_replaced(cli: Cli, nats_server: NatsServer, tmp_path: Path) -> None:
    """It goes on with the one that is in the file then, and shows what was stored meanwhile."""
    token, rules = tmp_path / "token", ALL + principal("ann", "all")
    token.write_text(token_of("ann"))
    file = put(tmp_path / "auth.toml", rules)
    with running_app(nats_server.url, WINDSHIFT_AUTH_FILE=str(file)) as address:
        known = ("--address", address, "--token-file", str(token))
        cli("streams", "ensure", "orders", "--subject", "orders.>", "-q", *known)
        publish = ("publish", "orders.x", "1", "-q", *known)
        tail = cli.popen(
            ["tail", "orders", "--from", "start", "-f", "-o", "json", *known], stdout=-1, stderr=-1
        )
        assert tail.stdout is not None
        assert tail.stderr is not None
        with tail.stdout, tail.stderr:
            cli(*publish)
            assert json.loads(tail.stdout.readline())["id"] == 1
            token.write_text(token_of("ann", 2))
            put(file, rules.replace(digest_of("ann"), digest_of("ann", 2)))
            wait_for(lambda: cli.process(*publish).returncode == 0)
            assert json.loads(tail.stdout.readline())["id"] == 2
            tail.kill()
            assert b"UNAUTHENTICATED); going on\n" in tail.stderr.read()


def server_info(**changes: Any) -> ws.ServerInfo:
    """Return a server where all is well."""
    info = ws.ServerInfo(
        id="1",
        name="one",
        version=ws.__version__,
        started=NOW,
        rules=False,
        max_payload=1,
        broker_name="nats",
        broker_version="2.15.1",
        broker_connected=True,
        broker_round_trip=None,
        methods=(),
        limits={},
        time=NOW,
    )
    return replace(info, **changes)


def told(checks: Iterable[doctor.Check]) -> list[tuple[str, str]]:
    """Return what checks say."""
    return [(each.state, each.found) for each in checks]


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        (ws.Usage("storage", "", 3 * GIGA, 0, 10 * GIGA), ("ok", "storage 3.0G of 10G")),
        (ws.Usage("memory", "R3", 0, 512, None), ("ok", "R3 memory 0 (512 reserved)" + NO_LIMITS)),
        (ws.Usage("memory", "", 0, 0, 0), ("ok", "memory 0 of 0")),
        (ws.Usage("storage", "", 1, 9 * GIGA, 10 * GIGA), ("warn", "storage 1 of 10G (9.0G reserved)")),
        (ws.Usage("storage", "", 10 * GIGA, 0, 10 * GIGA), ("FAIL", "storage 10G of 10G")),
        (ws.Usage("streams", "", 10, 0, 10), ("warn", "streams 10 of 10")),
        (ws.Usage("consumers", "", 9, 0, 10), ("warn", "consumers 9 of 10")),
        (ws.Usage("consumers", "", 8, 0, 10), ("ok", "consumers 8 of 10")),
    ],
)
def test_limits_of_jetstream(usage: ws.Usage, found: tuple[str, str]) -> None:
    """From 90 % of a limit on, used or reserved, it is a warning; a failure where nothing can be stored."""
    (check,) = doctor.limits([usage])
    assert (check.state, check.found) == found
    assert bool(check.hint) is (check.state != "ok")


def test_clocks_that_differ() -> None:
    """A clock that is a second away is a warning: whose, how far, and what to do."""
    second = timedelta(seconds=1)
    assert doctor.apart(NOW, NOW - second, NOW + second) == 0
    assert doctor.apart(NOW, NOW - 3 * second, NOW - 2 * second) == 2
    assert doctor.apart(NOW, NOW + second, NOW + 2 * second) == -1
    assert told(doctor.clocks({"the server": 0.4, "server two": -0.9}, -0.2 * second)) == [
        ("ok", "within 1 s of this machine's: the server, server two, NATS")
    ]
    checks = list(doctor.clocks({"the server": 0.0, "server two": 7.0}, -90 * second))
    assert told(checks) == [
        ("warn", "that of server two is 7.0 s ahead of this machine's"),
        ("warn", "that of NATS is 90.0 s behind the server's"),
    ]
    assert all("NTP" in each.hint for each in checks)
    assert told(doctor.clocks({"the server": None}, None)) == [
        ("skip", "the server does not tell what time it is")
    ]


@pytest.mark.parametrize(
    ("credential", "days", "state"),
    [("certificate", 10, "warn"), ("token", 10, "warn"), ("jwt", 10, "ok"), ("certificate", 100, "ok")],
)
def test_an_identity_that_ends(credential: str, days: int, state: str) -> None:
    """A certificate or a token that ends within a month is a warning; a JWT is made anew anyway."""
    expires = datetime.now(UTC) + timedelta(days=days, minutes=1)
    found = doctor.identity(ws.Identity("ann", credential, expires, (), ()), rules=True)
    assert (found.state, found.found.partition(", expires")[0]) == (state, f"ann, by {credential}")


@pytest.mark.parametrize(("days", "state"), [(-2, "FAIL"), (10, "warn"), (100, "ok"), (40_000, "ok")])
def test_the_client_s_certificate(tmp_path: Path, days: int, state: str) -> None:
    """When it ends is read of its file, also where that is beyond 2049 or begins with the key."""
    pair = Authority(tmp_path, "ca").issue("ann", lifetime=timedelta(days=days, minutes=1))
    both = tmp_path / "both.pem"
    both.write_text(pair.key.read_text() + pair.certificate.read_text())
    for file in (pair.certificate, both):
        found = doctor.own_certificate(file)
        assert found.state == state
        left = (expiry(file) - datetime.now(UTC)).days
        assert left in {days, days - 1}  # it was a moment ago that it was made
    empty = tmp_path / "empty.pem"
    empty.write_text("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    for text in ("", empty.read_text()):
        empty.write_text(text)
        assert doctor.own_certificate(empty).state == "warn"
    assert doctor.own_certificate(tmp_path / "nowhere").state == "warn"


def test_versions() -> None:
    """An old broker, an old server, and servers of several versions are told."""
    assert doctor.version(server_info()).state == "ok"
    assert doctor.version(server_info(version="0.0.7")).state == "warn"
    assert doctor.broker(server_info()).state == "ok"
    assert doctor.broker(server_info(broker_version="2.14.0-RC.1")).state == "ok"
    old = doctor.broker(server_info(broker_version="2.12.8"))
    assert (old.state, old.hint) == ("FAIL", "Windshift needs 2.14 or newer: upgrade it")
    assert doctor.broker(server_info(broker_connected=False)).state == "FAIL"
    one = ws.RunningServer(server_info(), 1, 1, 1, 0.1, "")
    two = replace(one, info=server_info(id="2", name="two", version="9.9.9"), not_ready="no JetStream")
    assert told(doctor.servers(ws.ServerList((one, one), (), (), None))) == [
        ("ok", f"2 ready, of version {ws.__version__}")
    ]
    assert told(doctor.servers(ws.ServerList((one, two), ("3",), (), None))) == [
        ("FAIL", "two is not ready: no JetStream"),
        ("warn", "the one with id 3 did not answer"),
        ("warn", f"1 ready, of version {ws.__version__}, 9.9.9"),
    ]


def test_what_is_not_told(cli: Cli, tmp_path: Path) -> None:
    """What NATS does not tell is left out, with what would change that."""
    config = tmp_path / "nats.conf"
    config.write_text(
        "authorization { users: [{ user: n, password: n, permissions: "
        '{ publish: { deny: ["$JS.API.INFO", "$SYS.>"] } } }] }\n'
    )
    with (
        running_nats(tmp_path / "nats", "--config", str(config)) as broker,
        running_app(f"nats://n:n@127.0.0.1:{broker.port}") as address,
    ):
        found = cli("doctor", "--address", address).out
    assert "skip  JetStream   the limits of the account are not told" in found
    assert "publish to $JS.API.INFO" in found
    assert "skip  clocks      that of NATS is not told" in found
