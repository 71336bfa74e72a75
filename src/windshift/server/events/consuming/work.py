"""The work that the protocol of a call asks for, because it takes a question to the broker, or takes time.

A piece names the method of the protocol, or of the part of it that asked, that has to follow, if one has to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from windshift.nats import Outcome
from windshift.nats.jetstream.api import JsonObject
from windshift.server.events.consuming.flow import Replay
from windshift.server.events.consuming.pending_acks import PendingAck
from windshift.server.events.dead_letters.model import Failure
from windshift.server.events.deliveries import Delivery


class Work:
    """A piece of work."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class LookUp(Work):
    """See whether the consumer still is there: `consumer_seen`, or `Doubts.unseen`."""


@dataclass(frozen=True, slots=True)
class Learn(Work):
    """Look the consumer up, and learn which of its events are dead letters: `consumer_seen`, `learned`."""


@dataclass(frozen=True, slots=True)
class RaiseLimit(Work):
    """Give the consumer this configuration; that it cannot be done is only told in the log."""

    config: JsonObject


@dataclass(frozen=True, slots=True)
class Verify(Work):
    """See whether an event has ended that came again, or late: `verified`.

    Attributes:
        since: when the delivery may have been here first.
        earliest: when the broker sent it, at the earliest.
    """

    delivery: Delivery
    since: float
    earliest: float
    is_late: bool


@dataclass(frozen=True, slots=True)
class GiveUp(Work):
    """Keep an event whose attempts are used up as a dead letter, if it is to be kept: `gave_up`."""

    delivery: Delivery
    failure: Failure
    keep: bool


@dataclass(frozen=True, slots=True)
class Terminate(Work):
    """Have the broker never redeliver an event: `decided`."""

    reply: bytes


class EndOutcome(Enum):
    """What became of an attempt to have an event end in a certain way."""

    DECIDED = "it ends that way"
    OTHERWISE = "it had ended otherwise"
    NOT_NOW = "nothing was decided by this"
    UNKNOWN = "perhaps"


@dataclass(frozen=True, slots=True)
class Keep(Work):
    """Keep an event as a dead letter before its settlement is sent: `prepared`."""

    pending: PendingAck
    failure: Failure


@dataclass(frozen=True, slots=True)
class EndReplay(Work):
    """Claim that a replay ends, and remove the dead letter, before its settlement is sent: `prepared`."""

    pending: PendingAck
    replay: Replay


@dataclass(frozen=True, slots=True)
class Claim(Work):
    """Claim that an event ended with a settlement that the broker has taken: `claimed`."""

    pending: PendingAck
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Check(Work):
    """See whether an event that is held for long has ended, before a ping is confirmed: `checked`."""

    pending: PendingAck
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class BringReplays(Work):
    """Bring replayed events to the client, until the call is over."""


@dataclass(frozen=True, slots=True)
class AwaitReader(Work):
    """Wait until the client reads again: `reader_ready`."""


@dataclass(frozen=True, slots=True)
class AwaitRoom(Work):
    """Wait for room for one event that is too large for a limited request: `PullPacer.take_room`."""


@dataclass(frozen=True, slots=True)
class ReportDropped(Work):
    """Tell the operator of an event that was removed without a dead letter."""

    failure: Failure
    delivery: Delivery | None = None


@dataclass(frozen=True, slots=True)
class ForgetRecalls(Work):
    """Ask anew which events are dead letters: the broker may have forgotten something."""
