"""What a client's acknowledgements mean: the commands of one call and the broker's answers.

No I/O and no clock: commands, answers of the broker and the time go in; messages for the broker and
confirmations for the client come out. It keeps the contract's promises:

* every command gets exactly one confirmation, in the order of the commands;
* each id of a command is in exactly one list of its confirmation, even if the command names it twice;
* an id that this call does not hold is invalid, and nothing about it reaches the broker, which answers stale
  acknowledgements like valid ones and lets a stale negative one disturb a later delivery;
* what the broker does not answer in time has failed for now: the client still holds the delivery and may try
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Self

from windshift.nats.jetstream.pulling import ACK, PROGRESS, TERMINATE
from windshift.server.events.consuming.flow import InFlight, Window
from windshift.server.events.dead_letters.model import Failure
from windshift.server.events.model import StreamSeq
from windshift.server.telemetry.tracer import Span

MOST_UNCONFIRMED = 20_000
"""The most unconfirmed commands and ids before no more are read from the client."""


class CommandKind(Enum):
    """What a command does with deliveries.

    Attributes:
        payload: what it is to the broker; a reject that asks for another attempt is something else.
    """

    ACK = "ack", ACK
    REJECT = "reject", TERMINATE
    PING = "ping", PROGRESS

    payload: bytes

    def __new__(cls, value: str, payload: bytes) -> Self:
        """Make a kind whose value is its name on the wire."""
        kind = object.__new__(cls)
        kind._value_, kind.payload = value, payload
        return kind


class Confirmation:
    """The result of one command, by id.

    Attributes:
        kind: the kind of the command.
        ids: stored by the broker.
        invalid_ids: not held by this call, already settled, timed out, or ended otherwise.
        temporary_failed_ids: not answered by the broker in time; the client may try again.
        expires: when the broker must have answered.
        weight: its share of `MOST_UNCONFIRMED`: 1, and 1 per id.
        waiting: how many ids have no result yet.
    """

    __slots__ = ("expires", "ids", "invalid_ids", "kind", "temporary_failed_ids", "waiting", "weight")

    def __init__(self, kind: CommandKind, expires: float) -> None:
        self.kind = kind
        self.ids: list[StreamSeq] = []
        self.invalid_ids: list[StreamSeq] = []
        self.temporary_failed_ids: list[StreamSeq] = []
        self.expires = expires
        self.weight = 1
        self.waiting = 0

    def __repr__(self) -> str:
        return f"Confirmation({self.kind.value}: {self.lists()}, {self.waiting} waiting)"

    def lists(self) -> tuple[list[StreamSeq], list[StreamSeq], list[StreamSeq]]:
        """Return the three lists: done, invalid, failed for now."""
        return self.ids, self.invalid_ids, self.temporary_failed_ids

    def place(self, seq: StreamSeq, ids: list[StreamSeq]) -> None:
        """Put an id that was waited for into one of the lists."""
        ids.append(seq)
        self.waiting -= 1


@dataclass(slots=True, eq=False)
class PendingAck:
    """One message to the broker about one delivery, and the commands that wait for its answer.

    Attributes:
        payload: what to send.
        settles: whether it ends the delivery.
        ready: whether it may be sent, because all preparations are done.
        sent: whether it was sent.
        void: whether it was too late, though the broker has stored it.
        answered: whether its outcome is known; later answers change nothing.
        since: when the client sent the command.
        alone: whether only its own answer counts, not that to a later one.
        dropped: the failure to report when the broker has stored this, if it drops the event.
        span: its span, if recorded.
        followers: later commands that wait for it; None = there are none.
    """

    seq: StreamSeq
    held: InFlight
    payload: bytes
    confirmation: Confirmation
    settles: bool
    since: float
    ready: bool = True
    sent: bool = False
    void: bool = False
    answered: bool = False
    alone: bool = False
    dropped: Failure | None = None
    span: Span | None = None
    followers: list[Confirmation] | None = None

    @property
    def reply(self) -> bytes:
        """The subject for acknowledgements of this delivery."""
        return self.held.reply

    @property
    def ends(self) -> bool:
        """Whether the event is not redelivered after this."""
        kind = self.confirmation.kind
        return kind is CommandKind.ACK or (kind is CommandKind.REJECT and self.payload == TERMINATE)

    @property
    def may_repeat(self) -> bool:
        """Whether it may be sent (again) while it is not answered.

        Not if it asks for a redelivery: a second such message could hit the redelivery.
        """
        if self.answered or not self.ready:
            return False
        return self.ends or not self.settles

    def follow(self, confirmation: Confirmation) -> None:
        """Let a later command about the same delivery wait for this settlement."""
        confirmation.waiting += 1
        if self.followers is None:
            self.followers = []
        self.followers.append(confirmation)

    def conclude(self, *, stored: bool) -> None:
        """Put the id into the confirmations of this command and of those that wait for it."""
        first = self.confirmation
        done = first.invalid_ids if self.void else first.ids
        first.place(self.seq, done if stored else first.temporary_failed_ids)
        for later in self.followers or ():
            later.place(self.seq, later.invalid_ids if stored else later.temporary_failed_ids)


MOST_IN_GROUP = 500
"""Acknowledgements that one answer may stand for."""


class Group:
    """Acknowledgements that are sent together, in order; only the last one asks for an answer.

    nats-server handles the acknowledgements of a consumer in the order in which they come, so the answer to
    the last says that all are stored, as long as the same server of a cluster speaks: see `doubts`. Those of
    events that were delivered before, and of replays, are sent alone: how these end may be in doubt.

    Attributes:
        pending: the acknowledgements, at least one.
        doubts: how often it was in doubt who speaks, when they were sent.
    """

    __slots__ = ("doubts", "pending")

    def __init__(self, doubts: int) -> None:
        self.pending: list[PendingAck] = []
        self.doubts = doubts


def grouped(sends: Iterable[PendingAck], doubts: int) -> Iterator[Group]:
    """Yield what is to be sent, in order: acknowledgements that follow each other as groups."""
    group = Group(doubts)
    for pending in sends:
        held = pending.held
        joins = (
            pending.confirmation.kind is CommandKind.ACK
            and held.attempt == 1
            and held.replay is None
            and not pending.alone
        )
        if group.pending and (not joins or len(group.pending) == MOST_IN_GROUP):
            yield group
            group = Group(doubts)
        group.pending.append(pending)
        if not joins:
            yield group
            group = Group(doubts)
    if group.pending:
        yield group


class Settlements:
    """The commands of one consume call. The broker must answer within `confirm_timeout` seconds.

    Attributes:
        window: the deliveries that the client holds.
        load: how many commands and ids wait for the broker; from `MOST_UNCONFIRMED` on none should be read.
    """

    __slots__ = ("_confirm_timeout", "_due", "_pending", "_settling", "_unconfirmed", "load", "window")

    def __init__(self, window: Window, confirm_timeout: float) -> None:
        self.window = window
        self._confirm_timeout = confirm_timeout
        # Lists, not deques: most calls are idle, and an empty deque takes 0.75 KB
        self._unconfirmed: list[Confirmation] = []
        self._pending: list[PendingAck] = []
        self._settling: dict[StreamSeq, PendingAck] = {}
        self.load = 0
        self._due = inf

    # --- State --------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether the broker has not answered everything."""
        return bool(self._settling)

    @property
    def confirmed(self) -> bool:
        """Whether every command has its confirmation."""
        return not self._unconfirmed

    @property
    def has_confirmation(self) -> bool:
        """Whether a confirmation can be sent now."""
        return bool(self._unconfirmed) and not self._unconfirmed[0].waiting

    @property
    def due(self) -> float:
        """When `tick` has something to do, or earlier."""
        return min(self._due, self.window.due)

    # --- Commands -----------------------------------------------------------------------------------------

    def command(self, kind: CommandKind, ids: Iterable[StreamSeq], now: float) -> list[PendingAck]:
        """Take a command, and return the messages to send to the broker. An id that repeats counts once."""
        confirmation, payload = Confirmation(kind, now + self._confirm_timeout), kind.payload
        self._unconfirmed.append(confirmation)
        distinct = dict.fromkeys(ids)
        confirmation.weight += len(distinct)
        self.load += confirmation.weight
        settles, held_by, settling = kind is not CommandKind.PING, self.window.held, self._settling
        sends: list[PendingAck] = []
        for seq in distinct:
            held = held_by.get(seq)
            if held is None or not held.is_valid(now):
                confirmation.invalid_ids.append(seq)
            elif held.settling:
                settling[seq].follow(confirmation)
            else:
                pending = PendingAck(seq, held, payload, confirmation, settles, now)
                sends.append(pending)
                held.unanswered += 1
                if settles:
                    held.settling = True
                    settling[seq] = pending
        if sends:
            confirmation.waiting += len(sends)
            self._pending += sends
            self._due = min(self._due, confirmation.expires)
        return sends

    def prolong(self, seq: StreamSeq, held: InFlight, now: float) -> PendingAck:
        """Return a ping that no client has sent: until it is answered the delivery is held."""
        confirmation = Confirmation(CommandKind.PING, now + self._confirm_timeout)
        confirmation.waiting += 1
        pending = PendingAck(seq, held, PROGRESS, confirmation, settles=False, since=now)
        held.unanswered += 1
        self._pending.append(pending)
        self._due = min(self._due, confirmation.expires)
        return pending

    # --- Answers ------------------------------------------------------------------------------------------

    def answer(self, pending: PendingAck, *, stored: bool, now: float) -> None:
        """Take the broker's answer to a message, or that there is none. Only the first counts."""
        if pending.answered:
            return
        pending.answered = True
        held = pending.held
        held.unanswered -= 1
        if pending.settles:
            held.settling = False
            if self._settling.get(pending.seq) is pending:
                del self._settling[pending.seq]
        self._apply(pending, stored=stored, now=now)
        pending.conclude(stored=stored)
        self._drop_answered()

    def stored(self, settling: Iterable[PendingAck]) -> None:
        """Take that the broker has stored settlements; it is what `answer` does about each, at less cost."""
        held_by, under_way = self.window.held, self._settling
        for pending in settling:
            seq, held, confirmation = pending.seq, pending.held, pending.confirmation
            pending.answered = True
            held.unanswered -= 1
            held.settling = False
            if under_way.get(seq) is pending:
                del under_way[seq]
            if held_by.get(seq) is held:
                del held_by[seq]
            if pending.followers:
                pending.conclude(stored=True)
            else:
                confirmation.ids.append(seq)
                confirmation.waiting -= 1
        self._drop_answered()

    def _drop_answered(self) -> None:
        answered = 0
        for pending in self._pending:
            if not pending.answered:
                break
            answered += 1
        if answered:
            del self._pending[:answered]

    def _apply(self, pending: PendingAck, *, stored: bool, now: float) -> None:
        held = pending.held
        if stored and (pending.settles or pending.void):
            self.window.remove(pending.seq, held)
        elif stored:
            self.window.prolong(pending.seq, held, pending.since)
        elif held.deadline <= now and not held.unanswered:
            self.window.drop(pending.seq, held)

    def confirmations(self) -> list[Confirmation]:
        """Return the confirmations to send now, in the order of their commands."""
        complete: list[Confirmation] = []
        for confirmation in self._unconfirmed:
            if confirmation.waiting:
                break
            self.load -= confirmation.weight
            complete.append(confirmation)
        del self._unconfirmed[: len(complete)]
        return complete

    # --- Time and loss ------------------------------------------------------------------------------------

    def repeatable(self) -> list[PendingAck]:
        """Return the messages under way that may be sent again after a reconnect."""
        return [pending for pending in self._pending if pending.may_repeat]

    def unanswered(self) -> list[PendingAck]:
        """Return the messages about deliveries of the consumer, not of replays, that are not answered."""
        return [each for each in self._pending if not each.answered and each.held.replay is None]

    def acks_under_way(self) -> dict[StreamSeq, int]:
        """Return the events whose acknowledgement was sent but not answered, and when each was stored."""
        return {
            each.seq: each.held.stored_ns
            for each in self._pending
            if not each.answered and each.confirmation.kind is CommandKind.ACK
        }

    def tick(self, now: float) -> list[PendingAck]:
        """Advance the time; return the messages that the broker did not answer in time."""
        queue = self._pending
        late: list[PendingAck] = []
        while queue and queue[0].confirmation.expires <= now:
            late.append(queue[0])
            self.answer(queue[0], stored=False, now=now)
        self._due = queue[0].confirmation.expires if queue else inf
        if self.window.due <= now:
            self.window.expire(now)
        return late

    def release(self) -> list[tuple[StreamSeq, InFlight]]:
        """Give up all deliveries, and return those that the broker should redeliver at once.

        Deliveries being settled are not among them: their settlement was sent, and nothing later has an
        effect.
        """
        sent = {seq for seq, pending in self._settling.items() if pending.sent}
        return [(seq, held) for seq, held in self.window.clear() if seq not in sent]
