"""Which check goes with which write."""

from __future__ import annotations

import pytest

from windshift.nats.jetstream.kv import Put, Record
from windshift.server.domain.errors import InvalidField, UnsupportedCombination
from windshift.server.state.model import Check, Write
from windshift.server.state.transactions import MOST_KEYS, puts, validate


def writes(keys: str) -> list[Write]:
    """Write each of these keys."""
    return [Write(key, b"x") for key in keys]


def checks(keys: str) -> list[Check]:
    """Check each of these keys."""
    return [Check(key, 1) for key in keys]


def found(keys: str) -> dict[str, Record]:
    """Have the revisions 1, 2, 3 in these keys."""
    return {key: Record(number, b"") for number, key in enumerate(keys, 1)}


@pytest.mark.parametrize(
    ("checked", "written", "expected"),
    [
        ("", "ab", [(None, ""), (None, "")]),
        ("ab", "ab", [(1, ""), (2, "")]),
        ("b", "ab", [(None, ""), (1, "")]),
        ("x", "ab", [(1, "x"), (None, "")]),
        ("xb", "abc", [(1, "x"), (2, ""), (None, "")]),
        ("axy", "abc", [(1, ""), (2, "x"), (3, "y")]),
    ],
)
def test_each_check_goes_with_a_write(
    checked: str, written: str, expected: list[tuple[int | None, str]]
) -> None:
    """A written key's own check goes with it, others with writes that have none."""
    validate(checks(checked), writes(written))
    made = puts(checks(checked), writes(written), found(checked))
    assert [(put.expected, put.expected_of) for put in made] == expected
    assert [put.key for put in made] == list(written)


def test_what_is_written() -> None:
    """Values, deletions and times to live stay as they are."""
    made = puts([], [Write("a", b"1", 60), Write("b", None)], {})
    assert made == [Put("a", b"1", None, 60), Put("b", None)]


@pytest.mark.parametrize(("checked", "written"), [("xy", "a"), ("ax", "a"), ("abx", "ab"), ("xyz", "ab")])
def test_too_many_checks(checked: str, written: str) -> None:
    """A write has one check."""
    with pytest.raises(UnsupportedCombination):
        validate(checks(checked), writes(written))


@pytest.mark.parametrize(
    ("checked", "written", "field"),
    [("", "", "writes"), ("a", "", "writes"), ("", "aa", "writes[1].key"), ("xx", "abc", "checks[1].key")],
)
def test_what_cannot_be(checked: str, written: str, field: str) -> None:
    """Nothing to write, or a key twice."""
    with pytest.raises(InvalidField) as caught:
        validate(checks(checked), writes(written))
    assert caught.value.field == field


def test_as_many_keys_as_there_may_be() -> None:
    """Checked keys and written keys count together, each once."""
    many = [Write(f"k{number}", b"") for number in range(MOST_KEYS)]
    validate([Check(write.key, 0) for write in many], many)
    with pytest.raises(InvalidField):
        validate([Check("other", 0)], many)
