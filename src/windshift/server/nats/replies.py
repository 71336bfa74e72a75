"""Answers from NATS, all through one inbox.

Asking costs one dictionary entry and one publish: there is one wildcard subscription for all answers, no task
per message and no timer per request (one sweep looks for those that are overdue). Whoever asks gives a
function that is called exactly once, from the event loop, with the answer's body or with the reason why there
is none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from enum import Enum
from functools import partial
from time import perf_counter
from typing import Final

from nats.aio.msg import Msg

from windshift.server.nats.connection import Connection, NotConnected

log = logging.getLogger(__name__)

NO_RESPONDERS_STATUS: Final = "503"


class NoReply(Enum):
    """Why there is no answer."""

    NO_RESPONDERS = "nobody listens to the subject; the message is gone"
    TIMED_OUT = "no answer in time; the message may have arrived"
    DISCONNECTED = "the connection ended; the message may have arrived"
    UNANSWERING = "who gets the message answers nobody; it may have arrived"
    FORBIDDEN = "the broker does not let this server's user send that; the message is gone"


Outcome = bytes | NoReply
Handler = Callable[[Outcome], None]
Judge = Callable[[str, float], Awaitable[NoReply | None]]
"""Says of a subject, by a deadline, why nothing that is sent to it will be answered; `None` if it may be."""


class Replies:
    """Sends messages that are answered, and hands out the answers. To be made in a running event loop."""

    def __init__(
        self, connection: Connection, sweep_interval: timedelta = timedelta(milliseconds=20)
    ) -> None:
        self._connection = connection
        self._sweep_interval = sweep_interval.total_seconds()
        self._sweep_timer: asyncio.TimerHandle | None = None
        # Asked for once: before Python 3.12 each get_running_loop costs a system call.
        self.loop = asyncio.get_running_loop()
        self._prefix = connection.inbox() + "."
        self._prefix_length = len(self._prefix)
        self._last_token = 0
        self._waiting: dict[str, tuple[float, Handler, str]] = {}
        connection.on_lost.append(self._fail_all)
        connection.violations.on_publish.append(self._fail_first)

    async def start(self) -> None:
        """Subscribe to the inbox; before that nothing may be sent."""
        await self._connection.subscribe(self._prefix + "*", self._on_message, is_vital=True)

    def __len__(self) -> int:
        return len(self._waiting)

    def send(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str] | None,
        handler: Handler,
        deadline: float,
    ) -> str:
        """Publish a message; `handler` is called once, at `deadline` (loop time) or a sweep later at most.

        Raise `NotConnected`, and do not call it, when there is no connection: nothing was sent.
        Return a token for `forget`.
        """
        self._last_token += 1
        token = str(self._last_token)
        self._connection.publish(subject, payload, headers, self._prefix + token)
        self._waiting[token] = (deadline, handler, subject)
        if self._sweep_timer is None:
            self._arm()
        return token

    def forget(self, token: str) -> None:
        """Never call the handler of this message."""
        self._waiting.pop(token, None)

    async def request(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str] | None,
        deadline: float,
    ) -> Outcome:
        """Publish a message and wait for its answer until `deadline` (loop time).

        Raise `NotConnected` when there is no connection: nothing was sent.
        """
        future = self.loop.create_future()
        token = self.send(subject, payload, headers, partial(_resolve, future), deadline)
        try:
            outcome: Outcome = await future
        except asyncio.CancelledError:
            self.forget(token)
            raise
        return outcome

    async def patient_request(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str] | None,
        doubt_at: float,
        deadline: float,
        judge: Judge,
    ) -> Outcome:
        """Do what `request` does, but wonder at `doubt_at` (loop time) whether an answer will ever come.

        `judge` is then asked, with subject and deadline; what it says is the outcome, unless that is `None`.
        The broker itself says `NO_RESPONDERS` only where nobody at all listens to a subject.
        """
        future = self.loop.create_future()
        token = self.send(subject, payload, headers, partial(_resolve, future), min(doubt_at, deadline))
        try:
            outcome: Outcome = await future
            if outcome is NoReply.TIMED_OUT and doubt_at < deadline:
                outcome = await self._doubt(token, subject, deadline, judge)
        except asyncio.CancelledError:
            self.forget(token)
            raise
        return outcome

    async def _doubt(self, token: str, subject: str, deadline: float, judge: Judge) -> Outcome:
        """Wait on, and see meanwhile whether that is of any use."""
        future: asyncio.Future[Outcome] = self.loop.create_future()
        self._waiting[token] = (deadline, partial(_resolve, future), subject)
        if self._sweep_timer is None:
            self._arm()
        judgement = await judge(subject, deadline)
        if judgement is not None and not future.done():
            self.forget(token)
            return judgement
        return await future

    async def round_trip(self, deadline: float) -> float | None:
        """Measure in seconds how long a message to the broker and back takes.

        None when it did not come back by `deadline` (loop time), or there is no connection.
        """
        begun = perf_counter()  # uvloop's time has milliseconds
        own = f"{self._prefix}{self._last_token + 1}"  # where the answer to this very request is awaited
        try:
            outcome = await self.request(own, b"", None, deadline)
        except NotConnected:
            return None
        return perf_counter() - begun if isinstance(outcome, bytes) else None

    def _on_message(self, message: Msg) -> None:
        waiting = self._waiting.pop(message.subject[self._prefix_length :], None)
        if waiting is None:
            return  # late, or somebody else's
        headers = message.headers
        # nats-py garbles the description of a bare status line: nothing but the status may be looked at.
        if headers is not None and headers.get("Status") == NO_RESPONDERS_STATUS:
            _call(waiting[1], NoReply.NO_RESPONDERS)
        else:
            _call(waiting[1], message.data)

    def _arm(self) -> None:
        self._sweep_timer = self.loop.call_later(self._sweep_interval, self._sweep)

    def _sweep(self) -> None:
        self._sweep_timer = None
        now = self.loop.time()
        overdue = [token for token, (deadline, _, _) in self._waiting.items() if deadline <= now]
        for token in overdue:
            _call(self._waiting.pop(token)[1], NoReply.TIMED_OUT)
        if self._waiting:
            self._arm()

    def _fail_all(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for _, handler, _ in waiting.values():
            _call(handler, NoReply.DISCONNECTED)

    def _fail_first(self, subject: str) -> None:
        """Fail what was sent first to this subject: the broker forbids messages in their order."""
        token = next((token for token, (_, _, sent_to) in self._waiting.items() if sent_to == subject), None)
        if token is not None:
            _call(self._waiting.pop(token)[1], NoReply.FORBIDDEN)


def _resolve(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():  # cancelled in this very turn of the loop
        future.set_result(outcome)


def _call(handler: Handler, outcome: Outcome) -> None:
    try:
        handler(outcome)
    except Exception:
        log.exception("a handler of a NATS reply failed")
