"""One connection to one server: the protocol on a socket, from the first byte to the last.

Everything sent in one turn of the event loop leaves in one write, with what the next turn brings: each write
costs both sides as much as several messages. Bytes that the server does not read wait here, up to a bound.
What the server sends goes to its subscription before more is read: nothing is queued, so a slow receiver
slows the server down, through TCP.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from time import thread_time
from typing import Any, Final, Protocol, TypeAlias, cast

from windshift.nats import protocol
from windshift.nats.credentials import credentials
from windshift.nats.errors import ConnectFailed, NotConnected
from windshift.nats.options import ConnectionOptions, ServerAddress
from windshift.nats.protocol import (
    Broken,
    ErrorKind,
    Event,
    Message,
    Parser,
    Run,
    ServerError,
    ServerInfo,
    Signal,
)
from windshift.nats.tls import client_context

log = logging.getLogger(__name__)

Receive: TypeAlias = Callable[[Message], None]
ReceiveRun: TypeAlias = Callable[[Sequence[bytes], Sequence[bytes]], None]
"""Takes the last parts of the subjects of several messages, and their bodies."""

_VERSION: Final = "1.0.0"
"""Of this client, as servers show it in their monitoring."""
_CHUNK: Final = 64 * 1024
"""Bytes per write: uvloop miscounts larger ones under TLS."""
_CHUNKS: Final = 4
"""Writes in one turn of the event loop."""
_FIRST_PIECE, _SMALLEST_PIECE, _LARGEST_PIECE = 4096, 512, 16_384
"""Bytes that are parsed between two looks at the clock. While the connection is shared they are as many as
fit into a slice of time, otherwise the largest piece."""
_SLICE, _SHORT_SLICE = 0.0005, 0.00025
"""Seconds of each turn of the event loop in which messages are received, not counting those in which other
processes run; the shorter one while the connection is shared. What is left waits for the next."""
_CONGESTED: Final = 1024 * 1024
"""Unsent bytes above which callers that can wait should wait."""
_MAX_PENDING: Final = 16 * 1024 * 1024
"""The most unsent bytes."""

_HARMLESS: Final = frozenset(
    {
        ErrorKind.PUBLISH_FORBIDDEN,
        ErrorKind.SUBSCRIPTION_FORBIDDEN,
        ErrorKind.INVALID_SUBJECT,
        ErrorKind.INVALID_PUBLISH_SUBJECT,
        ErrorKind.MAX_SUBSCRIPTIONS,
    }
)
"""Errors that do not end the connection."""


class _Owner(Protocol):  # what a wire needs of its `Connection`
    is_hurried: Callable[[], bool]
    is_shared: Callable[[], bool]

    def wire_informed(self, wire: Wire) -> None: ...
    def wire_failed(self, wire: Wire, error: ServerError) -> None: ...
    def wire_ended(self, wire: Wire) -> None: ...  # called once, unless this side closed it


class Wire(asyncio.Protocol):
    """A connection to a server.

    Attributes:
        server: its address.
        info: its latest ``INFO``.
        reason: why the connection ended, for logs; empty while it is open.
        open: whether messages can be sent now.
    """

    def __init__(self, owner: _Owner, server: ServerAddress) -> None:
        self.server = server
        self.info = ServerInfo()
        self.reason = ""
        self.open = False
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._parser = Parser()
        self._receivers: dict[int, Receive] = {}
        self._run_receivers: dict[int, ReceiveRun] = {}
        self._transport: asyncio.Transport | None = None
        self._informed: asyncio.Future[None] = self._loop.create_future()
        self._informed_alone = False  # whether nothing followed INFO in the same bytes
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._error_kind = ErrorKind.OTHER
        self._failure: Exception | None = None
        self._unreadable = ""
        self._rest = b""
        self._piece = _FIRST_PIECE
        self._out: deque[bytes | memoryview] = deque()
        self._pending = 0
        self._paused = self._flushing = False
        self._relieved: asyncio.Event | None = None  # while somebody waits for that
        self._pings: deque[asyncio.Future[None] | None] = deque()
        self._unanswered = 0
        self._timer: asyncio.TimerHandle | None = None

    # --- Opening ------------------------------------------------------------------------------------------

    @classmethod
    async def connect(cls, owner: _Owner, options: ConnectionOptions, server: ServerAddress) -> Wire:
        """Connect, and return when the server has accepted the user.

        Raises:
            ConnectFailed: it did not within `connect_timeout`.
        """
        wire = cls(owner, server)
        try:
            async with asyncio.timeout(options.connect_timeout.total_seconds()):
                await wire._connect(options)
        except Exception as error:
            wire.abort("")
            raise wire._explain(error) from error
        except BaseException:
            wire.abort("")
            raise
        return wire

    async def _connect(self, options: ConnectionOptions) -> None:
        wants_tls = options.wants_tls or self.server.wants_tls
        context = client_context(options) if wants_tls else None
        name = self.server.tls_name or self.server.host
        first: dict[str, Any] = {"ssl": context, "server_hostname": name} if options.tls_first else {}
        await self._loop.create_connection(lambda: self, self.server.host, self.server.port, **first)
        await self._informed
        if not options.tls_first and (wants_tls or self.info.tls_required):
            await self._encrypt(context or client_context(options), name)
        said = credentials(options, self.server, self.info.nonce)
        features = {"headers": self.info.headers, "no_responders": self.info.headers}
        about = {"name": options.name, "lang": "python", "version": _VERSION, "protocol": 1}
        flags = {"verbose": False, "pedantic": False, "echo": True, "tls_required": wants_tls}
        self._write(protocol.connect_frame({**flags, **about, **features, **said}))
        await self.ping()
        if self._ended.done():  # right after the answer, in the same bytes
            raise ConnectionError
        if not self.info.headers:
            raise ConnectFailed("it does not take headers; it must be of version 2.2 or later", final=True)
        self.open = True
        self._ping_every(options.ping_interval.total_seconds(), options.max_outstanding_pings)

    def _explain(self, error: Exception) -> ConnectFailed:  # noqa: PLR0911 - a list of causes
        """Say why a connect failed, without the text of another library, which might have a secret or a path.

        What the server said goes first: it may refuse our certificate after the handshake.
        """
        if isinstance(error, ConnectFailed):
            return error
        if self._error_kind in _REFUSED:
            return ConnectFailed("it refused the credentials", final=True)
        if self._error_kind.value:
            return ConnectFailed(f"the connection ended ({self._error_kind.value})")
        if self._unreadable:
            return ConnectFailed(f"it does not speak NATS ({self._unreadable})")
        error = self._failure or error
        if isinstance(error, ssl.SSLError):
            return _explain_tls(error)
        for kind, text in _REASONS:
            if isinstance(error, kind):
                return ConnectFailed(text)
        return ConnectFailed("the connection failed")

    async def _encrypt(self, context: ssl.SSLContext, name: str) -> None:
        """Switch to TLS. Plain text after the server's ``INFO`` must not be trusted."""
        if not (self.info.tls_required or self.info.tls_available):
            raise ConnectFailed("the server does not offer TLS, which was asked for", final=True)
        plain = self._transport
        if plain is None or not self._informed_alone:
            raise ConnectionError
        self._transport = None  # nothing may be written until then
        encrypted = await self._loop.start_tls(plain, self, context, server_hostname=name)
        if encrypted is None:
            raise ConnectionError
        self._transport = encrypted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)

    # --- Sending ------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Send a frame; raise `NotConnected` if there are too many unsent bytes."""
        if not self.open or self._pending > _MAX_PENDING:
            raise NotConnected
        self._out.append(frame)  # as `_write` does: calls cost on the hot path
        self._pending += len(frame)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_soon)

    def send_parts(self, parts: Sequence[bytes]) -> None:
        """Send a frame that is in several parts, as `send` does: all of them, or none."""
        first, *others = parts
        self.send(first)
        for part in others:
            self._write(part)

    def subscribe(
        self, sid: int, subject: bytes, receive: Receive, receive_run: ReceiveRun | None = None
    ) -> None:
        """Call `receive` with each message to `subject`, from now on.

        Where the subject ends with a wildcard, `receive_run` is called in place of it with several that come
        together. Such a subscription is for the life of the wire.
        """
        self._receivers[sid] = receive
        if receive_run is not None:
            self._run_receivers[sid] = receive_run
            self._parser.expect(sid, subject[:-1])
        self._write(protocol.subscribe_frame(subject, sid))

    def unsubscribe(self, sid: int) -> None:
        """End a subscription at once."""
        if self._receivers.pop(sid, None) is not None:
            self._write(protocol.unsubscribe_frame(sid))

    def drain(self, sid: int) -> asyncio.Future[None]:
        """End a subscription; return a future that is done when messages under way have been received.

        Later messages are received as well, until `forget`. If the connection ends first, the future fails
        with `NotConnected`.
        """
        if sid in self._receivers:
            self._write(protocol.unsubscribe_frame(sid))
        return self.ping()

    def forget(self, sid: int) -> None:
        """Receive no more of a subscription that was drained."""
        self._receivers.pop(sid, None)

    def ping(self) -> asyncio.Future[None]:
        """Send a ping; return a future that is done when the server answers.

        By then the server has processed everything sent before. If the connection ends first, the future
        fails with `NotConnected`.
        """
        answered: asyncio.Future[None] = self._loop.create_future()
        answered.add_done_callback(_look_at)
        if self._ended.done():
            answered.set_exception(NotConnected())
        else:
            self._pings.append(answered)
            self._write(protocol.PING)
        return answered

    @property
    def congested(self) -> bool:
        """Whether there are so many unsent bytes that callers that can wait should wait."""
        return self._pending > _CONGESTED

    async def writable(self) -> None:
        """Return when the connection is no longer congested, or has ended."""
        while self.congested and not self._ended.done():
            self._relieved = self._relieved or asyncio.Event()
            await self._relieved.wait()

    def _write(self, frame: bytes) -> None:
        self._out.append(frame)
        self._pending += len(frame)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def flush(self) -> None:
        """Write what is queued now, and not at the end of the turn."""
        if self._flushing:
            self._flush()

    def _flush_soon(self) -> None:
        """Let the loop read once more first, unless hurried: what comes of that leaves in the same write."""
        if self._owner.is_hurried():
            self._flush()
        else:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        transport, out, chunks = self._transport, self._out, _CHUNKS
        while out and not self._paused and transport is not None:
            if not chunks:
                self._flushing = True
                self._loop.call_soon(self._flush)
                break
            chunks -= 1
            data: bytes | memoryview
            if self._pending <= _CHUNK:
                data = b"".join(out)
                out.clear()
            else:
                data = self._chunk()
            self._pending -= len(data)
            try:
                transport.write(data)
            except (OSError, RuntimeError):  # uvloop raises it when the transport has just closed
                self.abort("the connection ended")
                return
        if self._relieved is not None and not self.congested:
            self._relieve()

    def _relieve(self) -> None:
        relieved, self._relieved = self._relieved, None
        if relieved is not None:
            relieved.set()

    def _chunk(self) -> bytes | memoryview:
        """Take the bytes of one write: of a large frame as they lie there, of small ones together."""
        if len(self._out[0]) >= _CHUNK:
            view = memoryview(self._out.popleft())
            if len(view) > _CHUNK:
                self._out.appendleft(view[_CHUNK:])
            return view[:_CHUNK]
        parts, room = [], _CHUNK
        while room and self._out:
            frame = self._out.popleft()
            if len(frame) > room:
                view = memoryview(frame)
                self._out.appendleft(view[room:])
                frame = view[:room]
            parts.append(frame)
            room -= len(frame)
        return b"".join(parts)

    def pause_writing(self) -> None:
        """Write no more; called by the event loop when the server does not read."""
        self._paused = True

    def resume_writing(self) -> None:
        """Write again; called by the event loop."""
        self._paused = False
        self._flush()

    # --- Receiving ----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse and pass on what the server sent; called by the event loop.

        What takes long is handled in slices, one in each turn of the loop: others run in between.
        """
        if self._rest:
            self._rest += data
        elif len(data) <= self._piece or (len(data) <= _LARGEST_PIECE and not self._owner.is_shared()):
            self._receive(data)
        else:
            self._rest = data
            self._receive_slice()

    def _receive_slice(self) -> None:
        data, taken, now = self._rest, 0, thread_time()
        is_shared = self._owner.is_shared()
        length = _SHORT_SLICE if is_shared else _SLICE
        until = now + length
        while taken < len(data) and not self._ended.done():
            piece, before = self._piece if is_shared else _LARGEST_PIECE, now
            self._receive(data[taken : taken + piece])
            taken += piece
            now = thread_time()
            if now - before > length:
                self._piece = max(piece // 2, _SMALLEST_PIECE)
            elif now - before < length / 4:
                self._piece = min(piece * 2, _LARGEST_PIECE)
            if now >= until:
                break
        self._rest = b"" if self._ended.done() else data[taken:]
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._rest:
            transport.pause_reading()
            self._loop.call_soon(self._receive_slice)
        else:
            transport.resume_reading()

    def _receive(self, data: bytes) -> None:
        receivers = self._receivers
        events = self._parser.receive(data)
        if not self.open and not self._informed.done():
            self._informed_alone = len(events) == 1 and self._parser.idle
        for event in events:
            if type(event) is Message:
                receive = receivers.get(event.sid)
                if receive is not None:
                    try:
                        receive(event)
                    except Exception:  # of one receiver, which must not end the others' messages
                        log.exception("a message from NATS could not be handled")
            elif type(event) is Run:
                self._receive_run(event)
            else:
                self._take(event)

    def _receive_run(self, run: Run) -> None:
        receive = self._run_receivers.get(run.sid)
        if receive is not None:
            try:
                receive(run.suffixes, run.bodies)
            except Exception:
                log.exception("messages from NATS could not be handled")

    def _take(self, event: Event) -> None:
        match event:
            case Signal.PING:
                self._pong()
            case Signal.PONG:
                self._unanswered = 0
                waiting = self._pings.popleft() if self._pings else None
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)
            case ServerInfo():
                self.info = event
                if not self._informed.done():
                    self._informed.set_result(None)
                elif self.open:
                    self._owner.wire_informed(self)
            case ServerError():
                if event.kind not in _HARMLESS:
                    self._error_kind = event.kind
                self._owner.wire_failed(self, event)
            case Broken():
                self._unreadable = event.text
                self.abort(f"the connection ended ({event.text})")

    def _pong(self) -> None:
        """Answer a ping, unless the server sends pings but does not read."""
        if self._pending > _MAX_PENDING:
            self.abort("the connection ended (the server does not read)")
        else:
            self._write(protocol.PONG)

    # --- Watching and ending ------------------------------------------------------------------------------

    def _ping_every(self, interval: float, limit: int) -> None:
        """Ping the server periodically, and abort if too many pings are unanswered."""
        if self._unanswered >= limit:
            self.abort("the connection ended (the server does not answer)")
            return
        self._unanswered += 1
        self._pings.append(None)
        self._write(protocol.PING)
        self._timer = self._loop.call_later(interval, self._ping_every, interval, limit)

    async def close(self, timeout: float) -> None:
        """Send what is queued, and close the connection, after `timeout` seconds at the latest.

        The server answers a ping once it has taken all that in. Without waiting for that it might lose some:
        TCP resets a connection that is closed while there is something to read.
        """
        if not self._ended.done():
            self._stop()
            await asyncio.wait((self.ping(),), timeout=timeout)
        self.abort("")

    def abort(self, reason: str) -> None:
        """End the connection at once. With a reason, tell the owner."""
        if self._transport is not None:
            self._transport.abort()
        self._end(reason)

    def eof_received(self) -> None:
        """Close when the server has closed its side; called by the event loop."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end; called by the event loop."""
        self._failure = exc
        self._transport = None
        rest, self._rest = self._rest, b""
        try:
            if not self._ended.done():
                self._receive(rest)  # deliveries and answers that came before the end
        finally:
            reason = f" ({self._error_kind.value})" if self._error_kind.value else ""
            self._end(f"the connection ended{reason}")

    def _stop(self) -> None:
        self.open = False
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, reason: str) -> None:
        if self._ended.done():
            return
        self._ended.set_result(None)
        was_open = self.open
        self._stop()
        self.reason = reason
        self._transport = None
        self._receivers.clear()
        self._run_receivers.clear()
        self._out.clear()
        self._pending = 0
        if not self._informed.done():
            self._informed.set_exception(ConnectionError())
            _look_at(self._informed)
        self._relieve()
        pings, self._pings = self._pings, deque()
        for waiting in pings:
            if waiting is not None and not waiting.done():
                waiting.set_exception(NotConnected())
        if was_open and reason:
            self._owner.wire_ended(self)


def _look_at(future: asyncio.Future[None]) -> None:
    """Retrieve a future's exception, so that asyncio does not report it."""
    if not future.cancelled():
        future.exception()


# --- What a failed connect means --------------------------------------------------------------------------

_REFUSED: Final = frozenset(
    {ErrorKind.AUTHORIZATION, ErrorKind.USER_EXPIRED, ErrorKind.USER_REVOKED, ErrorKind.ACCOUNT_EXPIRED}
)

_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (TimeoutError, "it did not answer in time"),
    (ConnectionRefusedError, "it refused the connection"),
    (socket.gaierror, "its host name is unknown"),
)
"""What the exceptions of a connect mean."""

_OURS_REFUSED: Final = re.compile("ALERT_.*(CERTIFICATE|UNKNOWN_CA)")
"""OpenSSL's reasons for an alert that refuses our certificate, or the lack of one."""


def _explain_tls(error: ssl.SSLError) -> ConnectFailed:
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectFailed(f"its certificate was refused: {error.verify_message}", final=True)
    if _OURS_REFUSED.search(error.reason or ""):
        return ConnectFailed("it refused our certificate, or wants one", final=True)
    return ConnectFailed("the TLS handshake failed")
