"""Which subjects and names a pattern stands for: containment and overlap of the sets that patterns mean.

A subject is a pattern too, for itself alone: ``*`` stands for one token, ``>`` at the end for one or more. In
names only a trailing ``*`` is special: ``billing-*`` stands for every name that begins so, ``billing-``
itself included, and ``*`` for all. What is malformed (an empty token, ``>`` before the end, ``a*``, blanks
and control characters in a subject; a ``*`` before the end of a name; more than `LONGEST` characters) stands
for nothing: it covers nothing, nothing covers it, and it overlaps with nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

LONGEST: Final = 4096
"""Characters of a subject or name; no broker takes one that is longer. A request may hold millions."""

_WORD = r"(?:\*|[^.*>\s\x00-\x1f\x7f]+)"
_SUBJECT = re.compile(rf">|{_WORD}(?:\.{_WORD})*(?:\.>)?")
_OPEN = 2
"""How many parts a pattern of names has that ends with ``*``."""


def tokens(subject: str) -> tuple[str, ...]:
    """Return the tokens of a subject or pattern; none when it is malformed."""
    if len(subject) > LONGEST or _SUBJECT.fullmatch(subject) is None:
        return ()
    return tuple(subject.split("."))


def parts(name: str) -> tuple[str, ...]:
    """Return a name alone, or a prefix and ``*``; nothing when it is malformed."""
    if not name or len(name) > LONGEST or "*" in name[:-1]:
        return ()
    return (name[:-1], "*") if name[-1] == "*" else (name,)


def parts_cover(pattern: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Tell whether a pattern matches every name that another does, both as `parts` returned them."""
    if len(pattern) == _OPEN:
        return bool(wanted) and wanted[0].startswith(pattern[0])
    return pattern == wanted and bool(wanted)


def parts_overlap(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Tell whether some name is matched by both, as `parts` returned them."""
    if len(a) == len(b) == _OPEN:
        return a[0].startswith(b[0]) or b[0].startswith(a[0])
    return parts_cover(a, b) or parts_cover(b, a)


class SubjectPatterns:
    """Numbered patterns of subjects, in which those are found that matter for a subject.

    They are a tree by their tokens, so that the time to find one grows with the tokens of what is wanted, and
    with the number of patterns only as far as wildcards stand in the same places. Of several that fit, that
    with the lowest number is found.
    """

    def __init__(self) -> None:
        self._root = _Branch()

    def add(self, pattern: Sequence[str], number: int) -> None:
        """Add what `tokens` returned for a pattern. One that is malformed stands for nothing."""
        if not pattern:
            return
        branch = self._root
        for word in pattern:
            branch.beyond = _lower(branch.beyond, number)
            if word == ">":
                branch.rest = _lower(branch.rest, number)
                return
            branch = branch.branches.setdefault(word, _Branch())
        branch.end = _lower(branch.end, number)

    def covering(self, wanted: Sequence[str]) -> int | None:
        """Return the number of a pattern that covers what `tokens` returned for a subject."""
        return _covering(self._root, wanted, 0) if wanted else None

    def overlapping(self, wanted: Sequence[str]) -> int | None:
        """Return the number of a pattern that has something in common with it."""
        return _overlapping(self._root, wanted, 0) if wanted else None


class _Branch:
    """Patterns that begin with the same tokens.

    Attributes:
        branches: those that go on, by their next token; ``>`` is none of these.
        end: the lowest number of those that end here; None = there is none.
        rest: the same of those that go on with ``>``.
        beyond: the same of all that go on.
    """

    __slots__ = ("beyond", "branches", "end", "rest")

    def __init__(self) -> None:
        self.branches: dict[str, _Branch] = {}
        self.end: int | None = None
        self.rest: int | None = None
        self.beyond: int | None = None


def _covering(branch: _Branch, wanted: Sequence[str], position: int) -> int | None:
    if position == len(wanted):
        return branch.end
    found = branch.rest
    word = wanted[position]
    if word != ">" and branch.branches:
        for each in (word, "*") if word != "*" else (word,):
            if each in branch.branches:
                found = _lower(found, _covering(branch.branches[each], wanted, position + 1))
    return found


def _overlapping(branch: _Branch, wanted: Sequence[str], position: int) -> int | None:
    if position == len(wanted):
        return branch.end
    word = wanted[position]
    if word == ">":
        return branch.beyond
    found = branch.rest
    if branch.branches:
        for each in branch.branches if word == "*" else (word, "*"):
            if each in branch.branches:
                found = _lower(found, _overlapping(branch.branches[each], wanted, position + 1))
    return found


def _lower(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
