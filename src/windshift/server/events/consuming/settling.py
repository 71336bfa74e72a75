"""Acknowledgements of one consume call, from the client's command to its confirmation. No I/O.

A command becomes a message to the broker for each delivery that it names, perhaps after a dead letter was
kept or a replay ended. The client is told what became of it once the broker has answered, and, where another
delivery of the event may exist, once it is decided which of them has ended it.

`pending_acks` counts what is under way; what that means is decided here.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from math import inf
from typing import Final

from windshift.nats import NoReply, Outcome
from windshift.nats.jetstream.pulling import ACK, TERMINATE, nak
from windshift.server.events.consuming import doubt
from windshift.server.events.consuming import work as w
from windshift.server.events.consuming.commands import Decision, Disposition, Reject, check_reject, decide
from windshift.server.events.consuming.consumer_state import DelayedRejects
from windshift.server.events.consuming.flow import InFlight
from windshift.server.events.consuming.pending_acks import (
    CommandKind,
    Confirmation,
    Group,
    PendingAck,
    Settlements,
)
from windshift.server.events.consuming.spans import end_settlement
from windshift.server.events.consuming.state import CallState
from windshift.server.events.model import StreamSeq

LATEST: Final = 8 * 60.0
"""Seconds, beside the timeout, after which a client may not give up on an event that others may have claimed.

It is shorter than `state.CLAIMED_FOR` by the time that a server may be asleep for."""
CHECK_INTERVAL: Final = 4 * 60.0
"""Seconds between two looks whether somebody has claimed an event that is held for long."""


class Settling:
    """What the client says of its deliveries, and what the broker answers within `confirm_timeout` seconds.

    Attributes:
        settlements: the commands, and the messages to the broker.
        delayed: when rejects with a delay may need more room at the broker.
        is_closed: whether the call is over, so that nothing is sent any more.
    """

    __slots__ = ("_state", "delayed", "is_closed", "settlements")

    def __init__(self, state: CallState, confirm_timeout: float) -> None:
        self._state = state
        self.settlements = Settlements(state.window, confirm_timeout)
        self.delayed = DelayedRejects()
        self.is_closed = False

    # --- Commands -----------------------------------------------------------------------------------------

    def acknowledge(self, kind: CommandKind, ids: Sequence[StreamSeq], now: float) -> None:
        """Carry out an ack, or a ping."""
        sends: list[PendingAck] = []
        for pending in self.settlements.command(kind, ids, now):
            replay = pending.held.replay
            if replay is not None and kind is CommandKind.ACK:
                self._prepare(pending, w.EndReplay(pending, replay))
            else:
                sends.append(pending)
        self._queue(sends, now)

    def reject(self, reject: Reject, now: float) -> None:
        """Carry out a reject; raise what is wrong with it."""
        state = self._state
        check_reject(reject)
        if state.authorizer is not None and reject.is_final:
            state.authorizer.reject(*state.consumer, state.found.owner)
        for pending in self.settlements.command(CommandKind.REJECT, reject.ids, now):
            decision = decide(reject, state.policy, pending.held.attempt, state.rand())
            is_drop = decision.disposition is Disposition.DROPPED
            if not is_drop and state.is_forgotten(pending.held):
                self._refuse(pending, now)
            elif decision.disposition is Disposition.AGAIN:
                pending.payload = nak(decision.delay_ns)
                why, delay_ns = (reject.reason, reject.error_type), decision.delay_ns
                state.failures.failed(pending.seq, pending.held, now, *why, delay_ns=delay_ns)
                self.delayed.add(decision.delay_ns, now)
                self._queue([pending], now)
            else:
                self._give_up_rejected(pending, reject, decision, now)

    def _give_up_rejected(self, pending: PendingAck, reject: Reject, decision: Decision, now: float) -> None:
        state = self._state
        held = pending.held
        if held.replay is None and state.settled.lately(pending.seq, held.stored_ns):
            # Another call of this process has got it settled: after a crash of the broker two may hold it.
            state.effects.tells.append((held.reply, ACK))
            self._refuse(pending, now)
            return
        is_kept = decision.disposition is Disposition.DEAD_LETTER
        if is_kept and not self._may_give_up(held, now):
            self._refuse(pending, now)
            return
        failure = state.failures.rejected(
            pending.seq, held, now, decision.cause, reject.reason, reject.error_type
        )
        if is_kept:
            self._prepare(pending, w.Keep(pending, failure))
            return
        pending.dropped = failure
        if held.replay is not None:
            self._prepare(pending, w.EndReplay(pending, held.replay))
        else:
            self._queue([pending], now)

    def _may_give_up(self, held: InFlight, now: float) -> bool:
        """Whether a claim of the event's end by another delivery would still be there."""
        state = self._state
        if not state.policy.dead_letters or held.replay is not None or state.doubts.is_sure(held, now):
            return True
        return now - held.checked <= state.timeout + LATEST

    def _refuse(self, pending: PendingAck, now: float) -> None:
        """Tell the client that a delivery is not its to settle any more."""
        pending.void = True
        self.settlements.answer(pending, stored=True, now=now)

    def _prepare(self, pending: PendingAck, work: w.Keep | w.EndReplay) -> None:
        """Ask for what has to be done before a settlement may be sent."""
        pending.ready = False
        self._state.effects.work.append(work)

    def prepared(self, work: w.Keep | w.EndReplay, ending: w.EndOutcome, now: float) -> None:
        """Take what became of that: unless it is decided, the settlement has failed for now."""
        pending, held = work.pending, work.pending.held
        if (
            isinstance(work, w.Keep)
            and not held.replay
            and ending in (w.EndOutcome.DECIDED, w.EndOutcome.UNKNOWN)
        ):
            self._state.dead[pending.seq] = held.stored_ns
            held.sure_until = -inf  # an ack that comes after all is to be claimed
        if pending.answered:
            return
        match ending:
            case w.EndOutcome.DECIDED:
                pending.ready = True
                self._queue([pending], now)
            case w.EndOutcome.OTHERWISE:
                self._state.effects.tells.append((held.reply, ACK))
                self._refuse(pending, now)
            case _:
                self.settlements.answer(pending, stored=False, now=now)

    def _queue(self, sends: Sequence[PendingAck], now: float) -> None:
        """Begin to settle deliveries: their acknowledgements leave at the end of the turn, or wait."""
        spans = self._state.spans
        if spans is not None:
            for pending in sends:
                if pending.held.span is not None:
                    spans.settle(pending, pending.held.span)
        self._queue_or_withhold(sends, now)

    def _queue_or_withhold(self, sends: Sequence[PendingAck], now: float) -> None:
        """Have acknowledgements sent; withhold them while the consumer may have been moved, until it is seen.

        Those of replays need not: they are no messages to the consumer.
        """
        state = self._state
        doubts = state.doubts
        if state.pauses.has_missed(doubts.asked_at, now):
            doubts.add(doubt.MISSED, now)
        if not doubts.moved:
            state.effects.sends += sends
            return
        for pending in sends:
            where = doubts.withheld if pending.held.replay is None else state.effects.sends
            where.append(pending)

    # --- Answers of the broker ----------------------------------------------------------------------------

    def not_sent(self, pending: PendingAck, now: float) -> None:
        """Note that there is no connection. What may be repeated waits for the next one, or its time ends."""
        if not pending.may_repeat:
            self.settlements.answer(pending, stored=False, now=now)

    def answered(self, pending: PendingAck, outcome: Outcome, now: float) -> None:
        """Take the broker's answer to an acknowledgement, or why there is none."""
        state = self._state
        if outcome is NoReply.DISCONNECTED and pending.may_repeat and not self.is_closed:
            return  # sent again on the next connection, or failed when its time is over
        if isinstance(outcome, bytes) and not pending.answered:
            if pending.ends:
                state.doubts.recency.answered(pending.since)
            if state.found.policy.dead_letters or pending.seq in state.dead:
                work = self._before_confirming(pending, outcome, now)
                if work is not None:
                    state.effects.work.append(work)
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
            if group.doubts != self._state.doubts.changes:
                for pending in others:
                    self._queue_alone(pending, now)
                acks = [last]
            elif self._state.found.info.is_replicated:
                self._state.doubts.vouch([each.reply for each in others], now)
        if isinstance(outcome, bytes):
            acks = self._sure_acks_stored(acks, now)
        for pending in acks:
            self.answered(pending, outcome, now)

    def _sure_acks_stored(self, acks: Sequence[PendingAck], now: float) -> list[PendingAck]:
        """Take that the broker has stored acks, as far as they are sure; return the others.

        It is what `answered` does about each, at a third of the cost: most acks are sure.
        """
        state = self._state
        trusted_since, sure, others = state.doubts.trusted_since, [], []
        stored: dict[StreamSeq, int] = {}
        for pending in acks:
            held = pending.held
            is_sure = now < held.sure_until and held.earliest > trusted_since and held.attempt == 1
            if (
                is_sure
                and pending.confirmation.kind is CommandKind.ACK
                and not (pending.answered or held.replay)
            ):
                sure.append(pending)
                stored[pending.seq] = held.stored_ns
            else:
                others.append(pending)
        if sure:
            state.doubts.recency.answered(sure[-1].since)
            state.counts.acknowledged += len(sure)
            state.settled.latest(now).update(stored)
            state.latency.settlement.observe_since([*stored.values()], state.unix_ns())
            if state.dead:
                for pending in sure:
                    state.dead.pop(pending.seq, None)
            if state.spans is not None:
                for pending in sure:
                    end_settlement(pending, b"")
            self.settlements.stored(sure)
        return others

    def _queue_alone(self, pending: PendingAck, now: float) -> None:
        """Have an acknowledgement of a group sent again, with an answer of its own."""
        pending.alone = True
        if pending.may_repeat and not self.is_closed:
            self._queue_or_withhold([pending], now)

    def replay_settled(self, pending: PendingAck, now: float, *, is_ours: bool | None) -> None:
        """Take whether a replayed event still was this call's to settle; None: that cannot be told now."""
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
        state = self._state
        held = pending.held
        if held.replay is not None or self.is_closed:
            return None
        is_sure = state.doubts.is_sure(held, now)
        if not pending.settles:
            if is_sure:
                held.sure_until = max(held.sure_until, pending.since + state.window.lifetime)
            elif now - held.checked > CHECK_INTERVAL:
                return w.Check(pending, outcome)
        elif not pending.ends:
            if is_sure:
                state.failures.over(pending.seq, held, now)
        elif not is_sure and (pending.confirmation.kind is CommandKind.ACK or pending.dropped is not None):
            held.claimant = held.claimant or secrets.token_hex(8).encode()
            state.settled.add(pending.seq, held.stored_ns, now)  # nobody here is to begin with it meanwhile
            return w.Claim(pending, outcome)
        return None

    def claimed(self, work: w.Claim, ending: w.EndOutcome, now: float) -> None:
        """Take whether an event has ended with a settlement that the broker has taken."""
        pending = work.pending
        if pending.answered:
            return
        match ending:
            case w.EndOutcome.DECIDED:
                self._stored(pending, now)
                self._finish(pending, work.outcome, now)
            case w.EndOutcome.OTHERWISE:
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
        state = self._state
        counts, kind = state.counts, pending.confirmation.kind
        if kind is CommandKind.ACK:
            counts.acknowledged += 1
        elif kind is CommandKind.PING:
            counts.prolonged += 1
        elif pending.payload == TERMINATE:
            counts.terminated += 1
        else:
            counts.rejected += 1
        held, ends = pending.held, pending.ends
        if ends and held.replay is None:  # how a replay ends is no other end of the event
            state.settled.add(pending.seq, held.stored_ns, now)
            state.latency.settlement.observe_since((held.stored_ns,), state.unix_ns())
            if not state.doubts.is_sure(held, now):
                state.effects.settled_again[pending.seq] = held.stored_ns
            if state.dead:
                state.dead.pop(pending.seq, None)
        if ends and held.attempt > 1:
            state.failures.settled(pending.seq, pending.reply)
        if pending.dropped is not None:
            state.effects.work.append(w.ReportDropped(pending.dropped))

    def _finish(self, pending: PendingAck, outcome: Outcome, now: float) -> None:
        end_settlement(pending, outcome)
        if not isinstance(outcome, bytes):
            self._doubt_reject(pending)
        self.settlements.answer(pending, stored=isinstance(outcome, bytes), now=now)
        if outcome is NoReply.NO_RESPONDERS:
            self._state.doubt()

    @staticmethod
    def _doubt_reject(pending: PendingAck) -> None:
        """Note that the broker may have taken a reject, and so deliver the event to somebody else."""
        if pending.settles and not pending.ends:
            pending.held.sure_until = -inf

    # --- Time, loss and the client ------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Let time pass: what the broker has not answered in time has failed for now."""
        for pending in self.settlements.tick(now):
            end_settlement(pending, NoReply.TIMED_OUT)
            self._doubt_reject(pending)
            self._state.doubt()  # if the consumer was moved, what is about earlier deliveries is not answered

    def lose(self) -> None:
        """Have what was settled last settled again where the broker delivers it once more."""
        self._state.settled.lose(self.settlements.acks_under_way())
        self._state.effects.work.append(w.ForgetRecalls())

    def send_again(self) -> None:
        """Send what may be sent again by way of another connection, once it is known what the consumer is."""
        withheld = self._state.doubts.withheld
        waiting = set(map(id, withheld))
        withheld += (each for each in self.settlements.repeatable() if id(each) not in waiting)

    def refuse_unanswered(self, now: float) -> None:
        """Tell the client that what is under way was about deliveries that count no more."""
        for pending in self.settlements.unanswered():
            self._refuse(pending, now)

    def confirmations(self) -> list[Confirmation]:
        """Return the confirmations that may leave now."""
        confirmations = self.settlements.confirmations()
        for confirmation in confirmations:
            if confirmation.invalid_ids:
                self._state.counts.invalid += len(confirmation.invalid_ids)
            if confirmation.temporary_failed_ids:
                self._state.counts.failed += len(confirmation.temporary_failed_ids)
        return confirmations
