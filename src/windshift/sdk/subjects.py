"""Filters of subjects and keys: `*` is any token, `>` is one or more at the end."""

from __future__ import annotations

from collections.abc import Iterable

EVERYTHING = ">"
"""The filter that everything matches."""


def overlap(one: str, other: str) -> bool:
    """Say whether a subject can match both filters."""
    a, b = one.split("."), other.split(".")
    for x, y in zip(a, b, strict=False):
        if ">" in (x, y):
            return True
        if x != y and "*" not in (x, y):
            return False
    return len(a) == len(b)


def covers(wide: str, narrow: str) -> bool:
    """Say whether a filter matches every subject that the other one matches."""
    a, b = wide.split("."), narrow.split(".")
    for index, part in enumerate(a):
        if index >= len(b):
            return False
        if part == ">":
            return True
        if b[index] == ">" or part not in ("*", b[index]):
            return False
    return len(a) == len(b)


def widest(subjects: Iterable[str]) -> tuple[str, ...]:
    """Return the filters without those that another one covers."""
    different = dict.fromkeys(subjects)
    return tuple(
        subject
        for subject in different
        if not any(other != subject and covers(other, subject) for other in different)
    )
