"""A TOML document whose values know their line, so that every problem is reported with it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from difflib import get_close_matches
from typing import Any, Final, TypeVar

from windshift.server.auth.toml_lines import Path, line_numbers

_AT: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_SECRET: Final = re.compile(r"ws_[A-Za-z0-9_-]{16,}|eyJ[A-Za-z0-9_.-]{16,}|[0-9A-Fa-f]{64}")
_BARE: Final = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_MAX_SHOWN: Final = 80
"""Characters of a value shown in a problem."""
_TYPES: Final[Mapping[type, str]] = {
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "a string",
    datetime: "a date-time",
    date: "a date",
    time: "a time",
    list: "an array",
    dict: "a table",
}

_Number = TypeVar("_Number", int, float)


class PolicyError(ValueError):
    """The file cannot be used.

    Attributes:
        problems: each as ``line N: what is wrong``, ordered by line. They contain no secrets.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a document, or the place of one that is missing.

    A value that is missing or has the wrong type reads as None, or as empty; the wrong type is a problem.

    Attributes:
        value: what `tomllib` returns; None if it is missing.
        label: what problems call it.
    """

    value: Any
    _path: Path
    label: str
    _lines: Mapping[Path, int] = field(repr=False)
    _problems: list[tuple[int, str]] = field(repr=False)

    def __getitem__(self, key: str) -> Value:
        """Return the value of a key in a table."""
        value = self.value.get(key) if isinstance(self.value, dict) else None
        name = key if _BARE.fullmatch(key) is not None and _SECRET.search(key) is None else shown(key)
        label = f"{self.label}.{name}" if self.label else name
        return Value(value, (*self._path, key), label, self._lines, self._problems)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of a table."""
        return tuple(self.value) if isinstance(self.value, dict) else ()

    @property
    def is_missing(self) -> bool:
        """Whether there is nothing, or an empty array."""
        return self.value in (None, [])

    @property
    def line(self) -> int:
        """The line, from 1, of the value or of the innermost thing around it."""
        path = self._path
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def wrong(self, text: str) -> None:
        """Report a problem with the value."""
        self._problems.append((self.line, f"{self.label}: {text}" if self.label else text))

    def check(self) -> None:
        """Raise `PolicyError` if any problem of the document was reported."""
        if self._problems:
            found = sorted(self._problems, key=lambda problem: problem[0])
            raise PolicyError(tuple(f"line {line}: {text}" for line, text in found))

    def only(self, *known: str) -> None:
        """Report every key that is not one of these."""
        for key in self.keys:
            if key not in known:
                close = get_close_matches(key, known, n=1)
                meant = f' (did you mean "{close[0]}"?)' if close else ""
                text = f"unknown key {shown(key)}{meant}; known are {', '.join(sorted(known))}"
                replace(self[key], label=self.label).wrong(text)

    def required(self, key: str) -> Value:
        """Return the value of a required key in a table."""
        inner = self[key]
        if inner.is_missing:
            self.wrong(f"has no {key}")
        return inner

    def text(self) -> str | None:
        """Return the value as a string."""
        if isinstance(self.value, str):
            return self.value
        if not self.is_missing:
            self.wrong(f"must be a string, not {type_name(self.value)}")
        return None

    def number(self, kind: type[_Number], least: float, most: float, what: str) -> _Number | None:
        """Return a number; `what` says which ones are allowed."""
        if self.value is None:
            return None
        is_number = isinstance(self.value, (int, kind)) and not isinstance(self.value, bool)
        if is_number and least <= self.value <= most:
            return kind(self.value)
        self.wrong(f"must be {what}")
        return None

    def table(self, what: str = "a table") -> Value:
        """Return the value as a table; empty if it is something else."""
        if self.value is None or isinstance(self.value, dict):
            return self
        self.wrong(f"must be {what}, not {type_name(self.value)}")
        return replace(self, value=None)

    def elements(self, *types: type, or_one: bool = False) -> Iterator[Value]:
        """Yield the elements of an array that have one of these types, or a single value."""
        names = [_TYPES[each] for each in types]
        if isinstance(self.value, list):
            for index, element in enumerate(self.value):
                each = Value(element, (*self._path, index), self.label, self._lines, self._problems)
                if isinstance(element, types):
                    yield each
                else:
                    each.wrong(f"must be {' or '.join(names)}, not {type_name(element)}")
        elif or_one and isinstance(self.value, types):
            yield self
        elif self.value is not None:
            plural = " or ".join(f"{name.removeprefix('a ')}s" for name in names)
            self.wrong(f"must be an array of {plural}, not {type_name(self.value)}")


def read_document(text: str) -> Value:
    """Parse a document. Raise `PolicyError` if it is not TOML."""
    try:
        return Value(tomllib.loads(text), (), "", line_numbers(text), [])
    except RecursionError:
        raise PolicyError(("line 1: nested too deeply",)) from None
    except ValueError as error:
        raise PolicyError((_syntax_problem(text, str(error)),)) from None


def shown(value: str) -> str:
    """Return a value for problems: quoted, shortened, and hidden if it may be a secret."""
    if _SECRET.search(value) is not None:
        return "(not shown: it may be a secret)"
    short = value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}…"
    return json.dumps(short, ensure_ascii=not short.isprintable())


def type_name(value: object) -> str:
    """Return TOML's name for a value's type, with its article."""
    return _TYPES[type(value)]


def _syntax_problem(text: str, error: str) -> str:
    """Return a syntax error in the form of all problems. tomllib's errors name lines and keys, no values."""
    at = _AT.search(error)
    message = _SECRET.sub("(not shown)", _AT.sub("", error))
    if at is None:
        return f"line 1: {message}"
    if at[1] is None:
        return f"line {text.count(chr(10)) + 1}: {message} at the end of the file"
    return f"line {at[1]}: {message} (column {at[2]})"
