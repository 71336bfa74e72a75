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


def covers(pattern: str, wanted: str) -> bool:
    """Tell whether a pattern matches every subject that the wanted one matches."""
    return tokens_cover(tokens(pattern), tokens(wanted))


def overlaps(a: str, b: str) -> bool:
    """Tell whether some subject is matched by both."""
    return tokens_overlap(tokens(a), tokens(b))


def covers_name(pattern: str, wanted: str) -> bool:
    """Tell whether a pattern matches every name that the wanted one matches."""
    return parts_cover(parts(pattern), parts(wanted))


def overlaps_name(a: str, b: str) -> bool:
    """Tell whether some name is matched by both."""
    return parts_overlap(parts(a), parts(b))


def tokens(subject: str) -> tuple[str, ...]:
    """Return the tokens of a subject or pattern; none when it is malformed."""
    if len(subject) > LONGEST or _SUBJECT.fullmatch(subject) is None:
        return ()
    return tuple(subject.split("."))


def tokens_cover(pattern: Sequence[str], wanted: Sequence[str]) -> bool:
    """Do what `covers` does, with what `tokens` returns."""
    if not pattern or not wanted:
        return False
    for own, other in zip(pattern, wanted, strict=False):
        if own == ">":
            return True
        if other == ">" or own not in ("*", other):
            return False
    return len(pattern) == len(wanted)


def tokens_overlap(a: Sequence[str], b: Sequence[str]) -> bool:
    """Do what `overlaps` does, with what `tokens` returns."""
    if not a or not b:
        return False
    for one, other in zip(a, b, strict=False):
        if one == ">" or other == ">":
            return True
        if one not in ("*", other) and other != "*":
            return False
    return len(a) == len(b)


def parts(name: str) -> tuple[str, ...]:
    """Return a name alone, or a prefix and ``*``; nothing when it is malformed."""
    if not name or len(name) > LONGEST or "*" in name[:-1]:
        return ()
    return (name[:-1], "*") if name[-1] == "*" else (name,)


def parts_cover(pattern: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Do what `covers_name` does, with what `parts` returns."""
    if len(pattern) == _OPEN:
        return bool(wanted) and wanted[0].startswith(pattern[0])
    return pattern == wanted and bool(wanted)


def parts_overlap(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Do what `overlaps_name` does, with what `parts` returns."""
    if len(a) == len(b) == _OPEN:
        return a[0].startswith(b[0]) or b[0].startswith(a[0])
    return parts_cover(a, b) or parts_cover(b, a)
