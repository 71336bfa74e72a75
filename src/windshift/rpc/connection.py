"""One HTTP/2 connection: bytes in, stream events out, one flush per turn of the event loop.

This is the only module that knows ngh2 (libnghttp2 without I/O) and the only one that writes to a transport.
``Connection`` carries what both sides share: writing in bounded pieces, flow control, keepalive, the end of
a connection. Subclasses answer the hooks ``on_…``, see ``ConnectionHooks``.

Everything that is sent while one batch of received bytes is handled, and by the tasks that it woke, leaves
in one ``transport.write``: that is where the speed comes from.
"""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import ngh2
from ngh2.events import (
    ConnectionClosed,
    DataReceived,
    GoAwayReceived,
    PingAcknowledged,
    RequestReceived,
    ResponseReceived,
    SettingsReceived,
    StreamClosed,
    TrailersReceived,
)

from .connection_options import MAX_WINDOW, ConnectionOptions
from .keepalive import Keepalive, Silence
from .status import HeaderList
from .transports import certificate_of_peer, name_of_peer, prepare, speaks_http2
from .turns import ReadingInTurns

_log = logging.getLogger(__name__)

CLIENT = ngh2.Role.CLIENT
SERVER = ngh2.Role.SERVER

NO_ERROR = 0x0
CANCEL = 0x8
REFUSED_STREAM = 0x7

_WRITE_SIZE = 65_536  # uvloop's TLS does not account for larger writes, so backpressure would be lost
SEND_QUEUE_MARK = 16_384
"""Bytes of a stream that may be queued before its sender waits."""
_STREAMING_PRIORITY = ngh2.Priority(urgency=4, incremental=True)
_KEEPALIVE_PING = b"keepaliv"
_HEAL_MARGIN = 32_768  # two frames that are being received now


def engine_configuration(options: ConnectionOptions) -> ngh2.Configuration:
    """Return the engine's part of the options."""
    return ngh2.Configuration(
        auto_window_update=False,
        stream_reset_rate_limit=options.reset_rate_limit,
        max_inbound_header_list_size=2 * options.max_header_list_size,
        max_inbound_header_count=options.max_header_count,
    )


def _first_settings(options: ConnectionOptions) -> dict[ngh2.Setting, int]:
    return {
        ngh2.Setting.MAX_CONCURRENT_STREAMS: options.max_concurrent_streams,
        ngh2.Setting.INITIAL_WINDOW_SIZE: options.stream_window,
        ngh2.Setting.MAX_HEADER_LIST_SIZE: options.max_header_list_size,
        ngh2.Setting.NO_RFC7540_PRIORITIES: 1,  # without it streams of equal priority starve each other
    }


class Connection(ReadingInTurns):
    """The driver of one connection.

    Args:
        role: which side this is.
        options: limits and timers.
        loop: the event loop that runs the transport.

    Attributes:
        sent: bytes that were given to the transport.
        peer: the address of the other side.
    """

    def __init__(self, role: ngh2.Role, options: ConnectionOptions, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._options = options
        self._h2 = ngh2.Connection(role, engine_configuration(options))
        self._client = role is ngh2.Role.CLIENT
        self._cut_off: asyncio.TimerHandle | None = None
        self._flush_scheduled = False
        self._paused = self._receiving = False
        self._keepalive = Keepalive(options.keepalive_interval, options.keepalive_timeout)
        self._made_at = 0.0
        self._settings_received = False
        self._senders: dict[int, asyncio.Future[None]] = {}
        self._window = options.whole_window
        self.sent = 0
        self.peer = ""

    # -- asyncio.Protocol ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start HTTP/2 on ``transport``."""
        self._transport = cast("asyncio.Transport", transport)
        try:
            self._start(self._transport)
        except Exception:  # noqa: BLE001 -- uvloop only logs it and would leak the socket
            _log.exception("a connection could not be set up")
            self.abort()

    def _start(self, transport: asyncio.Transport) -> None:
        self._made_at = self._loop.time()
        self.peer = name_of_peer(transport)
        if not speaks_http2(transport):
            self.on_no_http2()
            self.abort()
            return
        prepare(transport, _WRITE_SIZE)
        settings = _first_settings(self._options)
        if self._client:
            settings[ngh2.Setting.ENABLE_PUSH] = 0
        self._h2.initiate_connection(settings)
        self._h2.set_local_window_size(self._window)
        self.on_ready()
        self.schedule_flush()

    def _receive(self, data: bytes) -> None:
        if self._over:
            return
        try:
            self._h2.receive_data(data)
        except ngh2.NGH2Error as error:
            self._fail(error)
            return
        self._receiving = True
        self._dispatch()
        self._receiving = False
        if not self._flush_scheduled and self._h2.want_write:
            self.schedule_flush()

    def eof_received(self) -> bool:
        """Close when the peer closes its side: HTTP/2 has no half-closed connections."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End everything that still stands on this connection."""
        self._end(exc)
        self._transport = None
        if self._cut_off is not None:  # it would hold the transport, and TLS half a megabyte with it
            self._cut_off.cancel()
        self.on_gone()

    def pause_writing(self) -> None:
        """Stop writing: the peer does not read."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on writing."""
        self._paused = False
        self.schedule_flush()

    # -- sending -------------------------------------------------------------------------------------

    def schedule_flush(self) -> None:
        """Write what is queued, once, in the next turn of the loop."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        transport = self._transport
        if transport is None or self._over:
            return
        try:
            while not self._paused:
                data = self._h2.data_to_send(_WRITE_SIZE)
                if not data:
                    break
                transport.write(data)
                self.sent += len(data)
        except ngh2.NGH2Error as error:
            self._fail(error)
            return
        self._dispatch()
        if self._senders:
            self._wake_senders()

    @property
    def unwritten(self) -> bool:
        """Whether frames wait for the transport to take them."""
        return self._paused or self._flush_scheduled

    def _wake_senders(self) -> None:
        for stream_id in [s for s in self._senders if self.queued(s) <= SEND_QUEUE_MARK]:
            waiter = self._senders.pop(stream_id)
            if not waiter.done():
                waiter.set_result(None)

    def queued(self, stream_id: int) -> int:
        """Return the bytes of the stream's body that wait for the peer's window or the transport."""
        return self._h2.queued_body_size(stream_id)

    async def writable(self, stream_id: int) -> None:
        """Wait until little of the stream's body is queued. Only one task may wait per stream."""
        while self._h2.queued_body_size(stream_id) > SEND_QUEUE_MARK and not self._over:
            waiter = self._senders[stream_id] = self._loop.create_future()
            try:
                await waiter
            finally:
                if self._senders.get(stream_id) is waiter:
                    del self._senders[stream_id]

    def send_request(self, headers: HeaderList) -> int:
        """Open a stream and return its id.

        Raises:
            ConnectionError: no stream can be opened on this connection any more.
        """
        try:
            stream_id = self._h2.send_request(headers)
        except ngh2.NGH2Error as error:
            raise ConnectionError("the connection takes no more calls") from error
        self.schedule_flush()
        return stream_id

    def send_whole_request(self, headers: HeaderList, data: bytes) -> int:
        """Open a stream, queue its only body bytes and the end of our side, and return its id.

        Raises:
            ConnectionError: no stream can be opened on this connection any more.
        """
        try:
            stream_id = self._h2.send_request(headers)
            self._h2.send_data(stream_id, data, end_stream=True)
        except ngh2.NGH2Error as error:
            raise ConnectionError("the connection takes no more calls") from error
        if not self._flush_scheduled:
            self.schedule_flush()
        return stream_id

    def send_response(self, stream_id: int, headers: HeaderList, *, end: bool = False) -> None:
        """Queue response headers. On a stream that is closed already nothing happens."""
        try:
            self._h2.send_response(stream_id, headers, end_stream=end)
        except ngh2.NGH2Error:
            return
        self.schedule_flush()

    def send_data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Queue body bytes. On a stream that is closed already nothing happens."""
        try:
            self._h2.send_data(stream_id, data, end_stream=end)
        except ngh2.NGH2Error:
            return
        if not self._flush_scheduled:
            self.schedule_flush()

    def send_trailers(self, stream_id: int, headers: HeaderList) -> None:
        """Queue trailers and the end of our side. On a closed stream nothing happens."""
        try:
            self._h2.send_trailers(stream_id, headers)
        except ngh2.NGH2Error:
            return
        self.schedule_flush()

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

    def end_stream(self, stream_id: int) -> None:
        """Queue the end of our side. On a closed stream nothing happens."""
        try:
            self._h2.end_stream(stream_id)
        except ngh2.NGH2Error:
            return
        self.schedule_flush()

    def reset(self, stream_id: int, error_code: int = CANCEL) -> None:
        """Queue RST_STREAM.

        A server that resets an upload loses connection window for ever (a partly received DATA frame is
        not credited): it sends trailers and discards instead, and resets only what does not end by itself.
        """
        try:
            self._h2.reset_stream(stream_id, error_code)
        except ngh2.NGH2Error:
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
        if not self._flush_scheduled and not self._receiving and self._h2.want_write:
            self.schedule_flush()

    def heal_window(self, unacknowledged: int) -> None:
        """Replace what resets have taken from the connection's receive window.

        A stream that we reset while a DATA frame of it is partly received takes the bytes of that part with
        it: libnghttp2 (through ngh2 0.3) never credits them, and after some hundred such resets the peer
        could send nothing more.

        Args:
            unacknowledged: bytes handed to ``on_data`` that were not given to ``acknowledge`` yet.
        """
        expected = self._window // 2 - unacknowledged  # the engine withholds up to half of the window
        if self._over or self._h2.local_window_size >= expected - _HEAL_MARGIN:
            return
        self._window = min(self._window + self._window // 2, MAX_WINDOW)
        try:
            self._h2.set_local_window_size(self._window)
        except (ngh2.NGH2Error, ValueError):
            return
        self.schedule_flush()

    def share_fairly(self, stream_id: int) -> None:
        """Let the stream take turns with others; without it the first one with data starves the rest."""
        try:
            self._h2.set_stream_priority(stream_id, _STREAMING_PRIORITY)
        except ngh2.NGH2Error:
            return

    # -- events --------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        events = self._h2.events()
        self._events += len(events)
        for event in events:
            kind = type(event)
            if kind is DataReceived:
                self.on_data(event.stream_id, event.data, event.end_stream)  # type: ignore[attr-defined]
            elif kind is RequestReceived:
                self.on_request(event.stream_id, event.headers, event.end_stream)  # type: ignore[attr-defined]
            elif kind is StreamClosed:
                self._stream_closed(event.stream_id, event.error_code)  # type: ignore[attr-defined]
            elif kind is ResponseReceived:
                self.on_response(event.stream_id, event.headers, event.end_stream)  # type: ignore[attr-defined]
            elif kind is TrailersReceived:
                self.on_trailers(event.stream_id, event.headers)  # type: ignore[attr-defined]
            else:
                self._dispatch_rare(event)

    def _dispatch_rare(self, event: object) -> None:
        match event:
            case SettingsReceived():
                self._settings_received = True
                self.on_settings()
            case PingAcknowledged(payload):
                self.on_ping_answered(payload)
            case GoAwayReceived(last_stream_id, error_code, debug):
                self.on_goaway(last_stream_id, error_code, debug)
            case ConnectionClosed():
                self._close_when_flushed()
            case _:
                pass

    def _stream_closed(self, stream_id: int, error_code: int) -> None:
        waiter = self._senders.pop(stream_id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        self.on_stream_closed(stream_id, error_code)

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
            transport.write_eof()
        else:  # TLS: close() waits for the peer's close_notify, which some clients never send
            transport.close()
        self._cut_off = self._loop.call_later(self._options.close_timeout, transport.abort)

    def _end(self, error: Exception | None) -> None:
        if self._over:
            return
        self._over = True
        for waiter in self._senders.values():
            if not waiter.done():
                waiter.set_result(None)
        self._senders.clear()
        self.on_lost(error)

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

    # -- graceful shutdown ---------------------------------------------------------------------------

    def send_shutdown_notice(self, ping: bytes) -> None:
        """Queue the first GOAWAY, which forbids new streams without refusing any, and a PING behind it.

        Its answer (``on_ping_answered``) means that the peer saw the notice.
        """
        self._try_control(self._h2.send_shutdown_notice)
        self._try_control(lambda: self._h2.ping(ping))

    def send_goaway(self) -> None:
        """Queue the final GOAWAY: streams that arrive after it are dropped without a word."""
        self._try_control(self._h2.send_goaway)

    def close_gracefully(self) -> None:
        """Flush, half-close, and drop the connection when the peer does not close its side in time."""
        if self._over:
            return
        if self._flush_scheduled or self._h2.want_write:
            self._flush()
        self._close_when_flushed()

    def _try_control(self, action: object) -> None:
        try:
            action()  # type: ignore[operator]
        except ngh2.NGH2Error:
            return
        self.schedule_flush()

    # -- time ----------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Check the timers of the connection; to be called about once a second.

        Args:
            now: ``loop.time()``.
        """
        if self._over:
            return
        if not self._settings_received:
            if now - self._made_at > self._options.handshake_timeout:
                _log.debug("the peer %s did not start HTTP/2 in time", self.peer)
                self.abort()
            return
        match self._keepalive.look(self.received, now):
            case Silence.TO_ASK_ABOUT:
                self._try_control(lambda: self._h2.ping(_KEEPALIVE_PING))
            case Silence.FOR_GOOD:
                _log.debug("the peer %s does not answer", self.peer)
                self.abort()
            case _:
                pass

    @property
    def peer_certificate(self) -> dict[str, object] | None:
        """The peer's verified certificate as ``ssl.SSLSocket.getpeercert`` gives it."""
        return None if self._transport is None else certificate_of_peer(self._transport)
