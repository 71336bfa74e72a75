"""Many deadlines behind one timer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from windshift.rpc.deadlines import Deadlines


def test_due_items_come_in_the_order_of_their_deadlines() -> None:
    """Only what is due comes, each item once."""
    deadlines: Deadlines[str] = Deadlines()
    for when, item in ((3.0, "c"), (1.0, "a"), (2.0, "b"), (2.0, "b2")):
        deadlines.add(when, item)
    assert deadlines.next == 1.0
    assert deadlines.pop_due(0.5) == []
    assert deadlines.pop_due(2.0) == ["a", "b", "b2"]
    assert deadlines.pop_due(9.0) == ["c"]
    assert deadlines.next is None


def test_discarded_items_never_come() -> None:
    """Nor do those at the head keep a timer running for nothing."""
    deadlines: Deadlines[str] = Deadlines()
    tickets = [deadlines.add(when, "x") for when in (5.0, 1.0, 2.0)]
    for ticket in tickets[1:]:
        deadlines.discard(ticket)
    assert deadlines.pop_due(0.0) == []
    assert deadlines.next == 5.0


def test_discarded_items_are_released() -> None:
    """An item that is done is not kept until its deadline, and its entry not for long."""
    deadlines: Deadlines[bytes] = Deadlines()
    for number in range(10_000):
        ticket = deadlines.add(60.0 + number, b"")
        deadlines.discard(ticket)
        assert ticket == []
    assert len(deadlines._heap) < 200


def test_discarding_what_was_due_does_nothing() -> None:
    """A call that its deadline ended is discarded as well when it is done."""
    deadlines: Deadlines[str] = Deadlines()
    ticket = deadlines.add(1.0, "x")
    assert deadlines.pop_due(1.0) == ["x"]
    deadlines.discard(ticket)
    assert len(deadlines._heap) == 0


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=300), st.floats(0, 100))
def test_it_agrees_with_a_sorted_list(entries: list[tuple[float, bool]], now: float) -> None:
    """Whatever was added and discarded, what is due is what a sorted list says."""
    deadlines: Deadlines[int] = Deadlines()
    for number, (when, discarded) in enumerate(entries):
        ticket = deadlines.add(when, number)
        if discarded:
            deadlines.discard(ticket)
    kept = sorted((when, number) for number, (when, discarded) in enumerate(entries) if not discarded)
    assert deadlines.pop_due(now) == [number for when, number in kept if when <= now]
    assert deadlines.pop_due(200.0) == [number for when, number in kept if when > now]
