"""Whether one order explains a history of reads and conditional writes on one key: Wing and Gong's search.

An operation takes effect at one moment between its start and its end. One of unknown outcome may take effect
at any moment after its start, or never. The search tries, at each point, every operation that may come next;
it remembers where it has been. A read or a refusal that fits the present state is taken at once: no order
that works is lost by that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.faults.history import Access, Outcome


@dataclass(frozen=True, slots=True)
class Register:
    """A key as it is at one moment.

    Attributes:
        revision: 0 when the key does not exist; None when the write that made it never told.
        newest: the highest revision known so far: revisions only grow.
    """

    revision: int | None = 0
    value: str = ""
    newest: int = 0


def apply(state: Register, call: Access) -> Register | None:
    """Return the state after a call; None when the call cannot have seen this state."""
    if call.kind == "get":
        return _read(state, call)
    if call.outcome is Outcome.NOT_DONE:
        return _refused(state, call)
    before = state if call.expected is None else _with_revision(state, call.expected)
    return None if before is None else _written(before, call)


def _written(state: Register, call: Access) -> Register | None:
    if call.kind == "delete":
        return Register(0, "", state.newest)
    if call.revision == 0:
        return Register(None, call.value, state.newest)
    if call.revision <= state.newest:
        return None
    return Register(call.revision, call.value, call.revision)


def _read(state: Register, call: Access) -> Register | None:
    return None if state.value != call.found else _with_revision(state, call.revision)


def _refused(state: Register, call: Access) -> Register | None:
    """Return the state that a conditional write was refused in: another revision than the one expected."""
    if call.actual is None or call.actual == call.expected:
        return None
    return _with_revision(state, call.actual)


def _with_revision(state: Register, revision: int) -> Register | None:
    if state.revision is not None:
        return state if state.revision == revision else None
    return Register(revision, state.value, revision) if revision > state.newest else None


@dataclass(frozen=True, slots=True)
class _Point:
    """How far the search is.

    All calls before `first`, those of `done` (bits, from `first` on), and those of `taken` (bits) among the
    calls of unknown outcome have taken effect.
    """

    first: int
    done: int
    taken: int
    state: Register


def linearizable(calls: Sequence[Access]) -> bool:
    """Tell whether there is an order. All calls are on one key."""
    ordered = sorted((call for call in calls if _counts(call)), key=lambda call: call.start)
    known = [call for call in ordered if call.outcome is not Outcome.UNKNOWN]
    unknown = _possible(ordered)
    seen: set[_Point] = set()
    path = [iter((_Point(0, 0, 0, Register()),))]
    while path:
        point = next(path[-1], None)
        if point is None:
            path.pop()
        elif point.first == len(known):
            return True
        elif point not in seen:
            seen.add(point)
            path.append(_next_points(point, known, unknown))
    return False


def _counts(call: Access) -> bool:
    """Leave out what says nothing: reads without an answer, writes refused without a look at the key."""
    if call.kind == "get":
        return call.outcome is Outcome.DONE
    return call.outcome is not Outcome.NOT_DONE or call.actual is not None


def _possible(ordered: Sequence[Access]) -> list[Access]:
    """Return the calls of unknown outcome, but for those that another write has forestalled."""
    followed = {call.expected for call in ordered if call.outcome is Outcome.DONE and call.expected}
    return [call for call in ordered if call.outcome is Outcome.UNKNOWN and call.expected not in followed]


def _next_points(point: _Point, known: Sequence[Access], unknown: Sequence[Access]) -> Iterator[_Point]:
    ready, limit = _ready(point, known)
    outcomes = [(index, apply(point.state, known[index])) for index in ready]
    for index, state in outcomes:
        if state == point.state and not _may_write(known[index]):
            return iter((_after(point, index, state),))
    return _branches(point, outcomes, unknown, limit)


def _may_write(call: Access) -> bool:
    """Tell whether a call has an effect in some state: deleting has, if not where nothing is."""
    return call.kind != "get" and call.outcome is not Outcome.NOT_DONE


def _branches(
    point: _Point, outcomes: list[tuple[int, Register | None]], unknown: Sequence[Access], limit: float
) -> Iterator[_Point]:
    for index, state in outcomes:
        if state is not None:
            yield _after(point, index, state)
    for index, call in enumerate(unknown):
        if call.start > limit:
            break
        if not point.taken >> index & 1 and (state := apply(point.state, call)) is not None:
            yield _Point(point.first, point.done, point.taken | 1 << index, state)


def _ready(point: _Point, known: Sequence[Access]) -> tuple[list[int], float]:
    """Find the calls that may come next: those that began before any of the others was over."""
    limit, open_calls = math.inf, []
    for index in range(point.first, len(known)):
        call = known[index]
        if call.start > limit:
            break
        if not point.done >> (index - point.first) & 1:
            limit = min(limit, call.end)
            open_calls.append(index)
    return [index for index in open_calls if known[index].start <= limit], limit


def _after(point: _Point, index: int, state: Register) -> _Point:
    first, done = point.first, point.done | 1 << (index - point.first)
    while done & 1:
        first, done = first + 1, done >> 1
    return _Point(first, done, point.taken, state)
