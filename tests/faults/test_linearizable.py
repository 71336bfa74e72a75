"""The search for an order, on histories made by hand and against a search that tries everything."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.history import Access, Outcome
from tests.faults.linearizable import Register, apply, linearizable

DONE, NOT_DONE, UNKNOWN = Outcome.DONE, Outcome.NOT_DONE, Outcome.UNKNOWN


def get(start: float, end: float, found: str, revision: int) -> Access:
    """Make a read."""
    return Access("r", "a", "get", start, end, DONE, found=found, revision=revision)


def put(start: float, end: float, value: str, revision: int, expected: int | None = None) -> Access:
    """Make a write that was answered."""
    return Access("w", "a", "set", start, end, DONE, expected, value, revision)


def lost_answer(start: float, value: str, expected: int | None = None) -> Access:
    """Make a write of unknown outcome."""
    return Access("w", "a", "set", start, start + 1, UNKNOWN, expected, value)


def refused(start: float, end: float, expected: int, actual: int | None) -> Access:
    """Make a write that was refused."""
    return Access("w", "a", "set", start, end, NOT_DONE, expected, "refused", actual=actual)


def delete(start: float, end: float, expected: int | None = None, outcome: Outcome = DONE) -> Access:
    """Make a deletion."""
    return Access("w", "a", "delete", start, end, outcome, expected)


RIGHT = {
    "nothing": [],
    "one after the other": [put(1, 2, "x", 1, 0), get(3, 4, "x", 1), put(5, 6, "y", 2, 1), get(7, 8, "y", 2)],
    "a read during a write sees the old value": [put(1, 2, "x", 1), put(3, 6, "y", 2), get(4, 5, "x", 1)],
    "a read during a write sees the new value": [put(1, 2, "x", 1), put(3, 6, "y", 2), get(4, 5, "y", 2)],
    "a lost answer came about": [put(1, 2, "x", 1), lost_answer(3, "y"), get(9, 10, "y", 2)],
    "a lost answer came to nothing": [put(1, 2, "x", 1), lost_answer(3, "y"), get(9, 10, "x", 1)],
    "a lost answer comes about late": [
        put(1, 2, "x", 1),
        lost_answer(3, "y"),
        get(9, 10, "x", 1),
        get(11, 12, "y", 2),
    ],
    "a lost answer was overwritten": [put(1, 2, "x", 1), lost_answer(3, "y", 1), put(9, 10, "z", 3, 2)],
    "a refusal that saw another revision": [put(1, 2, "x", 5), refused(3, 4, 4, 5)],
    "a refusal that did not look": [put(1, 2, "x", 5), refused(3, 4, 5, None)],
    "a refusal during the write that caused it": [put(1, 4, "x", 5, 0), refused(2, 3, 0, 5)],
    "deleted and made again": [put(1, 2, "x", 1), delete(3, 4, 1), get(5, 6, "", 0), put(7, 8, "y", 3, 0)],
    "a missing key is deleted": [delete(1, 2), get(3, 4, "", 0)],
    "a lost deletion": [put(1, 2, "x", 1), delete(3, 4, 1, UNKNOWN), get(9, 10, "", 0)],
}

WRONG = {
    "a stale read": [put(1, 2, "x", 1), put(3, 4, "y", 2), get(5, 6, "x", 1)],
    "a value from nowhere": [get(1, 2, "x", 1)],
    "a wrong revision": [put(1, 2, "x", 1), get(3, 4, "x", 2)],
    "both win": [put(1, 2, "x", 1), put(3, 6, "y", 2, 1), put(3, 6, "z", 3, 1)],
    "a lost update": [put(1, 2, "x", 1, 0), put(3, 4, "y", 2, 1), get(5, 6, "x", 1)],
    "a read goes back": [put(1, 2, "x", 1), put(3, 9, "y", 2), get(4, 5, "y", 2), get(6, 7, "x", 1)],
    "a revision goes back": [put(1, 2, "x", 2), put(3, 4, "y", 1)],
    "a lost answer before it was asked": [put(1, 2, "x", 1), get(3, 4, "y", 2), lost_answer(5, "y")],
    "a lost answer goes back": [
        put(1, 2, "x", 1),
        lost_answer(3, "y"),
        get(9, 10, "y", 2),
        get(11, 12, "x", 1),
    ],
    "a lost answer wins together with another": [
        put(1, 2, "x", 1),
        lost_answer(3, "y", 1),
        put(5, 6, "z", 3, 1),
        get(7, 8, "y", 2),
    ],
    "a refusal without a reason": [put(1, 2, "x", 5), refused(3, 4, 5, 5)],
    "a refusal that saw what was not there": [put(1, 2, "x", 5), refused(3, 4, 5, 4)],
    "a deleted key is read": [put(1, 2, "x", 1), delete(3, 4), get(5, 6, "x", 1)],
    "made while it is there": [put(1, 2, "x", 1), put(3, 4, "y", 2, 0)],
}


@pytest.mark.parametrize("calls", RIGHT.values(), ids=RIGHT.keys())
def test_right(calls: list[Access]) -> None:
    """There is an order."""
    assert linearizable(calls)


@pytest.mark.parametrize("calls", WRONG.values(), ids=WRONG.keys())
def test_wrong(calls: list[Access]) -> None:
    """There is none."""
    assert not linearizable(calls)


def by_force(calls: Sequence[Access]) -> bool:
    """Try every order of every choice of the calls whose outcome is unknown."""
    sure = [call for call in calls if call.outcome is not UNKNOWN and not _says_nothing(call)]
    unsure = [call for call in calls if call.outcome is UNKNOWN and call.kind != "get"]
    for count in range(len(unsure) + 1):
        for some in itertools.combinations(unsure, count):
            if any(_fits(order) for order in itertools.permutations((*sure, *some))):
                return True
    return False


def _says_nothing(call: Access) -> bool:
    return call.outcome is NOT_DONE and call.actual is None


def _fits(order: Sequence[Access]) -> bool:
    latest = 0.0
    state = Register()
    for call in order:
        after = apply(state, call)
        if after is None or (call.outcome is not UNKNOWN and call.end < latest):
            return False
        state, latest = after, max(latest, call.start)
    return True


REVISIONS = st.integers(0, 3)
TIMES = st.integers(0, 6)


@st.composite
def accesses(draw: st.DrawFn) -> list[Access]:
    """Make a few calls with answers that may fit together, times all different."""
    calls: list[Access] = []
    for number in range(draw(st.integers(1, 5))):
        start, length = draw(TIMES) + number / 100, draw(TIMES) + 0.5
        kind = draw(st.sampled_from(["get", "set", "set", "delete"]))
        value = "" if kind != "set" else f"v{number}"
        call = Access("w", "a", kind, start, start + length, DONE, value=value)
        calls.append(draw(_answered(call, len(calls))))
    return calls


@st.composite
def _answered(draw: st.DrawFn, call: Access, before: int) -> Access:
    if call.kind == "get":
        found = draw(st.sampled_from(["", *(f"v{each}" for each in range(5))]))
        return replace(call, found=found, revision=draw(st.integers(1, 3)) if found else 0)
    expected = draw(st.none() | REVISIONS)
    outcome = draw(st.sampled_from([DONE, DONE, UNKNOWN, NOT_DONE]))
    call = replace(call, expected=expected, outcome=outcome)
    if outcome is NOT_DONE:
        return replace(call, actual=draw(st.none() | REVISIONS))
    if outcome is DONE and call.kind == "set":
        return replace(call, revision=draw(st.integers(1, 4)))
    return call


@settings(max_examples=100, deadline=None)
@given(accesses())
def test_agrees_with_trying_everything(calls: list[Access]) -> None:
    """The search says what a search without any cleverness says."""
    assert linearizable(calls) == by_force(calls)


def test_long_histories() -> None:
    """Thousands of conditional writes with reads and losers beside each, and lost answers, take no time."""
    calls = []
    for number in range(2_000):
        calls.append(put(number, number + 1.5, f"v{number}", number + 1, number))
        calls += [refused(number + 0.1, number + 1.6, number - 1, number + 1) for _ in range(3)]
        calls.append(get(number + 0.2, number + 1.2, f"v{number}", number + 1))
        if number % 50 == 7:
            calls.append(lost_answer(number, f"lost{number}", number - 3))
    assert linearizable(calls)
    assert not linearizable([*calls, get(20_000, 20_001, "v1", 2)])
