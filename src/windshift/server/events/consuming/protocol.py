"""One consume call as a protocol without I/O: what happens goes in, what to do comes out.

In: the client's commands, the broker's deliveries, statuses and answers to acknowledgements, the results of
work, and the time. Out: acknowledgements to send (`sends`), messages without an answer (`tells`), deliveries
and confirmations for the client, pull requests, and `work`: whatever asks the broker something. The shell
around it (`call`) does these things and reports back; it decides nothing.

All state of a call is in this class: the consumer as last seen, its policy and timeout, what the client
holds, and what is known of redelivered events.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from math import inf
from time import time_ns
from typing import Final, NamedTuple

from windshift.nats import NoReply, Outcome
from windshift.nats.jetstream.pulling import (
    ACK,
    NAK,
    PROGRESS,
    TERMINATE,
    Ended,
    Notice,
    nak,
    next_subject,
)
from windshift.server.broker.budget import Share
from windshift.server.broker.room import PullRoom
from windshift.server.domain.errors import (
    AlreadySubscribed,
    ConsumerNotFound,
    EventTooLarge,
    ForbiddenByBroker,
    ShuttingDown,
    Unauthenticated,
    WindshiftError,
)
from windshift.server.events.consuming import doubt
from windshift.server.events.consuming import work as w
from windshift.server.events.consuming.commands import (
    Ack,
    Command,
    Decision,
    Disposition,
    Limit,
    Ping,
    Reject,
    Subscribe,
    check_limit,
    check_reject,
    decide,
)
from windshift.server.events.consuming.consumer_state import (
    ConsumerSnapshot,
    DelayedRejects,
    largest_pull,
    raised_limit,
)
from windshift.server.events.consuming.doubt import Doubt, Doubts, Moved, Question
from windshift.server.events.consuming.flow import InFlight, Pull, PullPacer, Replay, Window
from windshift.server.events.consuming.handover import DeliveryName, TakeOver, name_of
from windshift.server.events.consuming.interfaces import MOST_UNSENT, STALLED, ConsumeOptions, Gate
from windshift.server.events.consuming.pauses import PauseDetector
from windshift.server.events.consuming.redelivery import FailedAttempts, Failures, Settled
from windshift.server.events.consuming.settlement import Confirmation, Group, Kind, PendingAck, Settlements
from windshift.server.events.consuming.spans import ConsumeSpans, end_settlement
from windshift.server.events.consuming.tokens import Resumed, Tokens, key_of
from windshift.server.events.counts import Counts
from windshift.server.events.dead_letters.model import DeadLetterId
from windshift.server.events.deliveries import Delivery, consumer_sequence, message_size, stored_at
from windshift.server.events.latencies import ConsumerLatency
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.retries import RetryPolicy
from windshift.server.events.runs import Run

CLAIMED_FOR: Final = timedelta(minutes=10)
"""How long a claim is kept, in addition to the consumer's timeout."""
LATEST: Final = 8 * 60.0
"""Seconds, beside the timeout, after which a client may not give up on an event that others may have claimed.

It is shorter than `CLAIMED_FOR` by the time that a server may be asleep for."""
CHECK_INTERVAL: Final = 4 * 60.0
"""Seconds between two looks whether somebody has claimed an event that is held for long."""
LIMITED_WITHIN: Final = 2.0
"""Seconds that commands wait, at most, until another size of the window applies."""
_REMEMBERED: Final = 256
"""Subjects that the client may have and that are remembered; with one more, all are forgotten."""


class Memory(NamedTuple):
    """What the calls of one process remember together, and this one needs.

    Attributes:
        settled: what was settled lately of the consumer.
        attempts: what is known of failed attempts.
        pauses: since when the process has been awake.
        counts: what happened to events.
        latency: how long they take in this consumer.
        room: what all calls together may ask for; None = this one has it for itself.
    """

    settled: Settled
    attempts: FailedAttempts
    pauses: PauseDetector
    counts: Counts
    latency: ConsumerLatency
    room: PullRoom | None = None


class _Waiting(NamedTuple):
    """A delivery that waits for room: since when it is here, and when the broker sent it at the earliest."""

    delivery: Delivery
    replay: Replay | None
    since: float
    earliest: float


class Released(NamedTuple):
    """Reply subjects of deliveries that a call lets go at its end: now, or when they have lingered."""

    now: list[bytes]
    later: list[bytes]


_NOT: Final = timedelta()
_NOTHING: Final = TakeOver()
"""What a call has taken over that has taken over nothing."""


class ConsumeProtocol:
    """A client attached to a consumer.

    Args:
        consumer: what names the consumer.
        found: the consumer, as it was found just now.
        size: how many deliveries the client may hold.
        memory: what is remembered beyond this call.
        options: timers.
        rand: returns random numbers from 0 to 1.
        unix_ns: the wall clock, in nanoseconds since 1970.

    Attributes:
        consumer: what names the consumer.
        found: the consumer, as it was seen last: its timeout and policy count.
        run: the run of the consumer that the call is in.
        window: what the client holds.
        gate: what the client may consume; None = everything.
        spans: records deliveries and settlements, if anything is recorded.
        tokens: writes tokens of what is delivered; None if the client wants none.
        linger: how long the client's deliveries are kept for it when the call is cut off.
        max_message_size: how many bytes a response to the client may have; 0 = any number.
        taken_over: deliveries of earlier calls.
        sends: acknowledgements to send now; `group_answered`, `replay_settled` or `not_sent` has to follow.
        tells: reply subjects and what to send there, without an answer.
        settled_again: events that others may be about to hand out, though they are settled; to be told before
            their clients are.
        work: what else is to be done now.
        failure: what the call ended with; None is a proper end.
        is_ending: whether the call takes nothing new.
        due: when `advance` is to be called at the latest.
    """

    __slots__ = (
        "_allowed",
        "_arrived",
        "_backlog",
        "_counts",
        "_dead",
        "_delayed",
        "_doubts",
        "_drain_at",
        "_failures",
        "_is_closed",
        "_is_stalled",
        "_latency",
        "_limited_until",
        "_memory",
        "_now",
        "_pacer",
        "_rand",
        "_settled",
        "_settlements",
        "_stall_timeout",
        "_still_until",
        "_undecided",
        "_unix_ns",
        "_unsent",
        "_wants_drain",
        "_wants_inbox",
        "consumer",
        "failure",
        "found",
        "gate",
        "is_ending",
        "linger",
        "max_message_size",
        "run",
        "sends",
        "settled_again",
        "spans",
        "taken_over",
        "tells",
        "tokens",
        "window",
        "work",
    )

    def __init__(
        self,
        consumer: ConsumerKey,
        found: ConsumerSnapshot,
        size: int,
        memory: Memory,
        options: ConsumeOptions,
        rand: Callable[[], float] = random.random,
        unix_ns: Callable[[], int] = time_ns,
    ) -> None:
        self.consumer = consumer
        self.found, self.run = found, found.run
        self._memory = memory
        self._counts, self._latency, self._settled = memory.counts, memory.latency, memory.settled
        self._failures = Failures(memory.attempts, consumer)
        self._rand, self._unix_ns = rand, unix_ns
        self._now = 0.0
        self.gate: Gate | None = None
        self.spans: ConsumeSpans | None = None
        self.tokens: Tokens | None = None
        self.linger = _NOT
        self.max_message_size = 0
        # What is held, and what is asked for
        self.window = Window(size, self._timeout, self._expired)
        self._settlements = Settlements(self.window, options.confirm_timeout.total_seconds())
        self._pacer = PullPacer(
            self.window, options.pull.silence, memory.room, largest_pull(found.state.config)
        )
        self._stall_timeout = options.stall_timeout.total_seconds()
        self._delayed = DelayedRejects()
        self.taken_over = _NOTHING
        self._wants_inbox, self._wants_drain, self._is_stalled = True, False, False
        self._drain_at = inf  # what was asked for is taken back from a client that does not read
        self._limited_until = inf  # the window was made smaller, and more is on its way
        # What is in doubt
        self._doubts = Doubts(knows_dead_letters=not found.policy.dead_letters)
        self._still_until = inf  # a move of the consumer is waited for
        self._dead: dict[StreamSeq, int] = {}  # dead letters that the broker may deliver, and when stored
        # Deliveries on their way to the client, in this order
        self._arrived: list[Delivery] = []
        self._undecided: dict[bytes, tuple[Delivery, bool]] = {}  # by reply subject; whether it is a replay
        self._backlog: list[_Waiting] = []  # those without room
        self._unsent: list[tuple[Delivery, InFlight]] = []
        self._allowed: dict[str, None] = {}  # subjects that the client may have
        # The end
        self.is_ending = self._is_closed = False
        self.failure: Exception | None = None
        # What is to be done
        self.sends: list[PendingAck] = []
        self.tells: list[tuple[bytes, bytes]] = []
        self.settled_again: list[StreamSeq] = []
        self.work: list[w.Work] = []

    @property
    def policy(self) -> RetryPolicy:
        """The consumer's retry policy."""
        return self.found.policy

    @property
    def doubts(self) -> int:
        """How often it was in doubt whether the same server of the broker still speaks."""
        return self._doubts.changes

    @property
    def _timeout(self) -> float:
        return self.found.timeout.total_seconds()

    # --- The client ---------------------------------------------------------------------------------------

    def command(self, command: Command, now: float) -> None:
        """Carry out a command; raise what is wrong with it."""
        match command:
            case Ack():
                self._acknowledge(Kind.ACK, command.ids, ACK, now)
            case Ping():
                self._acknowledge(Kind.PING, command.ids, PROGRESS, now)
            case Reject():
                self._reject(command, now)
            case Limit():
                self._limit(check_limit(command), now)
            case Subscribe():
                raise AlreadySubscribed

    def _limit(self, size: int, now: float) -> None:
        """Change the size of the window, and take back what was asked for beyond it."""
        if size > self.window.largest:
            self.doubt()  # the consumer may refuse to be asked for so many
        self._wants_drain |= self.window.resize(size)
        if not self._has_handed_over:
            self._limited_until = now + LIMITED_WITHIN

    def _acknowledge(self, kind: Kind, ids: Sequence[StreamSeq], payload: bytes, now: float) -> None:
        for pending in self._settlements.command(kind, ids, payload, now):
            replay = pending.held.replay
            if replay is not None and kind is Kind.ACK:
                self._prepare(pending, w.EndReplay(pending, replay))
            else:
                self._send(pending, now)

    def _reject(self, reject: Reject, now: float) -> None:
        check_reject(reject)
        if self.gate is not None and reject.is_final:
            self.gate.reject(*self.consumer, self.found.owner)
        for pending in self._settlements.command(Kind.REJECT, reject.ids, TERMINATE, now):
            decision = decide(reject, self.policy, pending.held.attempt, self._rand())
            is_drop = decision.disposition is Disposition.DROPPED
            if not is_drop and self._is_forgotten(pending.held):
                self._refuse(pending, now)
            elif decision.disposition is Disposition.AGAIN:
                pending.payload = nak(decision.delay_ns)
                why, delay_ns = (reject.reason, reject.error_type), decision.delay_ns
                self._failures.failed(pending.seq, pending.held, now, *why, delay_ns=delay_ns)
                self._delayed.add(decision.delay_ns, now)
                self._send(pending, now)
            else:
                self._give_up_rejected(pending, reject, decision, now)

    def _give_up_rejected(self, pending: PendingAck, reject: Reject, decision: Decision, now: float) -> None:
        held = pending.held
        if held.replay is None and self._settled.lately(pending.seq):
            # Another call of this process has got it settled: after a crash of the broker two may hold it.
            self.tells.append((held.reply, ACK))
            self._refuse(pending, now)
            return
        is_kept = decision.disposition is Disposition.DEAD_LETTER
        if is_kept and not self._may_give_up(held, now):
            self._refuse(pending, now)
            return
        failure = self._failures.rejected(
            pending.seq, held, now, decision.cause, reject.reason, reject.error_type
        )
        if is_kept:
            self._prepare(pending, w.Keep(pending, failure))
            return
        pending.dropped = failure
        if held.replay is not None:
            self._prepare(pending, w.EndReplay(pending, held.replay))
        else:
            self._send(pending, now)

    def _refuse(self, pending: PendingAck, now: float) -> None:
        """Tell the client that a delivery is not its to settle any more."""
        pending.void = True
        self._settlements.answer(pending, stored=True, now=now)

    def _prepare(self, pending: PendingAck, work: w.Keep | w.EndReplay) -> None:
        """Ask for what has to be done before a settlement may be sent."""
        pending.ready = False
        self.work.append(work)

    def prepared(self, work: w.Keep | w.EndReplay, ending: w.Ending, now: float) -> None:
        """Take what became of that: unless it is decided, the settlement has failed for now."""
        pending, held = work.pending, work.pending.held
        if isinstance(work, w.Keep) and not held.replay and ending in (w.Ending.DECIDED, w.Ending.UNKNOWN):
            self._dead[pending.seq] = held.stored_ns
            held.sure_until = -inf  # an ack that comes after all is to be claimed
        if pending.answered:
            return
        match ending:
            case w.Ending.DECIDED:
                pending.ready = True
                self._send(pending, now)
            case w.Ending.OTHERWISE:
                self.tells.append((held.reply, ACK))
                self._refuse(pending, now)
            case _:
                self._settlements.answer(pending, stored=False, now=now)

    def _send(self, pending: PendingAck, now: float) -> None:
        if self.spans is not None and pending.held.span is not None:
            self.spans.settle(pending, pending.held.span)
        self._queue(pending, now)

    def _queue(self, pending: PendingAck, now: float) -> None:
        doubts = self._doubts
        if self._memory.pauses.has_missed(doubts.asked_at, now):
            doubts.add(doubt.MISSED, now)
        if doubts.moved is not Moved.NO and pending.held.replay is None:
            doubts.withheld.append(pending)
        else:
            self.sends.append(pending)

    def end(self, failure: Exception | None) -> None:
        """Take nothing new, and end once everything that the client asked for is confirmed.

        The first end counts.
        """
        if not self.is_ending:
            self.is_ending = True
            self.failure = failure

    @property
    def is_over(self) -> bool:
        """Whether the call has come to its end."""
        return self.is_ending and self._settlements.confirmed

    @property
    def has_confirmation(self) -> bool:
        """Whether a confirmation may leave now."""
        return self._settlements.has_confirmation

    @property
    def holds_back(self) -> bool:
        """Whether no more commands should be read now.

        Too many wait for the broker, or what they are about is not certain yet: the client goes on with
        deliveries that others may object to, or has not got all of what was on its way when its window was
        made smaller.
        """
        is_limited = self._limited_until < inf
        return self._settlements.saturated or is_limited or bool(self.taken_over.pending)

    def confirmations(self) -> list[Confirmation]:
        """Return the confirmations that may leave now."""
        confirmations = self._settlements.confirmations()
        for confirmation in confirmations:
            if confirmation.invalid_ids:
                self._counts.invalid += len(confirmation.invalid_ids)
            if confirmation.temporary_failed_ids:
                self._counts.failed += len(confirmation.temporary_failed_ids)
        return confirmations

    def deliverable(self, queued: int, now: float) -> list[Delivery]:
        """Return what the client is handed now, as long as it reads; it counts as handed over.

        Args:
            queued: bytes that were sent and that the client has not read.
            now: the time.
        """
        handed: list[Delivery] = []
        first: list[int] = []  # when those were stored that are delivered for the first time
        taken = 0
        for delivery, held in self._unsent:
            if queued > STALLED or self.is_ending:
                break
            taken += 1
            if not self.window.holds(delivery.id, held, now):
                continue
            if held.replay is None and self._is_settled(delivery):
                self.window.remove(delivery.id, held)
                continue
            if self.gate is not None and not self._is_allowed(self.gate, delivery.subject):
                break
            handed.append(delivery)
            if held.span is not None:
                held.span.end()
            if delivery.attempt > 1:
                self._counts.redelivered += 1
            elif held.replay is None:
                first.append(delivery.stored_ns)
            self._pacer.delivered(delivery)
            queued += len(delivery.data)
        del self._unsent[:taken]
        if handed:
            self._count(handed, first)
        return handed

    def _count(self, handed: Sequence[Delivery], first: Sequence[int]) -> None:
        """Count deliveries; `first` is when those events were stored that the consumer never had before."""
        self._counts.delivered += len(handed)
        self._latency.delivery.observe_since(first, self._unix_ns())
        if self.gate is not None:
            self.gate.delivered(len(handed))

    def read_so_far(self, unread: int, now: float) -> bool:
        """Note how much the client had left unread before; return whether it is to be handed more soon."""
        if self._limited_until < inf and (now >= self._limited_until or self._has_handed_over):
            self._limited_until = inf
        if unread > STALLED and not self._is_stalled:
            self._is_stalled = True
            self._latency.stalls += 1
            self._drain_at = now + self._stall_timeout
            self._pacer.stalled()
            self.work.append(w.AwaitReader())
        return bool(self._unsent) and not self._is_stalled

    @property
    def _has_handed_over(self) -> bool:
        """Whether the client has everything that arrived, and nothing is on its way beyond its window."""
        return not (self._wants_drain or self._arrived or self._undecided or self._backlog or self._unsent)

    def reader_ready(self) -> None:
        """Note that the client reads again."""
        self._is_stalled = False
        self._drain_at = inf

    # --- What the client may have -------------------------------------------------------------------------

    def check(self, found: ConsumerSnapshot | None = None) -> None:
        """Raise `PermissionDenied` unless the client may have what the consumer chooses."""
        if self.gate is not None:
            found = found or self.found
            self._allowed.clear()
            self.gate.consume(*self.consumer, durable=found.durable, subjects=found.subjects)
            if self.max_message_size:
                self.gate.reject(*self.consumer, found.owner)

    def _is_allowed(self, gate: Gate, subject: str) -> bool:
        """Whether the client may have an event of this subject; otherwise the call is ended."""
        try:
            self._require_allowed(gate, subject)
        except WindshiftError as error:
            self.end(error)
            return False
        return True

    def _require_allowed(self, gate: Gate, subject: str) -> None:
        """Raise `PermissionDenied` unless the client may have an event of this subject.

        The consumer may have been changed since it was seen last, and what it chose earlier may be replayed.
        """
        if subject in self._allowed:
            return
        gate.receive(*self.consumer, subject, durable=self.found.durable)
        if len(self._allowed) >= _REMEMBERED:
            self._allowed.clear()
        self._allowed[subject] = None

    # --- Answers of the broker ----------------------------------------------------------------------------

    def not_sent(self, pending: PendingAck, now: float) -> None:
        """Note that there is no connection. What may be repeated waits for the next one, or its time ends."""
        if not pending.may_repeat:
            self._settlements.answer(pending, stored=False, now=now)

    def answered(self, pending: PendingAck, outcome: Outcome, now: float) -> None:
        """Take the broker's answer to an acknowledgement, or why there is none."""
        if outcome is NoReply.DISCONNECTED and pending.may_repeat and not self._is_closed:
            return  # sent again on the next connection, or failed when its time is over
        if isinstance(outcome, bytes) and not pending.answered:
            if pending.ends:
                self._doubts.recency.answered(pending.since)
            if self.found.policy.dead_letters or pending.seq in self._dead:
                work = self._before_confirming(pending, outcome, now)
                if work is not None:
                    self.work.append(work)
                    return
            self._stored(pending, now)
        self._finish(pending, outcome, now)

    def group_answered(self, group: Group, outcome: Outcome, now: float) -> None:
        """Take the broker's answer to the last of a group, which stands for all; or why there is none.

        If another server of the broker may have got the last than the first, all others are sent again, each
        with an answer of its own.
        """
        acks = group.pending
        *others, last = acks
        if others and isinstance(outcome, bytes):
            if group.doubts != self.doubts:
                for pending in others:
                    self._send_alone(pending, now)
                acks = [last]
            elif self.found.state.is_replicated:
                self._doubts.vouch(others, now)
        if isinstance(outcome, bytes):
            acks = self._sure_acks_stored(acks, now)
        for pending in acks:
            self.answered(pending, outcome, now)

    def _sure_acks_stored(self, acks: Sequence[PendingAck], now: float) -> list[PendingAck]:
        """Take that the broker has stored acks, as far as they are sure; return the others.

        It is what `answered` does about each, at a third of the cost: most acks are sure.
        """
        trusted_since, sure, others = self._doubts.trusted_since, [], []
        stored: list[int] = []
        for pending in acks:
            held = pending.held
            is_sure = now < held.sure_until and held.earliest > trusted_since and held.attempt == 1
            if is_sure and pending.confirmation.kind is Kind.ACK and not (pending.answered or held.replay):
                sure.append(pending)
                stored.append(held.stored_ns)
            else:
                others.append(pending)
        if sure:
            self._doubts.recency.answered(sure[-1].since)
            seqs = [pending.seq for pending in sure]
            self._settled.add_all(seqs, now)
            self._counts.acknowledged += len(sure)
            self._latency.settlement.observe_since(stored, self._unix_ns())
            if self._dead:
                for seq in seqs:
                    self._dead.pop(seq, None)
            if self.spans is not None:
                for pending in sure:
                    end_settlement(pending, b"")
            self._settlements.stored(sure)
        return others

    def _send_alone(self, pending: PendingAck, now: float) -> None:
        pending.alone = True
        if pending.may_repeat and not self._is_closed:
            self._queue(pending, now)

    def replay_settled(self, pending: PendingAck, now: float, *, is_ours: bool | None) -> None:
        """Take what came of an acknowledgement of a replayed event.

        Args:
            pending: the acknowledgement.
            now: the time.
            is_ours: whether the event still was this call's; None: that cannot be told now.
        """
        if is_ours is None:
            self._finish(pending, NoReply.TIMED_OUT, now)
            return
        pending.void = not is_ours
        if is_ours and not pending.answered:
            self._stored(pending, now)
        self._finish(pending, b"", now)

    def _before_confirming(self, pending: PendingAck, outcome: bytes, now: float) -> w.Claim | w.Check | None:
        """Return what has to be asked before the client is told that the broker has taken something.

        The broker takes an ack of any attempt, however late, and answers it like any other. It may have
        delivered the event again, and somebody else may have given up on it.
        """
        held = pending.held
        if held.replay is not None or self._is_closed:
            return None
        is_sure = self._doubts.is_sure(held, now)
        if not pending.settles:
            if is_sure:
                held.sure_until = max(held.sure_until, pending.since + self.window.lifetime)
            elif now - held.checked > CHECK_INTERVAL:
                return w.Check(pending, outcome)
        elif not pending.ends:
            if is_sure:
                self._failures.over(pending.seq, held, now)
        elif not is_sure and (pending.confirmation.kind is Kind.ACK or pending.dropped is not None):
            held.claimant = held.claimant or secrets.token_hex(8).encode()
            self._settled.add(pending.seq, now)  # nobody here is to begin with it meanwhile
            return w.Claim(pending, outcome)
        return None

    @staticmethod
    def _doubt_reject(pending: PendingAck) -> None:
        """Note that the broker may have taken a reject, and so deliver the event to somebody else."""
        if pending.settles and not pending.ends:
            pending.held.sure_until = -inf

    def _may_give_up(self, held: InFlight, now: float) -> bool:
        """Whether a claim of the event's end by another delivery would still be there."""
        if not self.policy.dead_letters or held.replay is not None or self._doubts.is_sure(held, now):
            return True
        return now - held.checked <= self._timeout + LATEST

    def claimed(self, work: w.Claim, ending: w.Ending, now: float) -> None:
        """Take whether an event has ended with a settlement that the broker has taken."""
        pending = work.pending
        if pending.answered:
            return
        match ending:
            case w.Ending.DECIDED:
                self._stored(pending, now)
                self._finish(pending, work.outcome, now)
            case w.Ending.OTHERWISE:
                pending.void = True
                self._finish(pending, work.outcome, now)
            case _:
                self._finish(pending, NoReply.TIMED_OUT, now)

    def checked(self, work: w.Check, begun: float, now: float, *, has_ended: bool | None) -> None:
        """Take whether an event has ended that is held for long; None: that cannot be told now."""
        pending = work.pending
        if pending.answered:
            return
        if has_ended:
            pending.void = True
            pending.settles = True  # it is let go
        elif has_ended is not None:
            pending.held.checked = begun
        self._finish(pending, work.outcome, now)

    def _stored(self, pending: PendingAck, now: float) -> None:
        """Note that the broker has stored an acknowledgement."""
        counts, kind = self._counts, pending.confirmation.kind
        if kind is Kind.ACK:
            counts.acknowledged += 1
        elif kind is Kind.PING:
            counts.prolonged += 1
        elif pending.payload == TERMINATE:
            counts.terminated += 1
        else:
            counts.rejected += 1
        held, ends = pending.held, pending.ends
        if ends and held.replay is None:  # how a replay ends is no other end of the event
            self._settled.add(pending.seq, now)
            self._latency.settlement.observe_since((held.stored_ns,), self._unix_ns())
            if not self._doubts.is_sure(held, now):
                self.settled_again.append(pending.seq)
            if self._dead:
                self._dead.pop(pending.seq, None)
        if ends and held.attempt > 1:
            self._failures.settled(pending.seq, pending.reply)
        if pending.dropped is not None:
            self.work.append(w.ReportDropped(pending.dropped))

    def _finish(self, pending: PendingAck, outcome: Outcome, now: float) -> None:
        end_settlement(pending, outcome)
        if not isinstance(outcome, bytes):
            self._doubt_reject(pending)
        self._settlements.answer(pending, stored=isinstance(outcome, bytes), now=now)
        if outcome is NoReply.NO_RESPONDERS:
            self.doubt()

    # --- Deliveries of the broker -------------------------------------------------------------------------

    def delivered(self, delivery: Delivery) -> None:
        """Take a delivery that arrived, to be looked at with the next `advance`."""
        self._arrived.append(delivery)

    def heard(self, now: float) -> None:
        """Note that the broker shows that it still has a pull request."""
        self._pacer.heard(now)

    def told(self, status: Ended | Notice, now: float) -> None:
        """Take what the broker says of pull requests."""
        self._pacer.heard(now)
        match status:
            case Ended():
                self._pacer.ended(status)
            case Notice.ALIVE:
                pass
            case Notice.LOST:
                self._pacer.fruitless()
                self._doubt(doubt.ANOTHER_LEADER, now)
            case Notice.FORBIDDEN:
                self.end(ForbiddenByBroker(next_subject(*self.consumer)))
            case _:
                self._pacer.refused(now)
                self._doubts.refused(now)
                if status is not Notice.REFUSED:
                    self._doubts.is_deleted |= status is Notice.DELETED
                    self._doubt(doubt.UNHEARD, now)

    def replayed(self, delivery: Delivery, replay: Replay, now: float) -> None:
        """Take an event that is delivered again though the consumer had given up on it."""
        if self.policy.is_beyond(delivery.attempt):
            self._give_up(delivery, replay)
        else:
            self._backlog.append(_Waiting(delivery, replay, now, -inf))

    @property
    def has_room_for_replays(self) -> bool:
        """Whether a replayed event would reach the client now."""
        return self.window.has_room and not (self._backlog or self._is_stalled or self._unsent)

    def _take_in(self, now: float) -> None:
        """Hold the deliveries that arrived; those that there is no room for wait: replays took it."""
        while self._backlog and self.window.can_hold:
            waiting = self._backlog.pop(0)
            if waiting.since + self._timeout > now:  # it is not with the broker again
                self._hold(*waiting)
        if self._still_until < inf:
            self._arrived.clear()
        recency = self._doubts.recency
        if self._arrived and not self._doubts.counts_anew(consumer_sequence(self._arrived[-1].reply)):
            arrived, self._arrived = self._arrived, []
            since = self._memory.pauses.arrived(now)
            earliest = recency.earliest(self._pacer.last_heard)
            is_late = now - earliest >= self.window.lifetime
            self._pacer.arrived(arrived, now)
            self.window.arrive(len(arrived))
            is_plain = not (self._settled.doubted or self._dead or is_late)  # then first attempts pass
            for delivery in arrived:
                passes = (is_plain and delivery.attempt == 1) or self._passes(
                    delivery, now, earliest, is_late=is_late
                )
                if passes and (self._backlog or not self._hold(delivery, None, since, earliest)):
                    self._backlog.append(_Waiting(delivery, None, since, earliest))
        recency.taken_in()
        self.window.waiting = len(self._backlog) + len(self._undecided)

    def _hold(self, delivery: Delivery, replay: Replay | None, since: float, earliest: float) -> bool:
        """Hand a delivery to the client soon, unless it is too large; false when there is no room."""
        if self.max_message_size and message_size(delivery) > self.max_message_size:
            self._give_up_large(delivery, replay)
            return True
        held = self.window.admit(delivery.id, delivery.reply, delivery.attempt, since, replay)
        if held is None:
            return False
        held.earliest = earliest
        held.stored_ns = delivery.stored_ns
        if replay is None and (
            delivery.attempt == 1 or self._failures.is_first(delivery.id, delivery.reply, delivery.attempt)
        ):
            held.sure_until = earliest + self.window.lifetime
        if self.spans is not None:
            held.span = self.spans.deliver(delivery)
        self._unsent.append((delivery, held))
        return True

    def _expired(self, seq: StreamSeq, held: InFlight) -> None:
        self._latency.expired += 1
        self._failures.failed(seq, held, self._now)

    # --- Deliveries that the client is not to have, or not yet ----------------------------------------------

    def _passes(self, delivery: Delivery, now: float, earliest: float, *, is_late: bool) -> bool:
        """Whether the client is to have a delivery. If not, it is taken care of."""
        if self._settled.doubted and self._settled.knows(delivery.id, now):
            self.tells.append((delivery.reply, ACK))  # the broker has forgotten that it is settled
            return False
        is_late = is_late and self._was_stored_before(delivery, self._timeout)
        if delivery.attempt == 1 and not (self._dead or is_late):
            return True
        if delivery.attempt > 1 and self._settled.lately(delivery.id):
            self.tells.append((delivery.reply, ACK))
            return False
        dead = self._dead.get(delivery.id)
        is_dead = dead is not None and dead == delivery.stored_ns
        if self.policy.is_beyond(delivery.attempt) and not is_dead:
            self._give_up(delivery, None)
        elif is_dead or is_late or (self.policy.dead_letters and delivery.attempt > 1):
            self._undecided[delivery.reply] = delivery, False
            self.work.append(w.Verify(delivery, earliest, is_late))
        else:
            return True
        return False

    def _was_stored_before(self, delivery: Delivery, age: float) -> bool:
        """Whether an event is older than so many seconds, as far as clocks agree."""
        return self._unix_ns() - delivery.stored_ns >= age * 1e9

    def _is_settled(self, delivery: Delivery) -> bool:
        """Whether an event was settled after this delivery had come. If so, this one is acknowledged too."""
        settled = self._settled
        is_settled = (delivery.attempt > 1 or settled.doubted) and settled.lately(delivery.id)
        if is_settled:
            self.tells.append((delivery.reply, ACK))
        return is_settled

    def _give_up(self, delivery: Delivery, replay: Replay | None) -> None:
        """Make no further attempt at an event."""
        letter_id = self._letter_id(delivery, replay)
        attempts = self.policy.max_attempts or delivery.attempt - 1
        failure = self._failures.exhausted(letter_id, attempts, replay.number if replay else 0)
        keep = self.policy.dead_letters or replay is not None
        self._begin_to_give_up(w.GiveUp(delivery, failure, keep))

    def _give_up_large(self, delivery: Delivery, replay: Replay | None) -> None:
        """Make a dead letter of an event that would end the call at the client."""
        letter_id = self._letter_id(delivery, replay)
        reason = (
            f"its message of {message_size(delivery):,} bytes is larger than the client takes "
            f"(max_message_size {self.max_message_size:,})"
        )
        failure = self._failures.refused(
            letter_id, delivery.attempt, replay.number if replay else 0, reason, EventTooLarge.reason
        )
        self._begin_to_give_up(w.GiveUp(delivery, failure, keep=True))

    def _letter_id(self, delivery: Delivery, replay: Replay | None) -> DeadLetterId:
        return replay.id if replay else self._failures.id(delivery.id, delivery.reply)

    def _begin_to_give_up(self, work: w.GiveUp) -> None:
        self._undecided[work.delivery.reply] = work.delivery, work.failure.replay_count > 0
        self.work.append(work)

    def gave_up(self, delivery: Delivery, *, done: bool) -> None:
        """Take whether an event whose attempts are used up is taken care of; otherwise it comes again."""
        if not self._is_undecided(delivery):
            return
        if done:
            self._failures.settled(delivery.id, delivery.reply)
            self.work.append(w.Terminate(delivery.reply))
        else:
            self._return(delivery)

    def verified(
        self, work: w.Verify, since: float, begun: float, now: float, *, has_ended: bool | None
    ) -> None:
        """Take whether the event of a delivery has ended; None: that cannot be told now.

        Args:
            work: what was asked.
            since: when the delivery may have been here first.
            begun: when it was asked.
            now: the time.
            has_ended: whether it is settled, or a crash came between its end and that.
        """
        delivery = work.delivery
        if not self._is_undecided(delivery):
            return
        if has_ended is None and work.is_late:  # to return it might take it from somebody else
            del self._undecided[delivery.reply]
        elif has_ended is None:
            self._return(delivery)
        elif has_ended or (work.is_late and self._settled.lately(delivery.id)):
            self.work.append(w.Terminate(delivery.reply))
        else:
            self._pass_on(work, since, begun, now)

    def _pass_on(self, work: w.Verify, since: float, begun: float, now: float) -> None:
        """Let the client have a delivery, unless its time was over when it came, or while this slept."""
        delivery = work.delivery
        del self._undecided[delivery.reply]
        is_over = max(begun - since, now - self._memory.pauses.arrived(now)) >= self._timeout
        if is_over or self._still_until < inf:
            return
        if now - since > self._timeout / 10:  # the client is to have all of it
            self.tells.append((delivery.reply, PROGRESS))
            since = now
        # It was counted all the while, so there is room.
        self._backlog.append(_Waiting(delivery, None, since, work.earliest))

    def _is_undecided(self, delivery: Delivery) -> bool:
        """Whether a delivery that work was done for still counts: the consumer may have been moved."""
        undecided = self._undecided.get(delivery.reply)
        return undecided is not None and undecided[0] is delivery

    def _return(self, delivery: Delivery) -> None:
        del self._undecided[delivery.reply]
        delay_ns = self.policy.backoff_ns(delivery.attempt, self._rand())
        self.tells.append((delivery.reply, nak(delay_ns)))

    def decided(self, reply: bytes) -> None:
        """Note that an event will not be redelivered."""
        self._undecided.pop(reply, None)

    # --- Deliveries of earlier calls ----------------------------------------------------------------------

    def resume(self, resumed: Sequence[Resumed], number: int, now: float) -> None:
        """Go on with deliveries of earlier calls, as far as they are not known to have ended.

        Each is held for as long as a ping of it is not answered, so that its time begins anew.
        """
        self.taken_over = TakeOver(number, now)
        for each in sorted(resumed, key=lambda each: -each.attempt):
            if self.window.get(each.seq) is None and not self._has_ended(each, now):
                self._take_over(each, now)

    def _has_ended(self, each: Resumed, now: float) -> bool:
        if self._settled.doubted and self._settled.knows(each.seq, now):
            self.tells.append((each.reply, ACK))  # the broker has forgotten that it is settled
        return (
            self._settled.lately(each.seq)
            or each.seq <= self.found.state.settled_to
            or self.policy.is_beyond(each.attempt)
        )

    def _take_over(self, each: Resumed, now: float) -> None:
        age = max(0.0, (self._unix_ns() - each.made_ns) / 1e9)
        held = self.window.admit(each.seq, each.reply, each.attempt, now - age)
        if held is None:
            return
        is_remembered = each.is_same_broker or self.found.state.is_replicated
        held.earliest = now if is_remembered else -inf  # see `_is_forgotten`
        held.checked = -inf  # it may have been given up on
        held.stored_ns = stored_at(each.reply)
        held.deadline = now  # unless the broker answers
        pending = self._settlements.prolong(each.seq, held, now)
        self.sends.append(pending)
        self.taken_over.add(held, pending)
        self._counts.resumed += 1

    def taken(self, number: int, deliveries: Iterable[DeliveryName], now: float) -> list[StreamSeq]:
        """Let deliveries go that another call takes over; return the events that it is not to have.

        Of two calls that want a delivery at the same time the later one gets it.
        """
        if number == self.taken_over.number:
            return []
        is_later = self.taken_over.is_later(number, now)
        kept = [each.seq for each in deliveries if not self._lets_go(each, is_later=is_later)]
        coming = self._coming()
        return kept + [each.seq for each in deliveries if coming.get(each.seq, 0) > each.attempt]

    def _coming(self) -> dict[StreamSeq, int]:
        """Return the deliveries that may reach the client, with their attempts."""
        replies = {*self._undecided, *(delivery.reply for delivery in self._arrived)}
        replies.update(each.delivery.reply for each in self._backlog)
        named = [name_of(reply) for reply in replies if reply.startswith(b"$JS.ACK.")]  # others are replays
        return {each.seq: each.attempt for each in named}

    def _lets_go(self, delivery: DeliveryName, *, is_later: bool) -> bool:
        """Let a delivery go if this call has it; false if somebody else is not to have it."""
        held = self.window.get(delivery.seq)
        if held is None or held.replay is not None:
            return True
        ours = name_of(held.reply)
        if ours.attempt > delivery.attempt or (ours == delivery and (held.settling or is_later)):
            return False
        if ours == delivery or ours.attempt < delivery.attempt:
            self.window.remove(delivery.seq, held)
        return True

    def objected(self, number: int, seqs: Iterable[StreamSeq]) -> None:
        """Let deliveries go that this call was not to take over."""
        if number != self.taken_over.number:
            return
        for seq in seqs:
            held = self.window.get(seq)
            if held is not None and self.taken_over.has(seq, held):
                self.window.remove(seq, held)

    def certain_at(self, seq: StreamSeq) -> float:
        """Return from when on nobody will object any more to this call's having an event."""
        is_taken_over = self.taken_over.has(seq, self.window.get(seq))
        return self.taken_over.certain_at if is_taken_over else -inf

    def token_of(self, delivery: Delivery) -> bytes:
        """Return the token of a delivery that the client is handed; empty = it has none."""
        held = self.window.get(delivery.id)
        if self.tokens is None or held is None or held.replay is not None:
            return b""
        return self.tokens.write(delivery.reply)

    # --- The consumer -------------------------------------------------------------------------------------

    def doubt(self) -> None:
        """Look the consumer up: it may be gone, or another."""
        self._doubts.add(Doubt.CONSUMER, self._now)

    def _doubt(self, what: Doubt, now: float) -> None:
        """Have things in doubt, and do what cannot wait until that is cleared up."""
        self._doubts.add(what, now)
        if Doubt.DELIVERIES in what:
            self._memory.attempts.trusted_since = now
        if Doubt.SETTLEMENTS in what:
            self._lose_settlements()
            self._settled.recover(now, self._timeout)
            if self.policy.dead_letters:
                self._doubts.add(Doubt.DEAD_LETTERS, now)
        self._wants_inbox |= Doubt.REQUESTS in what

    def _lose_settlements(self) -> None:
        """Have what was settled last settled again where the broker delivers it once more."""
        self._settled.lose(self._settlements.acks_under_way())
        self.work.append(w.ForgetRecalls())

    def consumer_seen(self, found: ConsumerSnapshot) -> None:
        """Follow what was changed; raise why the call is to end."""
        doubts = self._doubts
        doubts.consumer = doubts.consumer.answered()
        if found.state.created != self.found.state.created:
            raise ConsumerNotFound(self.consumer.name)
        self.check(found)
        if found.policy.dead_letters and not self.policy.dead_letters:
            doubts.add(Doubt.DEAD_LETTERS, self._now)
        if found.timeout < self.found.timeout:  # what is held may be delivered again sooner
            doubts.trusted_since = inf
            self._wants_inbox = True
        # The broker does not serve requests that waited through a pause, but those that came later
        self._wants_drain |= _pause(self.found) != _pause(found)
        self.found = found
        if self.tokens is not None:
            self.tokens.use(key_of(found.state.config))
        self.window.set_timeout(self._timeout)
        limit = raised_limit(found.state)
        if limit is not None:
            self.work.append(w.RaiseLimit(found.state.config | {"max_ack_pending": limit}))
        if doubts.is_deleted:  # and made again since
            raise ConsumerNotFound(self.consumer.name)
        withheld, lost = doubts.seen(self._now)
        self.sends += (pending for pending in withheld if not pending.answered)
        self.tells += ((reply, ACK) for reply in lost)

    def consumer_unseen(self) -> None:
        """Note that the broker does not answer."""
        self._doubts.unseen()

    def learned(self, dead: Mapping[StreamSeq, int] | None) -> None:
        """Take which events are dead letters that the broker may deliver nevertheless; None: not known.

        A dead letter that is older than the consumer is of an earlier one with its name, and counts for
        nothing.
        """
        self._doubts.dead_letters = self._doubts.dead_letters.answered()
        if dead is None:
            self._doubts.add(Doubt.DEAD_LETTERS, self._now)
        else:
            self._dead = dict(dead)

    def letter_id(self, seq: StreamSeq, reply: bytes) -> DeadLetterId:
        """Return which dead letter an event becomes, by a delivery of it."""
        return self._failures.id(seq, reply)

    def is_settled(self, seq: StreamSeq) -> bool:
        """Whether this server, or one that said so, has settled an event lately."""
        return self._settled.lately(seq)

    # --- Moves of the consumer ----------------------------------------------------------------------------

    def hold_still(self, run: Run, until: float) -> None:
        """Drop what the client holds, and take nothing before the consumer is in this run.

        Somebody is about to move it. If that is not done by `until`, go on as before: what was held comes
        again after its timeout.
        """
        if not run.follows(self.run) or self._still_until == until:
            return
        self._still_until = until
        self._drop()
        self._arrived.clear()
        self._wants_drain = True

    @property
    def is_busy(self) -> bool:
        """Whether something about an event of the consumer is under way to the broker."""
        return any(not replays for _, replays in self._undecided.values()) or bool(
            self._settlements.unanswered()
        )

    def begin_run(self, run: Run, settled: Settled, now: float) -> None:
        """Go on with a consumer that was moved: nothing that was known of its events counts any more."""
        self._drop()
        self._arrived = _since_reset(self._arrived, self._doubts.highest)
        self._undecided = {reply: each for reply, each in self._undecided.items() if each[1]}
        for pending in self._settlements.unanswered():
            self._refuse(pending, now)
        self._doubts.forget()
        self.taken_over.forget()
        self.run = run
        self._settled = settled
        self._failures.forget()
        self._dead.clear()
        self._doubt(Doubt.DELIVERIES, now)
        self._still_until = inf
        self._wants_inbox = self._wants_inbox or self._wants_drain or not self._arrived
        self._wants_drain = False
        if self.policy.dead_letters:
            self._doubts.add(Doubt.DEAD_LETTERS, now)

    def _drop(self) -> None:
        """Forget the deliveries that the client holds, and those that wait for it, but replays."""
        self.window.forget()
        self._backlog = [waiting for waiting in self._backlog if waiting.replay is not None]
        self._unsent = [each for each in self._unsent if each[1].replay is not None]

    # --- The connection -----------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Begin."""
        self._doubts.asked_at = now
        self._settled.recover(now, self._timeout)
        if self.linger:  # what lingers of earlier calls takes places of the consumer
            self._delayed.add(self._linger_ns, now)

    def lost(self, now: float) -> None:
        """Note that the connection ended: the broker may forget what was settled just now."""
        self._doubt(Doubt.DELIVERIES, now)
        self._pacer.lose()
        self._lose_settlements()

    def connected(self, now: float, *, is_same: bool = False) -> None:
        """Note that there is another connection: pull anew, and send again what may be.

        `is_same` says that it is to the process that the one before was to: that has forgotten nothing.
        """
        is_known = is_same or self.found.state.is_replicated
        self._doubt(doubt.ANOTHER_CONNECTION if is_known else doubt.ANOTHER_PROCESS, now)
        self._settled.recover(now, self._timeout)
        withheld = self._doubts.withheld
        waiting = set(map(id, withheld))
        withheld += (each for each in self._settlements.repeatable() if id(each) not in waiting)

    def moved(self, now: float) -> None:
        """Note that another connection took over: ask by way of it, once what is on its way has arrived."""
        self._doubt(Doubt.DELIVERIES, now)
        self._wants_drain = True

    def elected(self, now: float) -> None:
        """Note that the consumer has another leader, which may deliver again what is held.

        It takes events that were stored long ago for delivered then.
        """
        self._doubt(doubt.ANOTHER_LEADER if self.found.state.is_replicated else doubt.RESTARTED, now)

    def _is_forgotten(self, held: InFlight) -> bool:
        """Whether the broker may have forgotten a delivery: then it may count others as this one.

        A reject could hit another delivery of the event, or contradict an ack of it.
        """
        return (
            self.policy.dead_letters and held.earliest <= self._doubts.forgetful_until and held.replay is None
        )

    # --- Time and pulling ---------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Let time pass, and take in what arrived."""
        self._now = now
        self._end_what_is_late(now)
        if self._pacer.due <= now:
            is_asked = self.window.requested > 0  # then it should have shown a sign of life
            if self._pacer.tick(now):
                self._doubt(doubt.UNHEARD if is_asked else doubt.SILENT, now)
        if self._pacer.stuck(now):
            self._wants_drain = True
        if self._drain_at <= now:
            self._drain_at = inf
            self._wants_drain = self._wants_drain or self.window.requested > 0
        if self.taken_over.pending:
            self.taken_over.advance(now)
        if not self.is_ending or self._doubts.withheld:
            self._ask(now)
        if not self.is_ending:
            self._take_in(now)

    def _end_what_is_late(self, now: float) -> None:
        if self._settlements.due <= now:
            for pending in self._settlements.tick(now):
                end_settlement(pending, NoReply.TIMED_OUT)
                self._doubt_reject(pending)
                self.doubt()  # where a consumer was moved, what is about deliveries before stays unanswered
        if self._still_until <= now:
            self._still_until = inf  # nobody has moved the consumer
            self.doubt()

    def _ask(self, now: float) -> None:
        if self._delayed.due <= now and self._delayed.look(now):
            self.doubt()
        doubts = self._doubts
        if doubts.consumer is Question.OPEN:
            doubts.consumer, doubts.asked_at = Question.ASKED, now
            self.work.append(w.LookUp())
        if doubts.dead_letters is Question.OPEN:
            doubts.dead_letters, doubts.asked_at = Question.ASKED, now
            self.work.append(w.Learn())

    @property
    def due(self) -> float:
        """When `advance` is to be called at the latest."""
        return min(
            self._settlements.due,
            self._pacer.due,
            self._drain_at,
            self._delayed.due,
            self._still_until,
            self._limited_until,
            self.taken_over.due,
        )

    def takes_inbox(self, now: float) -> bool:
        """Whether a fresh inbox is to be opened now, for the requests from now on."""
        knows = self._doubts.dead_letters is Question.ANSWERED and self._still_until == inf
        if not (self._wants_inbox and knows) or self.is_ending or self._is_stalled:
            return False
        self._wants_inbox = False
        self._pacer.lose()
        self._doubts.opened(now)
        return True

    def takes_drain(self) -> bool:
        """Whether the inbox is to be closed now, with what is on its way; then another one is opened."""
        if not self._wants_drain:
            return False
        self._wants_drain, self._wants_inbox = False, True
        self._pacer.lose()
        return True

    def next_pull(self, now: float) -> Pull | None:
        """Return the pull request to send now, if any; it counts as sent."""
        pacer = self._pacer
        is_behind = self._pacer.bytes_of(len(self._unsent)) > MOST_UNSENT
        if self.is_ending or is_behind or self._is_stalled or self._wants_inbox:
            pacer.pause()
            return None
        waits, is_first = pacer.wants_room, not self.window.requested
        pull = pacer.next(now, busy=self._settlements.busy)
        if pacer.wants_room and not waits:
            self.work.append(w.AwaitRoom())
        if pull is not None and is_first:
            self._doubts.recency.asked(now)
        return pull

    def room_came(self, share: Share) -> None:
        """Take the room for an event that is asked for alone."""
        self._pacer.take_room(share)

    def unsent(self, pull: Pull) -> None:
        """Take back a pull request that could not be sent."""
        self._pacer.unsent(pull)

    # --- The end ------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Ask for no more work: the call is over, however it ended."""
        if self.is_ending and not _is_cut(self.failure):
            self.linger = _NOT  # its client does not come back
        self.is_ending = self._is_closed = True

    @property
    def lingering(self) -> bytes:
        """What has a delivery made again after it has lingered."""
        return nak(self._linger_ns)

    @property
    def _linger_ns(self) -> int:
        return self.linger // timedelta(microseconds=1) * 1000

    def close(self, now: float) -> Released:
        """Return what is released. What the client was handed lingers if the call was cut off."""
        self._pacer.leave()
        released = [each for each in self._settlements.release() if not self._is_forgotten(each[1])]
        for seq, held in released:
            self._failures.failed(seq, held, now)
        later: list[bytes] = []
        if self.lingering != NAK:
            unsent = {delivery.reply for delivery, _ in self._unsent}
            later = [held.reply for _, held in released if held.replay is None and held.reply not in unsent]
        lingering = set(later)
        self._counts.released += len(released) - len(later)
        self._counts.lingered += len(later)
        at_once = [
            *(delivery.reply for delivery in self._arrived),
            *(waiting.delivery.reply for waiting in self._backlog),
            *self._undecided,
            *(held.reply for _, held in released if held.reply not in lingering),
        ]
        return Released(at_once, later)


def _is_cut(failure: Exception | None) -> bool:
    """Whether a client whose call ended with this will make another one, and go on."""
    if isinstance(failure, WindshiftError):
        return isinstance(failure, (ShuttingDown, Unauthenticated))
    return failure is not None


def _pause(found: ConsumerSnapshot) -> object:
    """Return what tells one pause of a consumer from another."""
    return found.state.config.get("pause_until")


def _since_reset(arrived: Sequence[Delivery], highest: int) -> list[Delivery]:
    """Return the deliveries that came after the consumer began to count them anew; `highest` came before."""
    for position, delivery in enumerate(arrived):
        sequence = consumer_sequence(delivery.reply)
        if sequence <= highest:
            return list(arrived[position:])
        highest = sequence
    return []


PROLONG_SHARE: Final = 3
SHORTEST_PROLONG: Final = timedelta(milliseconds=30)


def prolong_every(timeout: timedelta) -> float:
    """Return the seconds between two messages that prolong a delivery while its event is dealt with."""
    return max(timeout / PROLONG_SHARE, SHORTEST_PROLONG).total_seconds()
