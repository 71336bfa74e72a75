"""Requests and their replies, all through one inbox.

A request costs a publish and a table entry: one wildcard subscription serves all replies, and there is no
task and no timer per request. Requests whose deadlines fall into the same few milliseconds share a slot, so
finding the overdue ones costs the others nothing. The caller's handler is called exactly once, in the event
loop, with the reply's body or the reason why there is none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from enum import Enum
from heapq import heappop, heappush
from math import inf
from time import perf_counter
from typing import Final, TypeAlias

from windshift.nats.budget import Share
from windshift.nats.connection import Connection
from windshift.nats.errors import NotConnected
from windshift.nats.headers import NO_RESPONDERS
from windshift.nats.protocol import Message

log = logging.getLogger(__name__)


class NoReply(Enum):
    """Why there is no reply."""

    NO_RESPONDERS = "nobody listens to the subject; the message is gone"
    TIMED_OUT = "no answer in time; the message may have arrived"
    DISCONNECTED = "the connection ended; the message may have arrived"
    UNANSWERING = "whoever gets the message does not answer; it may have arrived"
    FORBIDDEN = "the server does not let this user send that; the message is gone"
    NOT_TAKEN = "the batch that it is of ended before it; the message is gone"


Outcome: TypeAlias = bytes | NoReply
Handler: TypeAlias = Callable[[Outcome], None]
Token: TypeAlias = bytes
"""The last token of a reply subject."""

_SLOTS_PER_SECOND: Final = 50
_LATE: Final = 10.0
"""Seconds for which the reply to an abandoned request may still arrive."""


_Waiting: TypeAlias = tuple[Handler, bytes, set[Token]]
"""The handler, the request's subject, and all tokens in the slot of its deadline."""


class Requests:
    """Sends requests and passes on the replies. Must be created in a running event loop.

    Attributes:
        connection: what they are sent on.
        loop: the event loop.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        # Asked for once: before Python 3.12 each get_running_loop costs a system call.
        self.loop = asyncio.get_running_loop()
        self._prefix = connection.inbox() + b"."
        self._prefix_length = len(self._prefix)
        self._last_token = 0
        self._waiting: dict[Token, _Waiting] = {}
        self._slots: dict[float, set[Token]] = {}
        self._slot: set[Token] = set()  # that of the deadline before: requests sent together have the same
        self._slot_deadline = -inf
        self._due: list[float] = []  # the numbers of the slots, a heap
        self._timer: asyncio.TimerHandle | None = None
        connection.on_lost.append(self._fail_all)
        connection.violations.on_publish.append(self._fail_first)
        connection.subscribe(self._prefix + b"*", self._on_message, self._on_run, is_vital=True)

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, subject: bytes, body: bytes, headers: bytes, handler: Handler, deadline: float) -> Token:
        """Send a request; `handler` is called once, at most 20 ms after `deadline` (loop time).

        Return a token for `forget`. Raise `NotConnected` or `MessageTooLarge` if nothing was sent; then the
        handler is not called.
        """
        self._last_token += 1
        token = b"%d" % self._last_token
        self.connection.publish(subject, body, headers, self._prefix + token)
        if deadline != self._slot_deadline:  # as `_wait` does: calls cost on the hot path
            self._find_slot(deadline)
        slot = self._slot
        slot.add(token)
        self._waiting[token] = handler, subject, slot
        return token

    def forget(self, token: Token) -> bool:
        """Cancel a request: its handler is never called. Return whether it was waited for."""
        waiting = self._waiting.pop(token, None)
        if waiting is None:
            return False
        waiting[2].discard(token)
        return True

    async def request(self, subject: bytes, body: bytes, headers: bytes, deadline: float) -> Outcome:
        """Send a request and wait for its reply until `deadline` (loop time).

        Raise `NotConnected` or `MessageTooLarge` if nothing was sent.
        """
        answer: asyncio.Future[Outcome] = self.loop.create_future()
        token = self.send(subject, body, headers, answer.set_result, deadline)
        try:
            return await answer
        except asyncio.CancelledError:
            self.forget(token)
            raise

    async def request_within(self, share: Share, subject: bytes, body: bytes, deadline: float) -> Outcome:
        """Like `request`, with a share of a budget for the reply.

        It is given back if there is none; that of a reply is the caller's, who has it in memory. An abandoned
        reply may still arrive, so it keeps its share for a while.
        """
        answer: asyncio.Future[Outcome] = self.loop.create_future()
        token, late = b"", False
        outcome: Outcome = NoReply.DISCONNECTED
        try:
            token = self.send(subject, body, b"", answer.set_result, deadline)
            outcome = await answer
            late = outcome is NoReply.TIMED_OUT
        except asyncio.CancelledError:
            late = self.forget(token)
            raise
        finally:
            if not isinstance(outcome, bytes):
                self.release(share, token, subject, is_late=late)
        return outcome

    def release(self, share: Share, token: Token, subject: bytes, *, is_late: bool) -> None:
        """Let go of a share whose reply has not come; one that may come late keeps it for a while."""
        if is_late:
            share.leave()
            self._wait(token, lambda _: share.give_back(), subject, self.loop.time() + _LATE)
        else:
            share.give_back()

    def wait_on(self, token: Token, subject: bytes, deadline: float) -> asyncio.Future[Outcome]:
        """Wait longer for a request whose deadline has passed; to be called in its handler."""
        answer: asyncio.Future[Outcome] = self.loop.create_future()
        self._wait(token, answer.set_result, subject, deadline)
        return answer

    async def round_trip(self, deadline: float) -> float | None:
        """Measure the round-trip time of a message to the server, in seconds.

        None if it did not return by `deadline` (loop time), or there is no connection.
        """
        begun = perf_counter()  # uvloop's clock has a resolution of 1 ms
        own = self._prefix + b"%d" % (self._last_token + 1)  # where the answer to this request is awaited
        try:
            outcome = await self.request(own, b"", b"", deadline)
        except NotConnected:
            return None
        return perf_counter() - begun if isinstance(outcome, bytes) else None

    def _on_message(self, message: Message) -> None:
        self._on_run((message.subject[self._prefix_length :],), (reply_of(message),))

    def _on_run(self, tokens: Sequence[Token], replies: Sequence[bytes | NoReply]) -> None:
        pop = self._waiting.pop
        for token, reply in zip(tokens, replies, strict=True):
            waiting = pop(token, None)
            if waiting is not None:  # else it is late, or not ours
                handler, _, slot = waiting
                slot.discard(token)
                try:  # as `_call` does: calls cost on the hot path
                    handler(reply)
                except Exception as error:  # noqa: BLE001 - it is logged
                    _note(error)

    # --- Time ---------------------------------------------------------------------------------------------

    def _wait(self, token: Token, handler: Handler, subject: bytes, deadline: float) -> None:
        if deadline != self._slot_deadline:
            self._find_slot(deadline)
        slot = self._slot
        slot.add(token)
        self._waiting[token] = handler, subject, slot

    def _find_slot(self, deadline: float) -> None:
        number = deadline * _SLOTS_PER_SECOND // 1 + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = set()
            heappush(self._due, number)
            if self._due[0] == number:
                self._arm()
        self._slot, self._slot_deadline = slot, deadline

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(self._due[0] / _SLOTS_PER_SECOND, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        self._slot_deadline = -inf
        now = self.loop.time() * _SLOTS_PER_SECOND
        over: list[set[Token]] = []
        while self._due and self._due[0] <= now:
            over.append(self._slots.pop(heappop(self._due)))
        for slot in over:  # but not requests sent meanwhile
            while slot:
                _call(self._waiting.pop(slot.pop())[0], NoReply.TIMED_OUT)
        if self._due:
            self._arm()

    # --- Failures -----------------------------------------------------------------------------------------

    def _fail_all(self) -> None:
        for token in list(self._waiting):
            waiting = self._waiting.get(token)
            if waiting is not None:
                self.forget(token)
                _call(waiting[0], NoReply.DISCONNECTED)

    def _fail_first(self, subject: bytes) -> None:
        """Fail the first request to this subject: the server reports violations in order."""
        token = next((token for token, waiting in self._waiting.items() if waiting[1] == subject), None)
        if token is not None:
            handler = self._waiting[token][0]
            self.forget(token)
            _call(handler, NoReply.FORBIDDEN)


def reply_of(message: Message) -> bytes | NoReply:
    """Return the payload of a reply, or that nobody was there to give one."""
    return NoReply.NO_RESPONDERS if message.headers.startswith(NO_RESPONDERS) else message.body


def _call(handler: Handler, outcome: Outcome) -> None:
    try:
        handler(outcome)
    except Exception as error:  # noqa: BLE001 - it is logged
        _note(error)


def _note(error: Exception) -> None:
    """Log what a handler raised; not that a future has no use for a result, whose task was just cancelled."""
    if not isinstance(error, asyncio.InvalidStateError):
        log.error("a handler of a NATS reply failed", exc_info=error)
