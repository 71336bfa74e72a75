"""What a consume call cannot take for granted at the moment, and what to ask about it. No I/O, no clock.

JetStream says little of what happens to it. A nats-server that was killed has forgotten its last moments,
another leader delivers again what is held, and anybody may change, move or delete the consumer. Whatever
happens brings some of the things into doubt that a call relies on: see `Doubt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, Flag, auto
from math import inf
from typing import Final

from windshift.server.events.consuming.flow import InFlight
from windshift.server.events.consuming.pending_acks import PendingAck

VOUCHED_FOR: Final = 2.0
"""Seconds within which it is noticed that a replicated consumer has another leader."""
_MOST_VOUCHED: Final = 10_000
_INSTANT: Final = 1e-6
"""Seconds that are added to the time, so that what happens next is later even by the same clock reading."""


class Doubt(Flag):
    """What may be in doubt; several things at once."""

    CONSUMER = auto()
    """Whether the consumer is as it was seen last. It is looked up, once: see `Question`."""
    DEAD_LETTERS = auto()
    """Which events have ended that the broker may deliver all the same. The consumer is looked up until the
    broker answers, and no inbox is opened before."""
    RUN = auto()
    """Whether somebody has moved the consumer. Acknowledgements wait until it was seen."""
    DELIVERIES = auto()
    """Whether another delivery can exist of what is held, and who gets what was sent to the broker: another
    of its servers may speak."""
    SETTLEMENTS = auto()
    """Whether the broker still knows what it confirmed last."""
    DELIVERED = auto()
    """Whether the broker still knows what it delivered."""
    REQUESTS = auto()
    """Whether the broker has the pull requests. Others are made, by way of a fresh inbox."""


# --- What brings what into doubt --------------------------------------------------------------------------

ANOTHER_CONNECTION: Final = Doubt.DELIVERIES | Doubt.DEAD_LETTERS | Doubt.RUN | Doubt.REQUESTS
ANOTHER_PROCESS: Final = ANOTHER_CONNECTION | Doubt.DELIVERED
"""There is another connection, and the only nats-server that has the consumer may have been restarted."""
ANOTHER_LEADER: Final = Doubt.DELIVERIES | Doubt.SETTLEMENTS | Doubt.REQUESTS
RESTARTED: Final = ANOTHER_LEADER | Doubt.DELIVERED
"""A consumer that is not replicated has a leader: its nats-server was restarted."""
UNHEARD: Final = ANOTHER_LEADER | Doubt.CONSUMER
"""Nobody answers pull requests: the consumer has no leader, or is gone."""
MISSED: Final = Doubt.CONSUMER | Doubt.RUN
"""The consumer may have been moved: this was asleep, or deliveries are counted from the beginning."""


# --- Asking -----------------------------------------------------------------------------------------------


class Question(Enum):
    """Where a question to the broker stands, which is asked once at a time."""

    ANSWERED = "nothing is in doubt"
    OPEN = "to be asked"
    ASKED = "the answer will do"
    ASKED_EARLY = "it is to be asked again: the answer may be from before"

    @property
    def is_open(self) -> bool:
        """Whether something is in doubt that no answer under way clears up."""
        return self in (Question.OPEN, Question.ASKED_EARLY)

    def raised(self) -> Question:
        """Return the state when the matter comes into doubt."""
        return Question.OPEN if self in (Question.ANSWERED, Question.OPEN) else Question.ASKED_EARLY

    def answered(self) -> Question:
        """Return the state when an answer has come, or will not come."""
        return Question.OPEN if self.is_open else Question.ANSWERED


# --- How old a delivery may be ----------------------------------------------------------------------------


class Recency:
    """Since when, at the earliest, a delivery that arrives now has been on its way.

    The broker's timeout begins when it sends a delivery, the way may be stalled, and the message does not say
    when it was sent. But the broker sends only what was asked for. And what it says of one consumer arrives
    in order, so a delivery that comes after the answer to an acknowledgement was sent after that had arrived.
    This holds while the same server of a cluster speaks: hence `distrust`, and `heard`.
    """

    __slots__ = ("_answered", "_asked", "_is_asked_for", "_latest", "_opened")

    def __init__(self) -> None:
        self._opened = inf  # not yet
        self._asked = self._answered = self._latest = -inf
        self._is_asked_for = False

    def distrust(self) -> None:
        """Note that another server of the broker may speak: nothing is known before the next `opened`."""
        self._opened = inf
        self._asked = self._answered = -inf
        self._is_asked_for = False

    def opened(self, now: float) -> None:
        """Note that deliveries come by way of another inbox, and were all asked for from now on.

        Those that have arrived must have been taken in.
        """
        self._opened = self._asked = now
        self._answered = -inf
        self._is_asked_for = True

    def asked(self, now: float) -> None:
        """Note a request while the broker had no other."""
        if self._is_asked_for:
            self._asked = now

    def refused(self) -> None:
        """Note that the broker may have requests that were counted as lost."""
        self._is_asked_for = False

    def answered(self, since: float) -> None:
        """Note the answer to an ack or a termination that was sent at `since` or later.

        It counts from the next `taken_in` on: what has arrived by then may have been sent before.
        """
        self._latest = max(self._latest, since)

    def taken_in(self) -> None:
        """Note that everything that has arrived was taken in."""
        if self._latest > self._answered and self._latest >= self._opened:
            self._answered = self._latest

    def earliest(self, heard: float) -> float:
        """Return the moment; `heard` is when the inbox got something last."""
        return max(self._asked, min(self._answered, heard))


# --- All of it --------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Doubts:
    """What is in doubt in one call.

    Attributes:
        consumer: whether to look the consumer up.
        dead_letters: whether to learn which events are dead letters, and to look the consumer up for certain.
        moved: whether somebody may have moved the consumer, unheard. Until it was seen, acknowledgements
            wait, and what comes is kept.
        asked_at: when one of these questions was asked last.
        is_deleted: whether the consumer was said to be deleted.
        withheld: acknowledgements that wait until it is known whether the consumer was moved.
        changes: how often another server of the broker may have begun to speak.
        trusted_since: nothing has happened since that has the broker deliver early what it had delivered.
        forgetful_until: the broker may have forgotten what it delivered before.
        recency: how old deliveries are.
        highest: the latest delivery of the consumer that has come, by its count.
    """

    dead_letters: Question
    consumer: Question = Question.ANSWERED
    moved: bool = False
    asked_at: float = -inf
    is_deleted: bool = False
    withheld: list[PendingAck] = field(default_factory=list)
    changes: int = 0
    trusted_since: float = -inf
    forgetful_until: float = -inf
    recency: Recency = field(default_factory=Recency)
    highest: int = 0
    # Confirmed by the answer to a later ack, and when: replies. Those that may be lost are sent again
    _vouched: list[tuple[float, Sequence[bytes]]] = field(default_factory=list)
    _vouched_count: int = 0  # of the replies
    _lost: tuple[bytes, ...] = ()

    def add(self, doubt: Doubt, now: float) -> None:
        """Note what is in doubt from now on."""
        if Doubt.CONSUMER in doubt:
            self.consumer = self.consumer.raised()
        if Doubt.DEAD_LETTERS in doubt:
            self.dead_letters = self.dead_letters.raised()
        if Doubt.RUN in doubt:
            self.moved = True
            if self.dead_letters is Question.ASKED:  # the answer says what the consumer was before
                self.dead_letters = Question.ASKED_EARLY
        if Doubt.DELIVERED in doubt:
            self.forgetful_until = now
        if Doubt.DELIVERIES in doubt:
            self._distrust(now)

    def _distrust(self, now: float) -> None:
        """Note that the broker may deliver again what was sent before, however long it may still be held.

        Acknowledgements that it confirmed only by the answer to a later one are sent once more, when it is
        known who speaks: an earlier leader may have lost them.
        """
        self.changes += 1
        self.trusted_since = now
        self.recency.distrust()
        self.forget_vouched(now)
        lost = (reply for _, replies in self._vouched for reply in replies)
        self._lost = (*self._lost, *lost)[-_MOST_VOUCHED:]
        self._clear_vouched()
        if self._lost:
            self.consumer = self.consumer.raised()

    # --- Deliveries ---------------------------------------------------------------------------------------

    def opened(self, now: float) -> None:
        """Note that deliveries come by way of another inbox from now on."""
        self.highest = 0
        self.trusted_since = min(self.trusted_since, now)
        self.recency.opened(now + _INSTANT)

    def refused(self, now: float) -> None:
        """Note that the broker refused a request, and may have others that were counted as lost."""
        self.recency.refused()
        self.trusted_since = now

    def is_sure(self, held: InFlight, now: float) -> bool:
        """Whether no other delivery of the event can exist: what the broker says of this one counts."""
        return now < held.sure_until and held.earliest > self.trusted_since

    def vouch(self, replies: Sequence[bytes], now: float) -> None:
        """Note what a replicated consumer confirmed by the answer to a later acknowledgement."""
        self._vouched.append((now, replies))
        self._vouched_count += len(replies)
        while self._vouched_count > _MOST_VOUCHED:
            self._forget_first()

    def _forget_first(self) -> None:
        _, replies = self._vouched.pop(0)
        self._vouched_count -= len(replies)

    def forget_vouched(self, now: float) -> None:
        """Forget acknowledgements after which another leader would have been noticed."""
        while self._vouched and now - self._vouched[0][0] > VOUCHED_FOR:
            self._forget_first()

    def _clear_vouched(self) -> None:
        self._vouched.clear()
        self._vouched_count = 0

    # --- The consumer -------------------------------------------------------------------------------------

    def counts_anew(self, sequence: int) -> bool:
        """Whether the consumer counts its deliveries from the beginning, or may: somebody has moved it.

        Until it was seen it does. `sequence` is the count of the last delivery that has come.
        """
        if not self.moved:
            if sequence > self.highest:
                self.highest = sequence
                return False
            self.moved = True
            self.add(Doubt.CONSUMER, self.asked_at)
        return True

    def seen(self, now: float) -> tuple[Sequence[PendingAck], Sequence[bytes]]:
        """Note what the consumer is; return what waited for that, unless it was asked for too early.

        That is acknowledgements to send, and replies to acknowledge once more without an answer.
        """
        if self.consumer.is_open or self.dead_letters.is_open:
            return (), ()
        self.moved, self.highest = False, 0
        withheld, self.withheld = self.withheld, []
        lost, self._lost = self._lost, ()
        if lost:
            self.vouch(lost, now)  # this leader may lose them, too
        return withheld, lost

    def unseen(self) -> None:
        """Note that the broker does not say what the consumer is.

        The next request will bring the doubt back; until then nothing waits for it, unless the consumer may
        have been moved: then it has to be known.
        """
        self.consumer = self.consumer.answered()
        if self.moved:
            self.dead_letters = self.dead_letters.raised()

    def forget(self) -> None:
        """Forget acknowledgements: the consumer was moved."""
        self.withheld.clear()
        self._clear_vouched()
        self._lost = ()
