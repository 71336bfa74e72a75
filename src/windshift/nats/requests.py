"""Requests and their replies, all through one inbox.

A request costs a publish and a table entry: one wildcard subscription serves all replies, and there is no
task and no timer per request. Requests whose deadlines fall into the same few milliseconds share a slot, so
finding the overdue ones costs the others nothing. The caller's handler is called exactly once, in the event
loop, with the reply's body or the reason why there is none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from heapq import heappop, heappush
from time import perf_counter
from typing import Final, TypeAlias

from windshift.nats.budget import Budget, Share
from windshift.nats.connection import Connection
from windshift.nats.errors import NotConnected
from windshift.nats.headers import NO_RESPONDERS
from windshift.nats.protocol import Message

log = logging.getLogger(__name__)


class NoReply(Enum):
    """Why there is no answer."""

    NO_RESPONDERS = "nobody listens to the subject; the message is gone"
    TIMED_OUT = "no answer in time; the message may have arrived"
    DISCONNECTED = "the connection ended; the message may have arrived"
    UNANSWERING = "whoever gets the message does not answer; it may have arrived"
    FORBIDDEN = "the server does not let this user send that; the message is gone"


Outcome: TypeAlias = bytes | NoReply
Handler: TypeAlias = Callable[[Outcome], None]
Token: TypeAlias = bytes
"""The last token of the subject that an answer is awaited on."""

_SLOTS_PER_SECOND: Final = 50
_LATE: Final = 10.0
"""Seconds for which an answer that nobody waits for any more may still be on its way."""


_Waiting: TypeAlias = tuple[Handler, bytes, set[Token]]
"""Who is to be told, the request's subject, and all tokens of the slot that its deadline falls into."""


class Requests:
    """Sends requests, and hands out the answers. To be made in a running event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Asked for once: before Python 3.12 each get_running_loop costs a system call.
        self.loop = asyncio.get_running_loop()
        self._prefix = connection.inbox() + b"."
        self._prefix_length = len(self._prefix)
        self._last_token = 0
        self._waiting: dict[Token, _Waiting] = {}
        self._slots: dict[int, set[Token]] = {}
        self._due: list[int] = []  # the numbers of the slots, a heap
        self._timer: asyncio.TimerHandle | None = None
        connection.on_lost.append(self._fail_all)
        connection.violations.on_publish.append(self._fail_first)
        connection.subscribe(self._prefix + b"*", self._on_message, is_vital=True)

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, subject: bytes, body: bytes, headers: bytes, handler: Handler, deadline: float) -> Token:
        """Publish a request; `handler` is called once, at `deadline` (loop time) or 20 ms later at most.

        Return a token for `forget`. Raise `NotConnected`, and do not call it, when there is no connection:
        nothing was sent; `MessageTooLarge` likewise.
        """
        self._last_token += 1
        token = b"%d" % self._last_token
        self._connection.publish(subject, body, headers, self._prefix + token)
        self._wait(token, handler, subject, deadline)
        return token

    def forget(self, token: Token) -> None:
        """Never call the handler of this request."""
        waiting = self._waiting.pop(token, None)
        if waiting is not None:
            waiting[2].discard(token)

    async def request(self, subject: bytes, body: bytes, headers: bytes, deadline: float) -> Outcome:
        """Publish a request and wait for its answer until `deadline` (loop time).

        Raise `NotConnected` when there is no connection, or `MessageTooLarge`: nothing was sent.
        """
        answer: asyncio.Future[Outcome] = self.loop.create_future()
        token = self.send(subject, body, headers, answer.set_result, deadline)
        try:
            return await answer
        except asyncio.CancelledError:
            self.forget(token)
            raise

    async def request_within(
        self, budget: Budget, share: Share, subject: bytes, body: bytes, deadline: float
    ) -> Outcome:
        """Do what `request` does with a share of a budget for the answer, and give that back.

        An answer that is waited for no more is on its way all the same, and keeps its share for a while.
        """
        answer: asyncio.Future[Outcome] = self.loop.create_future()
        token, late = b"", False
        try:
            token = self.send(subject, body, b"", answer.set_result, deadline)
            outcome = await answer
            late = outcome is NoReply.TIMED_OUT
        except asyncio.CancelledError:
            late = token in self._waiting
            self.forget(token)
            raise
        finally:
            if late:
                self._keep(token, subject, budget, share)
            else:
                budget.give_back(share)
        return outcome

    def _keep(self, token: Token, subject: bytes, budget: Budget, share: Share) -> None:
        self._wait(token, lambda _: budget.give_back(share), subject, self.loop.time() + _LATE)

    def wait_on(self, token: Token, subject: bytes, deadline: float) -> asyncio.Future[Outcome]:
        """Return what becomes of a request whose time was over, and which is waited for after all."""
        answer: asyncio.Future[Outcome] = self.loop.create_future()
        self._wait(token, answer.set_result, subject, deadline)
        return answer

    async def round_trip(self, deadline: float) -> float | None:
        """Measure in seconds how long a message to the server and back takes.

        None when it did not come back by `deadline` (loop time), or there is no connection.
        """
        begun = perf_counter()  # uvloop's time has milliseconds
        own = self._prefix + b"%d" % (self._last_token + 1)  # where the answer to this request is awaited
        try:
            outcome = await self.request(own, b"", b"", deadline)
        except NotConnected:
            return None
        return perf_counter() - begun if isinstance(outcome, bytes) else None

    def _on_message(self, message: Message) -> None:
        token = message.subject[self._prefix_length :]
        waiting = self._waiting.pop(token, None)
        if waiting is None:
            return  # late, or somebody else's
        handler, _, slot = waiting
        slot.discard(token)
        headers = message.headers
        try:
            handler(NoReply.NO_RESPONDERS if headers and headers.startswith(NO_RESPONDERS) else message.body)
        except asyncio.InvalidStateError:
            pass  # see `_call`; the wire logs what else a receiver raises

    # --- Time ---------------------------------------------------------------------------------------------

    def _wait(self, token: Token, handler: Handler, subject: bytes, deadline: float) -> None:
        number = int(deadline * _SLOTS_PER_SECOND) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = set()
            heappush(self._due, number)
            if self._due[0] == number:
                self._arm()
        slot.add(token)
        self._waiting[token] = handler, subject, slot

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(self._due[0] / _SLOTS_PER_SECOND, self._sweep)

    def _sweep(self) -> None:
        """Fail who waits in slots whose time is over."""
        self._timer = None
        now = self.loop.time() * _SLOTS_PER_SECOND
        over: list[set[Token]] = []
        while self._due and self._due[0] <= now:
            over.append(self._slots.pop(heappop(self._due)))
        for slot in over:  # and not who begins to wait meanwhile
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
        """Fail what was sent first to this subject: the server forbids messages in their order."""
        token = next((token for token, waiting in self._waiting.items() if waiting[1] == subject), None)
        if token is not None:
            handler = self._waiting[token][0]
            self.forget(token)
            _call(handler, NoReply.FORBIDDEN)


def _call(handler: Handler, outcome: Outcome) -> None:
    try:
        handler(outcome)
    except asyncio.InvalidStateError:
        pass  # a future's `set_result`, whose task was cancelled in this very turn of the loop
    except Exception:
        log.exception("a handler of a NATS reply failed")
