"""TLS towards real servers: both ways to begin it, what is refused, and much data over it."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.nats.waiting import eventually, serving, wire_of
from tests.support.broker import QUICK, Broker, connect, in_seconds
from tests.support.certificates import Authority, Pair
from tests.support.cluster import running_cluster
from tests.support.nats_server import NatsServer, running_nats
from windshift.nats import ConnectFailed, Connection, ConnectionOptions, Message, NotConnected, parse_servers

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])

SECURE = replace(QUICK, start_timeout=timedelta(minutes=1), connect_timeout=timedelta(seconds=5))
"""What is final is told long before that."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Make an authority."""
    return Authority(tmp_path)


def configure(
    directory: Path, pair: Pair, *, clients: Path | None = None, first: bool = False, more: str = ""
) -> Path:
    """Write a configuration with TLS; with `clients` these must show a certificate of that authority."""
    verify = f"ca_file: '{clients}', verify: true," if clients else ""
    begin = "handshake_first: true," if first else ""
    config = directory / "nats.conf"
    config.write_text(
        f"tls {{ {verify} {begin} cert_file: '{pair.certificate}', key_file: '{pair.key}' }}\n{more}"
    )
    return config


@contextmanager
def serving_tls(config: Path) -> Iterator[NatsServer]:
    """Run a server."""
    with running_nats(config.parent / "nats", "--config", str(config)) as server:
        yield server


def secure_url(server: NatsServer, user: str = "", host: str = "127.0.0.1") -> str:
    """Return a URL that asks for TLS."""
    return f"tls://{user}{host}:{server.port}"


async def refusal(options: ConnectionOptions, url: str, seconds: float = 20) -> str:
    """Connect in vain; return the reason, which must come soon."""
    connection = Connection(replace(options, servers=parse_servers(url)))
    with pytest.raises(ConnectFailed) as caught:
        async with asyncio.timeout(seconds):
            await connection.connect()
    await connection.close()
    return caught.value.text


def publish_without_end(connection: Connection) -> None:
    """Publish until that fails."""
    while True:
        connection.publish(b"x", bytes(1_000_000))


async def is_up(broker: Broker) -> None:
    """See that messages flow."""
    assert await broker.requests.round_trip(in_seconds(20))


# --- Beginning it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_tls_after_the_first_word(tmp_path: Path, authority: Authority, scheme: str) -> None:
    """Asked for by the URL, or by a file, TLS is begun when the server has said who it is."""
    config = configure(tmp_path, authority.issue("nats"))
    with serving_tls(config) as server:
        options = replace(SECURE, tls_ca=authority.certificate)
        async with connect(f"{scheme}://127.0.0.1:{server.port}", options) as broker:
            await is_up(broker)
            assert wire_of(broker).info.tls_required


async def test_tls_before_the_first_word(tmp_path: Path, authority: Authority) -> None:
    """A server with `handshake_first` is spoken to so."""
    config = configure(tmp_path, authority.issue("nats"), first=True)
    with serving_tls(config) as server:
        options = replace(SECURE, tls_ca=authority.certificate, tls_first=True)
        async with connect(server.url, options) as broker:
            await is_up(broker)


async def test_each_waits_for_the_other(tmp_path: Path, authority: Authority) -> None:
    """A server that lets the client begin, and a client that does not, end in time, and in words."""
    config = configure(tmp_path, authority.issue("nats"), first=True)
    with serving_tls(config) as server:
        options = replace(
            QUICK,
            tls_ca=authority.certificate,
            connect_timeout=timedelta(milliseconds=100),
            start_timeout=timedelta(milliseconds=50),
        )
        assert "did not answer in time" in await refusal(options, server.url)


async def test_a_server_that_speaks_first(tmp_path: Path, authority: Authority) -> None:
    """A client that begins with TLS, and hears something else, says so."""
    config = configure(tmp_path, authority.issue("nats"))
    with serving_tls(config) as server:
        options = replace(
            SECURE, tls_ca=authority.certificate, tls_first=True, start_timeout=timedelta(milliseconds=50)
        )
        assert "the TLS handshake failed" in await refusal(options, server.url)


async def test_a_server_that_insists(tmp_path: Path, authority: Authority) -> None:
    """TLS is begun though nobody asked for it, and the certificate is checked all the same."""
    config = configure(tmp_path, authority.issue("nats"))
    with serving_tls(config) as server:
        told = await refusal(SECURE, server.url)
        assert "its certificate was refused: unable to get local issuer certificate" in told


@asynccontextmanager
async def recording_server(*said: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Run a server that says this, one piece after the other, and gives what it heard."""
    heard = list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for each in said:
            writer.write(each)
            await writer.drain()
        try:
            while data := await reader.read(65_536):
                heard.append(data)
        except ConnectionError:
            pass
        finally:
            writer.close()
            closed.release()

    closed = asyncio.Semaphore(0)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"me:s3cret@127.0.0.1:{server.sockets[0].getsockname()[1]}", heard
        async with asyncio.timeout(20):
            await closed.acquire()


@pytest.mark.parametrize("first", [False, True])
async def test_a_server_without_tls(authority: Authority, tmp_path: Path, *, first: bool) -> None:
    """When TLS was asked for, a server without it hears nothing, least of all the password."""
    options = replace(
        SECURE, tls_ca=authority.certificate, tls_first=first, start_timeout=timedelta(milliseconds=50)
    )
    async with recording_server(b'INFO {"headers": true}\r\n') as (url, heard):
        told = await refusal(options, f"tls://{url}")
        assert ("the TLS handshake failed" if first else "does not offer TLS, which was asked for") in told
        assert b"s3cret" not in b"".join(heard)
        assert first or not heard


async def test_a_real_server_without_tls(nats_server: NatsServer) -> None:
    """It is refused at once: asking again would not help."""
    told = await refusal(SECURE, f"tls://me:s3cret@127.0.0.1:{nats_server.port}")
    assert "does not offer TLS, which was asked for" in told
    assert "s3cret" not in told


async def test_a_handshake_without_end(authority: Authority) -> None:
    """A server that begins with TLS and says no more is given up in time, and nothing is left of it."""
    options = replace(
        QUICK,
        tls_ca=authority.certificate,
        connect_timeout=timedelta(milliseconds=100),
        start_timeout=timedelta(milliseconds=50),
    )
    async with recording_server(b'INFO {"tls_required": true, "headers": true}\r\n') as (url, heard):
        for _ in range(3):
            assert "did not answer in time" in await refusal(options, f"tls://{url}")
        assert b"s3cret" not in b"".join(heard)
    await eventually(lambda: len(asyncio.all_tasks()) == 1)


@pytest.mark.parametrize("first", [False, True])
async def test_wrong_credentials(tmp_path: Path, authority: Authority, *, first: bool) -> None:
    """They are refused as without TLS: at once and in words."""
    more = "authorization { user: me, password: right }"
    with serving_tls(configure(tmp_path, authority.issue("nats"), first=first, more=more)) as server:
        options = replace(SECURE, tls_ca=authority.certificate, tls_first=first)
        told = await refusal(options, secure_url(server, "me:wr0ng@"))
        assert "it refused the credentials" in told
        assert "wr0ng" not in told


# --- Certificates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True])
async def test_clients_that_show_a_certificate(tmp_path: Path, authority: Authority, *, first: bool) -> None:
    """A server that wants one is content with one of its authority, and lets nobody else in."""
    stranger = Authority(tmp_path, "stranger")
    ours, theirs = authority.issue("ours"), stranger.issue("theirs")
    config = configure(tmp_path, authority.issue("nats"), clients=authority.certificate, first=first)
    with serving_tls(config) as server:
        options = replace(SECURE, tls_ca=authority.certificate, tls_first=first)
        shown = replace(options, tls_certificate=ours.certificate, tls_key=ours.key)
        async with connect(secure_url(server), shown) as broker:
            await is_up(broker)
        old = expired(authority, "old")
        for wrong in (
            options,
            replace(options, tls_certificate=theirs.certificate, tls_key=theirs.key),
            replace(options, tls_certificate=old.certificate, tls_key=old.key),
        ):
            assert "it refused our certificate, or wants one" in await refusal(wrong, secure_url(server))


def expired(authority: Authority, name: str) -> Pair:
    """Issue a certificate that has expired."""
    return authority.issue(name, lifetime=dt.timedelta(minutes=-5))


async def test_a_certificate_and_its_key_in_one_file(tmp_path: Path, authority: Authority) -> None:
    """A client's certificate needs no second file."""
    ours = authority.issue("ours")
    both = tmp_path / "both.pem"
    both.write_bytes(ours.key.read_bytes() + ours.certificate.read_bytes())
    config = configure(tmp_path, authority.issue("nats"), clients=authority.certificate)
    with serving_tls(config) as server:
        options = replace(SECURE, tls_ca=authority.certificate, tls_certificate=both)
        async with connect(secure_url(server), options) as broker:
            await is_up(broker)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    "reason", ["unable to get local issuer certificate", "IP address mismatch", "certificate has expired"]
)
async def test_certificates_that_are_refused(
    tmp_path: Path, authority: Authority, reason: str, *, first: bool
) -> None:
    """Another authority's, one for another name and one that has expired are refused at once, in words."""
    trusted, pair = authority, authority.issue("nats")
    match reason.split():
        case ["unable", *_]:
            trusted = Authority(tmp_path, "stranger")
        case ["IP", *_]:
            pair = authority.issue("nats", ips=(), dns=("elsewhere",))
        case _:
            pair = expired(authority, "nats")
    more = "authorization { user: me, password: s3cret }"
    with serving_tls(configure(tmp_path, pair, first=first, more=more)) as server:
        options = replace(SECURE, tls_ca=trusted.certificate, tls_first=first)
        told = await refusal(options, secure_url(server, "me:s3cret@"))
        assert f"its certificate was refused: {reason}" in told
        assert "s3cret" not in told


async def test_a_name_that_does_not_fit(tmp_path: Path, authority: Authority) -> None:
    """A certificate for a number only is no good for a name."""
    config = configure(tmp_path, authority.issue("nats", dns=()))
    with serving_tls(config) as server:
        options = replace(SECURE, tls_ca=authority.certificate)
        async with connect(secure_url(server), options) as broker:
            await is_up(broker)
        told = await refusal(options, secure_url(server, host="localhost"))
        assert "its certificate was refused: Hostname mismatch" in told


def encrypted(pair: Pair) -> Pair:
    """Write the key anew, with a password."""
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    file = pair.key.with_name("encrypted.key")
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"s3cret"),
        )
    )
    return Pair(pair.certificate, file)


async def test_an_encrypted_key(tmp_path: Path, authority: Authority) -> None:
    """It is refused in words and at once: nobody is asked for its password."""
    ours = encrypted(authority.issue("ours"))
    config = configure(tmp_path, authority.issue("nats"), clients=authority.certificate)
    with serving_tls(config) as server:
        options = replace(
            SECURE, tls_ca=authority.certificate, tls_certificate=ours.certificate, tls_key=ours.key
        )
        assert "the TLS key is encrypted" in await refusal(options, secure_url(server))


@pytest.mark.parametrize("which", ["tls_ca", "tls_certificate", "tls_key"])
@pytest.mark.parametrize("what", ["nothing", "directory", "pipe", "garbage", "empty", "other"])
async def test_files_that_are_no_good(tmp_path: Path, authority: Authority, which: str, what: str) -> None:
    """They are refused in words, at once; nothing is waited for, and no path is shown."""
    ours = authority.issue("ours")
    path = tmp_path / "pl4nted"
    match what:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "garbage":
            path.write_bytes(b"-----BEGIN CERTIFICATE-----\npl4nted\n-----END CERTIFICATE-----\n")
        case "empty":
            path.touch()
        case "other":
            path.write_bytes(authority.issue("other").key.read_bytes())
    options = replace(
        SECURE, tls_ca=authority.certificate, tls_certificate=ours.certificate, tls_key=ours.key
    )
    changed: dict[str, Path] = {which: path}
    options = replace(options, **changed)  # type: ignore[arg-type]  # only these three
    config = configure(tmp_path, authority.issue("nats"), clients=authority.certificate)
    with serving_tls(config) as server:
        begun = time.monotonic()
        told = await refusal(options, secure_url(server))
        assert time.monotonic() - begun < 10
        assert "the TLS files cannot be used" in told
        assert "pl4nted" not in told


async def test_renewed_certificates(tmp_path: Path, authority: Authority) -> None:
    """Files that are replaced count at the next connect, the authority's included."""
    ours, theirs = authority.issue("ours"), authority.issue("nats")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.certificate.read_bytes())
    config = configure(tmp_path, theirs, clients=trusted)
    with serving_tls(config) as server:
        options = replace(SECURE, tls_ca=trusted, tls_certificate=ours.certificate, tls_key=ours.key)
        async with connect(secure_url(server), options) as broker:
            await is_up(broker)
            server.kill()
            await broker.lost()
            successor = Authority(tmp_path, "successor")
            successor.issue("nats")
            server.start()
            await eventually(lambda: "its certificate was refused" in broker.connection.last_error)
            trusted.write_bytes(successor.certificate.read_bytes())
            server.kill()  # it trusts the old authority yet
            server.start()
            await eventually(lambda: "its certificate was refused" not in broker.connection.last_error)
            assert not broker.connection.connected
            successor.issue("ours")
            await broker.connection.wait_ready(in_seconds(20))
            await is_up(broker)


# --- Going on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True])
async def test_large_messages_both_ways(tmp_path: Path, authority: Authority, *, first: bool) -> None:
    """Much data in messages of 8 MB arrives whole and in order, both ways, and in a sane time."""
    size, count = 8 * 1024 * 1024, 4
    config = configure(tmp_path, authority.issue("nats"), first=first, more="max_payload: 8388608")
    bodies = [bytes([number]) * size for number in range(count)]
    with serving_tls(config) as server:
        options = replace(SECURE, tls_ca=authority.certificate, tls_first=first)
        async with (
            connect(secure_url(server), options) as broker,
            connect(secure_url(server), options) as other,
        ):
            arrived = asyncio.Queue[Message]()
            got, echoed = list[bytes](), list[bytes]()

            async def echo() -> None:
                for _ in range(count):
                    message = await arrived.get()
                    got.append(message.body)
                    await other.connection.wait_ready(in_seconds(20))
                    other.connection.publish(message.reply, message.body)

            echoing = asyncio.create_task(echo())
            other.connection.subscribe(b"there", arrived.put_nowait)
            broker.connection.subscribe(b"back", lambda message: echoed.append(message.body))
            await is_up(other)
            begun = time.monotonic()
            for body in bodies:
                await broker.connection.wait_ready(in_seconds(20))
                broker.connection.publish(b"there", body, reply=b"back")
            await echoing
            await eventually(lambda: len(echoed) == count)
            assert time.monotonic() - begun < 20
            assert got == bodies
            assert echoed == bodies
            assert broker.connection.reconnects == other.connection.reconnects == 0


async def test_many_small_messages(tmp_path: Path, authority: Authority) -> None:
    """Tens of thousands of messages in one go arrive, in order."""
    config = configure(tmp_path, authority.issue("nats"))
    with serving_tls(config) as server:
        options = replace(SECURE, tls_ca=authority.certificate)
        async with connect(secure_url(server), options) as broker:
            got, bodies = list[bytes](), [b"%d" % number * (number % 50) for number in range(30_000)]
            broker.connection.subscribe(b"many", lambda message: got.append(message.body))
            for body in bodies:
                broker.connection.publish(b"many", body)
            await eventually(lambda: len(got) == len(bodies))
            assert got == bodies


async def test_comes_back(tmp_path: Path, authority: Authority) -> None:
    """After a crash of the server the connection is made anew, by TLS, and messages flow."""
    config = configure(tmp_path, authority.issue("nats"), more="authorization { user: me, password: s3cret }")
    with serving_tls(config) as server:
        options = replace(SECURE, tls_ca=authority.certificate)
        async with connect(secure_url(server, "me:s3cret@"), options) as broker:
            got = asyncio.Queue[bytes]()
            broker.connection.subscribe(b"news", lambda message: got.put_nowait(message.body))
            for number in range(5):
                server.kill()
                await broker.lost()
                server.start()
                await broker.connection.wait_ready(in_seconds(20))
                broker.connection.publish(b"news", b"%d" % number)
                assert await got.get() == b"%d" % number


async def test_a_server_that_stops_reading(tmp_path: Path, authority: Authority) -> None:
    """A frozen server is given up over TLS too, with much unsent, and the end does not wait for it."""
    config = configure(tmp_path, authority.issue("nats"))
    with serving_tls(config) as server:
        options = replace(
            SECURE,
            tls_ca=authority.certificate,
            ping_interval=timedelta(milliseconds=100),
            connect_timeout=timedelta(milliseconds=500),
        )
        async with connect(secure_url(server), options) as broker:
            server.freeze()
            with pytest.raises(NotConnected):
                publish_without_end(broker.connection)
            await broker.lost()
            begun = time.monotonic()
            await broker.connection.close()
            assert time.monotonic() - begun < 20
            server.thaw()
        await eventually(lambda: len(asyncio.all_tasks()) == 1)


@pytest.mark.timeout(120)
async def test_servers_that_a_cluster_names_by_number(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> None:
    """A server that is known by its number only must show a certificate for the name that was given."""
    pair = authority.issue("nats", dns=("localhost",), ips=())
    tls = ("--tls", "--tlscert", str(pair.certificate), "--tlskey", str(pair.key))
    users = ("--user", "me", "--pass", "s3cret")
    with running_cluster(lambda: tmp_path_factory.mktemp("cluster"), *tls, *users) as servers:
        options = replace(SECURE, tls_ca=authority.certificate)
        url = secure_url(servers[0], "me:s3cret@", "localhost")
        async with connect(url, options) as broker:
            await eventually(lambda: len(wire_of(broker).info.connect_urls) == 3)
            assert all(each.startswith("127.0.0.1:") for each in wire_of(broker).info.connect_urls)
            servers[0].kill()
            await eventually(lambda: broker.connection.reconnects == 1)
            await broker.connection.wait_ready(in_seconds(30))
            assert serving(broker, *servers) is not servers[0]
            assert wire_of(broker).server.host == "127.0.0.1"
            assert wire_of(broker).server.tls_name == "localhost"
            await is_up(broker)
        told = await refusal(options, secure_url(servers[1], "me:s3cret@"))
        assert "its certificate was refused: IP address mismatch" in told
