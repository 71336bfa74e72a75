"""Whether the transactions on a store, and the reads of its keys, happened one after the other.

The order is known: it is that of the revisions, as the broker has them. So nothing needs to be searched. Each
transaction has its place there; a read, or a refusal that told a revision, has a stretch of places, as long
as the key was what it saw. What ended before something else began must have an earlier place, or the same.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from tests.faults.history import Access, Outcome, Transaction


class Version(NamedTuple):
    """A write of a key as it lies in the store; an empty value is a deletion."""

    revision: int
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class _Seen:
    """What somebody knows of a key: from when to when, and its revision; 0 for a key that does not exist."""

    who: str
    key: str
    revision: int
    start: float
    end: float


class Keys:
    """The keys of a store at every moment."""

    def __init__(self, versions: Sequence[Version]) -> None:
        self._of: dict[str, list[Version]] = defaultdict(lambda: [Version(0, "", "")])
        for version in versions:
            self._of[version.key].append(version)

    def at(self, key: str, before: int) -> int:
        """Return a key's revision just before a place; 0 when it did not exist."""
        versions = self._of[key]
        version = versions[bisect.bisect_left(versions, before, key=lambda each: each.revision) - 1]
        return version.revision if version.value else 0

    def first_place(self, key: str, revision: int, place: int) -> int | None:
        """Return the first place from one on at which a key has a revision; None when there is none."""
        versions = self._of[key]
        for number, version in enumerate(versions):
            after = versions[number + 1].revision if number + 1 < len(versions) else None
            fits = version.revision == revision if version.value else revision == 0
            if fits and (after is None or place < after):
                return max(place, version.revision)
        return None


def not_serializable(
    versions: Sequence[Version], transactions: Sequence[Transaction], reads: Sequence[Access]
) -> Iterator[str]:
    """Say what contradicts that everything happened one after the other, all or none."""
    keys = Keys(versions)
    places = {}
    found = {(version.key, version.value): version for version in versions if version.value}
    for transaction in transactions:
        place, problem = _place(transaction, found)
        if problem:
            yield problem
        elif place:
            places[transaction] = place
            yield from _broken_checks(transaction, place, keys)
    written = sum(len(transaction.writes) for transaction in places)
    if written != len(versions):
        yield f"{len(versions)} writes are there, and {written} belong to transactions"
    yield from _out_of_time(keys, places, [*_reads(reads), *_refusals(transactions)])


def _place(transaction: Transaction, found: dict[tuple[str, str], Version]) -> tuple[int, str]:
    """Find where a transaction with a value in it lies, 0 = nowhere, and what is wrong with that."""
    there = {number: found.get(write) for number, write in enumerate(transaction.writes) if write[1]}
    places = {version and version.revision - number for number, version in there.items()}
    if places == {None}:
        lost = transaction.outcome is Outcome.DONE
        return 0, f"lost: {transaction}" if lost else ""
    if transaction.outcome is Outcome.NOT_DONE:
        return 0, f"refused, and there: {transaction}"
    if len(places) > 1:
        return 0, f"in part, or not in one piece: {transaction} is {there}"
    place = places.pop() or 0
    if transaction.revisions and transaction.revisions != tuple(
        range(place, place + len(transaction.writes))
    ):
        return 0, f"elsewhere than was told: {transaction} is at {place}"
    return place, ""


def _broken_checks(transaction: Transaction, place: int, keys: Keys) -> Iterator[str]:
    for number, (key, value) in enumerate(transaction.writes):
        if not value and keys.at(key, place + number + 1):
            yield f"{key} was not deleted: {transaction} at {place}"
    for key, revision in transaction.checks:
        if (actual := keys.at(key, place)) != revision:
            yield f"{key} was {actual}, not {revision}: {transaction} at {place}"


def _reads(reads: Sequence[Access]) -> Iterator[_Seen]:
    for read in reads:
        if read.outcome is Outcome.DONE:
            yield _Seen(read.who, read.key, read.revision, read.start, read.end)


def _refusals(transactions: Sequence[Transaction]) -> Iterator[_Seen]:
    for each in transactions:
        if each.outcome is Outcome.NOT_DONE and each.refused_key:
            yield _Seen(each.who, each.refused_key, each.actual, each.start, each.end)


def _out_of_time(keys: Keys, places: dict[Transaction, int], seen: Sequence[_Seen]) -> Iterator[str]:
    """Go through everything by its beginning; what is over by then has an earlier place, or the same.

    A read takes the first place that it can have: that leaves the others all that they could have.
    """
    over: list[tuple[float, int]] = []
    reached = 0
    calls: list[tuple[Transaction, int] | tuple[_Seen, None]] = [*places.items()]
    calls += [(each, None) for each in seen]
    for call, known in sorted(calls, key=lambda each: each[0].start):
        while over and over[0][0] < call.start:
            reached = max(reached, heappop(over)[1])
        if isinstance(call, Transaction):
            place, fits = known or 0, (known or 0) > reached
        else:
            first = keys.first_place(call.key, call.revision, reached)
            place, fits = first or 0, first is not None
        if not fits:
            yield f"too old at {reached}: {call}"
        elif not (isinstance(call, Transaction) and call.outcome is Outcome.UNKNOWN):
            last = place + (len(call.writes) - 1 if isinstance(call, Transaction) else 0)
            heappush(over, (call.end, last))
