"""Which subjects and names a pattern stands for: containment and overlap of the sets that patterns mean.

A subject is a pattern too, for itself alone: ``*`` stands for one token, ``>`` at the end for one or more. In
names only a trailing ``*`` is special: ``billing-*`` stands for every name that begins so, ``billing-``
itself included, and ``*`` for all. What is malformed (an empty token, ``>`` before the end, ``a*``, blanks
and control characters in a subject; a ``*`` before the end of a name) stands for nothing: it covers nothing,
nothing covers it, and it overlaps with nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = r"(?:\*|[^.*>\s\x00-\x1f\x7f]+)"
_SUBJECT = re.compile(rf">|{_WORD}(?:\.{_WORD})*(?:\.>)?")
_NAME = re.compile(r"\*|[^*]+\*?")


def covers(pattern: str, wanted: str) -> bool:
    """Tell whether a pattern matches every subject that the wanted one matches."""
    return tokens_cover(tokens(pattern), tokens(wanted))


def overlaps(a: str, b: str) -> bool:
    """Tell whether some subject is matched by both."""
    return tokens_overlap(tokens(a), tokens(b))


def covers_name(pattern: str, wanted: str) -> bool:
    """Tell whether a pattern matches every name that the wanted one matches."""
    if not well_formed_name(pattern) or not well_formed_name(wanted):
        return False
    if pattern.endswith("*"):
        return wanted.removesuffix("*").startswith(pattern[:-1])
    return pattern == wanted


def overlaps_name(a: str, b: str) -> bool:
    """Tell whether some name is matched by both."""
    if not well_formed_name(a) or not well_formed_name(b):
        return False
    if a.endswith("*") and b.endswith("*"):
        return a.startswith(b[:-1]) or b.startswith(a[:-1])
    return covers_name(a, b) or covers_name(b, a)


def well_formed_name(pattern: str) -> bool:
    """Tell whether a pattern for names stands for anything."""
    return _NAME.fullmatch(pattern) is not None


def tokens(subject: str) -> tuple[str, ...]:
    """Return the tokens of a subject or pattern; none when it is malformed."""
    return tuple(subject.split(".")) if _SUBJECT.fullmatch(subject) is not None else ()


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
