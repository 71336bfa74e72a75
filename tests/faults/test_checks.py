"""Every check finds what it is for: each is fed a history that violates it, and one that does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults import checks
from tests.faults.checks import Violation
from tests.faults.history import (
    Access,
    Delivery,
    Failure,
    Fault,
    Outcome,
    Publish,
    ReplayCall,
    Settlement,
    Stored,
    Told,
)

PUBLISH = Publish("p", "s", "s.a", "v1", "k1", None, 1.0, 2.0, 1, Outcome.DONE)
STORED = Stored(1, "s.a", "k1", "v1")
DELIVERY = Delivery("s.c", "one", "windshift0#1", 1, 1, "v1", 1.0)
ACK = Settlement("s.c", "one", "windshift0#1", "ack", 1, 1.5, 2.0, Told.CONFIRMED)


def found(violations: object) -> list[str]:
    """Return the names of the checks that found something."""
    return [each.check for each in violations if isinstance(each, Violation)]  # type: ignore[attr-defined]


def test_lost() -> None:
    """An acknowledged publish that is not stored is lost; one that was not acknowledged may be missing."""
    assert found(checks.lost([PUBLISH], {1: STORED})) == []
    assert found(checks.lost([PUBLISH], {})) == ["lost"]
    assert found(checks.lost([replace(PUBLISH, id=0)], {1: STORED})) == []
    assert found(checks.lost([replace(PUBLISH, id=0)], {})) == ["lost"]
    assert found(checks.lost([replace(PUBLISH, outcome=Outcome.UNKNOWN, id=0)], {})) == []


def test_wrong_id() -> None:
    """The id that was answered is that of the event."""
    assert found(checks.lost([replace(PUBLISH, id=2)], {1: STORED})) == ["wrong id"]


def test_stored_twice() -> None:
    """Neither a key nor a text is there twice."""
    assert found(checks.stored_twice([STORED, Stored(2, "s.a", "k2", "v2")])) == []
    assert found(checks.stored_twice([STORED, Stored(2, "s.a", "k1", "v2")])) == ["stored twice"]
    assert found(checks.stored_twice([replace(STORED, key=""), Stored(2, "s.a", "", "v1")])) == [
        "stored twice"
    ]


def test_ghosts() -> None:
    """What was refused for certain is not there, and nothing is that nobody published."""
    refused = replace(PUBLISH, outcome=Outcome.NOT_DONE, id=0)
    assert found(checks.ghosts([PUBLISH], [STORED])) == []
    assert found(checks.ghosts([replace(PUBLISH, outcome=Outcome.UNKNOWN)], [STORED])) == []
    assert found(checks.ghosts([refused], [])) == []
    assert found(checks.ghosts([refused], [STORED])) == ["ghost"]
    assert found(checks.ghosts([], [STORED])) == ["ghost"]


def test_conditions_kept() -> None:
    """A conditional publish follows the event that it expected."""
    assert found(checks.conditions_kept([PUBLISH, replace(PUBLISH, expected=0)])) == []
    assert found(checks.conditions_kept([replace(PUBLISH, expected=0, id=2)])) == ["condition"]


def test_one_id_per_key() -> None:
    """All publishes of one key get one id; another stream has keys of its own."""
    assert found(checks.one_id_per_key([PUBLISH, PUBLISH, replace(PUBLISH, stream="t", id=2)])) == []
    assert found(checks.one_id_per_key([PUBLISH, replace(PUBLISH, id=2)])) == ["one id per key"]


AGAIN = replace(DELIVERY, attempt=2, at=3.0)


@pytest.mark.parametrize(
    ("delivery", "settlement"),
    [
        (replace(AGAIN, at=1.9), ACK),
        (AGAIN, replace(ACK, told=Told.UNANSWERED)),
        (AGAIN, replace(ACK, kind="reject")),
        (AGAIN, replace(ACK, kind="ping")),
        (AGAIN, replace(ACK, consumer="s.other")),
    ],
)
def test_may_come_again(delivery: Delivery, settlement: Settlement) -> None:
    """What was not settled for good, or not yet, may be delivered again."""
    assert checks.redelivered([DELIVERY, delivery], [settlement]) == checks.Redeliveries([], 0, 0)


@pytest.mark.parametrize("kind", ["ack", "drop"])
def test_redelivered(kind: str) -> None:
    """What was acknowledged or dropped does not come again, on the same call not even a moment later."""
    settled = replace(ACK, kind=kind)
    assert found(checks.redelivered([DELIVERY, AGAIN], [settled]).violations) == ["redelivered"]
    soon = replace(AGAIN, at=2.01)
    assert found(checks.redelivered([DELIVERY, soon], [settled]).violations) == ["redelivered"]


def test_crossed() -> None:
    """A delivery on another call may have been under way when the confirmation was, but not for long."""
    other = replace(AGAIN, session="two")
    assert checks.redelivered([replace(other, at=2.04)], [ACK]) == checks.Redeliveries([], 1, 0)
    assert found(checks.redelivered([replace(other, at=2.2)], [ACK]).violations) == ["redelivered"]


def test_crossed_while_things_stood_still() -> None:
    """Time in which a process was frozen, or a way stalled, does not count."""
    other = replace(AGAIN, session="two", at=9.0)
    still = [Fault("stall", "link", 2.02, 5.0), Fault("freeze", "nats", 4.0, 8.98)]
    assert checks.redelivered([other], [ACK], still) == checks.Redeliveries([], 1, 0)
    for faults in (still[:1], still[1:], [replace(each, kind="cut") for each in still]):
        assert found(checks.redelivered([other], [ACK], faults).violations) == ["redelivered"]


def test_forgotten() -> None:
    """It counts apart only when nats-server was killed at once, and another server process delivers."""
    other = replace(AGAIN, session="two", server="windshift0#2")
    kill = Fault("kill", "nats", 2.1, 2.2)
    assert checks.redelivered([other], [ACK], [kill]) == checks.Redeliveries([], 0, 1)
    for delivery, fault in (
        (replace(other, server=ACK.server), kill),
        (other, replace(kill, start=3.1, end=3.2)),
        (other, replace(kill, start=0.5, end=0.6)),
        (other, replace(kill, kind="freeze")),
        (other, replace(kill, target="windshift0#1")),
    ):
        assert found(checks.redelivered([delivery], [ACK], [fault]).violations) == ["redelivered"]


def test_forgotten_while_frozen() -> None:
    """A nats-server that is frozen right after the confirmation writes nothing down until it is killed."""
    other = replace(AGAIN, session="two", server="windshift0#2", at=9.0)
    freeze, kill = Fault("freeze", "nats", 2.1, 5.0), Fault("kill", "nats", 5.1, 5.2)
    assert checks.redelivered([other], [ACK], [freeze, kill]) == checks.Redeliveries([], 0, 1)
    for faults in (
        [kill],
        [replace(freeze, start=3.2), kill],
        [replace(freeze, target="windshift0#1"), kill],
    ):
        assert found(checks.redelivered([other], [ACK], faults).violations) == ["redelivered"]


def test_skipped() -> None:
    """In the end every event was delivered and settled."""
    assert found(checks.skipped([1], [DELIVERY], [ACK])) == []
    assert found(checks.skipped([1, 2], [DELIVERY], [ACK])) == ["skipped"]
    assert found(checks.skipped([1], [DELIVERY], [replace(ACK, told=Told.UNANSWERED)])) == []
    assert found(checks.skipped([1], [DELIVERY], [replace(ACK, told=Told.INVALID)])) == ["not settled"]
    assert found(checks.skipped([1], [DELIVERY], [])) == ["not settled"]
    assert found(checks.skipped([1], [DELIVERY], [replace(ACK, kind="reject")])) == ["not settled"]


def test_unfaithful() -> None:
    """A delivery is the event that has its id."""
    assert found(checks.unfaithful([DELIVERY], {1: STORED})) == []
    assert found(checks.unfaithful([replace(DELIVERY, value="v2")], {1: STORED})) == ["unfaithful"]
    assert found(checks.unfaithful([replace(DELIVERY, id=2)], {1: STORED})) == ["unfaithful"]


def deliveries(*ids: int) -> list[Delivery]:
    """Make deliveries in this order."""
    return [replace(DELIVERY, id=id_, at=float(number)) for number, id_ in enumerate(ids)]


def seen_in_order(*ids: int) -> list[str]:
    """See deliveries in this order; return what was found."""
    order = checks.Order()
    return found([each for delivery in deliveries(*ids) for each in order.see(delivery)])


def test_order() -> None:
    """New events come one after the other; old ones may come again in between."""
    assert seen_in_order(1, 2, 3, 2, 3, 4) == []
    assert seen_in_order(2) == ["order"]
    assert seen_in_order(1, 3) == ["order"]
    assert seen_in_order(1, 2, 4, 3, 3, 5) == ["order", "order"]


def test_order_of_a_broker_that_is_killed() -> None:
    """What it had counted as delivered may come late, as another attempt, and nothing else may."""
    order = checks.Order(killed=True)
    first, second, third, fourth = deliveries(1, 2, 3, 4)
    seen = (first, fourth, replace(second, attempt=2), third, replace(third, attempt=2))
    assert [found(order.see(each)) for each in seen] == [[], [], [], ["order"], []]


def test_attempts_wrong() -> None:
    """Attempts are counted without a gap."""
    assert found(checks.attempts_wrong([DELIVERY, AGAIN])) == []
    assert found(checks.attempts_wrong([DELIVERY, replace(AGAIN, attempt=3)])) == ["attempts"]
    assert found(checks.attempts_wrong([replace(DELIVERY, attempt=2)])) == ["attempts"]


def test_not_linearizable() -> None:
    """Keys are judged one by one."""
    write = Access("w", "a", "set", 1.0, 2.0, Outcome.DONE, 0, "x", 1)
    stale = Access("w", "a", "get", 3.0, 4.0, Outcome.DONE)
    assert found(checks.not_linearizable([write, replace(stale, key="b")])) == []
    assert found(checks.not_linearizable([write, stale])) == ["linearizable"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [("UNAVAILABLE", "BROKER_UNAVAILABLE"), ("ABORTED", "WRONG_LAST_ID"), ("UNAVAILABLE", "")],
)
def test_documented(code: str, reason: str) -> None:
    """A code with its reason, and a lost connection, are documented."""
    assert found(checks.undocumented([Failure(1.0, "Publish", code, reason)])) == []


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("INTERNAL", ""),
        ("INTERNAL", "INTERNAL"),
        ("UNKNOWN", ""),
        ("ABORTED", ""),
        ("UNAVAILABLE", "WRONG_LAST_ID"),
        ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
    ],
)
def test_undocumented(code: str, reason: str) -> None:
    """Anything else is not."""
    assert found(checks.undocumented([Failure(1.0, "Publish", code, reason)])) == ["undocumented"]


def test_wrongly_ended() -> None:
    """An event ends in exactly one way; an ack without an answer may have been one or not."""
    unanswered = replace(ACK, told=Told.UNANSWERED)
    for acks, letters in (([ACK], []), ([], [1]), ([unanswered], []), ([unanswered], [1])):
        assert found(checks.wrongly_ended([1], acks, letters)) == []
    for acks, letters in (([], []), ([ACK], [1]), ([], [1, 1]), ([unanswered], [1, 1])):
        assert found(checks.wrongly_ended([1], acks, letters)) == ["last attempt"]
    assert found(checks.wrongly_ended([1], [replace(ACK, kind="reject")], [])) == ["last attempt"]
    drop, bury = replace(ACK, kind="drop"), replace(ACK, kind="bury")
    assert found(checks.wrongly_ended([1], [drop], [])) == []
    assert found(checks.wrongly_ended([1], [drop], [1])) == ["last attempt"]
    assert found(checks.wrongly_ended([1], [bury], [1])) == []
    assert found(checks.wrongly_ended([1], [unanswered, bury], [])) == ["last attempt"]


def test_wrongly_cancelled() -> None:
    """After a cancelled replay nothing comes before the next one; the last word holds at the end."""
    begun, over = ReplayCall("replay", 1, 1, 2, "replayed"), ReplayCall("cancel", 1, 3, 4, "cancelled")
    again, has = replace(begun, start=5, end=6), ReplayCall("cancel", 1, 7, 8, "delivering")
    early, late, later = (replace(DELIVERY, at=at) for at in (3.5, 4.5, 5.5))
    assert found(checks.wrongly_cancelled([begun, over], [early], [1])) == []
    assert found(checks.wrongly_cancelled([begun, over], [early, late], [1])) == ["cancelled"]
    assert found(checks.wrongly_cancelled([begun, over], [early], [])) == ["cancelled"]
    assert found(checks.wrongly_cancelled([begun, over, again, has], [later], [])) == []
    assert found(checks.wrongly_cancelled([begun, over, again, has], [late], [])) == ["cancelled"]
    assert found(checks.wrongly_cancelled([begun, over, again, has], [later], [1])) == ["cancelled"]
    assert found(checks.wrongly_cancelled([replace(over, told="")], [late], [])) == []


def test_waits_after_kills() -> None:
    """What was held counts from the kill to its next delivery; what was settled does not count."""
    kill = Fault("kill", DELIVERY.server, 2.5, 2.6)
    again = replace(AGAIN, session="two", server="windshift1#1")
    assert checks.waits_after_kills([DELIVERY, again], [], [kill]) == [0.5]
    assert checks.waits_after_kills([DELIVERY, again], [ACK], [kill]) == []
    assert checks.waits_after_kills([DELIVERY, again], [], [replace(kill, target="windshift1#1")]) == []


def test_longest_gap() -> None:
    """Gaps at both ends count."""
    assert checks.longest_gap([2.0, 3.0, 9.0], 0.0, 10.0) == 6.0
    assert checks.longest_gap([], 0.0, 10.0) == 10.0
    assert checks.longest_gap([11.0, 1.0], 0.0, 10.0) == 9.0


def test_percentile() -> None:
    """Of a hundred values the 99th percentile is the last."""
    assert checks.percentile([float(each) for each in range(100)], 0.99) == 99.0
    assert checks.percentile([], 0.99) == 0.0
