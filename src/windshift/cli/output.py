"""What commands print: columns for people, JSON for programs, progress and remarks on stderr."""

from __future__ import annotations

import io
import math
import os
import sys
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, TypeVar

import click

from windshift.cli.options import Options

T = TypeVar("T")

Row = Sequence[str]

_GAP: Final = "  "
_LEAST: Final = 10
"""Cells that a column keeps when a table is too wide for its terminal."""
_DEEPEST: Final = 100
"""Levels of a value that has to be copied to be shown."""
_REORDERING: Final = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Characters that turn the direction of what follows, so that a line shows what it is not."""
_UNSAFE: Final = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), *_REORDERING)}
_CONTROLS: Final = (
    {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
    | {9: "\\t", 10: "\\n", 13: "\\r"}
    | {code: f"\\u{code:04x}" for code in _REORDERING}
)


def plain(text: str) -> str:
    """Return a text as one line that moves no cursor."""
    return text if text.isascii() and text.isprintable() else text.translate(_CONTROLS)


@cache
def _encoder() -> Callable[[object], str]:
    import json  # most commands print none

    return json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def as_json(value: object) -> str:
    """Return a value as one line of JSON that moves no cursor.

    Numbers that JSON does not have are texts, and so is an ellipsis for what is nested too deep.
    """
    try:
        text = _encoder()(value)
    except (ValueError, RecursionError):
        text = _encoder()(_encodable(value, _DEEPEST))
    return text if text.isascii() and "\x7f" not in text else text.translate(_UNSAFE)


def _encodable(value: Any, depth: int) -> Any:
    """Write numbers as texts that JSON does not have, as Protobuf does; leave out what is deeper."""
    if isinstance(value, (dict, list, tuple)) and not depth:
        return "…"
    if isinstance(value, dict):
        return {key: _encodable(each, depth - 1) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(each, depth - 1) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def width(text: str) -> int:
    """Return how many cells a text takes in a terminal."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in {"Cf", "Me", "Mn"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"F", "W"} else 1


def clip(text: str, cells: int) -> str:
    """Return a text that takes at most so many cells, with an ellipsis where it was longer."""
    if width(text) <= cells:
        return text
    kept, used = "", 1
    for character in text:
        used += _cells(character)
        if used > cells:
            break
        kept += character
    return kept + "…"


def columns(head: Row, rows: Sequence[Row], right: Sequence[int] = (), limit: int | None = None) -> list[str]:
    """Return the lines of a table; the columns at the places of `right` are aligned to the right.

    Where it is wider than `limit` cells, its widest columns are clipped.
    """
    table = [head, *[[plain(cell) for cell in row] for row in rows]]
    widths = [max(width(row[place]) for row in table) for place in range(len(head))]
    over = 0 if limit is None else sum(widths) + len(_GAP) * (len(head) - 1) - limit
    while over > 0 and max(widths) > _LEAST:
        widest = widths.index(max(widths))
        widths[widest] -= 1
        over -= 1
    return [
        _line([clip(cell, widths[place]) for place, cell in enumerate(row)], widths, right) for row in table
    ]


def _line(row: Row, widths: Sequence[int], right: Sequence[int]) -> str:
    cells = []
    for place, cell in enumerate(row):
        space = " " * (widths[place] - width(cell))
        cells.append(space + cell if place in right else cell + space)
    return _GAP.join(cells).rstrip()


def _columns_there() -> int:
    """Return the cells of a line of the terminal."""
    import shutil  # it imports the modules of several compressions, which is slow

    return shutil.get_terminal_size().columns


class Output:
    """Where a command prints.

    Attributes:
        json: whether stdout is for programs, and takes nothing but JSON.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.json = options.json
        self.stdout = sys.stdout
        if isinstance(sys.stdout, io.TextIOWrapper):  # one character that it cannot take must not end a tail
            sys.stdout.reconfigure(encoding="utf-8" if self.json else None, errors="backslashreplace")
        self._colors = not options.no_color and not os.environ.get("NO_COLOR")

    # stdout

    def item(self, value: Any, *lines: str) -> None:
        """Print one result, as JSON or as lines for people."""
        self.lines(as_json(value)) if self.json else self.lines(*lines)

    def done(self, value: Any, line: str, *, dry_run: bool = False) -> None:
        """Print what was done, or would be, as JSON or as a line; `--quiet` leaves out what was done."""
        if self.json or dry_run or not self.options.quiet:
            self.item(value, line)

    def raw(self, value: bytes) -> None:
        """Print the bytes of a value, and nothing else."""
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()

    def lines(self, *lines: str) -> None:
        """Print lines and flush them, so that a pipe has them now."""
        if lines:
            self.stdout.write("\n".join(lines) + "\n")
            self.stdout.flush()

    def table(self, values: Sequence[Any], head: Row, rows: Sequence[Row], right: Sequence[int] = ()) -> None:
        """Print a list."""
        if self.options.output == "jsonl":
            self.lines(*map(as_json, values))
        elif self.json:
            self.lines(as_json(list(values)))
        else:
            limit = _columns_there() if self.stdout.isatty() else None
            title, *rest = columns(head, rows, right, limit)
            self.lines(self.style(title, self.stdout, bold=True), *rest)

    async def list(
        self,
        items: AsyncIterator[T],
        value: Callable[[T], Any],
        head: Row,
        row: Callable[[T], Row],
        right: Sequence[int] = (),
    ) -> None:
        """Print a list that comes page by page; as JSON a line each, before the next page is asked for."""
        if self.options.output == "jsonl":
            async for item in items:
                self.lines(as_json(value(item)))
            return
        all_of_them = [item async for item in items]
        rows = [] if self.json else [row(item) for item in all_of_them]
        self.table([value(item) for item in all_of_them] if self.json else (), head, rows, right)

    def fields(self, value: Any, pairs: Sequence[tuple[str, str]]) -> None:
        """Print one thing with its fields, a line each."""
        longest = max(width(name) for name, _ in pairs)
        self.item(value, *[f"{name:{longest}}{_GAP}{plain(text)}".rstrip() for name, text in pairs])

    def clip(self, line: str) -> str:
        """Return a line as it fits a terminal; whole when stdout is not a terminal."""
        return clip(line, _columns_there()) if self.stdout.isatty() else line

    # stderr

    def remark(self, line: str) -> None:
        """Say something on stderr that nobody asked for; `--quiet` leaves it out."""
        if not self.options.quiet:
            click.echo(self.style(plain(line), sys.stderr, dim=True), err=True)

    def style(self, text: str, stream: Any, **style: Any) -> str:
        """Return a text in a style, where the stream is a terminal that may have colors."""
        return click.style(text, **style) if self._colors and stream.isatty() else text

    @contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        """Have a line on stderr tell how far the block has come, if that is a terminal."""
        progress = Progress(what, shown=sys.stderr.isatty() and not self.options.quiet and not self.json)
        try:
            yield progress
        finally:
            progress.clear()


class Progress:
    """A line that is written over, ten times a second at most."""

    def __init__(self, what: str, *, shown: bool) -> None:
        self._what = what
        self._shown = shown
        self._started = self._last = time.monotonic()
        self.count = 0

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return max(1e-6, time.monotonic() - self._started)

    def add(self, count: int = 1) -> None:
        """Count some more."""
        self.count += count
        if self._shown and (now := time.monotonic()) - self._last > 0.1:
            self._last = now
            sys.stderr.write(f"\r{self._what} {self.count} ({self.count / self.seconds:.0f}/s)\x1b[K")
            sys.stderr.flush()

    def reach(self, count: int) -> None:
        """Say how many there are by now."""
        self.add(count - self.count)

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
