"""Patterns of subjects and names, against an oracle that tries every subject and name there is."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.patterns import covers, covers_name, overlaps, overlaps_name
from windshift.server.auth.subjects import SubjectPatterns, parts, tokens

WORDS = ("a", "b")
UNIVERSE = [subject for length in range(1, 6) for subject in product((*WORDS, "other"), repeat=length)]
"""Longer by one than every pattern below, with a word that is in none: what differs, differs here."""

PATTERNS = st.lists(st.sampled_from([*WORDS, "*"]), min_size=1, max_size=3).flatmap(
    lambda head: st.sampled_from([".".join(head), ".".join([*head, ">"]), ">"])
)
NAMES = ["".join(letters) for length in range(1, 5) for letters in product("abc", repeat=length)]
NAME_PATTERNS = st.text(alphabet="ab", max_size=3).flatmap(
    lambda text: st.sampled_from([text or "*", f"{text}*"])
)
MALFORMED = [
    "", ".", "a.", ".a", "a..b", ">.a", "a.>.b", "a*", "*a", "a>", "a.b>", ">>", "**", " ", "a b", "a.\n",
    "a\0", "a.*b",
]  # fmt: skip


def matches(pattern: str, subject: tuple[str, ...]) -> bool:
    """Tell whether a well-formed pattern matches a subject, as NATS does."""
    tokens = pattern.split(".")
    if tokens[-1] == ">":
        head = tokens[:-1]
        if len(subject) <= len(head):
            return False
    else:
        head = tokens
        if len(subject) != len(head):
            return False
    return all(token in ("*", subject[index]) for index, token in enumerate(head))


def meaning(pattern: str) -> set[tuple[str, ...]]:
    """Return all subjects that a pattern matches."""
    return {subject for subject in UNIVERSE if matches(pattern, subject)}


def name_meaning(pattern: str) -> set[str]:
    """Return all names that a pattern matches."""
    if pattern.endswith("*"):
        return {name for name in NAMES if name[: len(pattern) - 1] == pattern[:-1]}
    return {pattern}


@given(PATTERNS, PATTERNS)
@example("a.>", "a")
@example("a.*", "a.>")
@example(">", ">")
@example("a.*.>", "a.>")
def test_covers_is_containment(pattern: str, wanted: str) -> None:
    """A pattern covers another exactly when it matches all that the other does."""
    assert covers(pattern, wanted) == (meaning(wanted) <= meaning(pattern))


@given(PATTERNS, PATTERNS)
@example("a.>", "a")
@example("a.*", "*.b")
def test_overlaps_is_a_common_subject(a: str, b: str) -> None:
    """Patterns overlap exactly when some subject is matched by both."""
    assert overlaps(a, b) == bool(meaning(a) & meaning(b))


@given(NAME_PATTERNS, NAME_PATTERNS)
def test_names_are_contained(pattern: str, wanted: str) -> None:
    """A pattern of names covers another exactly when it matches all that the other does."""
    assert covers_name(pattern, wanted) == (name_meaning(wanted) <= name_meaning(pattern))


@given(NAME_PATTERNS, NAME_PATTERNS)
def test_names_overlap(a: str, b: str) -> None:
    """Patterns of names overlap exactly when some name is matched by both."""
    assert overlaps_name(a, b) == bool(name_meaning(a) & name_meaning(b))


@pytest.mark.parametrize("malformed", MALFORMED)
def test_malformed_subjects_stand_for_nothing(malformed: str) -> None:
    """What is no subject is covered by nothing, not even by itself, and covers nothing."""
    for other in (">", "*", "a", "a.>", malformed):
        assert not covers(other, malformed)
        assert not covers(malformed, other)
        assert not overlaps(other, malformed)
        assert not overlaps(malformed, other)


@pytest.mark.parametrize("malformed", ["", "**", "a*b", "*a", "a**"])
def test_malformed_names_stand_for_nothing(malformed: str) -> None:
    """What is no pattern of names is covered by nothing, not even by itself, and covers nothing."""
    for other in ("*", "a", "a*", malformed):
        assert not covers_name(other, malformed)
        assert not covers_name(malformed, other)
        assert not overlaps_name(other, malformed)
        assert not overlaps_name(malformed, other)


@given(st.text(alphabet="ab.*>_ \n\0ä\ud800", max_size=8), st.text(alphabet="ab.*>_ \n\0ä\ud800", max_size=8))
def test_any_text_is_safe(pattern: str, wanted: str) -> None:
    """Any two texts get an answer; what is covered overlaps, and overlapping is mutual."""
    assert not covers(pattern, wanted) or overlaps(pattern, wanted)
    assert overlaps(pattern, wanted) == overlaps(wanted, pattern)
    assert not covers_name(pattern, wanted) or overlaps_name(pattern, wanted)
    assert overlaps_name(pattern, wanted) == overlaps_name(wanted, pattern)


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [("orders.>", "orders"), ("orders.*", "orders.eu.1"), ("orders", "Orders"), ("orders.new", "*.new")],
)
def test_near_misses(pattern: str, wanted: str) -> None:
    """`>` wants a token, `*` takes one only, case matters, and a word does not cover a wildcard."""
    assert not covers(pattern, wanted)


@pytest.mark.parametrize("text", ["a" * 5000, "a." * 3000 + "a", "*." * 3000 + ">"])
def test_what_is_longer_than_any(text: str) -> None:
    """What no broker takes for its length stands for nothing, and is not taken apart."""
    assert tokens(text) == parts(text) == ()
    assert not covers(">", text)
    assert not covers_name("*", text)


ANY = st.one_of(PATTERNS, st.sampled_from(MALFORMED), st.just("a.*.*.b"), st.just("a.*.c.>"))


@given(st.lists(ANY, max_size=12), ANY)
@example(["a.*", "*.a", "a.a"], "a.a")
@example(["*.*", "a.*"], "*.*")
@example(["a", "a.>"], "a")
@example(["a.b", "a.>"], "a.>")
def test_many_patterns(patterns: list[str], wanted: str) -> None:
    """In a set of patterns the first is found that would be found by comparing one after the other."""
    found = SubjectPatterns()
    for number, pattern in enumerate(patterns):
        found.add(tokens(pattern), number)
    covering = (number for number, pattern in enumerate(patterns) if covers(pattern, wanted))
    overlapping = (number for number, pattern in enumerate(patterns) if overlaps(pattern, wanted))
    assert found.covering(tokens(wanted)) == next(covering, None)
    assert found.overlapping(tokens(wanted)) == next(overlapping, None)


def test_a_hundred_thousand_patterns() -> None:
    """Their number hardly matters: comparing with each would take minutes here."""
    found = SubjectPatterns()
    for number in range(100_000):
        found.add(("a", f"b{number}", ">"), number)
    for number in range(10_000):
        assert found.covering(("a", f"b{number}", "c")) == number
        assert found.overlapping(("a", f"b{number}", ">")) == number
        assert found.overlapping(("a", "x", f"b{number}")) is None
