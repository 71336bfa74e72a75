"""What streams, consumers and stores are to be: read from TOML and options, shown, compared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import windshift as ws
from windshift.cli.failing import USAGE, Failure
from windshift.cli.values import (
    json_seconds,
    json_time,
    parse_duration,
    parse_position,
    parse_size,
    show_duration,
    show_size,
)


class _Kind(NamedTuple):
    """What values the entries of TOML with these keys take; of others it is said what is `wrong`."""

    keys: Collection[str]
    fits: Callable[[Any], bool]
    wrong: str
    parse: Callable[[str], Any] | None = None


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_count(value: Any) -> bool:
    return _is_amount(value) and isinstance(value, int) and value > 0


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


_DURATION: Final = _Kind(
    ("max_age", "deduplication_window", "timeout", "initial", "maximum", "ttl"),
    _is_amount,
    "is not a duration, such as '30s' or 7",
    parse_duration,
)
_SIZE: Final = _Kind(("max_bytes", "max_event_size"), _is_count, "is not a whole number above 0", parse_size)
_COUNT: Final = _Kind(
    ("max_events", "max_events_per_subject", "replicas", "max_attempts", "history"),
    _is_count,
    "is not a whole number above 0",
)
_FACTOR: Final = _Kind(("multiplier", "jitter"), _is_amount, "is not a number of 0 or more")
_FLAG: Final = _Kind(
    ("discard_new_per_subject", "fast_ingest", "dead_letters"),
    lambda value: isinstance(value, bool),
    "is neither true nor false",
)
_DISCARD: Final = _Kind(("discard",), ("old", "new").__contains__, "is neither 'old' nor 'new'")
_STORAGE: Final = _Kind(("storage",), ("file", "memory").__contains__, "is neither 'file' nor 'memory'")
_TEXT: Final = _Kind(("name",), lambda value: isinstance(value, str), "is not a text")
_LIST: Final = _Kind(("subjects",), _is_list, "is not a list of texts")

_KINDS: Final[Mapping[str, _Kind]] = {
    key: kind
    for kind in (_DURATION, _SIZE, _COUNT, _FACTOR, _FLAG, _DISCARD, _STORAGE, _TEXT, _LIST)
    for key in kind.keys
}
_START: Final = "start"  # it counts only when something is made


def read_stream(entries: Mapping[str, Any], where: str) -> ws.StreamSpec:
    """Read a stream of a file.

    Raises:
        Failure: an entry is wrong; the text says which.
    """
    values = _read(ws.StreamSpec, entries, where)
    if "mirror" in values:
        values["mirror"] = _source(values["mirror"], f"mirror of {where}")
    if "aggregate" in values:
        values["aggregate"] = [_source(each, f"aggregate of {where}") for each in _list(values["aggregate"])]
    return ws.StreamSpec(**values)


def read_consumer(entries: Mapping[str, Any], where: str) -> ws.ConsumerSpec:
    """Read a consumer of a file; see `read_stream`."""
    values = _read(ws.ConsumerSpec, entries, where)
    if "retry" in values:
        values["retry"] = ws.RetryPolicy(**_read(ws.RetryPolicy, values["retry"], f"retry of {where}"))
    return ws.ConsumerSpec(**values)


def read_store(entries: Any, where: str) -> dict[str, Any]:
    """Read a store of a file; see `read_stream`."""
    return _read_entries(("history", "ttl"), entries, where)


def _source(entries: Any, where: str) -> ws.Source:
    values = _read(ws.Source, {"name": entries} if isinstance(entries, str) else entries, where)
    if "name" not in values:
        raise Failure(f"{where} has no name", USAGE)
    return ws.Source(**values)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _read(kind: Any, entries: Any, where: str) -> dict[str, Any]:
    return _read_entries(_names(kind), entries, where)


def _read_entries(known: Sequence[str], entries: Any, where: str) -> dict[str, Any]:
    if not isinstance(entries, Mapping):
        raise Failure(f"{where} is not a table", USAGE)
    unknown = [key for key in entries if key not in known]
    if unknown:
        raise Failure(f"{where} has no {unknown[0]!r}; it may have {', '.join(known)}", USAGE)
    return {key: _entry(key, value, where) for key, value in entries.items()}


def _names(kind: Any) -> list[str]:
    return list(kind._fields) if issubclass(kind, tuple) else [field.name for field in fields(kind)]


def _entry(key: str, value: Any, where: str) -> Any:
    kind = _KINDS.get(key)
    try:
        if key == _START:
            return parse_position(str(value))
        if kind is not None and kind.parse is not None and isinstance(value, str):
            return kind.parse(value)
    except ValueError as error:
        raise Failure(f"{where}: {key}: {error}", USAGE) from error
    if kind is not None and not kind.fits(value):
        raise Failure(f"{where}: {key}: {value!r} {kind.wrong}", USAGE)
    return value


def check_origin(spec: ws.StreamSpec, name: str) -> None:
    """See that a stream is made of one thing.

    Raises:
        Failure: it is not.
    """
    if sum(map(bool, (spec.subjects, spec.mirror, spec.aggregate))) != 1:
        raise Failure(f"stream {name!r} needs one of subjects, mirror and aggregate", USAGE)


# --- Shown ----------------------------------------------------------------------------------------


def show(key: str, value: Any) -> str:
    """Show a value of a spec."""
    if value is None:
        return "default" if key in {"retry", "replicas", "fast_ingest"} else "any"
    if isinstance(value, timedelta) or (key in _DURATION.keys and isinstance(value, int | float)):
        return show_duration(value)
    return show_size(value) if key in _SIZE.keys else _text(value)


def _text(value: Any) -> str:
    match value:
        case ws.Source():
            return f"{value.name} {' '.join(value.subjects)}".strip()
        case ws.RetryPolicy():
            given = {
                name: each for name in _names(ws.RetryPolicy) if (each := getattr(value, name)) is not None
            }
            if value.dead_letters:
                del given["dead_letters"]
            return ", ".join(f"{name} {show(name, each)}" for name, each in given.items()) or "default"
        case list() | tuple():
            return ", ".join(map(_text, value)) or "all"
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def position(value: ws.Position) -> str:
    """Show a position."""
    if value.time is not None:
        return json_time(value.time) or ""
    return str(value.id) if value.id is not None else "end" if value.end else "start"


def plain(value: Any) -> Any:
    """Return a spec, or a value of one, for JSON: durations in seconds, times in UTC."""
    if isinstance(value, ws.Position):
        return position(value)
    if isinstance(value, timedelta):
        return json_seconds(value)
    if isinstance(value, datetime):
        return json_time(value)
    if isinstance(value, ws.StreamSpec | ws.ConsumerSpec | ws.RetryPolicy | ws.Source):
        return plain_fields(value, _names(type(value)))
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def plain_fields(value: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return fields of something for JSON, in this order."""
    return {name: plain(getattr(value, name)) for name in names}


# --- Compared -------------------------------------------------------------------------------------

Changes = dict[str, tuple[Any, Any]]
"""Name of what changes: what it was, what it becomes."""


def changes(before: Any, after: Any) -> Changes:
    """Return what differs between two specs of one kind."""
    return {
        field.name: (old, new)
        for field in fields(before)
        if _same(old := getattr(before, field.name)) != _same(new := getattr(after, field.name))
        and field.name != _START
    }


def _same(value: Any) -> Any:
    if isinstance(value, ws.Source):
        return value.name, frozenset(value.subjects)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, ws.RetryPolicy):
        return tuple(_same(getattr(value, field.name)) for field in fields(value))
    return tuple(_same(each) for each in value) if isinstance(value, list | tuple) else value


def show_changes(name: str, changed: Changes) -> list[str]:
    """Return a line for each change; one line if there is none."""
    lines = [f"{name}: {key} {show(key, old)} → {show(key, new)}" for key, (old, new) in changed.items()]
    return lines or [f"{name}: as it was"]


def expected(wanted: ws.StreamSpec, now: ws.StreamSpec) -> ws.StreamSpec:
    """Return what the stream `now` would be if `wanted` was ensured: the server's defaults filled in."""
    given = {
        "replicas": now.replicas,
        "fast_ingest": now.fast_ingest,
        "deduplication_window": (
            None if wanted.mirror else min(120.0, json_seconds(wanted.max_age) or 120.0)
        ),
    }
    missing = {key: value for key, value in given.items() if getattr(wanted, key) is None}
    return replace(wanted, **missing)  # type: ignore[arg-type] # each value is of its field


def expected_consumer(wanted: ws.ConsumerSpec, now: ws.ConsumerSpec) -> ws.ConsumerSpec:
    """Return what the consumer `now` would be if `wanted` was ensured: the server's defaults filled in."""
    retry = wanted.retry
    if retry is None:
        return replace(wanted, retry=now.retry)
    initial = 0.05 if retry.initial is None else json_seconds(retry.initial) or 0.0
    given = {"initial": initial, "maximum": max(initial, 30.0), "multiplier": 2.0, "jitter": 0.2}
    missing = {key: value for key, value in given.items() if getattr(retry, key) is None}
    return replace(wanted, retry=replace(retry, **missing))  # type: ignore[arg-type] # as above
