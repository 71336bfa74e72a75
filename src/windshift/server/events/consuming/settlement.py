"""What a client's acknowledgements mean: one call's memory of what was asked and what is answered.

No I/O and no clock: commands, answers of the broker and the time go in; messages for the broker and
confirmations for the client come out. The promises kept here are the contract's:

* every command gets exactly one confirmation, and confirmations leave in the order of their commands;
* each id of a command stands in exactly one list of its confirmation, also when the command names it twice;
* an id that this call does not hold is invalid and nothing about it reaches the broker, which answers stale
  acknowledgements like valid ones and even lets a stale negative one disturb a later delivery;
* what the broker does not answer in time has failed for now: the delivery is still held, and the client may
  try again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from math import inf

from windshift.nats.jetstream.pulling import TERMINATE
from windshift.server.events.consuming.flow import InFlight, Window
from windshift.server.events.dead_letters.model import Failure
from windshift.server.events.model import StreamSeq
from windshift.server.telemetry.tracer import Span

MOST_UNCONFIRMED = 20_000
"""Commands, and ids in them, that may wait for their confirmation before no more are read from the client."""


class Kind(Enum):
    """What a command does with deliveries."""

    ACK = "ack"
    REJECT = "reject"
    PING = "ping"


class Confirmation:
    """What became of each id of one command.

    Attributes:
        kind: what the command was.
        ids: done, and stored by the broker.
        invalid_ids: not held by this call, settled before, or timed out.
        temporary_failed_ids: not answered by the broker in time; may be tried again.
        expires: when the broker's time to answer is over.
        weight: what this costs while it waits: 1, and 1 for each id.
    """

    __slots__ = ("_waiting", "expires", "ids", "invalid_ids", "kind", "temporary_failed_ids", "weight")

    def __init__(self, kind: Kind, expires: float) -> None:
        self.kind = kind
        self.ids: list[StreamSeq] = []
        self.invalid_ids: list[StreamSeq] = []
        self.temporary_failed_ids: list[StreamSeq] = []
        self.expires = expires
        self.weight = 1
        self._waiting = 0

    def __repr__(self) -> str:
        return f"Confirmation({self.kind.value}: {self.lists()}, {self._waiting} waiting)"

    @property
    def complete(self) -> bool:
        """Whether every id has its place."""
        return not self._waiting

    def lists(self) -> tuple[list[StreamSeq], list[StreamSeq], list[StreamSeq]]:
        """Return the three lists: done, invalid, failed for now."""
        return self.ids, self.invalid_ids, self.temporary_failed_ids

    def wait(self) -> None:
        """Count an id whose place is not known yet."""
        self._waiting += 1

    def place(self, seq: StreamSeq, ids: list[StreamSeq]) -> None:
        """Put a waited-for id into one of the lists of this confirmation."""
        ids.append(seq)
        self._waiting -= 1


class PendingAck:
    """One message to the broker about one delivery, and who waits for its answer.

    Attributes:
        payload: what to send.
        settles: whether the delivery is over when the broker has stored this.
        ready: whether it may be sent: what has to come before it is done.
        sent: whether it was handed to the connection.
        is_repeated: whether it was sent once more after a connection ended.
        void: whether it came too late, though the broker has stored it.
        answered: whether its outcome is known; what comes later changes nothing.
        since: when it was asked for.
        dropped: the failure to be reported once the broker has stored this, if it drops the event.
        span: what is recorded of it, if anything is.
    """

    __slots__ = (
        "_followers",
        "answered",
        "confirmation",
        "dropped",
        "held",
        "is_repeated",
        "payload",
        "ready",
        "sent",
        "seq",
        "settles",
        "since",
        "span",
        "void",
    )

    def __init__(
        self, seq: StreamSeq, held: InFlight, payload: bytes, confirmation: Confirmation, now: float
    ) -> None:
        self.seq = seq
        self.held = held
        self.payload = payload
        self.confirmation = confirmation
        self.settles = confirmation.kind is not Kind.PING
        self.since = now
        self.ready = True
        self.sent = self.answered = self.void = self.is_repeated = False
        self.dropped: Failure | None = None
        self.span: Span | None = None
        self._followers: list[Confirmation] | None = None

    @property
    def reply(self) -> bytes:
        """Where the broker takes acknowledgements of this delivery."""
        return self.held.reply

    @property
    def ends(self) -> bool:
        """Whether the event is not delivered to the consumer again when the broker has stored this."""
        kind = self.confirmation.kind
        return kind is Kind.ACK or (kind is Kind.REJECT and self.payload == TERMINATE)

    @property
    def may_repeat(self) -> bool:
        """Whether it may be sent, once more perhaps, while it is not answered.

        Not a message that asks for another delivery: had it arrived, a second could hit that delivery.
        """
        if self.answered or not self.ready:
            return False
        return self.ends or not self.settles

    def follow(self, confirmation: Confirmation) -> None:
        """Let a later command about the same delivery wait for the outcome of this settlement."""
        confirmation.wait()
        if self._followers is None:
            self._followers = []
        self._followers.append(confirmation)

    def conclude(self, *, stored: bool) -> None:
        """Place the id in the confirmations of this command and of those that waited for its outcome."""
        first = self.confirmation
        done = first.invalid_ids if self.void else first.ids
        first.place(self.seq, done if stored else first.temporary_failed_ids)
        for later in self._followers or ():
            later.place(self.seq, later.invalid_ids if stored else later.temporary_failed_ids)


class Settlements:
    """The commands of one consume call.

    Args:
        window: the deliveries that the call holds.
        confirm_timeout: seconds that the broker has to answer.
    """

    __slots__ = ("_confirm_timeout", "_due", "_load", "_pending", "_settling", "_unconfirmed", "window")

    def __init__(self, window: Window, confirm_timeout: float = 5.0) -> None:
        self.window = window
        self._confirm_timeout = confirm_timeout
        self._unconfirmed: deque[Confirmation] = deque()
        self._pending: deque[PendingAck] = deque()
        self._settling: dict[StreamSeq, PendingAck] = {}
        self._load = 0
        self._due = inf

    # --- State --------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether the broker has yet to answer something."""
        return bool(self._settling)

    @property
    def confirmed(self) -> bool:
        """Whether every command has its confirmation."""
        return not self._unconfirmed

    @property
    def has_confirmation(self) -> bool:
        """Whether a confirmation may leave now."""
        return bool(self._unconfirmed) and self._unconfirmed[0].complete

    @property
    def saturated(self) -> bool:
        """Whether so many commands wait for the broker that no more should be read."""
        return self._load >= MOST_UNCONFIRMED

    @property
    def due(self) -> float:
        """When `tick` has something to do, or earlier."""
        return min(self._due, self.window.due)

    # --- Commands -----------------------------------------------------------------------------------------

    def command(self, kind: Kind, ids: Iterable[StreamSeq], payload: bytes, now: float) -> list[PendingAck]:
        """Take a command about deliveries and return the messages to send to the broker for it.

        Args:
            kind: what the client asked for.
            ids: the events that it named; repeated ones count once.
            payload: what tells the broker so.
            now: the time.
        """
        confirmation = Confirmation(kind, now + self._confirm_timeout)
        self._unconfirmed.append(confirmation)
        distinct = dict.fromkeys(ids)
        confirmation.weight += len(distinct)
        self._load += confirmation.weight
        pending = [
            each for seq in distinct if (each := self._take(confirmation, seq, payload, now)) is not None
        ]
        if pending:
            self._pending.extend(pending)
            self._due = min(self._due, confirmation.expires)
        return pending

    def _take(
        self, confirmation: Confirmation, seq: StreamSeq, payload: bytes, now: float
    ) -> PendingAck | None:
        held = self.window.get(seq)
        if held is None or not self.window.holds(seq, held, now):
            confirmation.invalid_ids.append(seq)
            return None
        if held.settling:
            self._settling[seq].follow(confirmation)
            return None
        pending = PendingAck(seq, held, payload, confirmation, now)
        confirmation.wait()
        held.unanswered += 1
        if pending.settles:
            held.settling = True
            self._settling[seq] = pending
        return pending

    # --- Answers ------------------------------------------------------------------------------------------

    def answer(self, pending: PendingAck, *, stored: bool, now: float) -> None:
        """Take the broker's answer to a message, or the lack of one. Only the first counts."""
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
        queue = self._pending
        while queue and queue[0].answered:
            queue.popleft()

    def _apply(self, pending: PendingAck, *, stored: bool, now: float) -> None:
        held = pending.held
        if stored and (pending.settles or pending.void):
            self.window.remove(pending.seq, held)
        elif stored:
            self.window.prolong(pending.seq, held, pending.since)
        elif held.deadline <= now and not held.unanswered:
            self.window.drop(pending.seq, held)

    def confirmations(self) -> Iterator[Confirmation]:
        """Yield the confirmations that may leave now, in the order of their commands."""
        unconfirmed = self._unconfirmed
        while unconfirmed and unconfirmed[0].complete:
            confirmation = unconfirmed.popleft()
            self._load -= confirmation.weight
            yield confirmation

    # --- Time and loss ------------------------------------------------------------------------------------

    def repeatable(self) -> list[PendingAck]:
        """Return the messages that may be sent again when a connection broke while they were under way."""
        return [pending for pending in self._pending if pending.may_repeat]

    def acks_under_way(self) -> list[StreamSeq]:
        """Return the events whose acknowledgement was sent, and is not answered."""
        return [
            each.seq for each in self._pending if not each.answered and each.confirmation.kind is Kind.ACK
        ]

    def tick(self, now: float) -> list[PendingAck]:
        """Let time pass; return the messages that the broker did not answer in time."""
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
        """Give up all deliveries and return those that the broker should hand to somebody else at once.

        Not among them is what is being settled: its settlement was sent, and what comes after it has no
        effect.
        """
        sent = {seq for seq, pending in self._settling.items() if pending.sent}
        return [(seq, held) for seq, held in self.window.clear() if seq not in sent]
