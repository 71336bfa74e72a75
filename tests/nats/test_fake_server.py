"""What a real nats-server does rarely or never, and what comes of it."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.nats.fake_server import (
    LIMIT,
    OK,
    PING,
    PONG,
    FakeServer,
    Operation,
    Peer,
    Script,
    error_frame,
    fake_server,
    honest,
    info_frame,
    message_frame,
)
from tests.nats.test_retry import Turns
from tests.nats.waiting import eventually
from tests.support.broker import QUICK, in_seconds
from tests.support.certificates import Authority
from windshift.nats import (
    ConnectFailed,
    Connection,
    ConnectionOptions,
    JetStreamError,
    Message,
    MessageTooLarge,
    NoReply,
    NotConnected,
    OutcomeUnknown,
    Requests,
    Unavailable,
    parse_servers,
)
from windshift.nats import wire as wire_module
from windshift.nats.budget import Budget, Share
from windshift.nats.jetstream.api import JetStream
from windshift.nats.jetstream.writes import Write, Writes
from windshift.nats.protocol import ServerError
from windshift.nats.wire import Wire

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])

SECRET = "s3cret"
PATIENT = replace(QUICK, connect_timeout=timedelta(seconds=LIMIT), ping_interval=timedelta(seconds=LIMIT))


def options(*servers: FakeServer, scheme: str = "nats", **changes: Any) -> ConnectionOptions:
    """Return options for these servers, with a password, and patience for everything but what is changed."""
    urls = ",".join(f"{scheme}://me:{SECRET}@{server.address}" for server in servers)
    return replace(PATIENT, servers=parse_servers(urls), **changes)


async def failure(server: FakeServer, *, at_once: bool = False, **changes: Any) -> str:
    """Return why a connect fails.

    Args:
        server: to which.
        at_once: whether trying again must not be tried.
        changes: of the options.
    """
    changes.setdefault("start_timeout", timedelta(seconds=LIMIT if at_once else 0.01))
    connection = Connection(options(server, **changes))
    with pytest.raises(ConnectFailed) as caught:
        await connection.connect()
    await connection.close()
    assert SECRET not in f"{caught.value!r} {connection.last_error}"
    assert not connection.connected
    if at_once:
        assert len(server.peers) <= 1
    await eventually(lambda: all(peer.ended for peer in server.peers))  # nothing is left open
    return connection.last_error.partition(f"{server.address}: ")[2]


@asynccontextmanager
async def connected(*servers: FakeServer, **changes: Any) -> AsyncIterator[Connection]:
    """Connect for as long as the block lasts."""
    connection = Connection(options(*servers, **changes))
    await connection.connect()
    try:
        yield connection
    finally:
        await connection.close()


def losses(connection: Connection) -> list[str]:
    """Return why wires ended, from now on."""
    reasons: list[str] = []
    connection.on_lost.append(lambda: reasons.append(connection.last_error))
    return reasons


def wire_of(connection: Connection) -> Wire:
    """Return the present wire of a connection that is up."""
    assert connection._wire is not None
    return connection._wire


async def settled(connection: Connection) -> None:
    """Return when the server has answered, and its earlier words have been taken in."""
    async with asyncio.timeout(LIMIT):
        await wire_of(connection).ping()


def saying(*frames: bytes) -> Script:
    """Return what a server does that says this at once, and nothing more."""

    async def script(peer: Peer) -> None:
        peer.say(*frames)

    return script


# --- While connecting -------------------------------------------------------------------------------------

IMPATIENT: dict[str, Any] = {"connect_timeout": timedelta(milliseconds=50)}


@pytest.mark.parametrize(
    "said", [b"", info_frame()[:50], info_frame(), info_frame() + PING, info_frame() + OK + info_frame()]
)
async def test_a_server_that_says_too_little(said: bytes) -> None:
    """It is given up after `connect_timeout`, however far it came."""
    async with fake_server(saying(said)) as server:
        assert await failure(server, **IMPATIENT) == "it did not answer in time"


async def test_a_server_that_falls_silent_over_subscriptions() -> None:
    """It counts as one that cannot be connected to."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.silence()

    async with fake_server(script) as server:
        connection = Connection(options(server, start_timeout=timedelta(milliseconds=10), **IMPATIENT))
        connection.subscribe(b"a", lambda _: None)
        with pytest.raises(ConnectFailed, match="it did not answer in time"):
            await connection.connect()
        await eventually(lambda: all(peer.ended for peer in server.peers))


@pytest.mark.parametrize(
    "said",
    [
        b"INFO {\r\n",
        b"INFO []\r\n",
        b'INFO {"max_payload":0}\r\n',
        b"INFO " + b"[" * 30_000 + b"\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"220 mail.example ESMTP\r\n",
        b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03\r\n",
        b"x" * 100_000,
    ],
)
async def test_a_server_that_does_not_speak_nats(said: bytes) -> None:
    """It hears no password, and the operator what is wrong."""
    async with fake_server(saying(said)) as server:
        assert (await failure(server)).startswith("it does not speak NATS (")
    assert server.peers[0].heard == b""


@pytest.mark.parametrize("words", [0, 1, 2])
@pytest.mark.parametrize("end", [Peer.close, Peer.abort, Peer.half_close])
async def test_a_server_that_hangs_up(words: int, end: Callable[[Peer], None]) -> None:
    """At once, after its own first word, or after the client's."""

    async def script(peer: Peer) -> None:
        if words > 0:
            peer.say(info_frame())
        if words > 1:
            await peer.until(b"CONNECT")
        end(peer)

    async with fake_server(script) as server:
        assert await failure(server) == "the connection failed"


async def test_a_server_without_headers() -> None:
    """One that is too old is refused for good."""

    async def script(peer: Peer) -> None:
        await peer.greet(headers=False)

    async with fake_server(script) as server:
        assert "must be of version 2.2 or later" in await failure(server, at_once=True)


async def test_the_server_s_information_counts_as_it_was_last(caplog: pytest.LogCaptureFixture) -> None:
    """A server may say it again before it has accepted the client."""

    async def script(peer: Peer) -> None:
        peer.say(info_frame())
        await peer.until(b"PING")
        peer.say(info_frame(max_payload=77), PONG)
        await peer.serve()

    async with fake_server(script) as server, connected(server) as connection:
        assert connection.max_payload == 77


# --- What it says with -ERR -------------------------------------------------------------------------------

FATAL = [
    ("Authorization Violation", "authorization violation"),
    ("User Authentication Expired", "user authentication expired"),
    ("User Authentication Revoked", "user authentication revoked"),
    ("Account Authentication Expired", "account authentication expired"),
    ("Authentication Timeout", "authentication timeout"),
    ("Stale Connection", "stale connection"),
    ("Slow Consumer", "slow consumer"),
    ("Maximum Payload Violation", "maximum payload violation"),
    ("maximum connections exceeded", "maximum connections exceeded"),
    ("maximum account active connections exceeded", "maximum account active connections exceeded"),
    ("maximum control line exceeded", "maximum control line exceeded"),
    ("Secure Connection - TLS Required", "secure connection - tls required"),
    ("Parser Error", "parser error"),
    ("Unknown Protocol Operation", "unknown protocol operation"),
    ("Server Shutdown", "server shutdown"),
]
REFUSED = {text for text, _ in FATAL[:4]}
HARMLESS = [
    'Permissions Violation for Publish to "s3cret"',
    'Permissions Violation for Subscription to "s3cret" using queue "s3cret"',
    "Invalid Subject",
    "Invalid Publish Subject",
    "maximum subscriptions exceeded",
    "s3cret s3cret",
]
"""What says nothing of why a connection ends."""


@pytest.mark.parametrize(
    ("text", "reason"), [*FATAL, *((text, "") for text in HARMLESS)], ids=lambda text: text[:50]
)
async def test_an_error_while_connecting(text: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its kind is told, its text is not; where it is of use another attempt is made."""

    async def script(peer: Peer) -> None:
        peer.say(info_frame())
        await peer.until(b"PING")
        peer.say(error_frame(f"{text} {SECRET}"))
        peer.close()

    expected = f"the connection ended ({reason})" if reason else "the connection failed"
    if text in REFUSED:
        expected = "it refused the credentials"
    async with fake_server(script) as server:
        assert await failure(server, at_once=text in REFUSED) == expected
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("text", "reason"), [*FATAL, *((text, "") for text in HARMLESS)], ids=lambda text: text[:50]
)
async def test_an_error_while_connected(text: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """None ends the connection by itself; when it ends, the kind is told, and nothing else of the text."""
    caplog.set_level(logging.DEBUG)
    async with fake_server() as server, connected(server) as connection:
        reasons, violations = losses(connection), list[ServerError]()
        connection.violations.on_any.append(violations.append)
        server.peers[0].say(error_frame(f"{text} {SECRET}" if reason else text))
        await settled(connection)
        assert reasons == []
        assert [error.subject for error in violations] == ([SECRET.encode()] if "Permissions" in text else [])
        server.peers[0].close()
        await eventually(lambda: connection.reconnects == 1)
        assert reasons == [f"the connection ended ({reason})" if reason else "the connection ended"]
        assert connection.last_error == ""
        await settled(connection)
    assert SECRET not in caplog.text


async def test_a_vital_subscription_that_is_forbidden_from_the_first() -> None:
    """The connection is of no use, and the user will get no other."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.serve(lambda operation: forbid(peer, operation) if operation.name == b"SUB" else None)

    def forbid(peer: Peer, operation: Operation) -> None:
        peer.say(error_frame(b'Permissions Violation for Subscription to "%b"' % operation.arguments[0]))

    async with fake_server(script) as server:
        connection = Connection(options(server, start_timeout=timedelta(seconds=LIMIT)))
        Requests(connection)
        with pytest.raises(ConnectFailed, match=r"this user may not subscribe to _INBOX_windshift\.>"):
            await connection.connect()
        await eventually(lambda: server.peers[0].ended)


async def test_a_vital_subscription_that_is_forbidden_later() -> None:
    """As after a change of the server's configuration: the wire is left, and another one tried."""
    async with fake_server() as server:
        connection = Connection(options(server))
        requests, reasons = Requests(connection), losses(connection)
        await connection.connect()
        inbox = server.peers[0].subscriptions[1]
        answer = asyncio.create_task(requests.request(b"a", b"", b"", in_seconds(LIMIT)))
        await asyncio.sleep(0)
        server.peers[0].say(error_frame(b'Permissions Violation for Subscription to "%b"' % inbox))
        assert await answer is NoReply.DISCONNECTED
        assert reasons == ["this user may not subscribe to _INBOX_windshift.>"]
        await eventually(lambda: connection.reconnects == 1)
        await settled(connection)
        await connection.close()


# --- TLS --------------------------------------------------------------------------------------------------


@dataclass
class Tls:
    """A server's side of TLS, and the authority that the client trusts."""

    context: ssl.SSLContext
    ca: Path


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    """Make a certificate for 127.0.0.1."""
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return Tls(context, authority.certificate)


async def test_tls(tls: Tls) -> None:
    """With a server that does as it says, the password travels, encrypted, and messages do."""

    async def script(peer: Peer) -> None:
        peer.say(info_frame(tls_required=True))
        await peer.encrypt(tls.context)
        assert peer.heard == b""
        await peer.accept()
        await peer.serve()

    async with fake_server(script) as server, connected(server, tls_ca=tls.ca) as connection:
        got = asyncio.Queue[bytes]()
        subscription = connection.subscribe(b"a", lambda message: got.put_nowait(message.body))
        await settled(connection)
        assert SECRET.encode() in server.peers[0].heard
        body = bytes(1_000_000)
        server.peers[0].say(message_frame(subscription.sid, b"a", body))
        assert await got.get() == body
        connection.publish(b"b", body)
        await settled(connection)
        assert server.peers[0].operations[-2].body == body


async def test_tls_before_the_first_word(tls: Tls) -> None:
    """A server may be set to take TLS only."""

    async def script(peer: Peer) -> None:
        await peer.greet(tls_required=True)
        await peer.serve()

    async with (
        fake_server(script, tls=tls.context) as server,
        connected(server, tls_ca=tls.ca, tls_first=True) as connection,
    ):
        await settled(connection)


async def test_tls_that_is_not_offered(tls: Tls) -> None:
    """The server is left for good, before it hears anything."""
    for changes in ({"scheme": "tls"}, {"tls_ca": tls.ca}):
        async with fake_server() as server:
            why = await failure(server, at_once=True, **changes)
            assert why == "the server does not offer TLS, which was asked for"
        assert server.peers[0].heard == b""


@pytest.mark.parametrize(
    "extra",
    [
        *(b"P", PING, PONG, b"-ERR 'Go away'\r\n", b"MSG a 1 5\r\nab", b"MSG a 1 2\r\nab\r\n"),
        info_frame(tls_required=True, connect_urls=["evil:4222"]),
    ],
)
async def test_plain_text_before_tls(tls: Tls, extra: bytes) -> None:
    """What comes behind the information may be of anybody: the connection is given up."""
    encrypted: list[Peer] = []

    async def script(peer: Peer) -> None:
        peer.say(info_frame(tls_required=True), extra)
        await peer.encrypt(tls.context)
        encrypted.append(peer)
        await peer.accept()

    async with fake_server(script) as server:
        assert await failure(server, tls_ca=tls.ca) == "the connection failed"
    assert encrypted == []


async def test_tls_that_was_not_asked_for(tls: Tls) -> None:
    """Who requires TLS gets it, and must show a certificate that the system trusts."""

    async def script(peer: Peer) -> None:
        peer.say(info_frame(tls_required=True))
        await peer.encrypt(tls.context)

    async with fake_server(script) as server:
        assert (await failure(server, at_once=True)).startswith("its certificate was refused")
    assert SECRET.encode() not in server.peers[0].heard


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x03"])
async def test_tls_that_gets_stuck(tls: Tls, said: bytes) -> None:
    """A handshake that does not go on ends with the time to connect."""

    async def script(peer: Peer) -> None:
        peer.say(info_frame(tls_required=True))
        await peer.read_some()
        peer.say(said)

    async with fake_server(script) as server:
        assert await failure(server, tls_ca=tls.ca, **IMPATIENT) == "it did not answer in time"
    assert not any(SECRET.encode() in peer.heard for peer in server.peers)


@pytest.mark.parametrize("tls_first", [False, True])
async def test_tls_that_is_none(tls: Tls, tls_first: bool) -> None:
    """A server that goes on in plain text does not hear the password."""

    async def script(peer: Peer) -> None:
        peer.say(info_frame(tls_required=True))
        await peer.read_some()
        peer.say(PONG * 100)

    async with fake_server(script) as server:
        assert await failure(server, tls_ca=tls.ca, tls_first=tls_first) == "the TLS handshake failed"
    assert SECRET.encode() not in server.peers[0].heard


@pytest.mark.parametrize("tls_first", [False, True])
async def test_a_server_that_hangs_up_during_tls(tls: Tls, tls_first: bool) -> None:
    """Another attempt may succeed."""

    async def script(peer: Peer) -> None:
        if not tls_first:
            peer.say(info_frame(tls_required=True))
        await peer.read_some()
        peer.abort()

    async with fake_server(script) as server:
        why = await failure(server, tls_ca=tls.ca, tls_first=tls_first)
        assert why in ("the connection failed", "the TLS handshake failed")


# --- While connected --------------------------------------------------------------------------------------

LIES = [
    (b"MSG a 1 2\r\nabc\r\n", "a message is not as long as it says"),
    (b"MSG a 1 3\r\nab\r\nPING\r\n", "a message is not as long as it says"),
    (b"HMSG a 1 5 2\r\nab\r\n", "a message is not as long as it says"),
    (b"MSG a 1 99999999\r\n", "a message is too large"),
    (b"MSG a 1 9999999999\r\n", "a message is too large"),
    (b"MSG a 1 -1\r\n", "the arguments of a message are malformed"),
    (b"MSG " + b"a" * 40_000, "a line is too long"),
    (b"INFO {}}\r\n", "the server's INFO is not a JSON object"),
    (b'INFO {"max_payload":-1}\r\n', "the server takes no messages"),
    (b"HELLO\r\n", "an operation is unknown"),
]


@pytest.mark.parametrize(("lie", "why"), LIES, ids=[str(lie[:30]) for lie, _ in LIES])
async def test_a_server_that_lies(lie: bytes, why: str) -> None:
    """What came before counts, what comes behind does not; the connection is made anew."""
    async with fake_server() as server, connected(server) as connection:
        got, reasons = list[bytes](), losses(connection)
        sid = connection.subscribe(b"a", lambda message: got.append(message.body)).sid
        await settled(connection)
        server.peers[0].say(message_frame(sid, b"a", b"before"), lie, message_frame(sid, b"a", b"behind"))
        await eventually(lambda: connection.reconnects == 1)
        assert reasons == [f"the connection ended ({why})"]
        await settled(connection)
        assert got == [b"before"]
        server.peers[1].say(message_frame(sid, b"a", b"later"))
        await settled(connection)
        assert got == [b"before", b"later"]


@pytest.mark.parametrize("half", [b"", b"MSG a 1 10\r\n01234"])
@pytest.mark.parametrize("end", [Peer.close, Peer.half_close])
async def test_a_connection_that_ends(end: Callable[[Peer], None], half: bytes) -> None:
    """It is made anew at once, even if it ended in the middle of a message."""
    async with fake_server() as server, connected(server) as connection:
        reasons = losses(connection)
        server.peers[0].say(half)
        end(server.peers[0])
        await eventually(lambda: connection.reconnects == 1)
        assert reasons == ["the connection ended"]
        await settled(connection)


async def test_what_nobody_asked_for() -> None:
    """Messages for nobody and answers to no ping harm nothing."""
    async with fake_server() as server, connected(server) as connection:
        got = list[bytes]()
        sid = connection.subscribe(b"a", lambda message: got.append(message.body)).sid
        await settled(connection)
        peer = server.peers[0]
        peer.say(PONG * 1000, OK, message_frame(sid + 1, b"a", b"no"), message_frame(10**17, b"", b"no")[:0])
        peer.say(
            message_frame(sid, b"other", b"yes"), PING, message_frame(0, b"a", b"no", b"NATS/1.0\r\n\r\n")
        )
        await settled(connection)
        await eventually(lambda: Operation(b"PONG") in peer.operations)
        assert got == [b"yes"]
        assert connection.reconnects == 0


async def test_receivers_that_raise(caplog: pytest.LogCaptureFixture) -> None:
    """What comes in the same bytes behind the message is handled all the same, and a ping answered."""
    async with fake_server() as server, connected(server) as connection:
        got = list[bytes]()

        def receive(message: Message) -> None:
            got.append(message.body)
            if message.body != b"good":
                raise ValueError(message.body)

        sid = connection.subscribe(b"a", receive).sid
        await settled(connection)
        peer = server.peers[0]
        peer.say(*(message_frame(sid, b"a", body) for body in (b"bad", b"good", b"worse", b"good")), PING)
        await eventually(lambda: Operation(b"PONG") in peer.operations)
        assert got == [b"bad", b"good", b"worse", b"good"]
        assert connection.reconnects == 0
        assert caplog.text.count("a message from NATS could not be handled") == 2


async def test_a_receiver_that_unsubscribes() -> None:
    """It gets nothing more, not even what came in the same bytes."""
    async with fake_server() as server, connected(server) as connection:
        got = list[bytes]()

        def receive(message: Message) -> None:
            got.append(message.body)
            subscription.unsubscribe()

        subscription = connection.subscribe(b"a", receive)
        await settled(connection)
        server.peers[0].say(*(message_frame(subscription.sid, b"a", b"%d" % n) for n in range(3)))
        await settled(connection)
        assert got == [b"0"]


# --- What it says of itself later -------------------------------------------------------------------------


async def test_a_limit_that_changes() -> None:
    """`max_payload` is what was said last."""
    async with fake_server() as server, connected(server) as connection:
        server.peers[0].say(info_frame(max_payload=10))
        await settled(connection)
        assert connection.max_payload == 10
        connection.publish(b"a", b"12345", b"12345")
        with pytest.raises(MessageTooLarge):
            connection.publish(b"a", b"123456", b"12345")
        server.peers[0].say(info_frame(max_payload=20))
        await settled(connection)
        connection.publish(b"a", b"123456", b"12345")


async def test_servers_that_become_known() -> None:
    """When its own server is gone, the client goes to one that it was told of, with its password."""
    async with fake_server() as server, fake_server() as other, connected(server) as connection:
        urls = ["", "no port", "[", "http://a:1", other.address, other.address, "127.0.0.1:9"]
        server.peers[0].say(info_frame(connect_urls=urls))
        await settled(connection)
        await server.stop()
        await eventually(lambda: connection.reconnects == 1)
        await settled(connection)
        assert SECRET.encode() in other.peers[0].heard


async def test_servers_that_are_forgotten() -> None:
    """A cluster that ever changes does not fill the memory: what it does not name any more is dropped."""
    async with fake_server() as server, connected(server) as connection:
        for number in range(50):
            urls = [f"10.{number}.0.{last}:4222" for last in range(100)] * 2
            server.peers[0].say(info_frame(connect_urls=urls))
        await settled(connection)
        assert {each.host for each in connection._servers} == {
            "127.0.0.1",
            *(f"10.49.0.{last}" for last in range(100)),
        }
        assert len(connection._servers) == 101
        server.peers[0].say(info_frame())  # says nothing of the cluster
        await settled(connection)
        assert len(connection._servers) == 101


async def test_a_server_about_to_stop() -> None:
    """Another one takes over, and what was asked before is still answered by the first."""
    async with fake_server() as server, fake_server() as other:
        connection = Connection(options(server, other, linger=timedelta(seconds=LIMIT)))
        requests, moved, reasons = Requests(connection), list[int](), losses(connection)
        connection.on_replaced.append(lambda: moved.append(len(other.peers)))
        await connection.connect()
        peer = server.peers[0]
        answer = asyncio.create_task(requests.request(b"question", b"", b"", in_seconds(LIMIT)))
        await eventually(lambda: any(each.name == b"PUB" for each in peer.operations))
        reply = next(each.arguments[1] for each in peer.operations if each.name == b"PUB")
        peer.say(info_frame(ldm=True))
        await eventually(lambda: moved == [1])
        assert reasons == []
        assert connection.reconnects == 1
        connection.publish(b"next")
        await settled(connection)
        assert b"next" in other.peers[0].heard
        peer.say(message_frame(1, reply, b"answered"))
        assert await answer == b"answered"
        await connection.close()
        await eventually(lambda: peer.ended)


async def test_a_server_about_to_stop_is_left_in_a_while() -> None:
    """After `linger` its connection is closed, and nobody is told that one was lost."""
    async with fake_server() as server, fake_server() as other:
        linger = timedelta(milliseconds=50)
        async with connected(server, other, linger=linger) as connection:
            reasons = losses(connection)
            server.peers[0].say(info_frame(ldm=True))
            await eventually(lambda: server.peers[0].ended)
            assert (reasons, connection.reconnects, len(other.peers)) == ([], 1, 1)
            await settled(connection)


@pytest.mark.parametrize("end", ["answered", "abandoned", "left"])
async def test_writes_keep_their_order_when_a_server_is_about_to_stop(end: str) -> None:
    """What is sent by the next wire could be stored first: it waits while the old one may bring answers."""
    linger = timedelta(seconds=0.05 if end == "left" else LIMIT)
    async with fake_server() as server, fake_server() as other:
        connection = Connection(options(server, other, linger=linger))
        requests, steady = Requests(connection), asyncio.Event()
        writes = Writes(requests, JetStream(requests))
        steady.set()
        await connection.connect()
        peer, deadline = server.peers[0], in_seconds(LIMIT)
        first, second = (Write(subject, b"", b"NATS/1.0\r\n\r\n", deadline) for subject in (b"s.1", b"s.2"))
        hurried = second._replace(deadline=in_seconds(0.05))
        sent = await writes.send_all([first, first], steady)
        await eventually(lambda: [each.name for each in peer.operations].count(b"HPUB") == 2)
        peer.say(info_frame(ldm=True))
        await eventually(lambda: connection.reconnects == 1)
        sending = asyncio.create_task(writes.send_all([second], steady))
        if end != "left":
            with pytest.raises(Unavailable):  # who cannot wait for so long has sent nothing
                await writes.conclude(await writes.send_all([hurried], steady), 0)
            await settled(connection)
            assert b"s.2" not in other.peers[0].heard
        if end == "answered":
            puts = [each for each in peer.operations if each.name == b"HPUB"]
            sid = peer.sid(reply_to(puts[0]).rsplit(b".", 2)[0] + b".>")
            for number, put in enumerate(puts, 1):
                peer.say(message_frame(sid, reply_to(put), b'{"stream":"s","seq":%d}' % number))
            acks = await writes.answered(sent)
            assert [ack and ack.sequence for ack in acks] == [1, 2]
        elif end == "abandoned":
            writes.abandon_all(sent)
        await sending
        await eventually(lambda: b"s.2" in other.peers[0].heard)
        await connection.close()


async def test_a_server_that_is_about_to_stop_before_it_is_used() -> None:
    """One that says so after its greeting, while it is told the subscriptions, is left as any other."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.until(b"PING")
        peer.say(info_frame(ldm=True), PONG)
        await peer.serve()

    async with fake_server(script) as server, fake_server() as other:
        connection = Connection(options(server, other))
        Requests(connection)
        await connection.connect()
        await eventually(lambda: connection.reconnects == 1)
        assert wire_of(connection).server.port == other.port
        await settled(connection)
        await connection.close()


# --- A server that does not listen ------------------------------------------------------------------------


async def test_pings_that_are_not_answered() -> None:
    """The connection ends when too many are not, even though messages come."""

    async def deaf(peer: Peer) -> None:
        await peer.greet()
        if len(server.peers) > 1:
            await peer.serve()
        while True:
            peer.say(PING, message_frame(1, b"a", b""))
            await asyncio.sleep(0.005)

    async with fake_server(deaf) as server:
        interval = timedelta(milliseconds=20)
        async with connected(server, ping_interval=interval, max_outstanding_pings=2) as connection:
            reasons = losses(connection)
            await eventually(lambda: connection.reconnects == 1)
            assert reasons == ["the connection ended (the server does not answer)"]


async def stall(server: FakeServer, connection: Connection) -> int:
    """Have the server read no more, and publish as much as the connection takes; return how many messages."""
    server.peers[0].may_read.clear()
    for count in range(10_000):
        try:
            connection.publish(b"a", bytes(32_768))
        except NotConnected:
            return count
        await asyncio.sleep(0)
    raise AssertionError("there is no bound")


async def test_a_server_that_does_not_read() -> None:
    """It is noticed by its silence, and nothing that waits is sent to another one."""
    async with fake_server() as server:
        interval = timedelta(milliseconds=100)
        async with connected(server, ping_interval=interval, max_outstanding_pings=2) as connection:
            reasons = losses(connection)
            await stall(server, connection)
            await eventually(lambda: connection.reconnects == 1)
            assert reasons == ["the connection ended (the server does not answer)"]
            await settled(connection)
            assert not any(each.name == b"PUB" for each in server.peers[1].operations)


async def test_a_server_that_reads_slowly() -> None:
    """What waits is bounded. Who waits for its end does, and then everything arrives in order."""
    async with fake_server() as server, connected(server) as connection:
        wire, peer = wire_of(connection), server.peers[0]
        count = await stall(server, connection)
        assert connection.connected
        assert wire._pending <= 16 * 1024 * 1024 + 40_000
        with pytest.raises(Unavailable):
            await connection.wait_ready(in_seconds(0.05))
        waiting = [asyncio.create_task(connection.wait_ready(in_seconds(LIMIT))) for _ in range(3)]
        await asyncio.sleep(0)
        peer.may_read.set()
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*waiting)
        assert not wire.congested
        connection.publish(b"last")
        await settled(connection)
        bodies = [each.body for each in peer.operations if each.name == b"PUB"]
        assert bodies == [bytes(32_768)] * count + [b""]
        assert connection.reconnects == 0


async def test_one_who_waits_no_longer_harms_no_other() -> None:
    """Each caller of `wait_ready` has its own deadline, and may be cancelled."""
    async with fake_server() as server, connected(server) as connection:
        await stall(server, connection)
        patient = asyncio.create_task(connection.wait_ready(in_seconds(LIMIT)))
        cancelled = asyncio.create_task(connection.wait_ready(in_seconds(LIMIT)))
        with pytest.raises(Unavailable):
            await connection.wait_ready(in_seconds(0.05))
        cancelled.cancel()
        await asyncio.wait((cancelled,))
        assert cancelled.cancelled()
        assert not patient.done()
        server.peers[0].may_read.set()
        async with asyncio.timeout(LIMIT):
            await patient


async def test_waiting_for_a_server_that_is_lost() -> None:
    """Who waits for the end of a jam then waits for the next connection."""
    async with fake_server() as server, connected(server) as connection:
        await stall(server, connection)
        waiting = asyncio.create_task(connection.wait_ready(in_seconds(LIMIT)))
        await asyncio.sleep(0)
        wire_of(connection).abort("the connection ended (as the test wants it)")
        await waiting
        assert connection.reconnects == 1


async def test_close_does_not_wait_for_a_server_that_does_not_read() -> None:
    """It returns after `close_timeout`, with everything unsent."""
    async with fake_server() as server:
        async with connected(server, close_timeout=timedelta(milliseconds=100)) as connection:
            await stall(server, connection)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            await connection.close()
            assert 0.05 <= loop.time() - begun < 5
        server.peers[0].may_read.set()
        await eventually(lambda: server.peers[0].ended)


async def test_waiting_while_the_connection_is_closed() -> None:
    """Who waits meanwhile is told at the deadline, and holds up nobody: the process once hung for good."""
    async with fake_server() as server:
        async with connected(server, close_timeout=timedelta(milliseconds=200)) as connection:
            await stall(server, connection)
            closing = asyncio.create_task(connection.close())
            await eventually(lambda: not connection.connected)
            with pytest.raises(Unavailable):
                await connection.wait_ready(in_seconds(0.05))
            await closing
            with pytest.raises(Unavailable):
                await connection.wait_ready(in_seconds(0.05))
        server.peers[0].may_read.set()


async def test_pings_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that pings and does not read does not fill the memory with answers."""
    monkeypatch.setattr(wire_module, "_MAX_PENDING", 6_000)
    async with fake_server() as server, connected(server) as connection:
        reasons, wire = losses(connection), wire_of(connection)
        wire.pause_writing()  # as the event loop does when the server does not read
        server.peers[0].say(PING * 5_000)
        await eventually(lambda: connection.reconnects == 1)
        assert reasons == ["the connection ended (the server does not read)"]


# --- Requests ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def asking(answer: Callable[[Peer, Operation], None]) -> AsyncIterator[Requests]:
    """Connect to a server that hears of every message."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.serve(
            lambda operation: answer(peer, operation) if operation.name in (b"PUB", b"HPUB") else None
        )

    async with fake_server(script) as server:
        connection = Connection(options(server))
        requests = Requests(connection)
        await connection.connect()
        try:
            yield requests
        finally:
            await connection.close()


def reply_to(operation: Operation) -> bytes:
    """Return where a request is to be answered."""
    return operation.arguments[1]


class OneShare(Share):
    """What is noted of a reply under way."""

    def __init__(self) -> None:
        super().__init__(Budget(), "", 1)
        self.notes: list[str] = []

    def arrived(self, size: int) -> None:
        self.notes.append(f"{size} bytes")

    def leave(self) -> None:
        self.notes.append("left")

    def give_back(self) -> None:
        self.notes.append("given back")


async def test_an_answer_that_comes_late_keeps_its_share() -> None:
    """Whether the time of a request was over or its task was cancelled, until it comes or never will."""
    asked: list[tuple[Peer, bytes]] = []
    async with asking(lambda peer, operation: asked.append((peer, reply_to(operation)))) as requests:
        first, second = OneShare(), OneShare()
        outcome = await requests.request_within(first, b"q", b"", in_seconds(0.05))
        assert (outcome, first.notes) == (NoReply.TIMED_OUT, ["left"])
        peer, reply = asked[0]
        peer.say(message_frame(1, reply, b"late"))
        await eventually(lambda: first.notes == ["left", "given back"])
        cancelled = asyncio.create_task(requests.request_within(second, b"q", b"", in_seconds(20)))
        await eventually(lambda: len(asked) == 2)
        cancelled.cancel()
        await asyncio.wait((cancelled,))
        assert second.notes == ["left"]
        peer.abort()
        await eventually(lambda: second.notes == ["left", "given back"])


async def test_the_share_of_an_answer_is_for_who_reads_it() -> None:
    """The answer is in memory until then."""
    async with asking(
        lambda peer, operation: peer.say(message_frame(1, reply_to(operation), b"x"))
    ) as requests:
        share = OneShare()
        assert await requests.request_within(share, b"q", b"", in_seconds(LIMIT)) == b"x"
        assert not share.notes


async def test_answers_to_nothing() -> None:
    """Answers with unknown tokens, twice, or on other subjects, are dropped."""

    def answer(peer: Peer, operation: Operation) -> None:
        reply = reply_to(operation)
        for subject in (b"x", reply + b"0", reply[:-1] + b"\xff", reply[:-2], b"9" * 60, reply, reply):
            peer.say(message_frame(1, subject, b"to " + subject))

    async with asking(answer) as requests:
        for _ in range(3):
            outcome = await requests.request(b"q", b"", b"", in_seconds(LIMIT))
            assert isinstance(outcome, bytes)
            assert outcome.startswith(b"to _INBOX_windshift.")
        assert len(requests) == 0


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"OK", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"seq":' + b"9" * 5000 + b"}"),
        *(b'{"error":"no"}', b'{"error":[]}', b'{"error":{"code":"x"}}', b'{"error":{"err_code":null}}'),
        b'{"error":{"err_code":1e999}}',
    ],
    ids=lambda body: str(body[:30]),
)
async def test_answers_of_somebody_else(body: bytes) -> None:
    """Anybody may answer: who asked JetStream is told so, and a write may be stored all the same."""

    def answer(peer: Peer, operation: Operation) -> None:
        peer.say(message_frame(1, reply_to(operation), body))

    async with asking(answer) as requests:
        for ask in (_call, _call_once, _change):
            with pytest.raises(JetStreamError) as caught:
                await ask(requests, in_seconds(LIMIT))
            assert caught.value.err_code == 0
        for write in (_write, _write_repeatable):
            with pytest.raises(OutcomeUnknown, match="something other than a stream answered"):
                await write(requests, in_seconds(LIMIT))


@pytest.mark.parametrize(
    "told", ['{"stream":"a"}', '{"seq":1}', '{"stream":"a","seq":"x"}', '{"stream":"a","seq":1e999}', "{}"]
)
async def test_half_an_acknowledgement(told: str) -> None:
    """What does not say which message is stored where says nothing."""

    def answer(peer: Peer, operation: Operation) -> None:
        peer.say(message_frame(1, reply_to(operation), told.encode()))

    async with asking(answer) as requests:
        with pytest.raises(OutcomeUnknown, match="something other than a stream answered"):
            await _write(requests, in_seconds(LIMIT))


async def test_forbidden_requests_of_any_subject() -> None:
    """The first to that subject is told so, whatever bytes it has; others still wait."""
    told = {
        b'a"b\\c': b'a\\"b\\\\c',
        b"\xff\xfe": b"\\xff\\xfe",
        "Größe\u200b".encode(): "Größe\\u200b".encode(),
    }

    def answer(peer: Peer, operation: Operation) -> None:
        subject = operation.arguments[0]
        if subject in told:
            peer.say(error_frame(b'Permissions Violation for Publish to "%b"' % told[subject]))

    async with asking(answer) as requests:
        other = asyncio.create_task(requests.request(b"other", b"", b"", in_seconds(LIMIT)))
        for subject in told:
            assert await requests.request(subject, b"", b"", in_seconds(LIMIT)) is NoReply.FORBIDDEN
        assert not other.done()
        other.cancel()


async def test_a_handler_that_asks_again_too_late() -> None:
    """Even one that does so for ever, with a deadline that is over, lets others run."""
    async with asking(lambda *_: None) as requests:
        calls, turns, late = list[int](), Turns(), in_seconds(-1)

        def again(outcome: bytes | NoReply) -> None:
            calls.append(turns.now())
            if len(calls) < 1000:
                requests.send(b"q", b"", b"", again, late)

        requests.send(b"q", b"", b"", again, late)
        await eventually(lambda: len(calls) == 1000)
        assert len(set(calls)) > 500
        assert len(requests) == 0


# --- Trying again -----------------------------------------------------------------------------------------


async def until_deadline(attempts: list[int], work: Callable[[float], Awaitable[object]]) -> None:
    """See that work which fails at once, each time, pauses, and ends at the deadline that it is given."""
    loop = asyncio.get_running_loop()
    for seconds in (0.3, 3.0, 20.0):  # on a busy machine the first one may be over before the second attempt
        attempts.clear()
        begun = loop.time()
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await work(begun + seconds)
        assert seconds * 0.8 <= loop.time() - begun < seconds + 10
        assert len(attempts) <= seconds * 200
        if len(attempts) >= 2:
            break
    assert len(attempts) >= 2
    assert len(set(attempts)) == len(attempts)  # others may run between any two of them


Work = Callable[[Requests, float], Awaitable[object]]


def _call(requests: Requests, deadline: float) -> Awaitable[object]:
    return JetStream(requests).call("INFO", None, deadline)


def _call_once(requests: Requests, deadline: float) -> Awaitable[object]:
    return JetStream(requests).call("INFO", None, deadline, repeatable=False)


def _change(requests: Requests, deadline: float) -> Awaitable[object]:
    return JetStream(requests).change("STREAM.CREATE.S", {}, deadline)


def _batch(requests: Requests, deadline: float) -> Awaitable[object]:
    return JetStream(requests).batch("S", {"batch": 1}, deadline)


def _write(requests: Requests, deadline: float) -> Awaitable[object]:
    writes = Writes(requests, JetStream(requests))
    return writes.write(Write(b"a", b"", b"", deadline))


def _write_repeatable(requests: Requests, deadline: float) -> Awaitable[object]:
    writes = Writes(requests, JetStream(requests))
    return writes.write(Write(b"a", b"", b"", deadline, repeatable=True))


@pytest.mark.parametrize("work", [_call, _call_once, _change, _batch, _write, _write_repeatable])
async def test_a_connection_that_sends_nothing(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it says that it is up, who tries again pauses: that once hung the process for good."""
    async with asking(lambda *_: None) as requests:
        attempts, turns = list[int](), Turns()

        def send(frame: bytes) -> None:
            attempts.append(turns.now())
            raise NotConnected

        monkeypatch.setattr(wire_of(requests.connection), "send", send)  # a server's in another thread go on
        assert requests.connection.connected
        await until_deadline(attempts, partial(work, requests))


@pytest.mark.parametrize("work", [_call, _call_once, _change, _write, _write_repeatable])
@pytest.mark.parametrize("nobody", [False, True])
async def test_a_server_that_refuses_at_once(work: Work, nobody: bool) -> None:
    """For want of a leader, or of anybody who listens."""
    attempts, turns = list[int](), Turns()

    def answer(peer: Peer, operation: Operation) -> None:
        if not operation.arguments[0].startswith((b"$JS.API.STREAM.NAMES", b"$JS.API.STREAM.INFO")):
            attempts.append(turns.now())
        if nobody:
            peer.say(message_frame(1, reply_to(operation), b"", b"NATS/1.0 503\r\n\r\n"))
        else:
            peer.say(message_frame(1, reply_to(operation), b'{"error":{"code":503,"err_code":10008}}'))

    async with asking(answer) as requests:
        await until_deadline(attempts, partial(work, requests))


async def test_a_change_that_takes_long() -> None:
    """It is sent again meanwhile, and the answer to the first request counts, however late it comes."""
    asked: list[bytes] = []

    def answer(peer: Peer, operation: Operation) -> None:
        asked.append(reply_to(operation))
        if len(asked) == 3:
            peer.say(message_frame(1, asked[0], b'{"name":"S"}'))

    async with asking(answer) as requests:
        api = JetStream(requests, attempt_timeout=timedelta(milliseconds=50))
        assert await api.change("STREAM.CREATE.S", {}, in_seconds(LIMIT)) == {"name": "S"}
        assert (len(asked), api.changes) == (3, 1)


async def test_a_change_whose_repeat_is_refused() -> None:
    """What the server says to any attempt is passed on, and ends the others."""
    asked = 0

    def answer(peer: Peer, operation: Operation) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            peer.say(message_frame(1, reply_to(operation), b'{"error":{"code":400,"err_code":10058}}'))

    async with asking(answer) as requests:
        api = JetStream(requests, attempt_timeout=timedelta(milliseconds=50))
        with pytest.raises(JetStreamError):
            await api.change("STREAM.CREATE.S", {}, in_seconds(LIMIT))
        assert (asked, api.changes) == (2, 0)


@pytest.mark.parametrize("sent", [True, False])
async def test_a_change_that_nobody_answers(sent: bool) -> None:
    """Whether it may have been done is said; that of a server that is gone was not even sent."""
    async with asking(lambda *_: None) as requests:
        if not sent:
            await requests.connection.close()
        api = JetStream(requests, attempt_timeout=timedelta(milliseconds=50))
        with pytest.raises(OutcomeUnknown if sent else Unavailable):
            await api.change("STREAM.CREATE.S", {}, in_seconds(0.5))


@pytest.mark.parametrize("work", [_call, _change, _batch, _write_repeatable])
async def test_a_server_that_hangs_up_on_every_request(work: Work) -> None:
    """Each attempt costs a connection, and neither comes without a pause."""
    attempts, turns, asked = list[int](), Turns(), Counter[Peer]()

    def answer(peer: Peer, operation: Operation) -> None:
        attempts.append(turns.now())
        asked[peer] += 1
        peer.abort()

    async with asking(answer) as requests:
        await until_deadline(attempts, partial(work, requests))
        assert set(asked.values()) == {1}


PAUSE = timedelta(milliseconds=100)


async def at_a_bearable_rate(count: Callable[[], int]) -> None:
    """See that something happens again and again, and no more often than pauses of 50 to 100 ms allow."""
    loop = asyncio.get_running_loop()
    begun, before = loop.time(), count()
    await eventually(lambda: count() >= before + 8)
    assert loop.time() - begun >= 0.05 * 6


@asynccontextmanager
async def losing_its_server(monkeypatch: pytest.MonkeyPatch, error: Exception) -> AsyncIterator[Connection]:
    """Give a connection whose attempts to reconnect fail, with pauses; at the end they succeed again."""
    async with fake_server() as server, connected(server, reconnect_wait=PAUSE) as connection:
        attempts = 0

        async def fail(*_: object) -> Wire:
            nonlocal attempts
            attempts += 1
            raise error

        monkeypatch.setattr(Wire, "connect", fail)
        server.peers[0].abort()
        await at_a_bearable_rate(lambda: attempts)
        yield connection
        monkeypatch.undo()
        await connection.wait_ready(in_seconds(LIMIT))


async def test_a_server_that_cannot_be_reached_any_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried for ever, with pauses, and mentioned once."""
    async with losing_its_server(monkeypatch, ConnectFailed("it is not there")) as connection:
        assert not connection.connected
        assert caplog.text.count("it is not there") == 1


async def test_a_mishap_at_every_attempt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody thought of is logged, and tried again, with pauses."""
    async with losing_its_server(monkeypatch, RuntimeError("nobody thought of this")):
        assert "nobody thought of this" in caplog.text


async def test_the_first_connect_fails_at_once_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """It pauses, and ends at `start_timeout`."""
    async with fake_server() as server:
        attempts, turns = list[int](), Turns()

        async def fail(*_: object) -> Wire:
            attempts.append(turns.now())
            raise ConnectFailed("it is not there")

        monkeypatch.setattr(Wire, "connect", fail)
        connection = Connection(options(server, start_timeout=timedelta(seconds=0.5)))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with pytest.raises(ConnectFailed, match="it is not there"):
            await connection.connect()
        assert 0.4 <= loop.time() - begun < 10
        assert 2 <= len(set(attempts)) == len(attempts) <= 60


async def test_a_server_that_hangs_up_on_everybody() -> None:
    """As soon as it has accepted them: it is not connected to without pauses."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        peer.close()

    async with fake_server(script) as server, connected(server, reconnect_wait=PAUSE):
        await at_a_bearable_rate(lambda: len(server.peers))


async def test_a_server_that_is_always_about_to_stop() -> None:
    """It is not left over and over again without pauses, whenever it says so."""

    async def from_the_first(peer: Peer) -> None:
        await peer.greet(ldm=True)
        await peer.serve()

    async def always(peer: Peer) -> None:
        await peer.greet()
        peer.say(info_frame(ldm=True))
        await peer.serve(lambda _: peer.say(info_frame(ldm=True)))

    linger = timedelta(milliseconds=10)
    async with fake_server(from_the_first) as server, connected(server) as connection:
        await settled(connection)
    async with (
        fake_server(always) as server,
        connected(server, reconnect_wait=PAUSE, linger=linger) as connection,
    ):
        await at_a_bearable_rate(lambda: len(server.peers))
        assert connection.connected
        await eventually(lambda: sum(not peer.ended for peer in server.peers) <= 3)


# Kept last: how the fake itself is tested.


async def test_the_fake_is_a_server() -> None:
    """A client connects, subscribes, publishes, pings and leaves."""
    async with fake_server(honest) as server:
        async with connected(server) as connection:
            sid = connection.subscribe(b"a", lambda _: None).sid
            connection.publish(b"b", b"body", b"NATS/1.0\r\nA: 1\r\n\r\n", b"reply")
            await settled(connection)
            peer = server.peers[0]
            assert peer.sid(b"a") == sid
            assert (
                Operation(b"HPUB", (b"b", b"reply", b"18", b"22"), b"NATS/1.0\r\nA: 1\r\n\r\n", b"body")
                in peer.operations
            )
        await eventually(lambda: peer.ended)
