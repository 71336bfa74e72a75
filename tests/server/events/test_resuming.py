"""Deliveries of an earlier call, and windows that change, without I/O."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.server.events.test_consume_protocol import NOW_NS, STORED_NS, TWICE, Call, reject, snapshot
from windshift.nats import NoReply
from windshift.nats.jetstream.pulling import ACK, NAK, PROGRESS, nak
from windshift.server.domain.errors import (
    InvalidField,
    PermissionDenied,
    ShuttingDown,
    SubscribeExpected,
)
from windshift.server.events.consuming.commands import Ack, Limit, Ping
from windshift.server.events.consuming.resuming import CERTAIN_AFTER, OBJECTED_WITHIN, new_number
from windshift.server.events.consuming.tokens import Resumed, Tokens
from windshift.server.events.consuming.work import Check, Keep, LookUp
from windshift.server.events.deliveries import DeliveryName, name_of
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.retries import RetryPolicy
from windshift.server.events.token_key import key_of, with_key

PLAIN = RetryPolicy()


def reply(seq: int, attempt: int = 1, sequence: int = 1) -> bytes:
    """Name a delivery as the broker does."""
    return b"$JS.ACK.S.c.%d.%d.%d.%d.0" % (attempt, seq, sequence, STORED_NS)


def resumed(seq: int, attempt: int = 1, *, is_same_broker: bool = True, sequence: int = 1) -> Resumed:
    """Name a delivery that a client was handed a second ago."""
    return Resumed(StreamSeq(seq), attempt, reply(seq, attempt, sequence), NOW_NS - 10**9, is_same_broker)


def resuming(*deliveries: Resumed, policy: RetryPolicy = PLAIN, number: int = 7) -> Call:
    """Make a call that goes on with deliveries, which the broker has prolonged and nobody objects to."""
    call = Call(policy)
    call.protocol.resuming.resume(deliveries, number, 0.0)
    assert set(call.sent()) <= {PROGRESS}
    for work in call.work():
        assert isinstance(work, Check)
        call.protocol.settling.checked(work, 0.0, 0.0, has_ended=False)
    assert call.protocol.holds_back == bool(deliveries)
    call.turn(OBJECTED_WITHIN)
    assert not call.protocol.holds_back
    return call


def ids(*seqs: int) -> list[StreamSeq]:
    """Name events."""
    return [StreamSeq(seq) for seq in seqs]


def test_going_on() -> None:
    """The delivery is the client's again, from the moment that the broker has prolonged it."""
    call = resuming(resumed(1), resumed(2))
    assert call.protocol.resuming.taken_over.names == [name_of(reply(1)), name_of(reply(2))]
    call.protocol.command(Ack(ids(1)), 1.0)
    assert call.sent(1.0) == [ACK]
    assert call.told() == [([1], [], [])]
    assert call.protocol.state.window.get(StreamSeq(2)) is not None
    assert (call.state.counts.resumed, call.state.counts.delivered) == (2, 0)
    call.turn(30.0)  # its time began anew, and is over
    call.protocol.command(Ping(ids(2)), 30.0)
    assert call.told() == [([], [2], [])]


def test_it_is_prolonged_twice() -> None:
    """Also when earlier calls have heard of this one: one may have given it back just before."""
    call = Call(PLAIN)
    call.protocol.resuming.resume([resumed(1), resumed(2)], 7, 0.0)
    assert call.sent() == [PROGRESS, PROGRESS]
    assert call.protocol.state.effects.tells == []
    call.turn(OBJECTED_WITHIN)
    assert call.protocol.state.effects.tells == [(reply(1), PROGRESS), (reply(2), PROGRESS)]


def test_a_broker_that_does_not_answer() -> None:
    """Then nothing is held: somebody else may have it."""
    call = Call(PLAIN)
    call.protocol.resuming.resume([resumed(1)], 7, 0.0)
    (pending,) = call.protocol.state.effects.sends
    call.protocol.settling.answered(pending, NoReply.TIMED_OUT, 5.0)
    call.turn(5.0)
    assert not call.protocol.holds_back
    call.protocol.command(Ack(ids(1)), 5.0)
    assert call.told() == [([], [1], [])]


def test_what_is_not_gone_on_with() -> None:
    """What is settled, was settled lately, or is one attempt too many; of two attempts the later counts."""
    call = Call(replace(PLAIN, max_attempts=3))
    state = call.protocol.state
    state.found = replace(state.found, info=replace(state.found.info, settled_to=3))
    call.state.settled.add(StreamSeq(5), STORED_NS, 0.0)
    deliveries = [resumed(3), resumed(4), resumed(5), resumed(6, 4), resumed(7, 1), resumed(7, 2)]
    call.protocol.resuming.resume(deliveries, 7, 0.0)
    assert sorted(call.protocol.resuming.taken_over.names) == [(4, 1, 1), (7, 2, 1)]


def test_nothing_to_go_on_with() -> None:
    """Then there is nothing to wait for."""
    call = Call(PLAIN)
    idle = call.protocol.due
    call.state.settled.add(StreamSeq(1), STORED_NS, 0.0)
    call.protocol.resuming.resume([resumed(1)], 7, 0.0)
    assert not call.protocol.holds_back
    assert call.protocol.due == idle


def test_no_more_than_the_window() -> None:
    """What is gone on with takes places: no more is asked for than what is left."""
    call = resuming(*(resumed(seq) for seq in range(1, 12)))
    assert len(call.protocol.state.window) == 10


@pytest.mark.parametrize("has_ended", [True, False])
def test_dead_letters_are_looked_up(has_ended: bool) -> None:
    """Of a consumer that has them: before that is known, no event is given up on."""
    call = Call()
    call.protocol.resuming.resume([resumed(1, 2)], 7, 0.0)
    assert call.sent() == [PROGRESS]
    (check,) = call.work()
    assert isinstance(check, Check)
    call.protocol.settling.checked(check, 0.0, 0.0, has_ended=has_ended)
    call.turn(OBJECTED_WITHIN)
    call.protocol.command(reject(1), 1.0)
    if has_ended:
        assert call.told() == [([], [1], [])]
    else:
        (keep,) = call.work()
        assert isinstance(keep, Keep)
        assert keep.failure.attempts == 2
        assert call.protocol.resuming.certain_at(StreamSeq(1)) == CERTAIN_AFTER


def test_an_ack_is_in_doubt() -> None:
    """Of a consumer with dead letters: somebody else may have given up on the event."""
    call = resuming(resumed(1), policy=TWICE)
    call.protocol.command(Ack(ids(1)), 1.0)
    assert call.sent(1.0) == [ACK]
    assert call.claim().pending.seq == 1


def test_a_broker_that_may_have_forgotten_it() -> None:
    """A reject is refused, and it is not released at the end: it could be another delivery by now."""
    call = resuming(resumed(1, is_same_broker=False), resumed(2, is_same_broker=False), policy=TWICE)
    call.protocol.command(reject(1), 1.0)
    assert call.sent(1.0) == []
    assert call.told() == [([], [1], [])]
    call.protocol.leave()
    assert call.protocol.close(1.0) == ([], [])


# Handing over


def test_a_call_lets_go() -> None:
    """What another call takes over is its, and nothing else."""
    call = Call(PLAIN)
    call.hold(1)
    call.hold(2)
    assert call.protocol.resuming.taken(9, [name_of(reply(1)), name_of(reply(3))], 0.0) == []
    call.protocol.command(Ack(ids(1, 2)), 0.0)
    assert call.sent() == [ACK]
    assert call.told() == [([2], [1], [])]


def test_a_call_objects() -> None:
    """It has a later delivery, or is settling this one; what it has of an earlier attempt is not its."""
    call = Call(PLAIN)
    for seq, attempt in ((1, 2), (2, 1), (3, 1)):
        call.hold(seq, attempt)
    call.arrive(4, 2)
    call.protocol.command(Ack(ids(2)), 0.0)
    told = ((1, 1, 1), (2, 1, 2), (3, 2, 5), (4, 1, 4))
    names = [DeliveryName(StreamSeq(seq), attempt, sequence) for seq, attempt, sequence in told]
    assert call.protocol.resuming.taken(9, names, 0.0) == [1, 2, 4]
    assert call.protocol.state.window.get(StreamSeq(1)) is not None
    assert call.protocol.state.window.get(StreamSeq(3)) is None


def test_two_calls_at_once() -> None:
    """The later one gets it, and of two that are far apart the second."""
    call = resuming(resumed(1), number=7)
    assert call.protocol.resuming.taken(7, [name_of(reply(1))], 0.1) == []
    assert call.protocol.resuming.taken(6, [name_of(reply(1))], 0.1) == [1]
    assert call.protocol.state.window.get(StreamSeq(1)) is not None
    assert call.protocol.resuming.taken(6, [name_of(reply(1))], CERTAIN_AFTER) == []
    assert call.protocol.state.window.get(StreamSeq(1)) is None
    call = resuming(resumed(1), number=7)
    assert call.protocol.resuming.taken(8, [name_of(reply(1))], 0.1) == []
    assert call.protocol.state.window.get(StreamSeq(1)) is None


def test_an_objection() -> None:
    """It concerns what was taken over by this call, and has not come again since."""
    call = resuming(resumed(1), resumed(2), resumed(3), number=7)
    call.hold(2, 2)
    call.protocol.resuming.objected(8, ids(1))
    call.protocol.resuming.objected(7, ids(1, 2))
    held = [seq for seq in (1, 2, 3) if call.protocol.state.window.get(StreamSeq(seq)) is not None]
    assert held == [2, 3]


def test_the_number_of_a_call() -> None:
    """That of a later one is higher."""
    first = new_number()
    assert first >> 16 <= new_number() >> 16


# Lingering


@pytest.mark.parametrize(
    ("failure", "lingers"),
    [
        (None, False),
        (ShuttingDown(), True),
        (RuntimeError(), True),
        (SubscribeExpected(), False),
        (PermissionDenied("p", "do", "v", "r", "rule"), False),
    ],
)
def test_what_lingers(failure: Exception | None, lingers: bool) -> None:
    """What the client was handed, when its call was cut off; what it has not seen goes back at once."""
    call = Call(PLAIN)
    call.protocol.linger = timedelta(seconds=10)
    call.hold(1)
    call.arrive(2)
    call.protocol.advance(0.0)
    call.arrive(3)
    call.protocol.state.end(failure)
    call.protocol.leave()
    at_once, later = call.protocol.close(0.0)
    assert later == ([reply(1)] if lingers else [])
    assert set(at_once) == {reply(1), reply(2, sequence=2), reply(3, sequence=3)} - set(later)
    assert call.protocol.lingering == (nak(10 * 10**9) if lingers else NAK)
    assert (call.state.counts.lingered, call.state.counts.released) == (lingers, 2 - lingers)


def test_what_is_about_to_be_gone_on_with_lingers() -> None:
    """The call ends before the broker has answered: its client may go on with it on another one."""
    call = Call(PLAIN)
    call.protocol.linger = timedelta(seconds=10)
    call.protocol.resuming.resume([resumed(1)], 7, 0.0)
    call.protocol.state.end(ShuttingDown())
    call.protocol.leave()
    assert call.protocol.close(0.05) == ([], [resumed(1).reply])


def test_a_connection_that_broke() -> None:
    """Nobody has ended the call: what the client holds lingers, unless it did not ask for that."""
    for linger in (timedelta(), timedelta(seconds=1)):
        call = Call(PLAIN)
        call.protocol.linger = linger
        call.hold(1)
        call.protocol.leave()
        assert call.protocol.close(0.0) == (([], [reply(1)]) if linger else ([reply(1)], []))
    assert Call(PLAIN).protocol.lingering == NAK


def test_the_key_that_the_consumer_has_now() -> None:
    """Tokens are written by it, and replays have none."""
    call = Call(PLAIN)
    call.arrive(1)
    call.protocol.advance(0.0)
    (delivery,) = call.protocol.incoming.deliverable(0, 0.0)
    assert call.protocol.resuming.token_of(delivery) == b""
    call.protocol.resuming.tokens = Tokens(ConsumerKey("S", "c"), bytes(16), "", "n1")
    state = replace(snapshot(PLAIN).info, config=with_key({}))
    call.protocol.consumer_seen(replace(snapshot(PLAIN), info=state))
    token = call.protocol.resuming.token_of(delivery)
    assert Tokens(ConsumerKey("S", "c"), bytes(16), "", "n1").read(token) is None
    assert Tokens(ConsumerKey("S", "c"), key_of(state.config), "", "n1").read(token) is not None


# The window


def test_a_smaller_window() -> None:
    """What is on its way is taken back, and later commands wait until the client has what came of it."""
    call = Call(PLAIN)
    call.hold(1)
    call.protocol.command(Limit(0), 0.0)
    assert call.protocol.holds_back
    call.turn()
    assert call.protocol.takes_drain()
    call.arrive(2)
    assert [each.id for each in call.turn()] == [2]
    call.protocol.read_so_far(0, 0.0)
    assert call.protocol.takes_inbox(0.0)
    assert call.protocol.next_pull(0.0) is None
    call.protocol.command(Limit(3), 0.0)
    call.turn()
    pull = call.protocol.next_pull(0.0)
    assert pull is not None
    assert pull.batch == 1
    call.protocol.command(Ack(ids(1)), 0.0)
    assert call.sent() == [ACK]


def test_who_changes_the_window_back_and_forth() -> None:
    """Whether the consumer takes requests of a size is asked once."""
    call = Call(PLAIN)
    asked = []
    for size in (5, 10, 11, 5, 11):
        call.protocol.command(Limit(size), 0.0)
        call.turn()
        if LookUp() in call.work():
            asked.append(size)
            call.protocol.consumer_seen(snapshot(PLAIN))
    assert asked == [11]


def test_commands_do_not_wait_for_ever() -> None:
    """What is on its way may be long in coming."""
    call = Call(PLAIN)
    call.protocol.command(Limit(0), 0.0)
    call.turn()
    assert call.protocol.due <= 2.0
    call.protocol.read_so_far(0, 2.0)
    assert not call.protocol.holds_back


def test_a_larger_window() -> None:
    """Later commands wait until the next turn, which asks for more."""
    call = Call(PLAIN)
    for seq in range(1, 11):
        call.arrive(seq)
    call.turn()
    pulls = [call.protocol.next_pull(0.0)]
    call.protocol.command(Limit(12), 0.0)
    held_back = [call.protocol.holds_back]
    call.turn()
    call.protocol.read_so_far(0, 0.0)
    held_back.append(call.protocol.holds_back)
    assert held_back == [True, False]
    pulls.append(call.protocol.next_pull(0.0))
    assert [pull and pull.batch for pull in pulls] == [None, 2]


def test_a_window_that_is_too_large() -> None:
    """It is refused."""
    with pytest.raises(InvalidField):
        Call(PLAIN).protocol.command(Limit(10_001), 0.0)
