"""Calls with a deadline, repeated as `retry` decides, with a token that is renewed when it is refused."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final, NoReturn, TypeVar

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from windshift import protos
from windshift.rpc import Channel, ChannelClosed, ClientCall, RpcError, StatusCode

from .channels import Channels
from .credentials import Credentials, Pairs
from .errors import (
    ClientClosed,
    PermissionDenied,
    TokenUnavailable,
    WindshiftError,
    WrongLoop,
    from_rpc,
    reason_of,
)
from .names import Names
from .payloads import Payloads
from .retry import Known, Repeat, decide, in_doubt, known, outcome_unknown
from .settings import Settings
from .tracing import tracing

M = TypeVar("M", bound=Message)


NOT_SENT: Final = "a client, and what comes of it, cannot be sent to another process: connect there"
_ELSEWHERE = "a client belongs to the event loop and the process of its first call"
_log = logging.getLogger("windshift")
_of_other_processes: list[object] = []  # connections of the parent: nothing of them may be closed here


def path_of(request: type[Message]) -> str:
    """Return the path of the method that takes such requests; of two names, the last one of the API."""
    return _path(request.DESCRIPTOR)


@cache
def _path(kind: Descriptor) -> str:
    methods = [
        f"/{service.full_name}/{method.name}"
        for service in kind.file.services_by_name.values()
        for method in service.methods
        if method.input_type is kind
    ]
    return methods[-1]


class Caller:
    """Makes the calls of a client.

    Attributes:
        closed: whether the client is closed.
        credentials: the client's token.
        follows_forks: whether a forked process goes on with connections of its own.
        names: the client's namespace.
        payloads: the client's codecs.
        timeout: seconds for an operation with all its attempts, unless it says otherwise.
        tracing: records spans; None = the program does not trace.
        lacks_publish_stream: whether a server was too old to publish many events by one call.
    """

    def __init__(self, settings: Settings) -> None:
        self.closed = False
        self.credentials: Credentials = settings.credentials
        self.names: Names = settings.names
        self.payloads: Payloads = settings.payloads
        self.timeout = settings.timeout
        self.tracing = tracing()
        self.follows_forks = False
        self.lacks_publish_stream = False
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._channels: Channels | None = None

    def __reduce__(self) -> NoReturn:
        raise TypeError(NOT_SENT)

    async def call(
        self,
        request: Message,
        response: type[M],
        repeat: Repeat,
        *,
        timeout: float | None = None,
        gone: StatusCode | None = None,
        failed: RpcError | None = None,
    ) -> M:
        """Make a call, and repeat it within its timeout where that is safe.

        Args:
            request: its message, which says which method it is.
            timeout: seconds for all attempts; None = the client's.
            gone: the status that means "done before" to a repeated call whose first attempt is in doubt.
            failed: how a first attempt ended that was made in another way; None = there was none.

        Raises:
            WindshiftError: see `windshift.sdk.errors`.
        """
        self._check_open(repeat, failed, doubt=False)
        channels, method = self.channels(), path_of(type(request))
        clock = time.monotonic
        deadline = clock() + (self.timeout if timeout is None else timeout)
        attempt, doubt, renewed = 0, False, False
        last: RpcError | None = None
        while True:
            attempt += 1
            error = failed if attempt == 1 else None
            pairs = self.credentials.current
            if pairs is None and error is None:
                pairs = await self._pairs(deadline - clock(), doubt=doubt and repeat is not Repeat.READ)
            self._check_open(repeat, None, doubt=doubt)
            channel, pairs = channels.for_calls(), pairs or ()
            if error is None:
                metadata = pairs if self.tracing is None else pairs + self.tracing.context()
                left = deadline - clock()
                try:
                    return await channel.unary(method, request, response, timeout=left, metadata=metadata)
                except RpcError as failure:
                    error = self._note(channel, failure)
            if last is not None and error.code is StatusCode.DEADLINE_EXCEEDED and not error.sent:
                error = last  # which says why there was no connection
            last = error
            if error.code is StatusCode.UNAUTHENTICATED and self.credentials.renewable and not renewed:
                renewed = True
                self.credentials.refused(pairs)
                continue
            if doubt and error.code is gone:
                return response()
            await self._wait_to_repeat(channels, repeat, error, attempt, deadline - clock(), doubt=doubt)
            doubt = doubt or known(error) is not Known.NOTHING_HAPPENED

    async def _wait_to_repeat(
        self, channels: Channels, repeat: Repeat, error: RpcError, attempt: int, left: float, *, doubt: bool
    ) -> None:
        """Wait before the next attempt of a call, or raise what the call ends with; see `decide`."""
        if known(error) is not Known.REFUSED:
            self._check_open(repeat, error, doubt=doubt)
        decision = decide(repeat, error, attempt, left, doubt=doubt)
        if isinstance(decision, WindshiftError):
            raise decision from error
        await _pause(channels.for_calls(), error, decision)

    def _check_open(self, repeat: Repeat, error: RpcError | None, *, doubt: bool) -> None:
        """Raise what a call ends with whose last attempt ended so, if the client is closed; see `decide`."""
        if not self.closed:
            return
        closed = ClientClosed("the client is closed")
        if repeat is not Repeat.READ and (doubt or (error is not None and in_doubt(error))):
            raise outcome_unknown(closed) from closed
        raise closed from error

    async def _pairs(self, left: float, *, doubt: bool) -> Pairs:
        """Fetch the metadata with the token, for a call that has so many seconds left.

        With `doubt` it is one that writes, and may have been done before.
        """
        try:
            try:
                async with asyncio.timeout(left):
                    return await self.credentials.pairs()
            except TimeoutError as error:
                raise TokenUnavailable("there was no token in time") from error
        except TokenUnavailable as error:
            if doubt:
                raise outcome_unknown(error) from error
            raise

    @asynccontextmanager
    async def stream(
        self, request: type[Message], response: type[M], span: Any = None
    ) -> AsyncIterator[ClientCall[M]]:
        """Open a long-lived call of the method with these messages, on a connection beside that of others.

        The server is told of the span, if there is one.

        Raises:
            RpcError: from the call inside, when it ends.
        """
        channels, pairs = self.channels(), await self.credentials.pairs()
        context = () if self.tracing is None or span is None else self.tracing.context(span)
        with channels.for_stream() as channel:
            try:
                async with channel.stream(path_of(request), response, metadata=pairs + context) as call:
                    yield call
            except RpcError as error:
                self._note(channel, error)
                if error.code is StatusCode.UNAUTHENTICATED:
                    self.credentials.refused(pairs)
                raise

    async def watch(self, request: Message, response: type[M]) -> AsyncGenerator[M, None]:
        """Make a long-lived call that reads, again where it breaks; what comes may change the request.

        Raises:
            WindshiftError: it broke in a way that another attempt would not mend.
        """
        attempt, refused = 0, False
        while True:
            try:
                async with self.stream(type(request), response) as call:
                    call.send(request)
                    call.close_send()
                    if await call.begun():
                        refused = False
                    async for each in call:
                        attempt = 0
                        yield each
                    return
            except (RpcError, TokenUnavailable) as error:
                attempt += 1
                refused = await self._reopen(error, attempt, refused=refused)

    async def _reopen(self, error: RpcError | TokenUnavailable, attempt: int, *, refused: bool) -> bool:
        """Wait before a watch is opened again, or raise what ended it for good.

        It is the attempt of this number since it last told something. A limit ends only the first: after
        another the server may still count the call that broke. Return whether the token was `refused`, and
        the one before was not: then the next attempt has another.
        """
        if isinstance(error, TokenUnavailable):
            if attempt == 1:
                _log.warning("a call is not opened: %s", error)
            error = RpcError(StatusCode.UNAVAILABLE, error.message)
        elif error.code is StatusCode.RESOURCE_EXHAUSTED and attempt > 1 and reason_of(error)[0]:
            _log.info("a call is not opened again yet: %s", error)
            error = RpcError(StatusCode.UNAVAILABLE, error.message)
        if error.code is StatusCode.UNAUTHENTICATED and self.credentials.renewable and not refused:
            return True
        decision = decide(Repeat.READ, error, attempt, float("inf"), doubt=False)
        if isinstance(decision, WindshiftError) or self.closed:
            raise self.failure_of(error) from error
        await self.pause(error, decision)
        return False

    async def pause(self, error: RpcError, delay: float) -> None:
        """Wait before a long-lived call that ended so is opened again.

        That is for `delay` seconds, or until there is the connection that it lacked.

        Raises:
            ClientClosed: the client is closed.
        """
        with self.channels().for_stream() as channel:
            await _pause(channel, error, delay)

    def failure_of(self, error: RpcError) -> WindshiftError:
        """Return what is raised where a long-lived call ended so for good."""
        return ClientClosed("the client is closed") if self.closed else from_rpc(error)

    def channels(self) -> Channels:
        """Return the connections, which belong to the event loop of the first call.

        Raises:
            WrongLoop: this is another loop, or a process that was forked off and does not follow.
            ClientClosed: the client is closed.
        """
        if self.closed:
            raise ClientClosed("the client is closed")
        if self._channels is not None and _running_loop() is self._loop:
            return self._channels  # a forked process does not have the running loop of its parent
        forked = self._channels is not None and os.getpid() != self._process
        if forked and self.follows_forks:
            _of_other_processes.append((self._loop, self._channels))
            self._channels = None
        elif forked:  # asyncio knows of no running loop here
            raise WrongLoop(_ELSEWHERE, hint="make another")
        loop = asyncio.get_running_loop()
        if self._channels is None:
            self._loop, self._process = loop, os.getpid()
            self._channels = Channels(self._settings.targets, self._settings.tls)
        elif loop is not self._loop:
            raise WrongLoop(_ELSEWHERE, hint="make another")
        return self._channels

    async def ready(self, timeout: float) -> None:
        """Connect, and see that the server knows who we are.

        Raises:
            Unreachable: no server was reached within `timeout` seconds.
            Unauthenticated: the server does not take the token.
            TokenUnavailable: there is no token.
        """
        channels = self.channels()
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        while True:
            channel = channels.for_calls()
            share = timeout / len(self._settings.targets)
            try:
                await channel.wait_ready(min(share, max(0.0, deadline - clock())))
            except RpcError as error:
                channels.unreachable(channel)
                if clock() >= deadline:
                    raise from_rpc(error.unsent()) from error
            else:
                break
        left = max(0.1, deadline - clock())
        try:
            request, kind = protos.admin.WhoAmIRequest(), protos.admin.WhoAmIResponse
            await self.call(request, kind, Repeat.READ, timeout=left)
        except PermissionDenied:
            pass  # it knows us
        except WindshiftError as error:
            if error.code is not StatusCode.UNIMPLEMENTED:  # an older server
                raise

    async def close(self, grace: float) -> None:
        """Take no more calls, let running ones finish for `grace` seconds, and disconnect."""
        self.closed = True
        if self._channels is not None and asyncio.get_running_loop() is self._loop:
            await self._channels.close(grace)

    def abort(self) -> None:
        """Disconnect at once, also when the event loop does not run any more."""
        self.closed = True
        if self._channels is not None and os.getpid() == self._process:
            self._channels.abort()

    def _note(self, channel: Channel, error: RpcError) -> RpcError:
        """Use another server if this one cannot be reached; return how the call ended for who makes it."""
        waited = error.code is StatusCode.DEADLINE_EXCEEDED and not error.sent
        away = error.code is StatusCode.UNAVAILABLE or (waited and channel.is_unreachable)
        if self._channels is not None and away:
            self._channels.unreachable(channel)
        if not isinstance(error, ChannelClosed):
            return error
        given_up = RpcError(StatusCode.UNAVAILABLE, f"the server {channel.target} was given up for another")
        return given_up if error.sent else given_up.unsent()


async def _pause(channel: Channel, error: RpcError, delay: float) -> None:
    """Wait before a call is made again: `delay` seconds, or until there is the connection that it lacked."""
    if error.sent or reason_of(error)[0]:
        await asyncio.sleep(delay)
        return
    try:
        await channel.wait_ready(delay)
    except RpcError:
        pass  # there is none; the next attempt says why


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def pages(
    caller: Caller,
    request: Message,
    response: type[M],
    items: Callable[[M], Any],
    repeat: Repeat = Repeat.READ,
) -> AsyncIterator[Any]:
    """Make a call page after page, and yield what is on them. `request` is changed."""
    while True:
        page: Any = await caller.call(request, response, repeat)
        for item in items(page):
            yield item
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token  # type: ignore[attr-defined] # every listing request has one
