"""The line numbers of a TOML document. The values come from `tomllib`, which has no positions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""The keys and the indices, from 0, that lead to a value."""

_TOKEN: Final = re.compile(
    r"""
    \#[^\n]*
    | \"{3} (?: [^"\\]++ | \\. | "(?!""(?!")) )*+ \"{3}  # up to two quotes may stand before those that end it
    | '{3} (?: [^']++ | '(?!''(?!')) )*+ '{3}
    | " (?: [^"\\]++ | \\. )*+ "
    | '[^']*'
    | [\[\]{}=,]
    | (?: \d{4}-\d\d-\d\d\ (?=\d) )? [^\s\#"'\[\]{}=,]++  # a bare key with its dots, a number, a time
    """,
    re.VERBOSE | re.DOTALL,
)


def line_numbers(text: str) -> Mapping[Path, int]:
    """Return the line, from 1, of each key and element of a document that `tomllib` has accepted.

    The line of a key is its first mention, that of a table its header. Raise `RecursionError` when the
    document is nested too deeply.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    """Scans a valid document once."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {(): 1}
        self._last: dict[Path, int] = {}  # the last index so far of each array of tables
        self._tokens = _tokens(text)

    def document(self) -> None:
        table: Path = ()
        for text, line in self._tokens:
            if text == "[":
                table = self._header(line)
            else:
                self._pair(table, text, line)

    def _header(self, line: int) -> Path:
        first, _ = following = next(self._tokens)
        if first != "[":
            return self._key((), *following)
        table = self._key((), *next(self._tokens))
        next(self._tokens)
        index = self._last[table] = self._last.get(table, -1) + 1
        self.lines[*table, index] = line
        return table

    def _pair(self, table: Path, text: str, line: int) -> None:
        path = self._key(table, text, line)
        self._value(path, next(self._tokens)[0])

    def _key(self, path: Path, text: str, line: int) -> Path:
        """Record the parts of a key, and consume what ends it: ``=``, or the first ``]``."""
        while text not in "=]":
            for part in _parts(text):
                path = (*path, self._last[path], part) if path in self._last else (*path, part)
                self.lines.setdefault(path, line)
            text, line = next(self._tokens)
        return path

    def _value(self, path: Path, text: str) -> None:
        """Record what is inside the value that begins with this token."""
        if text not in "[{":
            return
        index = 0
        for inner, line in self._tokens:
            if inner in "]}":
                return
            if inner == ",":
                index += 1
            elif text == "{":
                self._pair(path, inner, line)
            else:
                self.lines[*path, index] = line
                self._value((*path, index), inner)


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Yield all tokens but blanks and comments, each with its line."""
    line, end = 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", end, match.start())
        end = match.start()
        if text[end] != "#":
            yield match[0], line


def _parts(token: str) -> list[str]:
    """Return the parts of a dotted key in a token: those of a bare key, or one quoted key."""
    if token[0] not in "\"'":
        return [part for part in token.split(".") if part]
    if "\\" not in token or token[0] == "'":
        return [token[1:-1]]
    return [tomllib.loads(f"key = {token}")["key"]]
