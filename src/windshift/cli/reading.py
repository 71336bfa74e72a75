"""How commands show events, values and dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage

import windshift as ws
from windshift.cli.output import as_json, plain
from windshift.cli.payloads import Payloads
from windshift.cli.values import json_time, show_clock

if TYPE_CHECKING:
    from windshift.cli.session import Session


def short(name: str) -> str:
    """Return the last part of a type's name: of `windshift.payload.v1.Json/shop.Order`, `Order`."""
    return name.rpartition("/")[2].rpartition(".")[2] or "-"


@lru_cache(16)
def _second(seconds: int) -> str:
    """Return a time for JSON up to its second, which many events share."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def event_value(event: ws.Event[Any], payloads: Payloads) -> dict[str, Any]:
    """Return an event for JSON."""
    proto = event.proto
    headers = proto.headers
    when = headers.timestamp
    time = f"{_second(when.seconds)}.{when.nanos // 1000:06}Z"
    value: dict[str, Any] = {"id": proto.id, "subject": event.subject, "time": time}
    if headers.HasField("idempotency_key"):
        value["key"] = headers.idempotency_key
    if attempt := proto.delivery_attempt:
        value["attempt"] = attempt
    if headers.HasField("trace_parent"):
        value["trace_parent"] = headers.trace_parent
    value.update(payloads.show(proto.data))
    return value


def event_line(event: ws.Event[Any], payloads: Payloads, now: datetime) -> str:
    """Return an event as a line for people."""
    shown = payloads.show(event.proto.data)
    when = show_clock(event.time, now)
    attempt = f"  attempt {event.attempt}" if event.attempt > 1 else ""
    mark = "  (not decoded)" if "undecoded" in shown else ""
    data = as_json(shown["data"])
    return f"{event.id}  {when}  {plain(event.subject)}  {plain(short(shown['type']))}{attempt}  {data}{mark}"


def show_events(session: Session, events: Iterable[ws.Event[Any]]) -> None:
    """Print events at once: a line for people for each, or a line of JSON."""
    out, payloads = session.out, session.payloads
    if out.json:
        out.lines(*[as_json(event_value(event, payloads)) for event in events])
    else:
        now = datetime.now(UTC)
        out.lines(*[out.clip(event_line(event, payloads, now)) for event in events])


def stored_value(stored: ws.StoredEvent, payloads: Payloads) -> dict[str, Any]:
    """Return an event with what its stream knows of it."""
    value = event_value(stored.event, payloads)
    value |= {"stored": json_time(stored.stored), "data_size": stored.data_size}
    return value | ({"other_headers": dict(stored.other_headers)} if stored.other_headers else {})


def pairs(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the fields of something for people, the payload last."""
    shown = [
        (key.replace("_", " "), each if isinstance(each, str) else as_json(each))
        for key, each in value.items()
        if key not in {"data", "undecoded"} and each is not None
    ]
    if "data" in value:
        mark = "  (not decoded)" if "undecoded" in value else ""
        shown.append(("data", as_json(value["data"]) + mark))
    return shown


def payload_value(payload: AnyMessage, payloads: Payloads) -> dict[str, Any]:
    """Return the value of a key for JSON."""
    shown = payloads.show(payload)
    return {"type": shown["type"], "value": shown["data"]} | (
        {"undecoded": True} if "undecoded" in shown else {}
    )
