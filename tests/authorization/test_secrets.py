"""Planted secrets are in nothing that a server says, whatever is done with them."""

from __future__ import annotations

import asyncio
import base64
import secrets
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from tests.authorization.callers import Caller, bearer
from tests.authorization.policies import ALL, digest_of, principal, put, token_of
from tests.authorization.rows import method_of, path_of
from tests.rpc.frames import Peer, prefixed
from tests.support.certificates import Authority, Pair
from tests.support.client import EVENTS, Metadata, any_of
from tests.support.command_line import windshift_command
from tests.support.exposition import scrape
from tests.support.json_web_keys import AUDIENCE, ISSUER, Signer, claims, write_key_set
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import EXECUTED, WindshiftProcess
from tests.wire.burying import ask
from tests.wire.consuming import subscribed
from tests.wire.management import ensure_consumer
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb
from windshift.rpc import client_tls

CORP, STRANGER = Signer("one"), Signer("one")
WINDOW = 16
"""So many characters of a secret in a row are a part of it."""


@dataclass
class Planted:
    """What must be found nowhere, and everything that was said."""

    tokens: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)

    @property
    def needles(self) -> set[str]:
        """All parts of all secrets, in all their forms."""
        secret = [token.rpartition("_")[2] if token.startswith("ws_") else token for token in self.tokens]
        found = set()
        for each in [*secret, *self.others]:
            raw = each.encode()
            for form in (
                each,
                raw.hex(),
                base64.b64encode(raw).decode(),
                base64.urlsafe_b64encode(raw).decode(),
            ):
                found |= {form[start : start + WINDOW] for start in range(max(1, len(form) - WINDOW + 1))}
        return found

    def found(self) -> list[tuple[str, str]]:
        """Return the secrets that something said, with what is around them."""
        needles = self.needles
        return [
            (where, line)
            for where, text in self.said.items()
            for line in text.splitlines()
            if any(line[start : start + WINDOW] in needles for start in range(len(line)))
        ]


def key_of(pair: Pair) -> list[str]:
    """Return the lines of a private key that nothing else has."""
    return [line for line in pair.key.read_text().splitlines() if not line.startswith("-")]


@pytest.fixture
def nats(tmp_path: Path, planted: Planted) -> Iterator[NatsServer]:
    """Run a broker that wants a password."""
    password = secrets.token_hex(16)
    planted.others.append(password)
    (tmp_path / "nats").mkdir()
    server = NatsServer(tmp_path / "nats", "--user", "windshift", "--pass", password)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def planted() -> Planted:
    """Begin without secrets."""
    tokens = [token_of("all"), token_of("none"), token_of("all", 2), token_of("eve"), token_of("old")]
    now = time.time()
    return Planted([*tokens, CORP.token(claims(now, sub="ci")), STRANGER.token(claims(now, sub="ci"))])


POLICY = f"""
{ALL}
[role.none]
{principal("all")}
{principal("none", "none")}
[[principals]]
name = "old"
roles = ["all"]
token_sha256 = [{{ sha256 = "{digest_of("old")}", expires = 2020-01-01T00:00:00Z }}]

[[principals]]
name = "ci"
roles = ["all"]
jwt = {{ issuer = "corp", sub = "ci" }}

[[issuers]]
name = "corp"
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
jwks = "KEYS"
algorithms = ["ES256"]
"""


def headers_with(token: str) -> Iterator[Metadata]:
    """Give metadata with a secret in all places where one might be put."""
    for value in (
        f"Bearer {token}",
        f"Basic {token}",
        f"Bearer {token}x",
        f"Bearer  {token} {token}",
        token,
        f"Bearer{token}",
        f"Bearer {token},Bearer {token}",
        f"Basic {base64.b64encode(token.encode()).decode()}",
        f"Bearer {token.encode().hex()}",
    ):
        yield (("authorization", value),)
    yield bearer(token) * 2
    for name in (
        "cookie", "x-api-key", "x-forwarded-client-cert", "proxy-authorization", "token", "x-request-id",
        "traceparent", "tracestate", "baggage", "b3", "uber-trace-id", "x-forwarded-for", "forwarded",
        "referer", "x-b3-traceid", "grpc-previous-rpc-attempts",
    ):  # fmt: skip
        yield ((name, token),)
        yield (*bearer(token_of("none")), (name, f"k={token}"))
    yield (("authorization-bin", token.encode()),)
    yield (
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", f"k={token}"),
    )


def good_calls(caller: Caller, name: str) -> None:
    """Do something of everything."""
    caller.ensure_stream(name, f"{name}.>")
    ensure_consumer(caller, name, name="c", **{"from": {"start": True}, "retry_policy": {"max_attempts": 2}})
    for _ in range(3):
        caller.publish(f"{name}.x")
    with subscribed(caller, name) as call:
        ids = [event.id for event in call.events(3)]
        call.reject(ids[0], action=pb.EventsRequest.REJECT_ACTION_DEAD_LETTER)
        call.told()
        call.ack(*ids[1:])
        call.told()
    ask(caller, "List", dead_letters_pb.ListRequest())
    store = caller.ensure_store(name)
    caller.set(store, "a")
    caller.get(store, "a")


def bad_calls(planted: Planted, address: str, credentials: grpc.ChannelCredentials) -> None:
    """Provoke errors with secrets in all places; keep what is said of them."""
    caller = Caller(address, (), credentials)
    requests: list[tuple[str, Message]] = [
        ("EventsService/Publish", pb.PublishEventRequest(subject="none.x", data=any_of("x"))),
        ("EventsService/EnsureStream", pb.EnsureStreamRequest(name="")),
        ("StateService/Get", state_pb.GetRequest(store="missing", key="a")),
        ("DeadLettersService/Get", dead_letters_pb.GetRequest(id="none")),
    ]
    for number, token in enumerate(planted.tokens):
        for place, metadata in enumerate(headers_with(token)):  # with each method for some of the tokens
            name, request = requests[(number + place) % len(requests)]
            try:
                caller.call(method_of(name), request, 20, metadata)
            except grpc.RpcError as error:
                _keep(planted, error)
        agent = grpc.secure_channel(address, credentials, (("grpc.primary_user_agent", token),))
        with pytest.raises(grpc.RpcError) as caught:
            agent.unary_unary("/x/y")(b"", timeout=20)  # type: ignore[arg-type]
        _keep(planted, caught.value)
        agent.close()
    caller.channel.close()


def _keep(planted: Planted, error: Any) -> None:
    told = [error.code().name, error.details() or ""]
    for _, value in (*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())):
        told.append(value.decode("latin-1") if isinstance(value, bytes) else value)
    planted.said["errors"] = planted.said.get("errors", "") + "\n".join(told)


async def malformed_calls(planted: Planted, port: int, ca: Path) -> None:
    """Send what no client library does."""
    path = path_of(EVENTS.methods_by_name["Publish"])
    body = prefixed(pb.PublishEventRequest(subject="none.x").SerializeToString())
    context = client_tls(ca)
    for token in planted.tokens:
        raw = token.encode()
        cases: list[tuple[str, list[tuple[bytes, bytes]], dict[str, Any]]] = [
            (path, [(b"grpc-timeout", raw)], {}),
            (path, [(b"grpc-encoding", raw)], {}),
            (path, [(b"grpc-accept-encoding", raw)], {}),
            (path, [(b"authorization", b"Bearer \xff" + raw)], {}),
            (path, [(b"authorization", b"Bearer " + raw), (b"grpc-timeout", b"x")], {}),
            (path, [(b"user-agent", raw)], {}),
            (path, [], {"content_type": b"application/grpc+" + raw}),
            (path, [], {"te": raw}),
            (path, [], {"authority": raw}),
            (path, [], {"method": b"GET"}),
            (f"{path}?access_token={token}", [], {}),
            (f"{path}/{token}", [], {}),
            (f"/{token}", [], {}),
            (path, [(b"authorization", b"Bearer " + raw), (b"te", raw)], {}),
        ]
        for target, extra, replace in cases:
            async with await Peer.connect(("127.0.0.1", port), ssl=context) as peer:
                await peer.response(peer.request(target, body, extra, **replace))


def command_lines(process: WindshiftProcess) -> str:
    """Return the arguments of a process and its children, as everybody on the machine sees them."""
    pid = process.process.pid
    shown = subprocess.run(["ps", "-ww", "-o", "args=", "--pid", str(pid), "--ppid", str(pid)],
                           capture_output=True, text=True, check=True)  # fmt: skip
    return shown.stdout


def checked(file: Path, planted: Planted) -> str:
    """Return what `windshift auth check` says of a file, and of whose a token is."""
    said = []
    for arguments, text in (
        (["check", "--file", str(file)], ""),
        (["check", "--file", str(file), "--as", "all", "publish", "a.b"], ""),
        *((["check", "--file", str(file), "--token-stdin"], token) for token in planted.tokens[::3]),
    ):
        done = windshift_command("auth", *arguments, text=text)
        said += [done.stdout, done.stderr]
    return "\n".join(said)


def test_what_is_found() -> None:
    """A part of a secret is found in whatever form it has; a name in a token is none."""
    token, password = token_of("all"), secrets.token_hex(16)
    planted = Planted([token], [password])
    for form in (
        token,
        token[10:30],
        token[-43:].encode().hex(),
        base64.b64encode(password.encode()).decode(),
    ):
        planted.said = {"somewhere": f"a line\nand {form} in another"}
        assert len(planted.found()) == 1
    planted.said = {"somewhere": f"ws_all_ {token[-15:]} {digest_of('all')}"}
    assert planted.found() == []


@pytest.mark.parametrize("development", ["false", "true"])
def test_planted_secrets(tmp_path: Path, nats: NatsServer, planted: Planted, development: str) -> None:
    """Tokens, passwords and keys are in no log, error, metric or argument, nor in what `check` prints."""
    authority = Authority(tmp_path)
    own = authority.issue("api")
    planted.others += key_of(own)
    keys = write_key_set(tmp_path / "keys.json", CORP)
    file = put(tmp_path / "auth.toml", POLICY.replace("KEYS", str(keys)))
    password = planted.others[0]
    directory = tmp_path / "server"
    directory.mkdir()
    process = WindshiftProcess(
        directory,
        under=EXECUTED,
        NATS_URL=nats.url.replace("nats://", f"nats://windshift:{password}@"),
        WINDSHIFT_AUTH_FILE=str(file),
        GRPC_TLS_CERT=str(own.certificate),
        GRPC_TLS_KEY=str(own.key),
        LOG_LEVEL="debug",
        DEVELOPMENT=development,
        OTEL_TRACING_LOG="true",
    )
    try:
        process.start()
        credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
        address = process.address.replace("127.0.0.1", "localhost")
        for number, token in enumerate((planted.tokens[0], planted.tokens[-2])):
            caller = Caller(address, bearer(token), credentials)
            good_calls(caller, f"good{number}")
            caller.channel.close()
        bad_calls(planted, address, credentials)
        asyncio.run(malformed_calls(planted, process.api_port, authority.certificate))
        # A token that somebody pastes into the file, where its digest belongs.
        put(file, file.read_text().replace(digest_of("none"), planted.tokens[2]))
        process.signal(signal.SIGHUP)
        process.wait_for(lambda: "cannot reload" in process.err)
        planted.said["check of a broken file"] = checked(file, planted)
        put(file, POLICY.replace("KEYS", str(keys)))
        planted.said["check"] = checked(file, planted)
        planted.said["arguments"] = command_lines(process)
        planted.said["metrics"] = scraped(process)
        assert process.stop() == 0
        planted.said |= {"stdout": process.out, "stderr": process.err}
    finally:
        process.kill()
    assert len(planted.said["stderr"].splitlines()) > 500
    assert "PERMISSION_DENIED" in planted.said["errors"]
    assert planted.found() == []


def scraped(process: WindshiftProcess) -> str:
    """Return the text of the metrics."""
    return scrape(process.health_port).text


def test_what_others_may_read(tmp_path: Path) -> None:
    """Whatever the umask is, nobody else reads the data of a server, nor what an embedded broker is told."""
    file = put(tmp_path / "auth.toml", ALL + principal("all"))
    process = WindshiftProcess(tmp_path, WINDSHIFT_AUTH_FILE=str(file))
    try:
        process.start()
        caller = Caller(process.address, bearer(token_of("all")))
        good_calls(caller, "data")
        caller.channel.close()
        for path in (process.data, *process.data.rglob("*")):
            mode = path.lstat().st_mode
            assert stat.S_IMODE(mode) & 0o077 == 0, f"{path} {stat.filemode(mode)}"
    finally:
        process.kill()
