"""A client's connection: its calls, how many more it takes, and when it takes no more."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from .client_call import Call
from .connection import CLIENT, Connection, ConnectionHandler
from .options import ChannelOptions
from .status import Headers, RpcError, StatusCode

_log = logging.getLogger(__name__)


class _Owner(Protocol):  # what a connection needs of its `Channel`
    target: str
    options: ChannelOptions

    def connection_free(self, connection: ClientConnection) -> None: ...
    def connection_leaving(self, connection: ClientConnection) -> None: ...


class ClientConnection(ConnectionHandler):
    """One connection of a channel.

    Attributes:
        http2: the connection itself.
        ready: done when the server's first SETTINGS arrive; ``ConnectionError`` if they never will.
        closed: done when the socket is closed.
        leaving: whether it takes no more calls.
        calls: calls with open streams, by stream id.
    """

    def __init__(self, owner: _Owner, loop: asyncio.AbstractEventLoop) -> None:
        self.http2 = Connection(CLIENT, owner.options.connection, self, loop)
        self._owner = owner
        self._loop = loop
        self._limit = 0
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.leaving = False
        self.calls: dict[int, Call] = {}

    @property
    def free(self) -> bool:
        """Whether one more call may be opened."""
        return not self.leaving and len(self.calls) < self._limit

    def open(self, call: Call) -> bool:
        """Start a call; False if the connection takes no more."""
        try:
            stream_id = call.open(self.http2)
        except ConnectionError:
            self.leave()
            return False
        self.calls[stream_id] = call
        return True

    def leave(self) -> None:
        """Take no more calls, and close after the last running one."""
        if not self.leaving:
            self.leaving = True
            self._owner.connection_leaving(self)
            self._close_when_unused()

    def drop(self) -> None:
        """Close the socket now, if there is one. Nothing more is reported.

        A connection dropped while it is being made may never get ``on_lost``.
        """
        self.http2.abort()
        self.on_socket_closed()

    def shut(self, error: RpcError) -> None:
        """Take no more calls, end running ones with ``error``, and close."""
        for call in list(self.calls.values()):
            call.abandon(error)
        self.leaving = True
        self._close()

    def _close_when_unused(self) -> None:
        if self.leaving and not self.calls:
            self._close()

    def _close(self) -> None:
        if not self.http2.over:
            self.http2.send_goaway()
            self._loop.call_soon(self.http2.close_gracefully)

    # -- hooks of the connection ----------------------------------------------------------------------

    def on_settings(self) -> None:
        """Learn how many calls may run at once; the first time, report that the connection is up."""
        self._limit = self.http2.max_streams
        if not self.ready.done():
            self.ready.set_result(None)
        elif self.free:
            self._owner.connection_free(self)

    def on_response(self, stream_id: int, headers: Headers, ended: bool) -> None:
        """Pass on the headers of a response."""
        call = self.calls.get(stream_id)
        if call is not None and not call.done:
            call.response(headers, ended)

    def on_data(self, stream_id: int, data: bytes, ended: bool) -> None:
        """Pass on body bytes; those of a finished call only free the window."""
        call = self.calls.get(stream_id)
        if call is None or call.done:
            self.http2.acknowledge(stream_id, len(data))
        else:
            call.data(data, ended)

    def on_trailers(self, stream_id: int, headers: Headers) -> None:
        """Pass on the end of a response."""
        call = self.calls.get(stream_id)
        if call is not None and not call.done:
            call.trailers(headers)

    def on_stream_closed(self, stream_id: int, error_code: int) -> None:
        """Forget the call, and make room for another."""
        call = self.calls.pop(stream_id, None)
        if call is not None and not call.done:
            call.closed(error_code)
        if not self.leaving:
            self._owner.connection_free(self)
        else:
            self._close_when_unused()

    def on_goaway(self, last_stream_id: int, error_code: int, debug: bytes) -> None:
        """Let running calls finish; the engine closes streams that the server did not process."""
        if error_code:
            _log.warning(
                "the server %s ended the connection with error %#x: %s",
                self._owner.target,
                error_code,
                debug[:200],
            )
        self.leave()

    def on_lost(self, error: Exception | None) -> None:
        """End all running calls."""
        self.leaving = True
        why = f": {error}" if error else ""
        if not self.ready.done():
            guess = "does it want TLS or a client certificate, or is it another service?"
            self.ready.set_exception(
                ConnectionError(f"it closed the connection before HTTP/2 began{why}; {guess}")
            )
            self.ready.exception()  # nobody may be waiting any more
        self._owner.connection_leaving(self)
        calls = list(self.calls.items())
        self.calls.clear()
        for stream_id, call in calls:
            lost = RpcError(StatusCode.UNAVAILABLE, f"the connection to {self._owner.target} was lost{why}")
            call.lost(lost, written=self.http2.was_flushed(stream_id))

    def on_socket_closed(self) -> None:
        """Report it."""
        if not self.closed.done():
            self.closed.set_result(None)

    def tick(self, now: float) -> None:
        """Check the timers of the connection; to be called about once a second."""
        if not self.http2.heal_window(sum(call.unacknowledged for call in self.calls.values())):
            self.leave()
        self.http2.tick(now, quiet=not self.calls and not self._owner.options.keepalive_without_calls)
