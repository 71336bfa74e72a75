"""What people type for durations, sizes, times and positions, and how these are shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhdw])")
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+")
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)
_POWERS: Final = " kmgt"
_LARGEST: Final = 2**63 - 1

if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType  # generic since click 8.4


def parse_duration(text: str) -> float:
    """Read `30s`, `1h30m`, `500ms`, `7d`, or a number of seconds.

    Raises:
        ValueError: not a valid duration.
    """
    if text.replace(".", "", 1).isdecimal() and text.isascii():
        return float(text)
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration, such as 30s, 1h30m or 7d")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def parse_size(text: str) -> int:
    """Read a number of bytes: `1000`, `64K`, `1.5MiB`, `10G`, in powers of 1024.

    Raises:
        ValueError: not a valid size.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a size, such as 1000, 64K or 10G")
    size = round(float(found[1]) * 1024.0 ** _POWERS.index(found[2].lower() or " "))
    if size > _LARGEST:
        raise ValueError(f"{text!r} is more than a stream can be")
    return size


def parse_time(text: str, *, ahead: bool = False) -> datetime:
    """Read `2026-11-28T12:00Z`, a time without an offset as local, or `1h` for one hour ago.

    With `ahead` it must be a time to come, and `1h` is one hour from now.

    Raises:
        ValueError: not a valid time.
    """
    now = datetime.now(UTC)
    try:
        if _DURATION.fullmatch(text):
            away = timedelta(seconds=parse_duration(text))
            time = now + away if ahead else now - away
        else:
            time = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        example = "1h (from now)" if ahead else "1h (ago)"
        raise ValueError(f"{text!r} is not a time, such as {example} or 2026-11-28T12:00Z") from None
    if ahead and time <= now:
        raise ValueError(f"{text!r} is in the past")
    return time


def parse_position(text: str) -> Any:
    """Read `start`, `end`, an id or a time, and return a `ws.Position`.

    Raises:
        ValueError: not a valid position.
    """
    import windshift as ws

    if text in {"start", "end"}:
        return ws.START if text == "start" else ws.END
    if text.isdecimal() and text.isascii():
        return ws.from_id(int(text))
    try:
        return ws.at(parse_time(text))
    except ValueError:
        raise ValueError(
            f"{text!r} is not a position: start, end, an id, or a time such as 1h (ago)"
        ) from None


class _Typed(_Type):
    """What an option takes: a text that `read` turns into a value, or such a value."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION: Final = _Typed("duration", parse_duration)
"""Seconds."""
SIZE: Final = _Typed("size", parse_size)
"""Bytes."""
TIME: Final = _Typed("time", parse_time)
"""A time in UTC."""
TIME_AHEAD: Final = _Typed("time", partial(parse_time, ahead=True))
"""A time to come, in UTC."""
POSITION: Final = _Typed("position", parse_position)
"""A position in a stream: start, end, an id or a time."""


def show_duration(seconds: float | timedelta | None) -> str:
    """Show a duration: `30d`, `1h30m`, `200ms`."""
    if seconds is None:
        return "-"
    left = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    if left < 1:
        return f"{left * 1000:g}ms" if left > 0 else "0s"
    shown = ""
    for unit in ("d", "h", "m"):
        count, left = divmod(left, _UNITS[unit])
        shown += f"{count:.0f}{unit}" if count else ""
    return f"{shown}{left:g}s" if left or not shown else shown


def show_age(since: datetime | None, now: datetime) -> str:
    """Show how long ago something was, in its largest unit: `2d`, `12s`."""
    if since is None:
        return "-"
    seconds = max(0.0, (now - since).total_seconds())
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS[unit]:
            return f"{seconds // _UNITS[unit]:.0f}{unit}"
    return f"{seconds:.0f}s"


def show_size(count: int | None) -> str:
    """Show a number of bytes: `17`, `1.4K`, `12M`."""
    if count is None:
        return "-"
    size, power = float(count), 0
    while size >= 999.5 and power < len(_POWERS) - 1:
        size, power = size / 1024, power + 1
    digits = 1 if power and size < 9.95 else 0
    return f"{size:.{digits}f}{_POWERS[power].strip().upper()}"


def _local(time: datetime) -> datetime:
    """Return a time on this machine's clock; in UTC if it has none that Python can hold."""
    try:
        return time.astimezone()
    except (ValueError, OverflowError, OSError):  # in the first or the last hours that there are
        return time


def show_time(time: datetime | None) -> str:
    """Show a time on this machine's clock, to the second."""
    return "-" if time is None else _local(time).strftime("%Y-%m-%d %H:%M:%S")


def show_clock(time: datetime, now: datetime) -> str:
    """Show a time on this machine's clock: of today without its date."""
    local = _local(time)
    return local.strftime("%H:%M:%S" if local.date() == now.astimezone().date() else "%Y-%m-%d %H:%M:%S")


def json_time(time: datetime | None) -> str | None:
    """Return a time for JSON, in UTC."""
    return None if time is None else time.isoformat().replace("+00:00", "Z")


def json_seconds(duration: float | timedelta | None) -> float | None:
    """Return a duration for JSON, in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration
