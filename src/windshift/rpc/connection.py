"""One HTTP/2 connection: bytes in, stream events out, one flush per turn of the event loop.

The only module that knows ngh2 (libnghttp2 without I/O), and the only one that writes to a transport.
``Connection`` has what both sides share: bounded reads and writes, flow control, keepalive, and the end of a
connection. Events go to a ``ConnectionHandler``, the server's or the client's.

Everything sent while one batch of received bytes is handled, and by the tasks that it woke, leaves in one
``transport.write``: that is where the speed comes from.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter, thread_time, time_ns
from typing import cast

import ngh2
from ngh2.events import (
    ConnectionClosed,
    DataReceived,
    GoAwayReceived,
    PingAcknowledged,
    RequestReceived,
    ResponseReceived,
    SettingsAcknowledged,
    SettingsReceived,
    StreamClosed,
    TrailersReceived,
    WindowUpdated,
)

from .keepalive import Keepalive, KeepaliveAction
from .options import MAX_WINDOW, ConnectionOptions
from .status import HeaderList, Headers
from .transports import name_of_peer, prepare, speaks_http2
from .turns import FEW, LONG_SLICE, SLICE, STRANGERS_SLICE, Account, Turns

_log = logging.getLogger(__name__)

CLIENT = ngh2.Role.CLIENT
SERVER = ngh2.Role.SERVER

_INSIDE = {"0.3.0": "1.70.0"}
"""The libnghttp2 of a release of ngh2, known from the source of that."""

NO_ERROR = 0x0
CANCEL = 0x8
REFUSED_STREAM = 0x7
ENHANCE_YOUR_CALM = 0xB

_WRITE_SIZE = 65_536  # uvloop's TLS does not account for larger writes, so backpressure would be lost
_WRITES = 2
"""Writes in one turn of the loop: what is left of a large answer waits for the next."""
SEND_QUEUE_MARK = 16_384
"""Bytes of a stream that may be queued before its sender waits."""
_STREAMING_PRIORITY = ngh2.Priority(urgency=4, incremental=True)
_KEEPALIVE_PING = b"keepaliv"

_SMALLEST_PIECE, _LARGEST_PIECE = 512, 65_536
"""Bytes that are parsed at once, before the clock is looked at: as many as fit into a slice of time. They are
few on a new connection: calls of 4 KB may take 5 ms, and some clients connect anew all the time."""
_FIRST_CALL = 4096
"""Bytes of a stranger for which there is always room: HTTP/2's start, and a call with credentials."""
_SMALL_READ = 1024
"""Bytes that are too few to measure how long they take; of a stranger no more are parsed at once."""

_USELESS_DATA = 5
"""Bytes of a DATA frame below which it cannot hold a message."""
_SILENT_FRAME = 64
"""Bytes that count as a useless frame where frames were received of which the engine tells nothing."""
_USELESS_BATCH = 64
"""Useless frames after which it is looked at whether they answer what was sent."""
_SENT_FOR_A_FRAME = 32
"""Bytes sent that the peer may answer by a WINDOW_UPDATE or a PING."""
_MOST_FREE = 4096
"""Such frames that may come at once."""
_HEAL_MARGIN = 32_768  # two frames that are being received now


class ConnectionHandler:
    """What a connection calls when something happened; each does nothing unless a subclass says what.

    None of them may flush, or await.
    """

    def on_no_http2(self) -> None:
        """Note that the peer did not choose ``h2`` in the TLS handshake: the connection is dropped."""

    def on_ready(self) -> None:
        """Note that the transport is there and the preface is queued."""

    def on_settings(self) -> None:
        """Note that SETTINGS of the peer arrived; the first ones end the handshake."""

    def on_request(self, stream_id: int, headers: Headers, ended: bool) -> None:
        """Take the headers of a request (server side)."""

    def on_response(self, stream_id: int, headers: Headers, ended: bool) -> None:
        """Take the headers of a response (client side)."""

    def on_data(self, stream_id: int, data: bytes, ended: bool) -> None:
        """Take body bytes; every one of them must be given to ``acknowledge`` at some time."""

    def on_trailers(self, stream_id: int, headers: Headers) -> None:
        """Take trailers, and with them the end of the peer's side."""

    def on_stream_closed(self, stream_id: int, error_code: int) -> None:
        """Forget a stream: nothing more comes of it and nothing more can be sent."""

    def on_goaway(self, last_stream_id: int, error_code: int, debug: bytes) -> None:
        """Note that the peer takes no streams above ``last_stream_id``."""

    def on_ping_answered(self, payload: bytes) -> None:
        """Note that the peer answered a PING."""

    def on_useless(self, frames: int) -> None:
        """Note frames that carry nothing, and are more than what was sent asks for."""

    def on_given_up(self, reason: str) -> None:
        """Note that the connection is dropped for what its peer did, or did not do in time: see `REASONS`."""

    def on_lost(self, error: Exception | None) -> None:
        """Forget every stream: the connection is over. Called exactly once."""

    def on_socket_closed(self) -> None:
        """Note that the socket is closed, for which a connection that is over still waits."""


_NOBODY = ConnectionHandler()


def libnghttp2_version() -> str:
    """Return the version of the libnghttp2 that is loaded, such as ``1.70.0``; empty if nobody knows it.

    ngh2 has it inside, linked statically, and does not tell which. A wheel of ``make engine`` does: its
    version is such as ``0.3.0+nghttp2.1.70.1``.
    """
    release, _, built_with = ngh2.__version__.partition("+nghttp2.")
    return built_with or _INSIDE.get(release, "")


def engine_configuration(options: ConnectionOptions) -> ngh2.Configuration:
    """Return the engine's part of the options."""
    return ngh2.Configuration(
        auto_window_update=False,
        # A burst, and frames per second: honest clients with short deadlines reset many streams.
        stream_reset_rate_limit=(10_000, 1_000),
        max_inbound_header_list_size=2 * options.max_header_list_size,
        max_inbound_header_count=128,
    )


def _first_settings(options: ConnectionOptions) -> dict[ngh2.Setting, int]:
    return {
        ngh2.Setting.MAX_CONCURRENT_STREAMS: options.max_concurrent_streams,
        ngh2.Setting.INITIAL_WINDOW_SIZE: options.stream_window,
        ngh2.Setting.MAX_HEADER_LIST_SIZE: options.max_header_list_size,
        ngh2.Setting.NO_RFC7540_PRIORITIES: 1,  # without it streams of equal priority starve each other
    }


class Connection(asyncio.Protocol):
    """The driver of one connection.

    Args:
        role: which side this is.
        options: limits and timers.
        handler: told of what happens; let go when the socket is closed.
        loop: the event loop that runs the transport.
        turns: decides when bytes are parsed that are too many for one turn.
        stranger: whether nobody has authenticated on this connection yet, where that is asked for.

    Attributes:
        loop: the same.
        stranger: the same; to be changed.
        account: of the loop's time that the peer used; to be changed when several connections share it.
        received: bytes that came, without TLS.
        received_at: ``loop.time()`` when the bytes were taken up that were handled last, or are now.
        received_clock: ``time.perf_counter()`` at that moment.
        received_ns: the same in nanoseconds since 1970.
        sent: bytes that were given to the transport.
        made_at: ``loop.time()`` when the transport was there.
        peer: the address of the other side; to be set before there is a transport when another one counts.
        state: what those who use the connection keep about the other side.
        may_hurry: whether nobody has looked yet if what is queued should leave at once: `hurry` does.
        on_closed: called, once, when the socket is closed.
    """

    def __init__(
        self,
        role: ngh2.Role,
        options: ConnectionOptions,
        handler: ConnectionHandler,
        loop: asyncio.AbstractEventLoop,
        turns: Turns | None = None,
        *,
        stranger: bool = False,
    ) -> None:
        self.loop = loop
        self.stranger = stranger
        self.account = Account()
        self._turns = turns or Turns(loop)
        self._options = options
        self._handler = handler
        self._h2 = ngh2.Connection(role, engine_configuration(options))
        self._client = role is ngh2.Role.CLIENT
        self._transport: asyncio.Transport | None = None
        self._over = False  # nothing more can be sent or received
        self._cut_off: asyncio.TimerHandle | None = None
        self._flush_scheduled = self._receiving = False
        self.may_hurry = False
        self._paused = self._ending = False
        self._paused_at = 0.0
        self._rest: bytes | memoryview = b""  # received, and left for a turn of its own
        self._piece = _SMALLEST_PIECE
        self._useless = self._events = 0  # since they were last looked at
        self._sent_before = 0  # bytes, until then
        self._free = 0  # useless frames that may come for what was sent and received
        self._keepalive = Keepalive(options.keepalive_interval, options.keepalive_timeout)
        self._settings_received = self._settings_acknowledged = False
        self._senders: dict[int, asyncio.Future[None]] = {}
        self._window = options.whole_window
        self._last_request = self._last_flushed = 0  # stream ids
        self.received = self.received_ns = self.sent = self._received_at_end = 0
        self.made_at = self.received_at = self.received_clock = 0.0
        self.peer = ""
        self.state: object = None
        self.on_closed: Callable[[], None] | None = None

    # -- asyncio.Protocol ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start HTTP/2 on ``transport``, unless the connection was given up meanwhile."""
        self._transport = cast("asyncio.Transport", transport)
        if self._over:
            self._transport.abort()
            return
        began = thread_time()
        try:
            self._start(self._transport)
        except Exception:  # noqa: BLE001 -- uvloop only logs it and would leak the socket
            _log.exception("a connection could not be set up")
            self.abort()
        if self.stranger:
            self._turns.charge_strangers(thread_time() - began)

    def _start(self, transport: asyncio.Transport) -> None:
        self.made_at = self.loop.time()
        self.peer = self.peer or name_of_peer(transport)
        if not speaks_http2(transport):
            self._handler.on_no_http2()
            self.abort()
            return
        prepare(transport, _WRITE_SIZE)
        settings = _first_settings(self._options)
        if self._client:
            settings[ngh2.Setting.ENABLE_PUSH] = 0
        self._h2.initiate_connection(settings)
        self._h2.set_local_window_size(self._window)
        self._handler.on_ready()
        self.schedule_flush()

    def data_received(self, data: bytes) -> None:
        """Feed the engine and hand on the events, or wait for a turn."""
        self.received += len(data)
        if self._over:
            if self._reads_too_late():
                self._pause_reading()
        elif self._rest or self._ending:
            self._rest = b"".join((self._rest, data))
            self._pause_reading()
        elif self.stranger and len(data) > _FIRST_CALL and self._turns.crowded:
            self._give_up("anonymous", "sends much while many wait on whom nobody has authenticated")
        elif self.stranger or len(data) > self._piece or not self._turns.lets_in(self.account):
            self._rest = data
            self._pause_reading()
            self._turns.wait(self)
        else:
            is_small = len(data) <= _SMALL_READ
            clock = perf_counter if is_small else thread_time  # which does not run while others do
            began = clock()
            useful = self._receive(data)
            spent = clock() - began
            self._turns.charge(self.account, spent, perf_counter())
            if useful and self._turns.hurries(self.account):
                self._turns.on_hurry()
            if not is_small:
                self._fit_piece(spent, SLICE, LONG_SLICE if useful else SLICE)

    def take_turn(self, seconds: float) -> bool:
        """Feed the engine for so many seconds; return whether something is left for another turn.

        Otherwise a flood on one connection would hold up all others. Where it does, what is answered at once
        counts, as to write it takes as long as to parse the calls, and no piece begins that will hardly fit.
        Otherwise few useful events may take longer.
        """
        data, taken, useful = memoryview(self._rest), 0, 0
        is_short = self.stranger or self._turns.hinders(self.account)
        whole = STRANGERS_SLICE if self.stranger else SLICE
        began = now = thread_time()
        while taken < len(data) and not (self._over or self._ending):
            piece = min(self._piece, _SMALL_READ) if self.stranger else self._piece
            came = self._receive(data[taken : taken + piece])
            taken += piece
            if is_short:
                self._write()
            before, now = now, thread_time()
            took, useful = now - before, useful + came
            if is_short:
                self._fit_piece(took, whole, whole / 2)
                is_over = now - began + took >= seconds  # the next one takes about as long
            else:
                is_few = came > 0 and useful < FEW
                self._fit_piece(took, whole, LONG_SLICE if came else whole)
                is_over = now - began >= (LONG_SLICE if is_few else seconds)
            if is_over:
                break
        self._keep(b"" if self._over or self._ending else data[taken:])
        self._turns.charge(self.account, now - began, perf_counter())
        if not is_short:
            self._flush()
        if self._rest:
            return True
        transport = self._transport
        if transport is None or transport.is_closing() or self._ending or self._reads_too_late():
            return False
        transport.resume_reading()
        return False

    def _keep(self, rest: bytes | memoryview) -> None:
        """Keep what is left, and not much of what is parsed: a view keeps all that it is a part of."""
        if isinstance(rest, memoryview) and 2 * len(rest) <= len(cast("bytes", rest.obj)):
            rest = bytes(rest)
        self._rest = rest

    def _fit_piece(self, spent: float, seconds: float, longest: float) -> None:
        """Parse less at once when a piece took too long, and more when it took little."""
        if spent > longest:
            self._piece = max(self._piece // 2, _SMALLEST_PIECE)
        elif spent < seconds / 4:
            self._piece = min(self._piece * 2, _LARGEST_PIECE)

    def _reads_too_late(self) -> bool:
        """Tell whether the peer goes on sending much after the end: reading that would only cost time."""
        return self._over and self.received - self._received_at_end > _LARGEST_PIECE

    def _pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _receive(self, data: bytes | memoryview) -> int:
        """Feed the engine; return how many useful events that were."""
        # Once for all that these bytes hold: each look costs.
        self.received_at, self.received_clock, self.received_ns = self.loop.time(), perf_counter(), time_ns()
        try:
            self._h2.receive_data(data)
        except ngh2.NGH2Error as error:
            self._fail(error)
            return 0
        self._receiving = True
        useless = self._useless
        events = self._dispatch()
        useful = events - (self._useless - useless)
        self._events += events
        if not events:
            self._useless += len(data) // _SILENT_FRAME
        self._receiving = False
        if self._useless >= _USELESS_BATCH:
            self._judge_useless()
        if not self._flush_scheduled and self._h2.want_write:
            self.schedule_flush()
        return useful

    def _judge_useless(self) -> None:
        """Tell of frames beyond those that come with any traffic: open windows, measure the way there."""
        useful = max(self._events - self._useless, 0)
        answers = (self.sent - self._sent_before) // _SENT_FOR_A_FRAME
        self._free = min(self._free + useful + answers, _MOST_FREE) - self._useless
        self._useless, self._events, self._sent_before = 0, 0, self.sent
        if self._free < 0:
            useless, self._free = -self._free, 0
            self._handler.on_useless(useless)

    def eof_received(self) -> bool:
        """Close when the peer closes its side: HTTP/2 has no half-closed connections."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End everything that still stands on this connection."""
        began = thread_time()
        self._end(exc)
        self._transport = None
        if self._cut_off is not None:  # it would hold the transport, and TLS half a megabyte with it
            self._cut_off.cancel()
        handler, self._handler = self._handler, _NOBODY  # they hold each other: a cycle
        handler.on_socket_closed()
        if self.on_closed is not None:
            self.on_closed()
        if self.stranger:
            self._turns.charge_strangers(thread_time() - began)

    def pause_writing(self) -> None:
        """Stop writing: the peer does not read."""
        self._paused = True
        self._paused_at = self.loop.time()

    def resume_writing(self) -> None:
        """Go on writing."""
        self._paused = False
        self.schedule_flush()

    # -- sending -------------------------------------------------------------------------------------

    def schedule_flush(self) -> None:
        """Write what is queued, once, in the next turn of the loop."""
        if not self._flush_scheduled:
            self._flush_scheduled = self.may_hurry = True
            self.loop.call_soon(self._flush)

    @property
    def hinders(self) -> bool:
        """Whether its account is busy while somebody is about whose is not."""
        return self._turns.hinders(self.account)

    def hurry(self) -> None:
        """Write what is queued now, if others would be written first and the peer asks for little.

        To be called while `may_hurry`, and not while a stream that this may end is still worked on.
        """
        if not self._receiving:
            self.may_hurry = False
            if self._turns.hurries(self.account):
                self._flush()

    def _flush(self) -> None:
        """Write, and charge the account with that."""
        began = perf_counter()
        self._write()
        now = perf_counter()
        self.account.charge(now - began, now)

    def _write(self, writes: int = _WRITES) -> None:
        self._flush_scheduled = self.may_hurry = False
        transport = self._transport
        if transport is None or self._over:
            return
        if not self._paused:
            self._last_flushed = self._last_request
        try:
            while not self._paused:
                if not writes:
                    self.schedule_flush()
                    break
                data = self._h2.data_to_send(_WRITE_SIZE)
                if data:
                    transport.write(data)
                    self.sent += len(data)
                if len(data) < _WRITE_SIZE:
                    break
                writes -= 1
        except ngh2.NGH2Error as error:
            self._fail(error)
            return
        self._dispatch()
        if self._senders:
            for stream_id in [s for s in self._senders if self.queued(s) <= SEND_QUEUE_MARK]:
                self._release_sender(stream_id)

    @property
    def unread(self) -> int:
        """Bytes that came and wait for a turn."""
        return len(self._rest)

    @property
    def unwritten(self) -> bool:
        """Whether frames wait for the transport to take them."""
        return self._paused or self._flush_scheduled

    def queued(self, stream_id: int | None = None) -> int:
        """Return the bytes of a stream's body, or of all, that wait for the peer or the transport."""
        return self._h2.queued_body_size(stream_id)

    async def writable(self, stream_id: int) -> None:
        """Wait until little of the stream's body is queued. Only one task may wait per stream."""
        while self._h2.queued_body_size(stream_id) > SEND_QUEUE_MARK and not self._over:
            waiter = self._senders[stream_id] = self.loop.create_future()
            try:
                await waiter
            finally:
                if self._senders.get(stream_id) is waiter:
                    del self._senders[stream_id]

    def send_request(self, headers: HeaderList, body: bytes | None = None) -> int:
        """Open a stream and return its id; with a body queue that and the end of our side, too.

        Raises:
            ConnectionError: no stream can be opened on this connection any more.
        """
        try:
            stream_id = self._last_request = self._h2.send_request(headers)
            if body is not None:
                self._h2.send_data(stream_id, body, end_stream=True)
        except ngh2.NGH2Error as error:
            raise ConnectionError("the connection takes no more calls") from error
        if not self._flush_scheduled:
            self.schedule_flush()
        return stream_id

    @property
    def max_streams(self) -> int:
        """Streams that the peer lets us have open at once."""
        try:
            return self._h2.remote_settings[ngh2.Setting.MAX_CONCURRENT_STREAMS]
        except ngh2.NGH2Error:  # these were its last words
            return 0

    def was_flushed(self, stream_id: int) -> bool:
        """Return whether any of a request may have been written."""
        return stream_id <= self._last_flushed

    def send_message(self, stream_id: int, headers: HeaderList, data: bytes, trailers: HeaderList) -> None:
        """Queue a whole response: headers, one body, trailers. On a closed stream nothing happens."""
        h2 = self._h2
        try:
            h2.send_response(stream_id, headers)
            h2.send_data(stream_id, data)
            h2.send_trailers(stream_id, trailers)
        except ngh2.NGH2Error:
            return
        if not self._flush_scheduled:
            self.schedule_flush()

    def send_data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Queue body bytes. On a closed stream nothing happens."""
        try:
            self._h2.send_data(stream_id, data, end_stream=end)
        except ngh2.NGH2Error:
            return
        if not self._flush_scheduled:
            self.schedule_flush()

    def send_response(self, stream_id: int, headers: HeaderList, *, end: bool = False) -> None:
        """Queue response headers. On a closed stream nothing happens."""
        self._queue(lambda: self._h2.send_response(stream_id, headers, end_stream=end))

    def send_trailers(self, stream_id: int, headers: HeaderList) -> None:
        """Queue trailers and the end of our side. On a closed stream nothing happens."""
        self._queue(lambda: self._h2.send_trailers(stream_id, headers))

    def end_stream(self, stream_id: int) -> None:
        """Queue the end of our side. On a closed stream nothing happens."""
        self._queue(lambda: self._h2.end_stream(stream_id))

    def reset(self, stream_id: int, error_code: int = CANCEL) -> None:
        """Queue RST_STREAM.

        A server that resets an upload loses connection window (a partly received DATA frame is not credited)
        until that is healed: it sends trailers and discards instead, and resets only what does not end by
        itself.
        """
        self._queue(lambda: self._h2.reset_stream(stream_id, error_code))

    def share_fairly(self, stream_id: int) -> None:
        """Let the stream take turns with others; without it the first one with data starves the rest."""
        self._queue(lambda: self._h2.set_stream_priority(stream_id, _STREAMING_PRIORITY))

    def send_shutdown_notice(self, ping: bytes) -> None:
        """Queue the first GOAWAY, which forbids new streams without refusing any, and a PING behind it.

        Its answer (``on_ping_answered``) means that the peer saw the notice.
        """
        self._queue(self._h2.send_shutdown_notice)
        self._queue(lambda: self._h2.ping(ping))

    def send_goaway(self) -> None:
        """Queue the final GOAWAY: streams that arrive after it are dropped without a word."""
        self._queue(self._h2.send_goaway)

    def _queue(self, action: Callable[[], object]) -> None:
        """Have the engine queue something; it refuses what comes too late."""
        try:
            action()
        except (ngh2.NGH2Error, ValueError):
            return
        self.schedule_flush()

    def acknowledge(self, stream_id: int, amount: int) -> None:
        """Let the peer send ``amount`` more bytes in place of those that were taken."""
        if not amount or self._over:
            return
        try:
            self._h2.acknowledge_received_data(amount, stream_id)
        except (ngh2.NGH2Error, ValueError):
            return
        if not self._receiving and not self._flush_scheduled and self._h2.want_write:
            self.schedule_flush()

    def heal_window(self, unacknowledged: int) -> bool:
        """Replace what resets have taken from the connection's receive window; False = that cannot be.

        A stream that we reset while a DATA frame of it is partly received takes the bytes of that part with
        it: libnghttp2 (through ngh2 0.3) never credits them, and after some hundred such resets the peer
        could send nothing more. Where a window cannot become larger, another connection has to be made.

        Args:
            unacknowledged: bytes handed to ``on_data`` that were not given to ``acknowledge`` yet.
        """
        if self._transport is None or self._over:
            return True
        left = self._h2.local_window_size + unacknowledged
        if left >= self._window // 2 - _HEAL_MARGIN:  # the engine withholds up to half of the window
            return True
        if self._window >= MAX_WINDOW:
            return left >= MAX_WINDOW // 4  # below that, half of it is lost soon: nothing would be credited
        self._window = min(self._window + self._window // 2, MAX_WINDOW)
        self._queue(lambda: self._h2.set_local_window_size(self._window))
        return True

    # -- events --------------------------------------------------------------------------------------

    def _dispatch(self) -> int:
        """Hand on what happened; return how many events it were."""
        events, handler = self._h2.events(), self._handler
        for event in events:
            kind = type(event)
            if kind is DataReceived:
                data, ended = event.data, event.end_stream  # type: ignore[attr-defined]
                if not ended and len(data) < _USELESS_DATA:
                    self._useless += 1
                handler.on_data(event.stream_id, data, ended)  # type: ignore[attr-defined]
            elif kind is RequestReceived:
                handler.on_request(event.stream_id, event.headers, event.end_stream)  # type: ignore[attr-defined]
            elif kind is StreamClosed:
                if self._senders:
                    self._release_sender(event.stream_id)  # type: ignore[attr-defined]
                handler.on_stream_closed(event.stream_id, event.error_code)  # type: ignore[attr-defined]
            elif kind is WindowUpdated:
                self._useless += 1
            elif kind is ResponseReceived:
                handler.on_response(event.stream_id, event.headers, event.end_stream)  # type: ignore[attr-defined]
            elif kind is TrailersReceived:
                handler.on_trailers(event.stream_id, event.headers)  # type: ignore[attr-defined]
            else:
                self._dispatch_rare(event)
        return len(events)

    def _dispatch_rare(self, event: object) -> None:
        handler = self._handler
        self._useless += 1
        match event:
            case SettingsReceived():
                self._settings_received = True
                handler.on_settings()
            case SettingsAcknowledged():
                self._settings_acknowledged = True
            case PingAcknowledged(payload):
                handler.on_ping_answered(payload)
            case GoAwayReceived(last_stream_id, error_code, debug):
                handler.on_goaway(last_stream_id, error_code, debug)
            case ConnectionClosed():
                self._close_when_flushed()

    def _release_sender(self, stream_id: int) -> None:
        waiter = self._senders.pop(stream_id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- the end -------------------------------------------------------------------------------------

    def _fail(self, error: ngh2.NGH2Error) -> None:
        """Answer a peer that broke the protocol: what the engine still wants to say, then close."""
        _log.debug("the peer %s broke HTTP/2: %s", self.peer, error)
        self._close_when_flushed()

    def _close_when_flushed(self) -> None:
        if self._over or self._transport is None:
            return
        try:
            rest = self._h2.data_to_send(_WRITE_SIZE)
            if rest:
                self._transport.write(rest)
                self.sent += len(rest)
        except ngh2.NGH2Error:
            pass
        transport = self._transport
        self._end(None)
        self._half_close(transport)

    def _half_close(self, transport: asyncio.Transport) -> None:
        """Say that nothing more comes, keep reading a moment, then let go.

        Closing at once would make the kernel answer the peer's unread frames with a reset, which takes
        our last frames out of the peer's hands.
        """
        if transport.can_write_eof():
            with suppress(OSError):  # the peer is gone already
                transport.write_eof()
        else:  # TLS: close() waits for the peer's close_notify, which some clients never send
            transport.close()
        self._cut_off = self.loop.call_later(self._options.close_timeout, transport.abort)

    def _end(self, error: Exception | None) -> None:
        if self._over:
            return
        self._over = True
        self._rest = b""
        self._received_at_end = self.received
        for stream_id in tuple(self._senders):
            self._release_sender(stream_id)
        self._handler.on_lost(error)

    def abort(self) -> None:
        """Drop the connection now, with whatever is unsent."""
        transport = self._transport
        self._end(None)
        if transport is not None:
            transport.abort()

    @property
    def over(self) -> bool:
        """Whether the connection can carry nothing more."""
        return self._over

    def end_for_flood(self) -> bool:
        """Send GOAWAY with ENHANCE_YOUR_CALM, parse nothing more, and close; False = it ends already.

        May be called by a handler.
        """
        if self._over or self._ending:
            return False
        self._ending = True
        self._pause_reading()
        self._queue(lambda: self._h2.send_goaway(ENHANCE_YOUR_CALM))
        self.loop.call_soon(self._close_when_flushed)
        return True

    def close_gracefully(self) -> None:
        """Flush, half-close, and drop the connection when the peer does not close its side in time."""
        if self._over:
            return
        if self._flush_scheduled or self._h2.want_write:
            self._write(sys.maxsize)
        self._close_when_flushed()

    # -- time ----------------------------------------------------------------------------------------

    def tick(self, now: float, *, quiet: bool = False) -> None:
        """Check the timers of the connection; to be called about once a second.

        Args:
            now: ``loop.time()``.
            quiet: whether a silent peer is not to be asked with a PING now.
        """
        if self._transport is None or self._over:
            return
        if not (self._settings_received and self._settings_acknowledged):
            if now - self.made_at > self._options.handshake_timeout:
                self._give_up("handshake", "did not start HTTP/2, or acknowledge SETTINGS, in time")
                return
            if not self._settings_received:
                return
        if self._paused and now - self._paused_at > self._options.stall_timeout:
            self._give_up("stalled", "takes nothing of what is sent")
            return
        if quiet:
            self._keepalive.restart()
        match self._keepalive.check(self.received, now):
            case KeepaliveAction.PING:
                self._queue(lambda: self._h2.ping(_KEEPALIVE_PING))
            case KeepaliveAction.CLOSE:
                self._give_up("silent", "does not answer")

    def _give_up(self, reason: str, text: str) -> None:
        _log.debug("the peer %s %s", self.peer, text)
        self._handler.on_given_up(reason)
        self.abort()

    @property
    def peer_certificate(self) -> dict[str, object] | None:
        """The peer's verified certificate as ``ssl.SSLSocket.getpeercert`` gives it."""
        return None if self._transport is None else self._transport.get_extra_info("peercert") or None
