"""Patterns of subjects and names: whether one covers another, or overlaps with it.

A subject is a pattern that matches only itself: ``*`` matches one token, ``>`` at the end one or more. In
names only a trailing ``*`` is special: ``billing-*`` matches every name with that prefix, including
``billing-``, and ``*`` matches all. A malformed pattern (an empty token, ``>`` before the end, ``a*``, blanks
and control characters in a subject; a ``*`` before the end of a name; more than `LONGEST` characters) matches
nothing: it covers nothing, nothing covers it, and it overlaps with nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

LONGEST: Final = 4096
"""Characters of a subject or name; no broker accepts longer ones. A request may have millions."""

_WORD = r"(?:\*|[^.*>\s\x00-\x1f\x7f]+)"
_SUBJECT = re.compile(rf">|{_WORD}(?:\.{_WORD})*(?:\.>)?")
_OPEN = 2
"""The number of parts of a name pattern that ends with ``*``."""


def tokens(subject: str) -> tuple[str, ...]:
    """Return the tokens of a subject or pattern; none if it is malformed."""
    if len(subject) > LONGEST or _SUBJECT.fullmatch(subject) is None:
        return ()
    return tuple(subject.split("."))


def parts(name: str) -> tuple[str, ...]:
    """Return a name alone, or a prefix and ``*``; nothing if it is malformed."""
    if not name or len(name) > LONGEST or "*" in name[:-1]:
        return ()
    return (name[:-1], "*") if name[-1] == "*" else (name,)


def parts_cover(pattern: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Return whether a pattern matches every name that another does, both as from `parts`."""
    if len(pattern) == _OPEN:
        return bool(wanted) and wanted[0].startswith(pattern[0])
    return pattern == wanted and bool(wanted)


def parts_overlap(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Return whether some name matches both patterns, as from `parts`."""
    if len(a) == len(b) == _OPEN:
        return a[0].startswith(b[0]) or b[0].startswith(a[0])
    return parts_cover(a, b) or parts_cover(b, a)


class SubjectPatterns:
    """Numbered patterns of subjects, searchable by subject.

    They form a tree by token, so that a search takes time by the tokens of the subject, and by the number of
    patterns only as far as they have wildcards in the same places. It finds the pattern with the lowest
    number. Each branch of the tree is for what follows the same tokens.

    Attributes:
        branches: longer patterns, by their next token, except ``>``.
        end: the lowest number of patterns that end here; None = none.
        rest: the same of patterns that continue with ``>``.
        beyond: the same of all longer patterns.
    """

    __slots__ = ("beyond", "branches", "end", "rest")

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self.branches: dict[str, SubjectPatterns] = {}
        self.end: int | None = None
        self.rest: int | None = None
        self.beyond: int | None = None
        for number, pattern in enumerate(patterns):
            self.add(tokens(pattern), number)

    def takes(self, subject: str) -> bool:
        """Tell whether one of them covers a subject."""
        return self.covering(tokens(subject)) is not None

    def add(self, pattern: Sequence[str], number: int) -> None:
        """Add a pattern, as from `tokens`. A malformed one matches nothing."""
        if not pattern:
            return
        branch = self
        for word in pattern:
            branch.beyond = _lower(branch.beyond, number)
            if word == ">":
                branch.rest = _lower(branch.rest, number)
                return
            branch = branch.branches.setdefault(word, SubjectPatterns())
        branch.end = _lower(branch.end, number)

    def covering(self, wanted: Sequence[str], position: int = 0) -> int | None:
        """Return the number of a pattern that covers a subject, as from `tokens`, from a position on."""
        if position == len(wanted):
            return self.end  # None at the root: nothing covers what is malformed
        found = self.rest
        word = wanted[position]
        if word != ">" and self.branches:
            for each in (word, "*") if word != "*" else (word,):
                if each in self.branches:
                    found = _lower(found, self.branches[each].covering(wanted, position + 1))
        return found

    def overlapping(self, wanted: Sequence[str], position: int = 0) -> int | None:
        """Return the number of a pattern that overlaps with it."""
        if position == len(wanted):
            return self.end
        word = wanted[position]
        if word == ">":
            return self.beyond
        found = self.rest
        if self.branches:
            for each in self.branches if word == "*" else (word, "*"):
                if each in self.branches:
                    found = _lower(found, self.branches[each].overlapping(wanted, position + 1))
        return found


def _lower(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
