"""A write that takes no task, as long as the broker's first answer settles it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from windshift.nats import NatsError, Outcome
from windshift.nats.jetstream.acks import PubAck
from windshift.nats.jetstream.writes import Attempt, Write, Writes
from windshift.server.broker.asking import asking


class Call(Protocol):
    """A call that waits for what becomes of a write."""

    def answer(self, response: Any, /) -> None:
        """Give it its response."""

    def go_on(self, work: Callable[[], Awaitable[Any]], /) -> None:
        """Have a task do what this returns, whose result is the response."""


class Storing(ABC):
    """A write for a call. One object costs less than the functions in its place."""

    __slots__ = ("_attempt", "_call", "_write", "_writes")

    _writes: Writes
    _write: Write
    _call: Call
    _attempt: Attempt

    @abstractmethod
    def response(self, sequence: int) -> Any:
        """Return the response when it is stored, which is to be sent at once."""

    @abstractmethod
    async def finish(self, storing: Awaitable[PubAck]) -> Any:
        """Wait for the acknowledgement, in a task; return the response, or raise what the client is told."""

    @abstractmethod
    def abandoned(self) -> None:
        """Note that nobody waits for it any more."""

    def begin(self, writes: Writes, write: Write, call: Call) -> Callable[[], None]:
        """Send it. Return what abandons it until the call is answered, or a task has begun."""
        self._writes = writes
        self._write = write
        self._call = call
        try:
            self._attempt = writes.begin(write, self._take)
        except NatsError:
            self._go_on(lambda: writes.write(write))
            return self.abandoned
        return self.abandon

    def _take(self, outcome: Outcome) -> None:
        """Answer the call, or go on with what was not settled by the outcome."""
        sequence = self._writes.stored(self._attempt, outcome)
        if sequence is not None:
            self._call.answer(self.response(sequence))
        else:
            word = self._writes.wait_on(self._write, self._attempt, outcome)
            self._go_on(lambda: self._writes.finish(self._write, self._attempt, word))

    def _go_on(self, storing: Callable[[], Awaitable[PubAck]]) -> None:
        self._call.go_on(lambda: self._rest(storing))

    async def _rest(self, storing: Callable[[], Awaitable[PubAck]]) -> Any:
        """Do the rest, on behalf of who made the call."""
        asking.set(self._write.asker)
        return await self.finish(storing())

    def abandon(self) -> None:
        """Let go of it."""
        self._writes.abandon(self._attempt)
        self.abandoned()
