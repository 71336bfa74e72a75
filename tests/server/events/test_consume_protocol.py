"""A consume call without I/O: what happens goes in, what is to be done comes out."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from windshift.nats import NoReply
from windshift.nats.jetstream.api import ConsumerState
from windshift.nats.jetstream.pulling import ACK, TERMINATE, Notice
from windshift.nats.times import Time
from windshift.server.domain.errors import ConsumerNotFound
from windshift.server.events.consuming.commands import Ack, Action, Reject
from windshift.server.events.consuming.consumer_state import ConsumerSnapshot
from windshift.server.events.consuming.interfaces import ConsumeOptions
from windshift.server.events.consuming.pauses import PauseDetector
from windshift.server.events.consuming.protocol import (
    CheckVoid,
    ConsumeProtocol,
    GiveUp,
    Keep,
    Learn,
    LookUp,
    Memory,
    ReportDropped,
    Terminate,
    Verify,
)
from windshift.server.events.consuming.redelivery import FailedAttempts, Settled
from windshift.server.events.counts import Counts
from windshift.server.events.deliveries import Delivery
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.retries import RetryPolicy

CREATED = "2026-11-24T00:00:00Z"
TWICE = RetryPolicy(2, dead_letters=True)


def snapshot(policy: RetryPolicy = TWICE, created: str = CREATED) -> ConsumerSnapshot:
    """Describe a consumer."""
    return ConsumerSnapshot(timedelta(seconds=30), policy, ConsumerState({}, created, 0, 0, 0, 0))


class Call:
    """A call whose consumer is known, that has an inbox and asked for events; the time is 0.

    Attributes:
        told: what the client was told last: done, invalid, failed for now.
    """

    def __init__(self, policy: RetryPolicy = TWICE, settled: Settled | None = None) -> None:
        self.memory = Memory(settled or Settled(), FailedAttempts(), PauseDetector(), Counts())
        self.protocol = ConsumeProtocol(
            ConsumerKey("S", "c"), snapshot(policy), 10, self.memory, ConsumeOptions(), lambda: 0.5
        )
        self.protocol.begin(0.0)
        self.turn()
        if policy.dead_letters:
            assert self.work() == [Learn()]
            self.protocol.consumer_seen(snapshot(policy))
            self.protocol.learned({})
        assert self.protocol.takes_inbox()
        assert self.protocol.next_pull(0.0) is not None

    def turn(self, now: float = 0.0) -> list[Delivery]:
        """Let the call take a turn; return what the client is handed."""
        self.protocol.advance(now)
        return list(self.protocol.deliverable(0, now))

    def work(self) -> list[object]:
        """Take what is to be done."""
        work, self.protocol.work = self.protocol.work, []
        return list(work)

    def tells(self) -> list[bytes]:
        """Take what is told the broker without an answer."""
        tells, self.protocol.tells = self.protocol.tells, []
        return [payload for _, payload in tells]

    def arrive(self, seq: int, attempt: int = 1) -> None:
        """Let a delivery arrive."""
        reply = b"$JS.ACK.S.c.%d.%d.1.1700000000000000000.0" % (attempt, seq)
        self.protocol.delivered(
            Delivery(StreamSeq(seq), "s", "t", b"", Time(0, 0), None, None, None, attempt, reply)
        )

    def hold(self, seq: int, attempt: int = 1) -> None:
        """Let a delivery arrive and reach the client."""
        self.arrive(seq, attempt)
        delivered = self.turn()
        if attempt > 1 and self.protocol.policy.dead_letters:
            (verify,) = self.work()
            assert isinstance(verify, Verify)
            self.protocol.verified(verify.delivery, 0.0, 0.0, 0.0, is_dead=False)
            delivered = self.turn()
        assert [each.id for each in delivered] == [seq]

    def sent(self) -> list[bytes]:
        """Answer all acknowledgements that are to be sent; return what they say."""
        sends, self.protocol.sends = self.protocol.sends, []
        for pending in sends:
            pending.sent = True
            self.protocol.answered(pending, b"", 0.0)
        return [pending.payload for pending in sends]

    def told(self) -> list[tuple[list[StreamSeq], ...]]:
        """Return the confirmations that leave now."""
        return [confirmation.lists() for confirmation in self.protocol.confirmations()]


def reject(seq: int, action: Action = Action.UNSPECIFIED) -> Reject:
    """Reject an event."""
    return Reject([StreamSeq(seq)], False, None, action=action)


def test_an_ack() -> None:
    """It goes to the broker, and its answer to the client."""
    call = Call()
    call.hold(1)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    assert call.told() == []
    assert call.sent() == [ACK]
    assert call.told() == [([1], [], [])]
    assert call.work() == []


def test_a_last_attempt_that_is_rejected() -> None:
    """A dead letter is written first, then the event is settled, then the client is told."""
    call = Call()
    call.hold(1, attempt=2)
    call.protocol.command(reject(1), 0.0)
    assert call.sent() == []
    (keep,) = call.work()
    assert isinstance(keep, Keep)
    call.protocol.prepared(keep, 0.0, done=True)
    assert call.sent() == [TERMINATE]
    assert call.told() == [([1], [], [])]


def test_a_dead_letter_that_cannot_be_written() -> None:
    """The event stays with the client, which may try again."""
    call = Call()
    call.hold(1, attempt=2)
    call.protocol.command(reject(1), 0.0)
    (keep,) = call.work()
    assert isinstance(keep, Keep)
    call.protocol.prepared(keep, 0.0, done=False)
    assert call.sent() == []
    assert call.told() == [([], [], [1])]


def test_an_event_that_another_call_has_got_settled() -> None:
    """A reject that would end it a second time is invalid, and no dead letter is written."""
    settled = Settled()
    call = Call(settled=settled)
    call.hold(1)
    settled.add(StreamSeq(1), 0.0)
    call.protocol.command(reject(1, Action.DEAD_LETTER), 0.0)
    assert call.work() == []
    assert call.sent() == []
    assert call.tells() == [ACK]
    assert call.told() == [([], [1], [])]


def test_an_ack_of_a_last_attempt_is_doubted() -> None:
    """It counts when there is no dead letter, and is invalid when there is."""
    for void, expected in ((False, ([1], [], [])), (True, ([], [1], []))):
        call = Call()
        call.hold(1, attempt=2)
        call.protocol.command(Ack([StreamSeq(1)]), 0.0)
        assert call.sent() == [ACK]
        (check,) = call.work()
        assert isinstance(check, CheckVoid)
        assert call.told() == []
        call.protocol.void_checked(check.pending, check.outcome, 0.0, void=void)
        assert call.told() == [expected]


def test_a_drop_is_reported_when_it_is_stored() -> None:
    """Not when it was asked for, nor when it failed."""
    call = Call()
    call.hold(1)
    call.protocol.command(reject(1, Action.DROP), 0.0)
    (pending,) = call.protocol.sends
    call.protocol.sends.clear()
    call.protocol.answered(pending, NoReply.TIMED_OUT, 0.0)
    assert call.work() == []
    call.protocol.command(reject(1, Action.DROP), 0.0)
    assert call.sent() == [TERMINATE]
    (report,) = call.work()
    assert isinstance(report, ReportDropped)


def test_attempts_that_are_used_up() -> None:
    """An event comes once more than its policy allows: it is kept, then not made again."""
    call = Call()
    call.arrive(1, attempt=3)
    assert call.turn() == []
    (give_up,) = call.work()
    assert isinstance(give_up, GiveUp)
    assert give_up.keep
    call.protocol.gave_up(give_up.delivery, done=True)
    (terminate,) = call.work()
    assert isinstance(terminate, Terminate)


@pytest.mark.parametrize("is_dead", [None, True, False])
def test_another_attempt_is_verified(is_dead: bool | None) -> None:
    """It reaches the client unless it is a dead letter; when nobody can tell, it comes again later."""
    call = Call()
    call.arrive(1, attempt=2)
    assert call.turn() == []
    (verify,) = call.work()
    assert isinstance(verify, Verify)
    call.protocol.verified(verify.delivery, 0.0, 0.0, 0.0, is_dead=is_dead)
    assert len(call.turn()) == (is_dead is False)
    assert [type(each) for each in call.work()] == ([Terminate] if is_dead else [])
    assert len(call.tells()) == (is_dead is None)


def test_what_goes_back_at_the_end() -> None:
    """Everything that was not settled, or not sent: held, waiting, undecided and just arrived."""
    call = Call()
    for seq in (1, 2, 3):
        call.hold(seq)
    call.arrive(4, attempt=2)
    call.turn()
    call.arrive(5)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    (ack,) = call.protocol.sends
    ack.sent = True
    call.protocol.command(reject(2, Action.DEAD_LETTER), 0.0)
    call.protocol.leave()
    back = {reply.split(b".")[5] for reply in call.protocol.close(0.0)}
    assert back == {b"2", b"3", b"4", b"5"}
    assert call.memory.counts.released == 2


def test_an_answer_after_the_end() -> None:
    """It is counted, and asks for nothing."""
    call = Call()
    call.hold(1, attempt=2)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    (ack,) = call.protocol.sends
    call.protocol.leave()
    call.protocol.close(0.0)
    call.work()
    call.protocol.answered(ack, b"", 1.0)
    assert call.work() == []
    assert call.memory.counts.acknowledged == 1


def test_a_lost_connection() -> None:
    """Acks that were under way are sent again on the next one; nothing is pulled before all is learned."""
    call = Call()
    call.hold(1)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    (ack,) = call.protocol.sends
    call.protocol.sends.clear()
    call.protocol.lost()
    call.protocol.answered(ack, NoReply.DISCONNECTED, 0.0)
    assert call.told() == []
    call.protocol.connected(1.0)
    assert call.protocol.sends == [ack]
    assert not call.protocol.takes_inbox()
    call.turn(1.0)
    assert Learn() in call.work()
    call.protocol.learned({})
    assert call.protocol.takes_inbox()


def test_what_is_learned_during_a_lost_connection_is_learned_again() -> None:
    """An answer of before does not count for the connection after."""
    call = Call()
    call.protocol.connected(1.0)
    call.turn(1.0)
    assert call.work() == [Learn()]
    call.protocol.connected(2.0)
    call.protocol.learned({})
    assert not call.protocol.takes_inbox()
    call.turn(2.0)
    assert call.work() == [Learn()]


def test_a_consumer_that_is_gone() -> None:
    """A notice of the broker has it looked up; another one of its name is not this one."""
    call = Call()
    call.protocol.told(Notice.DELETED, 0.0)
    call.turn()
    assert LookUp() in call.work()
    with pytest.raises(ConsumerNotFound):
        call.protocol.consumer_seen(snapshot(created="2026-11-25T00:00:00Z"))
    with pytest.raises(ConsumerNotFound):
        call.protocol.consumer_seen(snapshot())  # it was there once more when it was looked up


def test_a_policy_that_is_changed() -> None:
    """It counts from the next delivery on."""
    call = Call(RetryPolicy())
    call.hold(1, attempt=5)
    call.protocol.consumer_seen(snapshot(replace(TWICE, max_attempts=5)))
    call.protocol.command(reject(1), 0.0)
    assert [type(each) for each in call.work()] == [Keep]
