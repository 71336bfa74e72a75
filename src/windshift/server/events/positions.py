"""Start positions and times as JetStream writes them in configurations."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from windshift.nats.times import parse_rfc3339
from windshift.server.events.specs import AtEnd, AtId, AtStart, AtTime, StartPosition

LATEST_UNIX_NS: Final = 2**63 - 1
"""11 April 2262. The broker counts nanoseconds in 64 bits and takes a later start for one long ago (measured
with 2.15.1: year 2300 starts at the first event), and one before 1678 for one far ahead."""

_START_KEYS: Final = ("opt_start_seq", "opt_start_time")


def rfc3339(unix_ns: int) -> str:
    """Write a time for the broker, moved into the range in which the broker compares times rightly.

    Nothing was stored before 1970, so moving an earlier start there changes nothing.
    """
    seconds, fraction = divmod(min(max(unix_ns, 0), LATEST_UNIX_NS), 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def start_keys(start: StartPosition, last_id: int) -> dict[str, Any]:
    """Return the keys that let a source or a consumer start there; `AtEnd` is after `last_id`."""
    match start:
        case AtStart():
            return {}
        case AtEnd():
            return {"opt_start_seq": last_id + 1}
        case AtId(stream_seq):
            return {"opt_start_seq": stream_seq}
        case AtTime(unix_ns):
            return {"opt_start_time": rfc3339(unix_ns)}


def start_config(start: StartPosition, last_id: int) -> dict[str, Any]:
    """Return where a new consumer starts; `AtEnd` is an id, too: what starts at "new" cannot be reset."""
    match start:
        case AtStart():
            policy = "all"
        case AtTime():
            policy = "by_start_time"
        case _:
            policy = "by_start_sequence"
    return {"deliver_policy": policy} | start_keys(start, last_id)


def without_start(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored source without the keys that say where it starts."""
    return {key: value for key, value in config.items() if key not in _START_KEYS}


def is_same_start(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sources start at the same event, however that is written.

    Times are compared to the microsecond: clients whose times have no more give back less than they read.
    """
    return _position(one) == _position(other)


def _position(config: Mapping[str, Any]) -> tuple[str, object]:
    if text := config.get("opt_start_time"):
        time = parse_rfc3339(text)
        return "time", text if time is None else (time.seconds, time.nanos // 1000)
    return "id", config.get("opt_start_seq") or 1
