"""Who the client is, to real servers: every kind of credentials, wrong ones, and those that end."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.nats.waiting import eventually, wire_of
from tests.support.broker import QUICK, Broker, connect, in_seconds
from tests.support.nats_server import NatsServer, running_nats
from tests.support.operator import Operator, user_key, write_operator
from windshift.nats import ConnectFailed, Connection, ConnectionOptions, Unavailable, parse_servers
from windshift.nats.credentials import credentials_expiry
from windshift.nats.protocol import ErrorKind, ServerError

PATIENT = replace(QUICK, start_timeout=timedelta(minutes=1))
"""What is final is told long before that."""


class Watch:
    """Sees to it that secrets are shown nowhere."""

    def __init__(self, log: pytest.LogCaptureFixture) -> None:
        self._log = log
        self._secrets: list[str] = []

    def over(self, *secrets: str) -> None:
        """Watch over these from now on."""
        self._secrets += secrets

    def see(self, *shown: object) -> None:
        """See that there is nothing of a secret in the log, nor in these."""
        texts = [*map(self._text, shown), *map(self._text, self._log.records)]
        assert [secret for secret in self._secrets for text in texts if secret in text] == []

    def _text(self, shown: object) -> str:
        if isinstance(shown, BaseException):
            return repr(shown) + "".join(traceback.format_exception(shown))
        if isinstance(shown, logging.LogRecord):
            return repr(vars(shown)) + logging.Formatter().format(shown)
        return f"{shown!r} {shown}"


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> Iterator[Watch]:
    """Watch over secrets; see that they are not in the log, in detail as it is, at the end."""
    caplog.set_level(logging.DEBUG)
    watch = Watch(caplog)
    yield watch
    watch.see()


def configured(directory: Path, text: str) -> Path:
    """Write a nats-server's configuration."""
    config = directory / "config"
    config.write_text(text)
    return config


async def refusal(options: ConnectionOptions, url: str, watch: Watch) -> ConnectFailed:
    """Connect in vain; return the reason, which must come soon."""
    options = replace(options, servers=parse_servers(url))
    connection = Connection(options)
    with pytest.raises(ConnectFailed) as caught:
        async with asyncio.timeout(20):
            await connection.connect()
    assert not connection.connected
    await connection.close()
    watch.see(caught.value, options, connection.last_error, connection)
    return caught.value


# --- Users, passwords and tokens --------------------------------------------------------------------------


async def test_nobody_in_particular(nats_server: NatsServer, watch: Watch) -> None:
    """A server that asks for no credentials is content without, and with some."""
    watch.over("s3cret")
    for user in ("", "me:s3cret@", "s3cret@"):
        async with connect(f"nats://{user}127.0.0.1:{nats_server.port}") as broker:
            assert await broker.requests.round_trip(in_seconds(20))


@pytest.mark.parametrize(
    "password", ["s3cret", "p@ss word", "%41/?#:,&=+", 'a"b\\', "pässwörd-東京", "$dollar"]
)
async def test_user_and_password(tmp_path: Path, password: str, watch: Watch) -> None:
    """They are what the URL says, percent-encoded characters decoded; a wrong one is refused at once."""
    watch.over(password, quote(password, safe=""))
    with running_nats(tmp_path / "nats", "--user", "mé", "--pass", password) as server:
        given = f"nats://m%C3%A9:{quote(password, safe='')}@127.0.0.1:{server.port}"
        async with connect(given, PATIENT) as broker:
            assert await broker.requests.round_trip(in_seconds(20))
            watch.see(broker.connection, wire_of(broker).server, *parse_servers(given))
        for wrong in (f"{quote(password, safe='')}x", "s3cre", "", "%20"):
            refused = await refusal(PATIENT, f"nats://m%C3%A9:{wrong}@127.0.0.1:{server.port}", watch)
            assert "it refused the credentials" in refused.text
        refused = await refusal(PATIENT, f"nats://127.0.0.1:{server.port}", watch)
        assert "it refused the credentials" in refused.text


async def test_token(tmp_path: Path, watch: Watch) -> None:
    """A URL's user without a password is a token, decoded likewise."""
    watch.over("t0ken/&", "t0ken%2F%26")
    with running_nats(tmp_path / "nats", "--auth", "t0ken/&") as server:
        async with connect(f"nats://t0ken%2F%26@127.0.0.1:{server.port}", PATIENT) as broker:
            assert await broker.requests.round_trip(in_seconds(20))
        for wrong in ("t0ken@", "t0ken%2F%26:@", ""):
            refused = await refusal(PATIENT, f"nats://{wrong}127.0.0.1:{server.port}", watch)
            assert "it refused the credentials" in refused.text


async def test_each_server_has_its_own(tmp_path: Path, watch: Watch) -> None:
    """Of several servers each is given the credentials of its own URL; that one refuses them is no matter."""
    watch.over("first-pass", "second-pass")
    with (
        running_nats(tmp_path / "1", "--user", "first", "--pass", "first-pass") as first,
        running_nats(tmp_path / "2", "--user", "second", "--pass", "second-pass") as second,
    ):
        crossed = f"nats://first:first-pass@127.0.0.1:{second.port}"
        right = f"nats://second:second-pass@127.0.0.1:{second.port}"
        async with connect(f"{crossed},{right}", PATIENT) as broker:
            assert await broker.requests.round_trip(in_seconds(20))
        both = f"nats://first:first-pass@127.0.0.1:{first.port},{right}"
        async with connect(both, PATIENT) as broker:
            for _ in range(2):
                wire_of(broker).abort("for a test")
                await broker.connection.wait_ready(in_seconds(20))
                assert await broker.requests.round_trip(in_seconds(20))


async def test_a_user_that_is_taken_away(tmp_path: Path, watch: Watch) -> None:
    """A connection that the server ended because of its user comes back once the user does."""
    watch.over("r1ght", "0ther")
    config = configured(tmp_path, "authorization { users: [{user: me, password: r1ght}] }")
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with connect(f"nats://me:r1ght@127.0.0.1:{server.port}") as broker:
            configured(tmp_path, "authorization { users: [{user: other, password: 0ther}] }")
            server.reload()
            await broker.lost()
            await eventually(lambda: "refused the credentials" in broker.connection.last_error)
            with pytest.raises(Unavailable) as caught:
                await broker.api.call("INFO", None, in_seconds(0.1))
            watch.see(caught.value, broker.connection.last_error)
            configured(tmp_path, "authorization { users: [{user: me, password: r1ght}] }")
            server.reload()
            await broker.connection.wait_ready(in_seconds(20))
            await broker.api.call("INFO", None, in_seconds(20))


async def test_more_connections_than_allowed(tmp_path: Path) -> None:
    """One too many is told why, and succeeds when there is room again."""
    config = configured(tmp_path, "max_connections: 1")
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with connect(server.url):
            hasty = Connection(
                replace(QUICK, servers=parse_servers(server.url), start_timeout=timedelta(seconds=0.1))
            )
            with pytest.raises(ConnectFailed, match="maximum connections exceeded"):
                await hasty.connect()
            waiting = Connection(replace(PATIENT, servers=parse_servers(server.url)))
            connecting = asyncio.create_task(waiting.connect())
            await eventually(lambda: "maximum connections exceeded" in waiting.last_error)
        await connecting
        assert waiting.connected
        await waiting.close()


# --- Keys -------------------------------------------------------------------------------------------------


def nkey_config(directory: Path, public: str) -> Path:
    """Write the configuration of a server that knows one key."""
    return configured(directory, f"authorization {{ users: [{{nkey: {public}}}] }}")


async def test_nkey(tmp_path: Path, watch: Watch) -> None:
    """A file with a seed is enough; what stands around it does not matter, and another one is refused."""
    key, other = user_key(), user_key()
    watch.over(key.seed, other.seed)
    file = tmp_path / "user.nk"
    options = replace(PATIENT, nkey=file)
    config = nkey_config(tmp_path, key.public)
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        for text in (key.seed, f"{key.seed}\n", f"# ours\n\n  {key.seed}  \r\n# theirs\n"):
            file.write_text(text)
            async with connect(server.url, options) as broker:
                assert await broker.requests.round_trip(in_seconds(20))
                watch.see(options, broker.connection)
        file.write_text(other.seed)
        assert "it refused the credentials" in (await refusal(options, server.url, watch)).text
        assert "it refused the credentials" in (await refusal(PATIENT, server.url, watch)).text


async def test_an_nkey_that_is_renewed(tmp_path: Path, watch: Watch) -> None:
    """The file is read at each connect: once server and file have another key, that counts."""
    old, new = user_key(), user_key()
    watch.over(old.seed, new.seed)
    file = tmp_path / "user.nk"
    file.write_text(old.seed)
    config = nkey_config(tmp_path, old.public)
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with connect(server.url, replace(QUICK, nkey=file)) as broker:
            nkey_config(tmp_path, new.public)
            server.reload()
            await eventually(lambda: "refused the credentials" in broker.connection.last_error)
            file.unlink()
            await eventually(lambda: "nkey file cannot be read" in broker.connection.last_error)
            file.write_text(new.seed)
            await broker.connection.wait_ready(in_seconds(20))
            await broker.api.call("INFO", None, in_seconds(20))


async def test_a_server_that_knows_no_keys(nats_server: NatsServer, watch: Watch, tmp_path: Path) -> None:
    """A key is no hindrance where nobody asks for one."""
    key = user_key()
    watch.over(key.seed)
    file = tmp_path / "user.nk"
    file.write_text(key.seed)
    async with connect(nats_server.url, replace(QUICK, nkey=file)) as broker:
        assert await broker.requests.round_trip(in_seconds(20))


async def test_without_the_package_that_signs(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is not installed that is said, and at once."""
    key = user_key()
    watch.over(key.seed)
    file = tmp_path / "user.nk"
    file.write_text(key.seed)
    config = nkey_config(tmp_path, key.public)
    monkeypatch.setitem(sys.modules, "nkeys", None)
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        refused = await refusal(replace(PATIENT, nkey=file), server.url, watch)
    assert "signing with a key needs the package nkeys" in refused.text


# --- Credentials files ------------------------------------------------------------------------------------


async def test_credentials_file(tmp_path: Path, watch: Watch) -> None:
    """A JWT and its seed in one file are taken; nothing, or another operator's, is refused at once."""
    config, credentials = write_operator(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    _, others = write_operator(elsewhere)
    watch.over(*secret_lines(credentials), *secret_lines(others))
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        options = replace(PATIENT, credentials=credentials)
        async with connect(server.url, options) as broker:
            assert await broker.requests.round_trip(in_seconds(20))
            watch.see(options, broker.connection)
        credentials.write_text(credentials.read_text().replace("\n", "\r\n"))
        async with connect(server.url, options) as broker:
            assert await broker.requests.round_trip(in_seconds(20))
        for wrong in (replace(PATIENT, credentials=others), PATIENT):
            assert "it refused the credentials" in (await refusal(wrong, server.url, watch)).text


def secret_lines(credentials: Path) -> list[str]:
    """Return the JWT and the seed of a credentials file."""
    lines = [line for line in credentials.read_text().splitlines() if line and not line.startswith("-")]
    assert len(lines) == 2
    return lines


async def test_a_file_that_ends_anywhere(tmp_path: Path, watch: Watch) -> None:
    """A file that was written halfway is refused in words, wherever it ends."""
    config, credentials = write_operator(tmp_path)
    text = credentials.read_bytes()
    jwt, seed = secret_lines(credentials)
    watch.over(jwt, seed, jwt[: len(jwt) // 2], seed[:20])
    ends = [*range(0, len(text), 97), *range(text.index(b"SU"), text.index(b"SU") + len(seed), 7)]
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        for end in ends:
            credentials.write_bytes(text[:end])
            refused = await refusal(replace(PATIENT, credentials=credentials), server.url, watch)
            assert "the credentials file does not hold a user's JWT and seed" in refused.text


@pytest.mark.parametrize("kind", ["credentials", "nkey"])
@pytest.mark.parametrize(
    "what", ["nothing", "directory", "pipe", "device", "loop", "garbage", "empty", "huge"]
)
async def test_what_is_no_such_file(
    tmp_path: Path, watch: Watch, caplog: pytest.LogCaptureFixture, kind: str, what: str
) -> None:
    """It is refused in words, at once; nothing is waited for, and neither path nor content is shown."""
    watch.over("pl4nted")
    path = tmp_path / "here"
    match what:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case "loop":
            path.symlink_to(path)
        case "garbage":
            path.write_bytes(b"pl4nted \xff\x00\n-----BEGIN USER NKEY SEED-----\npl4nted\n" * 10)
        case "empty":
            path.touch()
        case "huge":
            path.write_bytes(b"SUAPL4NTED" * 1_000_000)
    config, _ = write_operator(tmp_path)
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        options = replace(PATIENT, nkey=path) if kind == "nkey" else replace(PATIENT, credentials=path)
        begun = time.monotonic()
        refused = await refusal(options, server.url, watch)
        assert time.monotonic() - begun < 10
    assert str(path) not in "".join(traceback.format_exception(refused)) + caplog.text
    name = "nkey file" if kind == "nkey" else "credentials file"
    reason = "does not hold" if what in ("garbage", "empty", "huge") else "cannot be read"
    assert f"the {name} {reason}" in refused.text


def test_when_credentials_expire(tmp_path: Path) -> None:
    """The time is that of the JWT; one without is for ever, and a file that holds none is no good."""
    operator, end = Operator(tmp_path), int(time.time()) + 3
    credentials = operator.write_credentials(expires=end)
    assert credentials_expiry(credentials) == end
    assert credentials_expiry(operator.write_credentials()) == math.inf
    text = credentials.read_text()
    jwt = text.splitlines()[1]
    for wrong in ("", text.replace(jwt, "a.b.c"), text.replace(jwt, jwt.partition(".")[0]), "a" * 99):
        credentials.write_text(wrong)
        with pytest.raises(ConnectFailed, match="does not hold"):
            credentials_expiry(credentials)
    with pytest.raises(ConnectFailed, match="cannot be read"):
        credentials_expiry(tmp_path / "none")


async def test_credentials_that_expire(tmp_path: Path, watch: Watch) -> None:
    """When a user's JWT ends, so does the connection, and says why; another JWT in the file mends it."""
    operator = Operator(tmp_path)
    end = int(time.time()) + 3
    credentials = operator.write_credentials(expires=end)
    watch.over(*secret_lines(credentials))
    config = operator.write_config()
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with connect(server.url, replace(QUICK, credentials=credentials)) as broker:
            reasons = list[str]()
            broker.connection.on_lost.append(lambda: reasons.append(broker.connection.last_error))
            await broker.lost()
            assert reasons[0] == "the connection ended (user authentication expired)"
            await eventually(lambda: time.time() > end + 1)  # in its last second the server wavers
            await eventually(lambda: "it refused the credentials" in broker.connection.last_error)
            assert not broker.connection.connected
            refused = await refusal(replace(PATIENT, credentials=credentials), server.url, watch)
            assert "it refused the credentials" in refused.text
            operator.write_credentials(expires=int(time.time()) + 3600)
            watch.over(*secret_lines(credentials))
            await broker.connection.wait_ready(in_seconds(20))
            assert await broker.requests.round_trip(in_seconds(20))


async def test_credentials_that_are_revoked(tmp_path: Path, watch: Watch) -> None:
    """When a user is revoked the connection ends, and the same credentials are refused from then on."""
    operator = Operator(tmp_path)
    credentials = operator.write_credentials()
    watch.over(*secret_lines(credentials))
    config = operator.write_config()
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with connect(server.url, replace(QUICK, credentials=credentials)) as broker:
            reasons = list[str]()
            broker.connection.on_lost.append(lambda: reasons.append(broker.connection.last_error))
            operator.write_config(revoked=True)
            server.reload()
            await broker.lost()
            assert len(reasons) == 1
            assert reasons[0].startswith("the connection ended")
            await eventually(lambda: "it refused the credentials" in broker.connection.last_error)
            refused = await refusal(replace(PATIENT, credentials=credentials), server.url, watch)
            assert "it refused the credentials" in refused.text


async def test_an_account_with_few_connections(tmp_path: Path, watch: Watch) -> None:
    """One too many of an account is told so, and is no reason to give up for good."""
    operator = Operator(tmp_path)
    credentials, config = operator.write_credentials(), operator.write_config(connections=1)
    watch.over(*secret_lines(credentials))
    options = replace(QUICK, credentials=credentials)
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with connect(server.url, options):
            hasty = replace(options, start_timeout=timedelta(seconds=0.1))
            refused = await refusal(hasty, server.url, watch)
            assert "maximum account active connections exceeded" in refused.text
            waiting = Connection(replace(options, servers=parse_servers(server.url)))
            connecting = asyncio.create_task(waiting.connect())
            await eventually(lambda: "maximum account" in waiting.last_error)
        await connecting
        assert waiting.connected
        await waiting.close()


async def test_permissions_of_a_jwt(tmp_path: Path) -> None:
    """What a JWT forbids is told as any other violation is, and ends nothing."""
    rights = {"pub": {"deny": ["No.>"]}, "sub": {"deny": ["No.>"]}}
    config, credentials = write_operator(tmp_path, rights)
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with connect(server.url, replace(QUICK, credentials=credentials)) as broker:
            told = list[ServerError]()
            broker.connection.violations.on_any.append(told.append)
            broker.connection.publish(b"No.a")
            broker.connection.subscribe(b"No.b", lambda _: None)
            await eventually(lambda: len(told) == 2)
            assert told == [
                ServerError(ErrorKind.PUBLISH_FORBIDDEN, b"No.a"),
                ServerError(ErrorKind.SUBSCRIPTION_FORBIDDEN, b"No.b"),
            ]
            assert await broker.requests.round_trip(in_seconds(20))


async def test_reconnecting_with_credentials(tmp_path: Path, watch: Watch) -> None:
    """Every kind of credentials is shown anew to a server that comes back."""
    key = user_key()
    watch.over(key.seed, "s3cret")
    file = tmp_path / "user.nk"
    file.write_text(key.seed)
    users = f"{{nkey: {key.public}}}, {{user: me, password: s3cret}}"
    config = configured(tmp_path, f"authorization {{ users: [{users}] }}")
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with (
            connect(server.url, replace(QUICK, nkey=file)) as by_key,
            connect(f"nats://me:s3cret@127.0.0.1:{server.port}") as by_password,
        ):
            brokers: tuple[Broker, ...] = (by_key, by_password)
            server.kill()
            for broker in brokers:
                await broker.lost()
            server.start()
            for broker in brokers:
                await broker.connection.wait_ready(in_seconds(20))
                assert await broker.requests.round_trip(in_seconds(20))
