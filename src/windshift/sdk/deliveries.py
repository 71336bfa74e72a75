"""One attempt to hand over an event, and what may become of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from .errors import Undecodable, UnknownType
from .events import Event
from .times import Seconds, seconds

T = TypeVar("T")
R = TypeVar("R")

_LONGEST_DELAY = 100 * 365 * 86_400
"""Seconds; the server takes a little more."""
_log = logging.getLogger("windshift")


class Outcome(Enum):
    """What is to become of an event."""

    ACK = 0
    """It is settled."""
    RETRY = 1
    """It is delivered again, after a time."""
    DEAD_LETTER = 2
    """It becomes a dead letter."""
    DROP = 3
    """It is not delivered again, and leaves no dead letter."""


class Verdict(NamedTuple):
    """What is to become of an event, and why.

    Attributes:
        outcome: what.
        reason: text for people; the server keeps 1,024 characters.
        error_type: the kind of failure; the server keeps 256 characters.
        delay: seconds until a retry; None = as the consumer's policy says.
    """

    outcome: Outcome
    reason: str = ""
    error_type: str = ""
    delay: float | None = None


ACK = Verdict(Outcome.ACK)


class Rejection(Exception):
    """Raised by a handler to say what is to become of its event."""

    outcome: Outcome

    def __init__(self, reason: object = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.delay: float | None = None


class RetryLater(Rejection):
    """Deliver the event again, after `delay`; None = as the consumer's policy says.

    Raises:
        ValueError: the delay is below 0, or longer than a hundred years.
    """

    outcome = Outcome.RETRY

    def __init__(self, reason: object = "", *, delay: Seconds | None = None) -> None:
        super().__init__(reason)
        self.delay = delay_of(delay)


class GiveUp(Rejection):
    """Keep the event as a dead letter, if the consumer keeps any, and do not deliver it again."""

    outcome = Outcome.DEAD_LETTER


class Drop(Rejection):
    """Do not deliver the event again, and keep nothing."""

    outcome = Outcome.DROP


def verdict_of(error: BaseException) -> Verdict:
    """Say what becomes of an event whose handler raised this."""
    if isinstance(error, Rejection):
        return Verdict(error.outcome, _text(error.reason), _kind(error.__cause__ or error), error.delay)
    undecodable = isinstance(error, UnknownType | Undecodable)
    return failure(error, Outcome.DEAD_LETTER if undecodable else Outcome.RETRY)


def failure(error: BaseException, outcome: Outcome, delay: float | None = None) -> Verdict:
    """Return a verdict that keeps the text and the kind of an exception."""
    return Verdict(outcome, _text(error), _kind(error), delay)


def delay_of(delay: Seconds | None) -> float | None:
    """Return a delay in seconds.

    Raises:
        ValueError: it is below 0, or longer than a hundred years.
    """
    if delay is None:
        return None
    if not 0 <= (wait := seconds(delay)) <= _LONGEST_DELAY:
        raise ValueError(f"a delay is from 0 to {_LONGEST_DELAY:,} seconds, not {delay!r}")
    return wait


def _text(reason: object) -> str:
    """Return a reason as it can be sent: names of files may have characters in them that UTF-8 has not."""
    try:
        text = str(reason)
    except Exception:  # noqa: BLE001 -- it is the program's own, and may not be able to say anything
        text = "its text cannot be had"
    return text[:1024].encode("utf-8", "backslashreplace").decode()


def _kind(error: BaseException) -> str:
    return type(error).__qualname__[:256]


class Settler(Protocol):
    """Who settles deliveries: a subscription."""

    async def settle(self, job: Any, verdict: Verdict) -> None:
        """Settle what a job handles, and wait for the confirmation."""

    def give_back(self, job: Any, verdict: Verdict) -> None:
        """Settle what a job handles without waiting, unless it is about to be released with all others."""

    def ping(self, job: Any) -> None:
        """Ask for more time now."""

    async def in_thread(self, job: Any, function: Callable[[], R]) -> R:
        """Run a function of the handler in a thread."""
        ...


class Delivery(Generic[T]):
    """One attempt to hand over an event.

    Its lease is prolonged by itself, up to `max_lease`. `async with delivery:` settles it: it is
    acknowledged at the end of the block; an exception rejects it, is logged, and goes no further. A block
    that is cancelled rejects it, too.

    Attributes:
        event: the event.
        lost: somebody else may have the event by now; what the handler does may be done twice.
    """

    __slots__ = ("_job", "_settled", "_settler", "event", "lost")

    def __init__(self, event: Event[T], settler: Settler, job: Any) -> None:
        self.event = event
        self.lost = False
        self._settler = settler
        self._job = job
        self._settled = False

    async def ack(self) -> None:
        """Settle the event, and wait until that is stored.

        Raises:
            LeaseLost: somebody else has the event, or will get it.
            NotSettled: the subscription ended before that was stored; the event may come again.
        """
        await self._settle(ACK)

    async def retry(self, reason: str = "", *, delay: Seconds | None = None) -> None:
        """Have the event delivered again, after `delay` or by the consumer's policy; see `ack` for errors."""
        await self._settle(Verdict(Outcome.RETRY, _text(reason), delay=delay_of(delay)))

    async def dead_letter(self, reason: str = "") -> None:
        """Keep the event as a dead letter; see `ack` for errors."""
        await self._settle(Verdict(Outcome.DEAD_LETTER, _text(reason)))

    async def drop(self, reason: str = "") -> None:
        """Have the event not delivered again, and keep nothing; see `ack` for errors."""
        await self._settle(Verdict(Outcome.DROP, _text(reason)))

    def ping(self) -> None:
        """Ask for more time now, before work that blocks the event loop."""
        self._settler.ping(self._job)

    async def in_thread(self, function: Callable[[], R]) -> R:
        """Run a part of the handler that blocks in a thread of the subscription, with the same context.

        At `max_lease` a thread cannot be cancelled: then its event goes to others.
        """
        return await self._settler.in_thread(self._job, function)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            if not self._settled:
                await self.ack()
            return False
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return False  # the process ends, and its events are released
        if not isinstance(error, Exception):
            self._settler.give_back(self._job, failure(error, Outcome.RETRY))
            return False
        verdict = verdict_of(error)
        log_failure(self.event, verdict, error)
        if not self._settled:
            await self._settle(verdict)
        return True

    async def _settle(self, verdict: Verdict) -> None:
        self._settled = True
        await self._settler.settle(self._job, verdict)


def log_failure(event: Event[Any], verdict: Verdict, error: BaseException | None) -> None:
    """Log that an attempt failed."""
    trace = None if error is None or isinstance(error, Rejection) else error
    _log.warning(
        "event %d on %s, attempt %d: %s: %s",
        event.id,
        event.subject,
        event.attempt,
        verdict.outcome.name.lower().replace("_", " "),
        verdict.reason or verdict.error_type,
        exc_info=trace,
    )
