"""What a client's commands lead to: acknowledgements on their way to the broker, and what has to come before.

An ack or a ping is sent at once. So is a reject, unless the event is given up on: then a dead letter is
written first, and the event is settled only when that is stored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from windshift.nats import NatsError, NoReply, NotConnected, Outcome, Requests
from windshift.nats.jetstream import ACK, PROGRESS, TERMINATE, nak
from windshift.server.errors import AlreadySubscribed, WindshiftError
from windshift.server.events.consuming.commands import (
    Ack,
    Command,
    Fate,
    Ping,
    Reject,
    Subscribe,
    Verdict,
    check_reject,
    judge,
)
from windshift.server.events.consuming.session import Errand, Kind, Session
from windshift.server.events.consuming.slots import Slots
from windshift.server.events.consuming.triage import Triage
from windshift.server.events.consuming.window import Replay
from windshift.server.events.counts import Counts
from windshift.server.events.dead_letters.letters import Failure
from windshift.server.events.model import StreamSeq
from windshift.server.events.spans import ConsumeSpans, end_settlement


class Settling:
    """Carries out the commands of one attachment.

    Attributes:
        slots: when the consumer may run out of places.

    Args:
        session: what was asked and what is answered.
        requests: where acknowledgements are sent.
        triage: knows the consumer's policy and where dead letters go, and is told what was settled.
        counts: counts what the broker has stored.
        spans: records settlements, if anything is recorded.
        start: runs something beside the attachment.
        answered: called when something was answered.
        unheard: called when nobody was there to answer.
    """

    __slots__ = (
        "_answered",
        "_counts",
        "_failures",
        "_now",
        "_requests",
        "_session",
        "_shared",
        "_spans",
        "_start",
        "_triage",
        "_unheard",
        "slots",
    )

    def __init__(
        self,
        session: Session,
        requests: Requests,
        triage: Triage,
        counts: Counts,
        spans: ConsumeSpans | None,
        start: Callable[[Coroutine[Any, Any, None]], None],
        answered: Callable[[], None],
        unheard: Callable[[], None],
    ) -> None:
        self._session = session
        self._requests = requests
        self._shared = triage.shared
        self._triage = triage
        self._failures = triage.failures
        self._counts = counts
        self._spans = spans
        self._start = start
        self._answered = answered
        self._unheard = unheard
        self._now = requests.loop.time
        self.slots = Slots()

    def obey(self, command: Command) -> None:
        """Carry out a command; raise what is wrong with it."""
        match command:
            case Ack():
                self._pass_on(Kind.ACK, command.ids, ACK)
            case Ping():
                self._pass_on(Kind.PING, command.ids, PROGRESS)
            case Reject():
                self._reject(command)
            case Subscribe():
                raise AlreadySubscribed

    def _pass_on(self, kind: Kind, ids: Sequence[StreamSeq], payload: bytes) -> None:
        errands = self._session.command(kind, ids, payload, self._now())
        for errand in errands:
            if errand.held.replay is not None and kind is Kind.ACK:
                self._prepare(errand, self._remove_letter(errand, errand.held.replay))
            else:
                self._begin(errand)
        if not errands:
            self._answered()

    def _reject(self, reject: Reject) -> None:
        check_reject(reject)
        errands = self._session.command(Kind.REJECT, reject.ids, TERMINATE, self._now())
        for errand in errands:
            verdict = judge(reject, self._triage.policy, errand.held.attempt, random.random())
            self._carry_out(errand, verdict, reject)
        if not errands:
            self._answered()

    def _carry_out(self, errand: Errand, verdict: Verdict, reject: Reject) -> None:
        seq, held = errand.seq, errand.held
        if verdict.fate is Fate.AGAIN:
            errand.payload = nak(verdict.delay_ns)
            self._failures.failed(seq, held, reject.reason, reject.error_type)
            self.slots.reject(verdict.delay_ns, errand.since)
            self._begin(errand)
            return
        failure = self._failures.rejected(seq, held, verdict.cause, reject.reason, reject.error_type)
        if verdict.fate is Fate.DEAD_LETTER:
            self._prepare(errand, self._keep(errand, failure))
        elif held.replay is not None:
            self._prepare(errand, self._remove_letter(errand, held.replay))
        else:
            self._begin(errand)
        if verdict.fate is Fate.DROPPED:
            self._shared.told.dropped(failure)

    def _prepare(self, errand: Errand, work: Coroutine[Any, Any, bool]) -> None:
        """Do what has to come before a settlement may be sent."""
        errand.prepared = False
        self._start(self._after(errand, work))

    async def _after(self, errand: Errand, work: Coroutine[Any, Any, bool]) -> None:
        done = await work
        if errand.answered:
            return
        if done:
            errand.prepared = True
            self._begin(errand)
        else:
            self._fail(errand)

    async def _keep(self, errand: Errand, failure: Failure) -> bool:
        """Make a dead letter of an event that is to be settled.

        It stands for the event from now on: should the event be acknowledged after all, it is removed.
        """
        is_first = errand.held.replay is None
        errand.held.replay = errand.held.replay or Replay(failure.id, 0)
        with self._triage.prolonged(errand.reply, at_once=True):
            kept = await self._shared.keep(failure, errand.confirmation.expires)
        if kept and is_first:
            self._triage.dead_letter(errand.seq, errand.reply)
        return kept

    async def _remove_letter(self, errand: Errand, replay: Replay) -> bool:
        """Remove the dead letter of an event that is settled now."""
        deadline = errand.confirmation.expires
        try:
            with self._triage.prolonged(errand.reply, at_once=True):
                await self._shared.store.delete(replay.id, deadline)
        except (WindshiftError, NatsError):
            return False
        return True

    def _begin(self, errand: Errand) -> None:
        """Send a message to the broker, and record that."""
        if self._spans is not None and errand.held.span is not None:
            self._spans.settle(errand, errand.held.span)
        self.send(errand)

    def send(self, errand: Errand) -> None:
        """Send a message to the broker.

        Without a connection it waits for the next one or for its time to end, or fails at once if it must not
        be sent then.
        """
        deadline = errand.confirmation.expires
        try:
            self._requests.send(errand.reply, errand.payload, b"", partial(self._on_answer, errand), deadline)
        except NotConnected:
            if not errand.may_repeat:
                self._fail(errand)

    def _on_answer(self, errand: Errand, outcome: Outcome) -> None:
        if outcome is NoReply.DISCONNECTED and errand.may_repeat:
            return  # sent again on the next connection, or failed when its time is over
        if isinstance(outcome, bytes) and not errand.answered:
            if self._is_late(errand):
                self._start(self._see_whether_void(errand, outcome))
                return
            self._stored(errand)
        self._finish(errand, outcome)

    def _is_late(self, errand: Errand) -> bool:
        """Whether an ack may have come after the event was given up on: the broker answers it all the same.

        That takes a last attempt, which another server saw time out while this one or its client was held up,
        or an ack that was sent again to a broker that had forgotten the delivery.
        """
        policy, held = self._triage.policy, errand.held
        if not policy.dead_letters or held.replay is not None or errand.confirmation.kind is not Kind.ACK:
            return False
        return policy.is_last(held.attempt) or errand.is_repeated

    async def _see_whether_void(self, errand: Errand, outcome: Outcome) -> None:
        try:
            errand.void = await self._triage.is_dead(errand.seq, errand.reply)
        except (WindshiftError, NatsError):
            self._finish(errand, NoReply.TIMED_OUT)
            return
        if not errand.answered:
            if not errand.void:
                self._stored(errand)
            self._finish(errand, outcome)

    def _stored(self, errand: Errand) -> None:
        """Note that the broker has stored an acknowledgement."""
        self._count(errand)
        if errand.ends:
            self._triage.settle(errand.seq, self._now())
            if errand.held.attempt > 1:
                self._failures.settled(errand.seq)

    def _finish(self, errand: Errand, outcome: Outcome) -> None:
        end_settlement(errand, outcome)
        self._session.answer(errand, stored=isinstance(outcome, bytes), now=self._now())
        if outcome is NoReply.NO_RESPONDERS:
            self._unheard()
        else:
            self._answered()

    def _fail(self, errand: Errand) -> None:
        self._session.answer(errand, stored=False, now=self._now())
        self._answered()

    def _count(self, errand: Errand) -> None:
        kind, counts = errand.confirmation.kind, self._counts
        if kind is Kind.ACK:
            counts.acknowledged += 1
        elif kind is Kind.PING:
            counts.prolonged += 1
        elif errand.payload == TERMINATE:
            counts.terminated += 1
        else:
            counts.rejected += 1
