"""One life of a nats-py client: connect to one server, with our options, or say plainly why not."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import ParseResult

from nats.aio.client import Client, Server
from nats.aio.msg import Msg
from nats.errors import AuthorizationError, Error, InvalidUserCredentialsError, NoServersError
from nats.protocol.parser import ERR_RE

from windshift.server.nats.options import ConnectionOptions, ServerAddress, WitnessedTls, tls_context
from windshift.server.nats.violations import read_violation

_FOR_EVER: Final = 1e9


class _Client(Client):
    """A client that survives subjects which are no UTF-8, and says which subject was forbidden.

    The broker takes any bytes, so that a stream may hold such a message. nats-py's reading of the connection
    ends with the first one, and would again with each redelivery. What the broker says of a forbidden subject
    it passes on in small letters.
    """

    async def _process_err(self, err_msg: str) -> None:
        told = ERR_RE.match(self._ps.buf)  # what is being read now
        violation = None if told is None or not told[1] else read_violation(told[1].decode(errors="replace"))
        if violation is None:
            await super()._process_err(err_msg)
        else:
            await self._error_cb(violation)

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        try:
            message: Msg = super()._build_message(sid, subject, reply, data, headers)
        except UnicodeDecodeError:
            message = super()._build_message(sid, _readable(subject), _readable(reply), data, headers)
        return message


def _readable(subject: bytes) -> bytes:
    return subject.decode(errors="replace").encode()


class ConnectFailed(Exception):
    """A server could not be connected to.

    `text` holds no secret; `final` means that trying again will not help.
    """

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.final = final


async def open_client(
    options: ConnectionOptions,
    server: ServerAddress,
    on_error: Callable[[Exception], Awaitable[None]],
    on_ended: Callable[[], Awaitable[None]],
    on_leaving: Callable[[], Awaitable[None]],
) -> Client:
    """Connect a fresh client to `server`; raises `ConnectFailed`.

    `on_leaving` is called when the server says that it is about to stop (lame-duck mode).

    nats-py never gets to reconnect: what it keeps in its buffer when a connection breaks it would send after
    the next one is up, when the publish was long reported as failed; its attempts wait for a frozen peer to
    read, and end silently on an error that they did not expect. One way to come back, ours, covers that and
    the closes that it never recovers from. (Turned off altogether, its client would close itself, wait for
    the frozen peer in that, and leave a task behind.)
    """
    client = _Client()
    cause: Exception | None = None

    async def note(error: Exception) -> None:
        nonlocal cause
        cause = error
        await on_error(error)

    try:
        async with asyncio.timeout(options.connect_timeout.total_seconds()):
            await _connect(client, options, server, note, on_ended, on_leaving)
    except BaseException as error:
        await abandon(client, options)
        if isinstance(error, asyncio.CancelledError) and not _is_cancelled():
            raise ConnectFailed("the connection failed") from error
        if isinstance(error, NoServersError | TimeoutError) and cause is not None:
            raise explain(cause) from cause
        if isinstance(error, Exception):
            raise explain(error) from error
        raise
    cause = None
    return client


async def _connect(
    client: Client,
    options: ConnectionOptions,
    server: ServerAddress,
    on_error: Callable[[Exception], Awaitable[None]],
    on_ended: Callable[[], Awaitable[None]],
    on_leaving: Callable[[], Awaitable[None]],
) -> None:
    if options.credentials is not None:
        _check_credentials(options.credentials)
    wants_tls = options.wants_tls or server.wants_tls
    tls = _tls(options) if wants_tls else None
    user, password, token = _credentials(server, tls)
    await client.connect(
        servers=[server.url],
        error_cb=on_error,
        disconnected_cb=on_ended,
        closed_cb=on_ended,
        lame_duck_mode_cb=on_leaving,
        name=options.name,
        reconnect_to_server_handler=_never,
        max_reconnect_attempts=1,  # while connecting; 0 would mean for ever
        reconnect_time_wait=options.reconnect_wait.total_seconds(),  # type: ignore[arg-type]  # annotated int, any number works
        connect_timeout=options.connect_timeout.total_seconds(),  # type: ignore[arg-type]  # as above
        ping_interval=options.ping_interval.total_seconds(),  # type: ignore[arg-type]  # as above
        max_outstanding_pings=options.max_outstanding_pings,
        pending_size=0,  # nothing is kept while disconnected, nothing waits while connected
        skip_subject_validation=True,  # see `publish` of the connection: the caller did it
        tls=tls,
        user=user,
        password=password,
        token=token,
        user_credentials=options.credentials,
    )
    if tls is not None and not tls.used:
        raise ConnectFailed("the server does not offer TLS, which was asked for", final=True)


_SECTIONS: Final = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")


def _check_credentials(file: Path) -> None:
    """Refuse a file that lacks a part: nats-py would read on for it without end, and let nothing else run."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ConnectFailed("the credentials file cannot be read (NATS_CREDS)", final=True) from error
    if not all(section in text for section in _SECTIONS):
        raise ConnectFailed(_NO_CREDENTIALS, final=True)


_NO_CREDENTIALS: Final = "the credentials file does not hold a user's JWT and seed (NATS_CREDS)"


def _never(_servers: list[Server], _info: dict[str, Any]) -> tuple[Server | None, float]:
    """Keep nats-py from reconnecting: let it wait until it is closed."""
    return None, _FOR_EVER


def _tls(options: ConnectionOptions) -> WitnessedTls:
    try:
        return tls_context(options)
    except OSError as error:
        raise ConnectFailed(
            "the TLS files cannot be used (NATS_TLS_CA, NATS_TLS_CERT, NATS_TLS_KEY)", final=True
        ) from error


Guarded = Callable[[], str] | None


def _credentials(server: ServerAddress, tls: WitnessedTls | None) -> tuple[Guarded, Guarded, Guarded]:
    """Give user, password and token as functions, which nats-py calls when TLS is up, or never will be."""

    def guarded(secret: str | None) -> Guarded:
        if secret is None:
            return None

        def reveal() -> str:
            if tls is not None and not tls.used:
                raise ConnectFailed("the server does not offer TLS, which was asked for", final=True)
            return secret

        return reveal

    if server.password is None:
        return None, None, guarded(server.user)
    return guarded(server.user), guarded(server.password), None


async def abandon(client: Client, options: ConnectionOptions) -> None:
    """Close a client, but do not wait long.

    With unsent data and a peer that reads nothing it would never end.
    """
    try:
        async with asyncio.timeout(options.close_timeout.total_seconds()):
            await client.close()
    except asyncio.CancelledError:
        if _is_cancelled():
            raise
    except Exception:  # noqa: BLE001, S110 - it is gone either way, and why does not matter any more
        pass


def _is_cancelled() -> bool:
    """Say whether a cancellation was meant for us: nats-py lets those of its own tasks out."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


_REASONS: Final[tuple[tuple[type[Exception], str, bool], ...]] = (
    (ssl.SSLError, "the TLS handshake failed", False),
    (TimeoutError, "it did not answer in time", False),
    (ConnectionRefusedError, "it refused the connection", False),
    (socket.gaierror, "its host name is unknown", False),
    (InvalidUserCredentialsError, _NO_CREDENTIALS, True),
    (OSError, "the connection failed", False),
    (AuthorizationError, "it refused the credentials", True),
    (Error, "it did not speak NATS", False),
)
"""What an error of a connect means, most special first, and whether trying again is of no use."""


def explain(error: Exception) -> ConnectFailed:
    """Say why a connect failed, without a library's text: it might hold a secret or a path."""
    if isinstance(error, ConnectFailed):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectFailed(f"its certificate was refused: {error.verify_message}", final=True)
    if isinstance(error, Error) and "authorization" in str(error).lower():
        return ConnectFailed("it refused the credentials", final=True)
    if type(error).__module__.partition(".")[0] == "nkeys":  # not imported by those who do not need it
        return ConnectFailed(_NO_CREDENTIALS, final=True)
    for kind, text, final in _REASONS:
        if isinstance(error, kind):
            return ConnectFailed(text, final=final)
    return ConnectFailed(f"the connection failed ({type(error).__name__})")


_TOLD: Final = re.compile(
    "(maximum|user authentication|account authentication|stale connection|slow consumer|secure connection)"
    "[a-z0-9 -]{0,80}"
)


def told_by_broker(error: BaseException | None) -> str:
    """Return what the broker gave as the reason for ending a connection; empty where it gave none.

    Only what is known, since the text goes to logs: it might hold a subject or a secret.
    """
    found = _TOLD.search(str(error).lower()) if isinstance(error, Error) else None
    return "" if found is None else found[0].strip()


def discovered(client: Client, options: ConnectionOptions) -> list[ServerAddress]:
    """List the servers that the cluster told this client of."""
    return [options.with_credentials_of_pool(_address(url)) for url in client.discovered_servers]


def _address(url: ParseResult) -> ServerAddress:
    return ServerAddress(url.scheme, url.hostname or "", url.port or 0)
