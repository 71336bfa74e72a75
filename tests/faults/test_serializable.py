"""The check of transactions, on histories made by hand."""

from __future__ import annotations

from tests.faults.history import Access, Outcome, Transaction
from tests.faults.serializable import Version, not_serializable

DONE, NOT_DONE, UNKNOWN = Outcome.DONE, Outcome.NOT_DONE, Outcome.UNKNOWN


def made(
    start: float,
    writes: str,
    first: int = 0,
    checks: tuple[tuple[str, int], ...] = (),
    outcome: Outcome = DONE,
) -> Transaction:
    """Make a transaction of a second that writes ``key=value`` and so on; without a value it deletes."""
    pairs = tuple((key, value) for key, _, value in (each.partition("=") for each in writes.split()))
    revisions = tuple(range(first, first + len(pairs))) if first else ()
    return Transaction("w", start, start + 1, outcome, checks, pairs, revisions)


def stored(text: str) -> list[Version]:
    """Write down what lies in a store, from revision 1 on."""
    pairs = (each.partition("=") for each in text.split())
    return [Version(number, key, value) for number, (key, _, value) in enumerate(pairs, 1)]


def read(start: float, key: str, revision: int) -> Access:
    """Make a read of a second."""
    return Access("r", key, "get", start, start + 1, DONE, revision=revision)


def problems(text: str, *calls: Transaction | Access) -> list[str]:
    """Check a history; give the first words of what is wrong."""
    transactions = [call for call in calls if isinstance(call, Transaction)]
    reads = [call for call in calls if isinstance(call, Access)]
    return [each.partition(":")[0] for each in not_serializable(stored(text), transactions, reads)]


def test_one_after_the_other() -> None:
    """Checks, deletions, reads, refusals, and lost answers of both kinds are explained."""
    refused = Transaction("w", 6, 7, NOT_DONE, (("a", 9),), (("a", "no"),), refused_key="a", actual=3)
    found = problems(
        "a=1 b=1 a=2 b c=4 d=4",
        made(0, "a=1 b=1", 1, (("a", 0),)),
        made(2, "a=2 b", 3, (("a", 1), ("b", 2))),
        made(4, "c=4 d=4", 0, outcome=UNKNOWN),
        made(4, "x=1 y=1", 0, outcome=UNKNOWN),
        refused,
        read(1.5, "a", 1),
        read(2.5, "a", 1),
        read(4, "b", 0),
        read(8, "c", 5),
    )
    assert found == []


def test_what_is_there_in_part() -> None:
    """All is written or none, in one piece, where it was told, and only if it was not refused."""
    assert problems("a=1", made(0, "a=1 b=1", outcome=UNKNOWN))[0] == "in part, or not in one piece"
    assert problems("a=1 c=2 b=1", made(0, "a=1 b=1", 1))[0] == "in part, or not in one piece"
    assert problems("x=0 a=1", made(0, "a=1", 1))[0] == "elsewhere than was told"
    assert problems("a=1", made(0, "a=1", outcome=NOT_DONE))[0] == "refused, and there"
    assert problems("", made(0, "a=1", 1)) == ["lost"]
    assert problems("a=1 z=9", made(0, "a=1", 1)) == ["2 writes are there, and 1 belong to transactions"]


def test_a_check_that_did_not_hold() -> None:
    """What was expected of a key must be so just before the transaction."""
    first, second = made(0, "a=1", 1), made(0, "a=2 b=2", 2, (("a", 0),))
    assert problems("a=1 a=2 b=2", first, second) == ["a was 1, not 0"]


def test_what_was_over_before() -> None:
    """A later transaction comes later, and a later read sees what was over."""
    assert problems("b=1 a=1", made(0, "a=1", 2), made(5, "b=1", 1)) == ["too old at 2"]
    both = made(0, "a=1", 1), made(2, "a=2", 2)
    assert problems("a=1 a=2", *both, read(4, "a", 1)) == ["too old at 2"]
    assert problems("a=1 a=2", *both, read(2.5, "a", 1)) == []


def test_reads_one_after_the_other() -> None:
    """What one read saw of one key, another that begins later knows of every other."""
    both = made(0, "a=1", 1), made(2, "a=2 b=2", 2)
    assert problems("a=1 a=2 b=2", *both, read(2.1, "b", 3), read(3.2, "a", 1)) == ["too old at 3"]
    assert problems("a=1 a=2 b=2", *both, read(2.1, "b", 0), read(3.2, "a", 2)) == []
