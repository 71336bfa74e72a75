"""Reading a TOML document with care: every problem is noted with its line, and reading goes on."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from difflib import get_close_matches
from typing import Final, NamedTuple

from windshift.server.auth.positions import Path, Positions

_AT: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_SECRET: Final = re.compile(r"ws_[A-Za-z0-9_-]{16,}|eyJ[A-Za-z0-9_.-]{16,}|[0-9A-Fa-f]{64}")
_BARE: Final = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_SHOWN: Final = 80
"""So many characters of a value are shown at most."""


class PolicyError(ValueError):
    """The file is not one that can be used.

    Attributes:
        problems: each as ``line N: what is wrong``, in the order of the lines. They may be shown and logged:
            nothing secret is in them.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Problems:
    """What is wrong with a document, with the line of each."""

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self._found: list[tuple[int, str]] = []

    def line(self, path: Path) -> int:
        """Return the line of a value."""
        return self._positions.line(path)

    def add(self, path: Path, text: str) -> None:
        """Note a problem with what is at a place."""
        self._found.append((self.line(path), text))

    def check(self) -> None:
        """Raise `PolicyError` if there are any."""
        if self._found:
            found = sorted(self._found, key=lambda problem: problem[0])
            raise PolicyError(tuple(f"line {line}: {text}" for line, text in found))


class Text(NamedTuple):
    """A string, and where it stands."""

    value: str
    path: Path


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the document.

    What is missing is read as None or as nothing; what has the wrong type as well, and is a problem.

    Attributes:
        label: how problems call it.
    """

    problems: Problems
    path: Path
    values: Mapping[str, object]
    label: str = field(default="")

    def problem(self, key: str, text: str) -> None:
        """Note a problem with a value."""
        self.problems.add((*self.path, key), f"{self.inside(key)}: {text}")

    def wrong(self, text: str) -> None:
        """Note a problem with the table as a whole."""
        self.problems.add(self.path, f"{self.label}: {text}" if self.label else text)

    def inside(self, key: str) -> str:
        """Return how problems call a value."""
        name = key if _BARE.fullmatch(key) is not None and _SECRET.search(key) is None else shown(key)
        return f"{self.label}.{name}" if self.label else name

    def only(self, known: Collection[str]) -> None:
        """Note every key that is not one of the known."""
        prefix = f"{self.label}: " if self.label else ""
        for key in self.values:
            if key in known:
                continue
            close = get_close_matches(key, known, n=1)
            meant = f' (did you mean "{close[0]}"?)' if close else ""
            self.problems.add(
                (*self.path, key),
                f"{prefix}unknown key {shown(key)}{meant}; known are {', '.join(sorted(known))}",
            )

    def text(self, key: str) -> str | None:
        """Return a string that has to be there."""
        value = self.values.get(key)
        if isinstance(value, str):
            return value
        if value is None:
            self.wrong(f"has no {key}")
        else:
            self.problem(key, f"must be a string, not {kind_of(value)}")
        return None

    def texts(self, key: str, *, or_one: bool = False) -> list[Text]:
        """Return the strings of an array, or also one that stands there alone."""
        found = []
        for path, value in self._elements(key, "strings", alone=str if or_one else None):
            if isinstance(value, str):
                found.append(Text(value, path))
            else:
                self.problems.add(path, f"{self.inside(key)}: must be a string, not {kind_of(value)}")
        return found

    def number(self, key: str, least: float, most: float, what: str, *, whole: bool) -> float | None:
        """Return a number that may be missing; `what` says which are allowed."""
        value = self.values.get(key)
        if value is None:
            return None
        types = (int,) if whole else (int, float)
        if isinstance(value, types) and not isinstance(value, bool) and least <= value <= most:
            return value
        self.problem(key, f"must be {what}")
        return None

    def table(self, key: str, what: str = "a table") -> Table | None:
        """Return a table that may be missing."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, dict):
            return Table(self.problems, (*self.path, key), value, self.inside(key))
        self.problem(key, f"must be {what}, not {kind_of(value)}")
        return None

    def tables(self, key: str, *, or_one: bool = False) -> Iterator[Table]:
        """Return the tables of an array, or also one that stands there alone."""
        for path, value in self._elements(key, "tables", alone=dict if or_one else None):
            if isinstance(value, dict):
                yield Table(self.problems, path, value, self.inside(key))
            else:
                self.problems.add(path, f"{self.inside(key)}: must be a table, not {kind_of(value)}")

    def texts_or_tables(self, key: str) -> Iterator[Text | Table]:
        """Return strings and tables, of an array or alone."""
        for path, value in self._elements(key, "strings or tables", alone=(str, dict)):
            if isinstance(value, str):
                yield Text(value, path)
            elif isinstance(value, dict):
                yield Table(self.problems, path, value, self.inside(key))
            else:
                self.problems.add(
                    path, f"{self.inside(key)}: must be a string or a table, not {kind_of(value)}"
                )

    def _elements(
        self, key: str, what: str, *, alone: type | tuple[type, ...] | None
    ) -> Iterator[tuple[Path, object]]:
        value = self.values.get(key)
        path = (*self.path, key)
        if value is None:
            return
        if isinstance(value, list):
            yield from (((*path, index), element) for index, element in enumerate(value))
        elif alone is not None and isinstance(value, alone):
            yield path, value
        else:
            self.problem(key, f"must be an array of {what}, not {kind_of(value)}")


def read_document(text: str) -> Table:
    """Read a document. Raise `PolicyError` when it is not TOML."""
    try:
        values = tomllib.loads(text)
        return Table(Problems(Positions(text)), (), values)
    except RecursionError:
        raise PolicyError(("line 1: nested too deeply",)) from None
    except ValueError as error:
        raise PolicyError((_syntax_problem(text, str(error)),)) from None


def shown(value: str) -> str:
    """Return a value as problems show it: quoted, shortened, and not at all if it may be a secret."""
    if _SECRET.search(value) is not None:
        return "(not shown: it may be a secret)"
    short = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
    return json.dumps(short, ensure_ascii=not short.isprintable())


def kind_of(value: object) -> str:
    """Return what TOML calls a value's type."""
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    raise AssertionError(type(value))


_KINDS: Final[tuple[tuple[type, str], ...]] = (
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a float"),
    (str, "a string"),
    (datetime, "a date-time"),
    (date, "a date"),
    (time, "a time"),
    (list, "an array"),
    (dict, "a table"),
)


def _syntax_problem(text: str, error: str) -> str:
    """Say where the syntax is wrong in the form of all problems. tomllib names lines and keys, no values."""
    found = _AT.search(error)
    message = _SECRET.sub("(not shown)", _AT.sub("", error))
    if found is None:
        return f"line 1: {message}"
    if found[1] is None:
        return f"line {text.count(chr(10)) + 1}: {message} at the end of the file"
    return f"line {found[1]}: {message} (column {found[2]})"
