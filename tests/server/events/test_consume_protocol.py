"""A consume call without I/O: what happens goes in, what is to be done comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from windshift.nats import NoReply
from windshift.nats.jetstream.api import ConsumerState
from windshift.nats.jetstream.pulling import ACK, PROGRESS, TERMINATE, Notice, delay_of
from windshift.nats.times import Time
from windshift.server.domain.errors import ConsumerNotFound
from windshift.server.events.consuming.commands import Ack, Action, Limit, Ping, Reject
from windshift.server.events.consuming.consumer_state import ConsumerSnapshot
from windshift.server.events.consuming.interfaces import ConsumeOptions
from windshift.server.events.consuming.pauses import PauseDetector
from windshift.server.events.consuming.pending_acks import Group, grouped
from windshift.server.events.consuming.protocol import ConsumeProtocol
from windshift.server.events.consuming.redelivery import FailedAttempts, Settled
from windshift.server.events.consuming.state import CallState
from windshift.server.events.consuming.work import (
    Check,
    Claim,
    EndOutcome,
    GiveUp,
    Keep,
    Learn,
    LookUp,
    ReportDropped,
    Terminate,
    Verify,
)
from windshift.server.events.counts import Counts
from windshift.server.events.deliveries import Delivery
from windshift.server.events.latencies import ConsumerLatency
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.retries import RetryPolicy
from windshift.server.events.runs import Run

CREATED = "2026-11-24T00:00:00Z"
PLAIN = RetryPolicy()
TWICE = RetryPolicy(2, dead_letters=True)
STORED_NS = 1_700_000_000_000_000_000
NOW_NS = STORED_NS + 3_600_000_000_000


def snapshot(policy: RetryPolicy = TWICE, created: str = CREATED, timeout: float = 30.0) -> ConsumerSnapshot:
    """Describe a consumer."""
    return ConsumerSnapshot(timedelta(seconds=timeout), policy, ConsumerState({}, created, 0, 0, 0, 0))


class Call:
    """A call whose consumer is known, that has an inbox and asked for events; the time is 0.

    Attributes:
        told: what the client was told last: done, invalid, failed for now.
    """

    def __init__(
        self, policy: RetryPolicy = TWICE, settled: Settled | None = None, timeout: float = 30.0
    ) -> None:
        self.sequence = 0
        found = snapshot(policy, timeout=timeout)
        remembered = settled or Settled(), FailedAttempts(), PauseDetector(), Counts(), ConsumerLatency()
        consumer = ConsumerKey("S", "c")
        self.state = CallState(consumer, found, 10, *remembered, lambda: 0.5, lambda: NOW_NS)
        self.protocol = ConsumeProtocol(self.state, ConsumeOptions())
        self.protocol.begin(0.0)
        self.turn()
        if policy.dead_letters:
            assert self.work() == [Learn()]
            self.protocol.consumer_seen(found)
            self.protocol.learned({})
        assert self.protocol.takes_inbox(0.0)
        assert self.protocol.next_pull(0.0) is not None

    def turn(self, now: float = 0.0) -> list[Delivery]:
        """Let the call take a turn; return what the client is handed."""
        self.protocol.advance(now)
        return list(self.protocol.incoming.deliverable(0, now))

    def work(self) -> list[object]:
        """Take what is to be done."""
        work, self.protocol.state.effects.work = self.protocol.state.effects.work, []
        return list(work)

    def tells(self) -> list[bytes]:
        """Take what is told the broker without an answer."""
        tells, self.protocol.state.effects.tells = self.protocol.state.effects.tells, []
        return [payload for _, payload in tells]

    def arrive(self, seq: int, attempt: int = 1, stored_ns: int = STORED_NS, pending: int = 0) -> None:
        """Let a delivery arrive, behind which the broker has so many events."""
        self.sequence += 1
        reply = b"$JS.ACK.S.c.%d.%d.%d.%d.%d" % (attempt, seq, self.sequence, stored_ns, pending)
        self.protocol.incoming.arrived.append(
            Delivery(StreamSeq(seq), "s", "t", b"", Time(0, 0), None, None, None, attempt, reply, stored_ns)
        )

    def hold(self, seq: int, attempt: int = 1) -> None:
        """Let a delivery arrive and reach the client."""
        self.arrive(seq, attempt)
        delivered = self.turn()
        if attempt > 1 and self.protocol.state.policy.dead_letters:
            (verify,) = self.work()
            assert isinstance(verify, Verify)
            self.protocol.incoming.verified(verify, 0.0, 0.0, has_ended=False)
            delivered = self.turn()
        assert [each.id for each in delivered] == [seq]

    def sent(self, now: float = 0.0) -> list[bytes]:
        """Answer all acknowledgements that are to be sent; return what they say."""
        sends, self.protocol.state.effects.sends = self.protocol.state.effects.sends, []
        for pending in sends:
            pending.sent = True
            self.protocol.settling.answered(pending, b"", now)
        return [pending.payload for pending in sends]

    def claim(self) -> Claim:
        """Take the claim that is to be made, and see that there is nothing else to be done."""
        (claim,) = self.work()
        assert isinstance(claim, Claim)
        return claim

    def told(self) -> list[tuple[list[StreamSeq], ...]]:
        """Return the confirmations that leave now."""
        return [confirmation.lists() for confirmation in self.protocol.settling.confirmations()]


def reject(seq: int, action: Action = Action.UNSPECIFIED) -> Reject:
    """Reject an event."""
    return Reject([StreamSeq(seq)], False, None, action=action)


def test_a_part_of_what_is_there() -> None:
    """No more is handed over at once than is asked for, and nothing is left out."""
    call = Call()
    for seq in range(1, 6):
        call.arrive(seq)
    call.protocol.advance(0.0)
    handed = [[each.id for each in call.protocol.incoming.deliverable(0, 0.0, 2)] for _ in range(4)]
    assert handed == [[1, 2], [3, 4], [5], []]


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
    call.protocol.settling.prepared(keep, EndOutcome.DECIDED, 0.0)
    assert call.sent() == [TERMINATE]
    assert call.told() == [([1], [], [])]


def test_a_dead_letter_says_when_its_attempts_began() -> None:
    """By the clock of the call, which also says when the next attempt is due."""
    call = Call()
    call.hold(1)
    call.protocol.command(reject(1), 3.0)
    call.sent(3.0)
    known = call.state.attempts.get((ConsumerKey("S", "c"), CREATED), (StreamSeq(1), STORED_NS))
    assert known is not None
    assert NOW_NS < known.next_ns < NOW_NS + 3600 * 10**9
    call.hold(1, attempt=2)
    call.protocol.command(reject(1), 5.0)
    (keep,) = call.work()
    assert isinstance(keep, Keep)
    assert keep.failure.first_delivery_ns == NOW_NS - 3 * 10**9
    assert keep.failure.last_delivery_ns == NOW_NS - 5 * 10**9


def test_the_dead_letter_of_an_event_that_is_too_large_for_the_client() -> None:
    """Its attempt began when it came, by the clock of the call."""
    call = Call()
    call.protocol.incoming.max_message_size = 1
    call.arrive(1)
    assert call.turn() == []
    (give_up,) = call.work()
    assert isinstance(give_up, GiveUp)
    assert (give_up.failure.first_delivery_ns, give_up.failure.last_delivery_ns) == (NOW_NS, NOW_NS)


def test_a_dead_letter_that_cannot_be_written() -> None:
    """The event stays with the client, which may try again."""
    call = Call()
    call.hold(1, attempt=2)
    call.protocol.command(reject(1), 0.0)
    (keep,) = call.work()
    assert isinstance(keep, Keep)
    call.protocol.settling.prepared(keep, EndOutcome.NOT_NOW, 0.0)
    assert call.sent() == []
    assert call.told() == [([], [], [1])]


def test_an_event_that_another_call_has_got_settled() -> None:
    """A reject that would end it a second time is invalid, and no dead letter is written."""
    settled = Settled()
    call = Call(settled=settled)
    call.hold(1)
    settled.add(StreamSeq(1), STORED_NS, 0.0)
    call.protocol.command(reject(1, Action.DEAD_LETTER), 0.0)
    assert call.work() == []
    assert call.sent() == []
    assert call.tells() == [ACK]
    assert call.told() == [([], [1], [])]


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (EndOutcome.DECIDED, ([1], [], [])),
        (EndOutcome.OTHERWISE, ([], [1], [])),
        (EndOutcome.UNKNOWN, ([], [], [1])),
    ],
)
def test_an_ack_in_doubt_is_claimed(ending: EndOutcome, told: tuple[list[int], ...]) -> None:
    """An earlier attempt may be held by another: the client is told what was decided."""
    call = Call()
    call.hold(1, attempt=2)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    assert call.sent() == [ACK]
    assert call.told() == []
    call.protocol.settling.claimed(call.claim(), ending, 0.0)
    assert call.told() == [told]


def test_the_end_of_a_pause() -> None:
    """Requests that waited through it are made anew; what the broker sent to later ones still arrives."""
    call, found = Call(PLAIN), snapshot(PLAIN)
    for config in ({"pause_until": "2100-01-01T00:00:00Z"}, {}):
        call.protocol.consumer_seen(replace(found, info=replace(found.info, config=config)))
        assert not call.protocol.takes_inbox(0.0)
        assert call.protocol.takes_drain()
        call.hold(call.sequence + 1)
        assert call.protocol.takes_inbox(0.0)


def test_a_drop_in_doubt_is_claimed() -> None:
    """As an ack is, and reported when that is decided."""
    call = Call()
    call.hold(1, attempt=2)
    call.protocol.command(reject(1, Action.DROP), 0.0)
    assert call.sent() == [TERMINATE]
    call.protocol.settling.claimed(call.claim(), EndOutcome.DECIDED, 0.0)
    assert call.told() == [([1], [], [])]
    assert [type(each) for each in call.work()] == [ReportDropped]


def test_an_ack_that_is_made_again_is_claimed_by_the_same_name() -> None:
    """So that a claim which was stored, and not answered, is known again."""
    call = Call()
    call.hold(1, attempt=2)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    call.sent()
    claimant = call.claim().pending.held.claimant
    call.turn(6.0)
    assert call.told() == [([], [], [1])]
    call.turn(6.0)
    assert call.work() == [LookUp()]
    call.protocol.command(Ack([StreamSeq(1)]), 6.0)
    call.sent(6.0)
    assert call.claim().pending.held.claimant == claimant != b""


@pytest.mark.parametrize(
    ("answered", "is_claimed"),
    [
        pytest.param(29.9, False, id="in time"),
        pytest.param(29.96, True, id="perhaps after the timeout"),
    ],
)
def test_the_time_of_the_answer_counts(answered: float, is_claimed: bool) -> None:
    """A first attempt whose ack the broker has taken in time is nobody else's."""
    call = Call()
    call.hold(1)
    call.protocol.command(Ack([StreamSeq(1)]), 29.0)
    call.sent(answered)
    assert [type(each) for each in call.work()] == [Claim] * is_claimed


def test_a_way_that_was_stalled() -> None:
    """A delivery is as old as the request for it, unless something newer was answered before it came."""
    call = Call()
    for now in (9.0, 18.0, 27.0):
        call.protocol.pacer.heard(now)
    call.arrive(1)
    call.turn(27.0)
    call.protocol.command(Ack([StreamSeq(1)]), 28.0)
    call.sent(28.0)
    assert call.work() == []
    call.arrive(2)  # in the same turn as that answer: it may have been on its way before
    call.turn(29.0)
    call.protocol.command(Ack([StreamSeq(2)]), 31.0)
    call.sent(31.0)
    assert call.claim().pending.seq == 2
    call.arrive(3)
    call.turn(32.0)
    call.protocol.command(Ack([StreamSeq(3)]), 50.0)
    call.sent(50.0)
    assert call.work() == []


def test_a_ping_in_time_makes_it_last() -> None:
    """And one that the broker may have taken too late does not."""
    call = Call()
    call.hold(1)
    call.protocol.command(Ping([StreamSeq(1)]), 20.0)
    call.sent(20.0)
    call.protocol.command(Ack([StreamSeq(1)]), 49.0)
    call.sent(49.0)
    assert call.work() == []
    call = Call()
    call.hold(1)
    call.protocol.command(Ping([StreamSeq(1)]), 29.0)
    call.sent(30.0)
    call.protocol.command(Ack([StreamSeq(1)]), 31.0)
    call.sent(31.0)
    call.claim()


def test_a_retry_whose_attempts_are_all_over_is_not_in_doubt() -> None:
    """This server rejected the first attempt, and the broker said in time that it had taken that."""
    call = Call(RetryPolicy(3, dead_letters=True))
    call.hold(1)
    call.protocol.command(reject(1), 0.0)
    call.sent()
    call.told()
    call.hold(1, attempt=2)
    call.protocol.command(Ack([StreamSeq(1)]), 1.0)
    assert call.sent() == [ACK]
    assert call.told() == [([1], [], [])]


@pytest.mark.parametrize("answered", [29.96, 100.0])
def test_a_retry_after_a_reject_that_came_late_is_in_doubt(answered: float) -> None:
    """The reject may have hit another delivery than its own."""
    call = Call(RetryPolicy(3, dead_letters=True))
    call.hold(1)
    call.protocol.command(reject(1), 29.0)
    call.sent(answered)
    call.told()
    call.hold(1, attempt=2)
    call.protocol.command(Ack([StreamSeq(1)]), 1.0)
    call.sent()
    call.claim()


@pytest.mark.parametrize(
    "happen",
    [
        pytest.param(lambda call: (call.lost(1.0), call.connected(1.5, is_same=True)), id="reconnected"),
        pytest.param(lambda call: call.replaced(1.0), id="replaced"),
        pytest.param(lambda call: call.elected(1.0), id="another leader"),
        pytest.param(lambda call: call.pull_status(Notice.LOST, 1.0), id="the leader said so"),
        pytest.param(lambda call: call.pull_status(Notice.UNHEARD, 1.0), id="no leader"),
        pytest.param(lambda call: call.pull_status(Notice.REFUSED, 1.0), id="refused"),
        pytest.param(lambda call: call.advance(10.0), id="silence"),
    ],
)
def test_what_makes_deliveries_doubtful(happen: Callable[[ConsumeProtocol], object]) -> None:
    """The broker may deliver again at once what is held."""
    call = Call()
    call.hold(1)
    happen(call.protocol)
    call.work()
    call.protocol.state.effects.sends.clear()
    call.protocol.command(Ack([StreamSeq(1)]), 11.0)
    call.turn(11.0)
    call.protocol.consumer_seen(snapshot())
    call.sent(11.0)
    assert Claim in [type(each) for each in call.work()]


def test_a_client_that_holds_all_it_may_beside_a_busy_one() -> None:
    """That the broker has nothing to say to it puts nothing in doubt of what others settle."""
    call = Call()
    for seq in range(1, 11):
        call.arrive(seq)
    assert len(call.turn()) == 10
    for now in map(float, range(10, 101, 10)):
        call.state.settled.add(StreamSeq(1000 + int(now)), STORED_NS, now - 0.5)
        call.turn(now)
        assert call.work() == [LookUp()]
        call.protocol.consumer_seen(snapshot())
        assert not call.state.settled.doubted


def test_an_unreplicated_nats_server_of_a_cluster_that_was_restarted() -> None:
    """It may have forgotten what it confirmed last, and does not hand it out again."""
    call = Call(PLAIN)
    call.hold(1)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    call.sent()
    call.protocol.elected(1.0)
    call.arrive(1)
    assert call.turn(1.0) == []
    assert call.tells() == [ACK]


def test_a_timeout_that_is_made_shorter() -> None:
    """What is held may be delivered again sooner than was said when it came."""
    call = Call()
    call.hold(1)
    call.protocol.consumer_seen(replace(snapshot(), timeout=timedelta(seconds=1)))
    call.protocol.command(Ack([StreamSeq(1)]), 2.0)
    call.sent(2.0)
    call.claim()


def test_what_is_on_its_way_when_a_timeout_is_made_shorter() -> None:
    """The broker has counted it as an attempt: it arrives, and is in doubt as what is held is."""
    call, shorter = Call(), replace(snapshot(), timeout=timedelta(seconds=1))
    call.protocol.consumer_seen(shorter)
    assert not call.protocol.takes_inbox(0.0)
    assert call.protocol.takes_drain()
    call.hold(1)
    assert call.protocol.takes_inbox(0.0)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    call.sent()
    call.claim()


def test_a_broker_that_may_have_forgotten_deliveries() -> None:
    """What a restart of an unreplicated nats-server left in doubt may be acknowledged, and not rejected."""
    for command in (reject(1), reject(1, Action.DEAD_LETTER)):
        call = Call()
        call.hold(1)
        call.protocol.lost(1.0)
        call.protocol.connected(1.5)
        call.work()
        call.protocol.command(command, 2.0)
        assert call.work() == []
        assert call.protocol.state.effects.sends == []
        assert call.told() == [([], [1], [])]


def test_an_event_that_is_held_for_long() -> None:
    """Nobody may give up on it any more when a claim of its end may have been made and forgotten since."""
    for is_checked in (True, False):
        call = Call()
        call.hold(1, attempt=2)
        for now in map(float, range(25, 601, 25)):
            call.protocol.command(Ping([StreamSeq(1)]), now)
            call.sent(now)
            for check in call.work():
                assert isinstance(check, Check)
                call.protocol.settling.checked(check, now, now, has_ended=False if is_checked else None)
        call.told()
        call.protocol.command(reject(1), 601.0)
        assert [type(each) for each in call.work()] == [Keep] * is_checked
        assert call.told() == ([] if is_checked else [([], [1], [])])


def test_an_event_that_has_ended_while_it_was_held() -> None:
    """Its ping is invalid."""
    call = Call()
    call.hold(1, attempt=2)
    call.protocol.state.window.prolong(StreamSeq(1), call.protocol.state.window.get(StreamSeq(1)), 300.0)  # type: ignore[arg-type]  # it is held
    call.protocol.command(Ping([StreamSeq(1)]), 300.0)
    call.sent(300.0)
    (check,) = call.work()
    assert isinstance(check, Check)
    call.protocol.settling.checked(check, 300.0, 300.0, has_ended=True)
    assert call.told() == [([], [1], [])]
    assert len(call.protocol.state.window) == 0


def test_a_dead_letter_that_comes_too_late() -> None:
    """Somebody else has acknowledged the event: the reject is invalid."""
    call = Call()
    call.hold(1, attempt=2)
    call.protocol.command(reject(1), 0.0)
    (keep,) = call.work()
    assert isinstance(keep, Keep)
    call.protocol.settling.prepared(keep, EndOutcome.OTHERWISE, 0.0)
    assert call.sent() == []
    assert call.tells() == [ACK]
    assert call.told() == [([], [1], [])]


def test_an_ack_after_a_dead_letter_that_may_be_written() -> None:
    """It is claimed: the dead letter stands if it is there."""
    call = Call()
    call.hold(1)
    call.protocol.command(reject(1, Action.DEAD_LETTER), 0.0)
    (keep,) = call.work()
    assert isinstance(keep, Keep)
    call.protocol.settling.prepared(keep, EndOutcome.UNKNOWN, 0.0)
    assert call.told() == [([], [], [1])]
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    call.sent()
    call.claim()


@pytest.mark.parametrize("policy", [TWICE, RetryPolicy()])
@pytest.mark.parametrize("has_ended", [None, True, False])
def test_a_delivery_that_may_be_late(policy: RetryPolicy, has_ended: bool | None) -> None:
    """It is handed out unless the event is settled, and never returned: it may be somebody else's."""
    call = Call(policy)
    call.protocol.pacer.heard(29.0)
    call.arrive(1)
    assert call.turn(30.0) == []
    (verify,) = call.work()
    assert isinstance(verify, Verify)
    assert verify.is_late
    call.protocol.incoming.verified(verify, 30.0, 30.0, has_ended=has_ended)
    assert len(call.turn(30.0)) == (has_ended is False)
    assert call.tells() == []


def test_a_late_delivery_of_what_another_server_has_settled() -> None:
    """Its note has come before the broker's answer."""
    settled = Settled()
    call = Call(settled=settled)
    call.protocol.pacer.heard(29.0)
    call.arrive(1)
    call.turn(30.0)
    (verify,) = call.work()
    assert isinstance(verify, Verify)
    settled.add(StreamSeq(1), STORED_NS, 30.0)
    call.protocol.incoming.verified(verify, 30.0, 30.0, has_ended=False)
    assert call.turn(30.0) == []
    assert [type(each) for each in call.work()] == [Terminate]


def test_an_event_that_was_stored_just_now_is_not_late() -> None:
    """Whatever else is not known of it."""
    call = Call()
    call.protocol.pacer.heard(29.0)
    call.arrive(1, stored_ns=NOW_NS)
    assert len(call.turn(30.0)) == 1


def late(call: Call, *seqs: int) -> list[Verify]:
    """Have another connection take over, and let the first attempts of events arrive that were under way.

    The last one is 90, which was stored just now, but has to wait for the others.
    """
    call.protocol.replaced(40.0)
    assert call.protocol.takes_drain()
    for seq in seqs:
        call.arrive(seq)
    call.arrive(90, stored_ns=NOW_NS)
    assert call.turn(40.0) == []
    verifies = [each for each in call.work() if isinstance(each, Verify)]
    assert [each.delivery.id for each in verifies] == [*seqs, 90]
    return verifies


def verified(call: Call, verify: Verify, *, has_ended: bool | None, now: float = 41.0) -> list[int]:
    """Tell whether an event has ended; return what the client is handed."""
    call.protocol.incoming.verified(verify, 40.0, now, has_ended=has_ended)
    return [each.id for each in call.turn(now)]


@pytest.mark.parametrize("first", [True, False])
def test_late_deliveries_keep_their_order(first: bool) -> None:
    """Neither one that was known to be good sooner overtakes another, nor one that was stored later."""
    call = Call()
    one, another, last = late(call, 51, 52)
    assert verified(call, last, has_ended=False) == []
    if first:
        assert verified(call, one, has_ended=False) == [51]
        assert verified(call, another, has_ended=False) == [52, 90]
    else:
        assert verified(call, another, has_ended=False) == []
        assert verified(call, one, has_ended=False) == [51, 52, 90]


@pytest.mark.parametrize("has_ended", [True, None])
def test_those_behind_a_late_delivery_that_ended(has_ended: bool | None) -> None:
    """They wait no longer, also when it cannot be told; each is counted once and goes back once."""
    call = Call()
    one, another, last = late(call, 51, 52)
    assert call.protocol.state.window.waiting == 3
    assert len(call.protocol.incoming.replies(41.0)) == 3
    assert verified(call, last, has_ended=False) == []
    assert verified(call, another, has_ended=has_ended) == []
    assert verified(call, one, has_ended=has_ended) == [90]
    assert call.protocol.incoming.is_empty is (has_ended is None)  # else they are terminated


def test_who_waited_behind_a_late_delivery_has_all_of_its_time() -> None:
    """However long it took to tell."""
    call = Call(PLAIN)
    one, last = late(call, 51)
    assert verified(call, last, has_ended=False) == []
    call.tells()
    assert verified(call, one, has_ended=False, now=60.0) == [51, 90]
    assert call.tells() == [PROGRESS, PROGRESS]
    held = call.protocol.state.window.held
    assert held[StreamSeq(51)].deadline == held[StreamSeq(90)].deadline


def test_no_inbox_while_late_deliveries_are_verified() -> None:
    """What would come meanwhile had to wait for them."""
    call = Call(PLAIN)
    one, last = late(call, 51)
    assert not call.protocol.takes_inbox(40.0)
    assert verified(call, one, has_ended=False) == [51]
    assert not call.protocol.takes_inbox(41.0)
    assert verified(call, last, has_ended=False) == [90]
    assert call.protocol.takes_inbox(41.0)


def test_late_deliveries_of_a_consumer_that_is_about_to_be_moved() -> None:
    """They are forgotten, but for what is decided about them; if nobody moves it, they go on."""
    for until in (41.0, 50.0):
        call = Call(PLAIN)
        one, last = late(call, 51)
        call.protocol.hold_still(Run(CREATED, 1), until)
        assert call.protocol.is_busy
        call.turn(41.0)
        assert verified(call, one, has_ended=False) == ([51] if until == 41.0 else [])
        assert verified(call, last, has_ended=False) == ([90] if until == 41.0 else [])
        assert not call.protocol.is_busy


def test_a_drop_is_reported_when_it_is_stored() -> None:
    """Not when it was asked for, nor when it failed."""
    call = Call()
    call.hold(1)
    call.protocol.command(reject(1, Action.DROP), 0.0)
    (pending,) = call.protocol.state.effects.sends
    call.protocol.state.effects.sends.clear()
    call.protocol.settling.answered(pending, NoReply.TIMED_OUT, 0.0)
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
    call.protocol.incoming.gave_up(give_up.delivery, done=True)
    (terminate,) = call.work()
    assert isinstance(terminate, Terminate)


def test_an_event_that_cannot_be_kept_now() -> None:
    """It comes again, after a second at least: with a short backoff it would be tried without a pause."""
    soon = timedelta(milliseconds=1)
    call = Call(RetryPolicy(2, initial_backoff=soon, max_backoff=soon, dead_letters=True))
    call.arrive(1, attempt=3)
    call.turn()
    (give_up,) = call.work()
    assert isinstance(give_up, GiveUp)
    call.protocol.incoming.gave_up(give_up.delivery, done=False)
    (told,) = call.tells()
    assert delay_of(told) >= 10**9


@pytest.mark.parametrize("has_ended", [None, True, False])
def test_another_attempt_is_verified(has_ended: bool | None) -> None:
    """It reaches the client unless it is a dead letter; when nobody can tell, it comes again later."""
    call = Call()
    call.arrive(1, attempt=2)
    assert call.turn() == []
    (verify,) = call.work()
    assert isinstance(verify, Verify)
    call.protocol.incoming.verified(verify, 0.0, 0.0, has_ended=has_ended)
    assert len(call.turn()) == (has_ended is False)
    assert [type(each) for each in call.work()] == ([Terminate] if has_ended else [])
    assert len(call.tells()) == (has_ended is None)


def test_what_goes_back_at_the_end() -> None:
    """Everything that was not settled, or not sent: held, waiting, undecided and just arrived."""
    call = Call()
    for seq in (1, 2, 3):
        call.hold(seq)
    call.arrive(4, attempt=2)
    call.turn()
    call.arrive(5)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    (ack,) = call.protocol.state.effects.sends
    ack.sent = True
    call.protocol.command(reject(2, Action.DEAD_LETTER), 0.0)
    call.protocol.leave()
    back = {reply.split(b".")[5] for reply in call.protocol.close(0.0).now}
    assert back == {b"2", b"3", b"4", b"5"}
    assert call.state.counts.released == 2


def test_what_is_over_at_the_end_does_not_go_back() -> None:
    """Somebody else may have it: held, with a ping that is not answered, or waiting for room."""
    call = Call(PLAIN)
    for seq in range(1, 11):
        call.hold(seq)
    call.arrive(11)
    call.turn()
    call.protocol.command(Ping([StreamSeq(2)]), 29.0)
    (ping,) = call.protocol.state.effects.sends
    call.protocol.command(Ping([StreamSeq(3)]), 29.0)
    call.protocol.settling.answered(call.protocol.state.effects.sends.pop(), b"", 29.0)
    call.protocol.leave()
    (back,) = call.protocol.close(31.0).now
    assert back.split(b".")[5] == b"3"
    assert not ping.answered
    assert (call.state.counts.released, call.protocol.state.latency.expired) == (1, 8)


def test_an_answer_after_the_end() -> None:
    """It is counted, and asks for nothing."""
    call = Call()
    call.hold(1, attempt=2)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    (ack,) = call.protocol.state.effects.sends
    call.protocol.leave()
    call.protocol.close(0.0)
    call.work()
    call.protocol.settling.answered(ack, b"", 1.0)
    assert call.work() == []
    assert call.state.counts.acknowledged == 1


def test_a_lost_connection() -> None:
    """Acks that were under way are sent again on the next one; nothing is pulled before all is learned."""
    call = Call()
    call.hold(1)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    (ack,) = call.protocol.state.effects.sends
    call.protocol.state.effects.sends.clear()
    call.protocol.lost(0.5)
    call.protocol.settling.answered(ack, NoReply.DISCONNECTED, 0.0)
    assert call.told() == []
    call.protocol.connected(1.0)
    assert not call.protocol.takes_inbox(0.0)
    call.turn(1.0)
    assert Learn() in call.work()
    assert call.protocol.state.effects.sends == []  # the consumer may have been moved meanwhile
    call.protocol.consumer_seen(snapshot())
    assert call.protocol.state.effects.sends == [ack]
    call.protocol.learned({})
    assert call.protocol.takes_inbox(0.0)


@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.parametrize("answers", [True, False])
def test_an_id_that_is_assigned_again(attempt: int, *, answers: bool) -> None:
    """A broker that was lost has lost its last events, too: another one has the id, and reaches the client.

    Whether or not the acknowledgement of the earlier one was answered. The client may give up on it.
    """
    call = Call(PLAIN)
    call.hold(1)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    (group,) = groups(call)
    if answers:
        call.protocol.settling.group_answered(group, b"", 0.0)
    call.protocol.lost(1.0)
    call.protocol.connected(1.5)
    call.turn(1.5)
    call.protocol.consumer_seen(snapshot(PLAIN))
    call.protocol.learned({})
    call.arrive(1, attempt, stored_ns=NOW_NS)
    assert [each.stored_ns for each in call.turn(2.0)] == [NOW_NS]
    assert call.tells() == []
    call.work()
    call.protocol.command(reject(1, Action.DEAD_LETTER), 2.0)
    assert [type(each) for each in call.work()] == [Keep]
    assert call.tells() == []


@pytest.mark.parametrize("is_moved", [True, False])
def test_what_comes_while_asleep_waits_until_the_consumer_was_seen(*, is_moved: bool) -> None:
    """It may have been moved meanwhile, to another run: what is remembered of events is not of that one."""
    call = Call(PLAIN)
    call.state.pauses.look(0.0)
    call.hold(1)
    call.protocol.command(Ack([StreamSeq(1)]), 0.0)
    (group,) = groups(call)
    call.protocol.settling.group_answered(group, b"", 0.0)
    call.arrive(1, attempt=2)
    assert call.turn(3.0) == []
    assert call.tells() == []
    assert call.work() == [LookUp()]
    call.state.pauses.look(3.0)
    if is_moved:
        call.protocol.begin_run(Run("later", 1), Settled(), 3.0)
    call.protocol.consumer_seen(snapshot(PLAIN))
    assert call.turn(3.0) == []
    assert call.tells() == ([] if is_moved else [ACK])


def test_what_came_while_asleep_is_older_than_an_inbox_that_was_opened_since() -> None:
    """Its time is over: it comes again. No inbox is opened before it was taken in."""
    call = Call(timeout=1.0)
    call.state.pauses.look(0.0)
    call.arrive(1, pending=1)
    assert len(call.turn()) == 1
    call.arrive(2)  # and nobody looks before its timeout is over
    assert call.turn(2.0) == []
    call.state.pauses.look(2.0)
    assert call.work() == [LookUp()]
    assert call.protocol.takes_drain()  # the broker has more, and nothing came
    assert not call.protocol.takes_inbox(2.1)
    call.protocol.consumer_seen(snapshot(timeout=1.0))
    assert not call.protocol.takes_inbox(2.5)
    assert call.turn(2.5) == []
    (verify,) = call.work()
    assert isinstance(verify, Verify)
    assert (verify.earliest, verify.is_late) == (0.0, True)
    call.protocol.incoming.verified(verify, 2.5, 2.5, has_ended=False)
    assert call.turn(2.5) == []
    assert call.protocol.takes_inbox(2.5)


def test_what_came_from_an_earlier_connection_is_older_than_an_inbox_of_the_next() -> None:
    """It waits for the consumer to be seen, as the inbox does."""
    call = Call()
    call.arrive(1)
    call.protocol.lost(20.0)
    call.protocol.connected(20.0)
    assert call.turn(20.0) == []
    assert Learn() in call.work()
    call.protocol.consumer_seen(snapshot())
    call.protocol.learned({})
    assert not call.protocol.takes_inbox(20.5)
    assert call.turn(20.5) == []
    (verify,) = call.work()
    assert isinstance(verify, Verify)
    assert verify.is_late
    call.protocol.incoming.verified(verify, 20.5, 20.5, has_ended=False)
    call.turn(20.5)
    assert call.protocol.takes_inbox(20.5)


def test_what_waits_for_the_consumer_is_older_than_an_answer_that_comes_meanwhile() -> None:
    """The ack that was answered was sent after it had come."""
    call = Call()
    call.hold(1)
    call.protocol.command(Ack([StreamSeq(1)]), 8.0)
    call.protocol.pacer.heard(8.0)
    call.state.doubts.moved = True
    call.arrive(2)
    assert call.turn(8.0) == []
    call.sent(8.0)
    call.turn(8.0)
    call.state.doubts.moved = False
    assert len(call.turn(8.0)) == 1
    call.protocol.command(Ack([StreamSeq(2)]), 30.0)
    call.sent(30.0)
    assert call.claim().pending.seq == 2


def test_what_is_learned_during_a_lost_connection_is_learned_again() -> None:
    """An answer of before does not count for the connection after."""
    call = Call()
    call.protocol.connected(1.0)
    call.turn(1.0)
    assert call.work() == [Learn()]
    call.protocol.connected(2.0)
    call.protocol.learned({})
    assert not call.protocol.takes_inbox(0.0)
    call.turn(2.0)
    assert call.work() == [Learn()]


def test_a_consumer_that_is_gone() -> None:
    """A notice of the broker has it looked up; another one of its name is not this one."""
    call = Call()
    call.protocol.pull_status(Notice.DELETED, 0.0)
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


# Acknowledgements whose last answer stands for all


def groups(call: Call) -> list[Group]:
    """Take what is to be sent, as it is sent."""
    sends, call.protocol.state.effects.sends = call.protocol.state.effects.sends, []
    sent = list(grouped(sends, call.protocol.state.doubts.changes))
    for pending in sends:
        pending.sent = True
    return sent


def test_one_answer_stands_for_acks_that_are_sent_together() -> None:
    """Also those of several commands; each command has its confirmation."""
    call = Call(RetryPolicy())
    for seq in range(1, 5):
        call.hold(seq)
    call.protocol.command(Ack([StreamSeq(1), StreamSeq(2)]), 0.0)
    call.protocol.command(Ack([StreamSeq(3), StreamSeq(4)]), 0.0)
    (group,) = groups(call)
    assert [pending.seq for pending in group.pending] == [1, 2, 3, 4]
    assert call.told() == []
    call.protocol.settling.group_answered(group, b"", 0.0)
    assert call.told() == [([1, 2], [], []), ([3, 4], [], [])]
    assert not len(call.protocol.state.window)


def test_what_may_be_in_doubt_is_sent_alone() -> None:
    """Rejects, pings, and acks of what was delivered before: their own answers count."""
    call = Call(RetryPolicy(5))
    for seq, attempt in ((1, 1), (2, 2), (3, 1), (4, 1), (5, 1)):
        call.hold(seq, attempt)
    call.protocol.command(Ack([StreamSeq(seq) for seq in (1, 2, 3)]), 0.0)
    call.protocol.command(reject(4), 0.0)
    call.protocol.command(Ping([StreamSeq(5)]), 0.0)
    assert [[each.seq for each in group.pending] for group in groups(call)] == [[1], [2], [3], [4], [5]]


def test_a_group_has_a_bounded_size() -> None:
    """More acks go in several groups."""
    call = Call(RetryPolicy())
    call.protocol.command(Limit(2_000), 0.0)
    for seq in range(1, 1_202):
        call.arrive(seq)
    assert len(call.turn()) == 1_201
    call.protocol.command(Ack([StreamSeq(seq) for seq in range(1, 1_202)]), 0.0)
    assert [len(group.pending) for group in groups(call)] == [500, 500, 201]


@pytest.mark.parametrize(
    "trouble",
    [
        lambda protocol: protocol.elected(1.0),
        lambda protocol: protocol.replaced(1.0),
        lambda protocol: protocol.pull_status(Notice.LOST, 1.0),
        lambda protocol: protocol.pull_status(Notice.UNHEARD, 1.0),
    ],
)
def test_a_group_is_doubted_when_another_server_may_speak(trouble: Callable[[ConsumeProtocol], None]) -> None:
    """An earlier leader may have lost the first acks of it: they are sent again, each with its own answer."""
    call = Call(RetryPolicy())
    for seq in (1, 2, 3):
        call.hold(seq)
    call.protocol.command(Ack([StreamSeq(seq) for seq in (1, 2, 3)]), 0.0)
    (group,) = groups(call)
    trouble(call.protocol)
    call.protocol.settling.group_answered(group, b"", 1.0)
    assert call.told() == []  # 1 and 2 are not known to be stored
    again = groups(call)
    assert [[each.seq for each in group.pending] for group in again] == [[1], [2]]
    for alone in again:
        call.protocol.settling.group_answered(alone, b"", 1.0)
    assert call.told() == [([3, 1, 2], [], [])]


@pytest.mark.parametrize("outcome", [NoReply.TIMED_OUT, NoReply.NO_RESPONDERS])
def test_a_group_without_an_answer_has_failed_for_now(outcome: NoReply) -> None:
    """All of it: the client still holds the events."""
    call = Call(RetryPolicy())
    for seq in (1, 2):
        call.hold(seq)
    call.protocol.command(Ack([StreamSeq(1), StreamSeq(2)]), 0.0)
    (group,) = groups(call)
    call.protocol.settling.group_answered(group, outcome, 1.0)
    assert call.told() == [([], [], [1, 2])]
    assert len(call.protocol.state.window) == 2


def test_a_group_is_sent_again_after_a_reconnect() -> None:
    """As each of its acks would be."""
    call = Call(RetryPolicy())
    for seq in (1, 2):
        call.hold(seq)
    call.protocol.command(Ack([StreamSeq(1), StreamSeq(2)]), 0.0)
    (group,) = groups(call)
    call.protocol.lost(1.0)
    call.protocol.settling.group_answered(group, NoReply.DISCONNECTED, 1.0)
    call.protocol.connected(2.0)
    call.protocol.advance(2.0)
    call.protocol.consumer_seen(snapshot(RetryPolicy()))
    call.protocol.learned({})
    call.protocol.consumer_seen(snapshot(RetryPolicy()))
    (again,) = groups(call)
    call.protocol.settling.group_answered(again, b"", 2.0)
    assert call.told() == [([1, 2], [], [])]


def replicated() -> ConsumerSnapshot:
    """Describe a consumer with replicas."""
    state = ConsumerState({"num_replicas": 3}, CREATED, 0, 0, 0, 0)
    return replace(snapshot(RetryPolicy()), info=replace(state, is_replicated=True))


@pytest.mark.parametrize(("passed", "expected"), [(1.0, [ACK, ACK]), (3.0, [])])
def test_what_another_answer_vouched_for_is_said_again_to_a_new_leader(
    passed: float, expected: list[bytes]
) -> None:
    """A change of leader that is noticed a moment late: what was confirmed before it may be lost."""
    call, found = Call(RetryPolicy()), replicated()
    call.protocol.consumer_seen(found)
    for seq in (1, 2, 3):
        call.hold(seq)
    call.protocol.command(Ack([StreamSeq(seq) for seq in (1, 2, 3)]), 0.0)
    (group,) = groups(call)
    call.protocol.settling.group_answered(group, b"", 0.0)
    assert call.told() == [([1, 2, 3], [], [])]
    call.protocol.elected(passed)
    call.protocol.advance(passed)
    assert call.tells() == []  # nobody knows yet who speaks
    call.protocol.consumer_seen(found)
    assert call.tells() == expected


def test_what_another_answer_vouched_for_is_kept_for_two_seconds() -> None:
    """Not until there is another leader, which may be never."""
    call = Call(RetryPolicy())
    call.protocol.consumer_seen(replicated())
    doubts = call.protocol.state.doubts
    for seq in range(1, 11):
        call.hold(seq)
    for now in (1.0, 2.0, 3.0, 4.0, 5.0):
        call.protocol.command(Ack([StreamSeq(int(now) * 2 - 1), StreamSeq(int(now) * 2)]), now)
        (group,) = groups(call)
        call.protocol.settling.group_answered(group, b"", now)
        call.turn(now)
        assert [answered for answered, _ in doubts._vouched] == [1.0, 2.0, 3.0, 4.0, 5.0][: int(now)][-3:]
    call.turn(7.5)
    assert not doubts._vouched


def test_what_another_answer_vouched_for_is_bounded() -> None:
    """However much is acknowledged in two seconds, the last 10,000 are kept."""
    call, found = Call(RetryPolicy()), replicated()
    call.protocol.command(Limit(500), 0.0)
    call.protocol.advance(0.0)
    call.protocol.consumer_seen(found)
    for round_ in range(30):
        seqs = [StreamSeq(round_ * 500 + each) for each in range(1, 501)]
        for seq in seqs:
            call.arrive(seq)
        assert len(call.turn()) == 500
        call.protocol.command(Ack(seqs), 0.0)
        (group,) = groups(call)
        call.protocol.settling.group_answered(group, b"", 0.0)
        call.told()
    for _ in range(2):  # the next leader may lose them, too
        call.protocol.elected(1.0)
        call.protocol.advance(1.0)
        call.protocol.consumer_seen(found)
        assert call.tells() == [ACK] * 20 * 499


def test_acks_of_a_group_that_are_not_sure_are_claimed() -> None:
    """One answer says that all are stored, not how an event ends that others may have by now."""
    call = Call()
    for seq in (1, 2):
        call.hold(seq)
    call.protocol.pull_status(
        Notice.REFUSED, 0.0
    )  # requests that were counted as lost may bring others something
    call.protocol.advance(1.0)
    call.arrive(3)
    call.turn(1.0)
    call.work()
    call.protocol.command(Ack([StreamSeq(seq) for seq in (1, 2, 3)]), 1.0)
    (group,) = groups(call)
    call.protocol.settling.group_answered(group, b"", 1.0)
    claims = [work for work in call.work() if isinstance(work, Claim)]
    assert {1, 2} <= {claim.pending.seq for claim in claims}
    for claim in claims:
        call.protocol.settling.claimed(claim, EndOutcome.DECIDED, 1.0)
    (told,) = call.told()
    assert [sorted(ids) for ids in told] == [[1, 2, 3], [], []]


@pytest.mark.parametrize("size", [200, 1_000, 10_000])
def test_a_window_never_runs_dry(size: int) -> None:
    """While a quarter of the window is free, events are asked for, however the client settles in batches."""
    call = Call(RetryPolicy())
    call.protocol.command(Limit(size), 0.0)
    window, seq = call.protocol.state.window, 0
    held: list[StreamSeq] = []
    for _ in range(20):
        while (pull := call.protocol.next_pull(0.0)) is not None or window.requested:
            for _ in range(window.requested):
                seq += 1
                call.arrive(seq)
            held += [delivery.id for delivery in call.turn()]
            assert pull is None or pull.batch <= size
            if len(held) >= size:
                break
        settled, held = held[:100], held[100:]
        call.protocol.command(Ack(settled), 0.0)
        for group in groups(call):
            call.protocol.settling.group_answered(group, b"", 0.0)
        call.told()
        call.protocol.next_pull(0.0)
        free = size - len(window)
        assert window.requested or free < size // 4


@pytest.mark.parametrize("command", [Limit(0), Reject([StreamSeq(1)], False, 60 * 10**9)])
def test_a_call_that_is_ending_waits_for_its_confirmations_only(command: Limit | Reject) -> None:
    """Not for a smaller window to apply, nor to see whether the consumer has room for delayed rejects."""
    call = Call(PLAIN)
    call.hold(1)
    call.hold(2)
    call.protocol.command(command, 0.0)
    call.sent()
    call.protocol.command(Ack([StreamSeq(2)]), 4.0)
    call.protocol.state.end(None)
    call.turn(8.0)
    assert not call.protocol.is_over
    assert call.protocol.due == 9.0
