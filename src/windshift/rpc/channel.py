"""The client: a channel to one server, and the calls made through it.

::

    async with Channel("localhost:50051") as channel:
        response = await channel.unary("/package.Service/Method", request, Response, timeout=5.0)
        async with channel.stream("/package.Service/OtherMethod", Answer) as call:
            call.send(message)
            async for answer in call:
                ...

A channel holds one connection, or more where ``max_connections`` allows it and the first is full. It is made
when the first call needs it and made anew when it is gone: then calls wait for the outcome of one attempt,
and until the next attempt is due they fail at once (``Channel.wait_ready`` waits instead).
"""

from __future__ import annotations

import asyncio
import logging
import ssl as tls
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum, auto
from typing import Self, TypeVar

from google.protobuf.message import Message

from .backoff import Backoff
from .client_call import Call, ClientCall, UnaryCall
from .client_connection import ClientConnection
from .deadlines import Deadlines
from .dialing import describe, dial, split_target
from .framing import ACCEPT_ENCODING
from .message_stream import Direction
from .metadata import encode_metadata
from .options import ChannelOptions
from .status import ChannelClosed, HeaderList, MetadataValue, RpcError, StatusCode

_log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
MetadataPairs = Iterable[tuple[str, MetadataValue]]


_ELSEWHERE = "a channel belongs to the event loop and the process of its first call"
_PARSE = Direction.RESPONSE.parse
_TIMER_RESOLUTION = 0.001  # uvloop's clock and timers count milliseconds


class ChannelState(Enum):
    """What happened to the connection of a channel."""

    CONNECTING = auto()
    """An attempt begins."""
    FAILED = auto()
    """It failed; ``Channel.last_failure`` says why. The next one follows while calls wait."""
    READY = auto()
    """A connection takes calls."""
    LEAVING = auto()
    """A connection takes no more: the server ends it in good order, or it was lost."""


class Channel:
    """A client of one server.

    It belongs to the event loop and the process of its first call. Nothing is connected before that.

    Args:
        target: ``host:port``; an IPv6 address stands in brackets.
        ssl: a context from ``windshift.rpc.client_tls``; None = plaintext.
        options: limits and timers.
        on_state: called when something happens to the connection; it must not raise.

    Attributes:
        last_failure: why the last attempt to connect failed; empty once one worked.

    Raises:
        ValueError: the target is not ``host:port``.
    """

    _loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        target: str,
        *,
        ssl: tls.SSLContext | None = None,
        options: ChannelOptions | None = None,
        on_state: Callable[[ChannelState], None] = lambda _state: None,
    ) -> None:
        self.target = target
        self.options = options or ChannelOptions()
        self._host, self._port = split_target(target)
        self._ssl = ssl
        self._bound_already = False
        self._on_state = on_state
        self._metadata: MetadataPairs = ()
        self._encoded: HeaderList = []
        self._methods: dict[str, HeaderList] = {}  # what all calls of a method share
        self._usable: list[ClientConnection] = []  # those that take calls
        self._connections: set[ClientConnection] = set()
        self._waiting: deque[Call] = deque()
        self._ready_waiters = 0
        self._changed = asyncio.Event()  # connected, or closed
        self._connector: asyncio.Task[None] | None = None
        self._attempting = False
        self._backoff = Backoff(self.options.backoff_initial, self.options.backoff_maximum)
        self._next_attempt_at = 0.0
        self.last_failure = ""
        self._deadlines: Deadlines[Call] = Deadlines()
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._closing = False

    @property
    def connections(self) -> int:
        """Open connections, including those that take no more calls."""
        return len(self._connections)

    def _bound(self) -> asyncio.AbstractEventLoop:
        """Return the loop of the first call.

        Raises:
            RuntimeError: this is another one, or another process.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # in a forked process, too: it does not have the running loop of its parent
            raise RuntimeError(_ELSEWHERE) from None
        if not self._bound_already:
            self._loop, self._bound_already = loop, True
        elif loop is not self._loop:
            raise RuntimeError(_ELSEWHERE)
        return loop

    # -- calls ---------------------------------------------------------------------------------------

    async def unary(
        self,
        method: str,
        request: Message,
        response_type: type[M],
        *,
        timeout: float | None = None,
        metadata: MetadataPairs = (),
    ) -> M:
        """Send one message and return the response.

        Cancelling the task cancels the call. Use ``stream`` to get the metadata of the response.

        Args:
            method: its path, ``/package.Service/Method``.
            request: the message.
            response_type: class of the response.
            timeout: seconds until the call ends with DEADLINE_EXCEEDED, here and at the server; None = never.
            metadata: pairs to send along. The same tuple in many calls is encoded once.

        Raises:
            RpcError: the call did not end with OK.
            ValueError: see ``encode_metadata``.
            RuntimeError: this is not the event loop of the first call.
        """
        loop = self._bound()
        headers = self._headers(method, metadata)
        call = UnaryCall(self, headers, request.SerializeToString(), timeout, loop)
        self._start(call)
        try:
            payload = await call.future
        except asyncio.CancelledError:
            call.cancel()
            raise
        return _PARSE(response_type, payload)

    def stream(
        self,
        method: str,
        response_type: type[M],
        *,
        timeout: float | None = None,
        metadata: MetadataPairs = (),
    ) -> ClientCall[M]:
        """Start a call of any kind and return it; see ``unary`` for the arguments.

        The call starts at once, connected or not; failures appear when receiving.
        """
        loop = self._bound()
        call = ClientCall(self, self._headers(method, metadata), response_type, timeout, loop)
        self._start(call)
        return call

    def _headers(self, method: str, metadata: MetadataPairs) -> HeaderList:
        headers = self._methods.get(method) or self._learn(method)
        return headers + self._encode(metadata) if metadata else headers

    def _encode(self, metadata: MetadataPairs) -> HeaderList:
        if metadata is not self._metadata or not isinstance(metadata, tuple):
            self._metadata, self._encoded = metadata, encode_metadata(metadata)
        return self._encoded

    def _learn(self, method: str) -> HeaderList:
        headers = self._methods[method] = [
            (b":method", b"POST"),
            (b":scheme", b"http" if self._ssl is None else b"https"),
            (b":path", method.encode()),
            (b":authority", self.target.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", self.options.user_agent.encode()),
            ACCEPT_ENCODING,
        ]
        return headers

    def _start(self, call: Call) -> None:
        if call.deadline is not None:
            if call.deadline <= self._loop.time():
                call.abandon(RpcError(StatusCode.DEADLINE_EXCEEDED, "there was no time for the call"))
                return
            end = call.deadline + self.options.deadline_grace
            call.ticket = self._deadlines.add(end, call)
            if self._deadlines.next == end:
                self._set_deadline_timer()
        self.submit(call)

    # -- deadlines -----------------------------------------------------------------------------------

    def _set_deadline_timer(self) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        earliest = self._deadlines.next
        self._deadline_timer = None if earliest is None else self._loop.call_at(earliest, self._expire_calls)

    def _expire_calls(self) -> None:
        for call in self._deadlines.pop_due(self._loop.time() + _TIMER_RESOLUTION):
            call.expire()
        self._set_deadline_timer()

    def finished(self, call: Call) -> None:
        """Forget the deadline of a finished call; called by the call."""
        if call.ticket is not None:
            self._deadlines.discard(call.ticket)

    # -- calls that wait -----------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Give a call to the connection, or queue it; called by calls that start again."""
        for connection in tuple(self._usable):
            if connection.free and connection.open(call):
                return
        if self._closing:
            call.abandon(ChannelClosed())
        elif not (self._usable or self._attempting) and self._loop.time() < self._next_attempt_at:
            call.abandon(self._unreachable())
        else:
            self._waiting.append(call)
            self._connect_if_needed()

    def withdraw(self, call: Call) -> None:
        """Forget a waiting call; called by the call."""
        with suppress(ValueError):
            self._waiting.remove(call)

    def connection_free(self, connection: ClientConnection) -> None:
        """Give waiting calls to a connection with room; called by the connection."""
        while self._waiting and connection in self._usable and connection.free:
            call = self._waiting.popleft()
            if not connection.open(call):
                self._waiting.appendleft(call)
                self._connect_if_needed()

    # -- connecting ----------------------------------------------------------------------------------

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Connect, and retry until it works.

        Args:
            timeout: seconds to try; None = forever.

        Raises:
            RpcError: UNAVAILABLE after the timeout, CANCELLED when the channel is closed.
        """
        self._bound()
        self._ready_waiters += 1
        try:
            async with asyncio.timeout(timeout):
                while not self._usable:
                    if self._closing:
                        raise ChannelClosed
                    self._connect_if_needed()
                    await self._changed.wait()
        except TimeoutError:
            raise self._unreachable() from None
        finally:
            self._ready_waiters -= 1

    @property
    def is_unreachable(self) -> bool:
        """Whether there is no connection, and the last attempt to make one failed."""
        return bool(self.last_failure) and not self._usable

    @property
    def lack(self) -> str:
        """Why a call that waits has no connection."""
        if self._usable:
            return f"the server {self.target} takes no more calls at once from here"
        return f"the server {self.target} cannot be reached: {self.last_failure or 'it does not answer'}"

    def _unreachable(self) -> RpcError:
        return RpcError(StatusCode.UNAVAILABLE, self.lack)

    @property
    def _wanted(self) -> bool:
        """Whether somebody waits for a connection that may be made."""
        if self._waiting:
            return len(self._usable) < self.options.max_connections
        return self._ready_waiters > 0 and not self._usable

    def _connect_if_needed(self) -> None:
        if self._wanted and self._connector is None and not self._closing:
            self._connector = self._loop.create_task(self._connect(), name=f"connect to {self.target}")

    async def _connect(self) -> None:
        """Make attempts while somebody waits for the outcome."""
        try:
            while self._wanted:
                await asyncio.sleep(self._next_attempt_at - self._loop.time())
                await self._attempt_once()
        finally:
            self._connector = None

    async def _attempt_once(self) -> None:
        self._next_attempt_at = self._loop.time() + self._backoff.next()
        self._attempting = True
        self._on_state(ChannelState.CONNECTING)
        try:
            connection = await dial(self._host, self._port, self._ssl, self.options, self._new_connection)
        except Exception as error:  # noqa: BLE001 -- whatever it is, callers wait for the outcome
            self._failed(error)
        else:
            self._connected(connection)
        finally:
            self._attempting = False

    def _new_connection(self) -> ClientConnection:
        connection = ClientConnection(self, self._loop)
        self._connections.add(connection)
        connection.closed.add_done_callback(lambda _: self._connections.discard(connection))
        return connection

    def _connected(self, connection: ClientConnection) -> None:
        self._backoff.reset()
        self._next_attempt_at = 0.0
        self.last_failure = ""
        self._usable.append(connection)
        if self._ticker is None:
            self._tick()
        self._wake()
        self._on_state(ChannelState.READY)
        self.connection_free(connection)

    def _wake(self) -> None:
        self._changed.set()
        self._changed.clear()

    def _failed(self, error: Exception) -> None:
        self.last_failure = describe(error)
        _log.debug("cannot connect to %s: %s", self.target, self.last_failure)
        self._on_state(ChannelState.FAILED)
        if self._usable:
            return  # calls wait for room
        for call in list(self._waiting):
            call.abandon(self._unreachable())

    def _tick(self) -> None:
        now = self._loop.time()
        for connection in list(self._connections):
            connection.tick(now)
        self._ticker = (
            self._loop.call_later(self.options.tick_interval, self._tick) if self._connections else None
        )

    def connection_leaving(self, connection: ClientConnection) -> None:
        """Give no more calls to a connection; called by the connection."""
        if connection in self._usable:
            self._usable.remove(connection)
            self._on_state(ChannelState.LEAVING)
            self._connect_if_needed()

    # -- the end -------------------------------------------------------------------------------------

    async def close(self, grace: float = 0.0) -> None:
        """Take no more calls, let running ones finish, and disconnect.

        Args:
            grace: seconds after which running calls are cancelled. Cancelling this does it at once.
        """
        self._closing = True
        self._warn_of_open_calls()
        try:
            await self._stop_connecting()
            closed = [connection.closed for connection in self._connections]
            for connection in list(self._connections):
                connection.leave()
            if closed and grace > 0:
                await asyncio.wait(closed, timeout=grace)
        finally:
            for connection in list(self._connections):
                connection.shut(ChannelClosed())
        if closed:
            await asyncio.wait(closed)  # the connections' own close_timeout is the bound
        self._cancel_timers()

    def abort(self) -> None:
        """Disconnect at once; running calls end as if they had been cut off. The event loop need not run."""
        self._closing = True
        if not self._bound_already or self._loop.is_closed():
            return
        if self._connector is not None:
            self._connector.cancel()
        for call in list(self._waiting):
            call.abandon(ChannelClosed())
        for connection in list(self._connections):
            connection.drop()
        self._cancel_timers()

    def _cancel_timers(self) -> None:
        for timer in (self._deadline_timer, self._ticker):
            if timer is not None:
                timer.cancel()

    async def _stop_connecting(self) -> None:
        for call in list(self._waiting):
            call.abandon(ChannelClosed())
        self._wake()
        connector = self._connector
        if connector is not None:
            connector.cancel()
            await asyncio.wait([connector])

    def _warn_of_open_calls(self) -> None:
        calls = [*self._waiting, *(call for each in self._connections for call in each.calls.values())]
        forgotten = sum(isinstance(call, ClientCall) and not (call.done or call.entered) for call in calls)
        if forgotten:
            warnings.warn(
                f"{forgotten} calls of a channel that is closed were neither finished nor cancelled; "
                "begin them with `async with`",
                ResourceWarning,
                stacklevel=3,
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
