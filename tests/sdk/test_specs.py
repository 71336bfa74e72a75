"""Specs of streams and consumers, and their fields as keyword arguments."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest

import windshift as ws
from windshift.sdk.fakes import FakeCaller
from windshift.sdk.names import Names
from windshift.sdk.specs import ConsumerFields, StreamFields


@pytest.mark.parametrize(
    ("keywords", "spec"), [(StreamFields, ws.StreamSpec), (ConsumerFields, ws.ConsumerSpec)]
)
def test_every_field_is_a_keyword_argument(keywords: Any, spec: Any) -> None:
    """What a spec has, `ensure` takes, of the same type."""
    named = {name: annotation.__forward_arg__ for name, annotation in keywords.__annotations__.items()}
    assert named == {field.name: field.type for field in fields(spec)}


async def test_keyword_arguments_win_over_the_spec() -> None:
    """A spec is taken as it is, but for what is said beside it."""
    shared = ws.StreamSpec(subjects=["orders.>"], max_age=60)
    assert shared.with_fields({"max_age": None}) == ws.StreamSpec(subjects=["orders.>"])
    request = shared.with_fields({"discard": "new", "discard_new_per_subject": True}).proto("s", Names())
    assert request.retention_policy.discard_new_per_subject
    assert request.retention_policy.max_age.seconds == 60
    app = ws.App("shop")
    stream = app.stream("orders", shared, max_bytes=10)
    assert stream.spec == ws.StreamSpec(subjects=["orders.>"], max_age=60, max_bytes=10)
    consumer = app.consumer(stream, "mail", ws.ConsumerSpec(subjects=["a"]), timeout=5.0)
    assert (consumer.spec.subjects, consumer.spec.timeout) == (["a"], 5.0)
    client = ws.Client(FakeCaller())
    with pytest.raises(TypeError, match="max_agee"):
        await client.streams.ensure("orders", max_agee=60)  # type: ignore[call-arg] # that is the point


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"mirror": "orders"}, r"a ws.Source, such as ws.Source\('orders'\), not 'orders'"),
        ({"aggregate": ["orders"]}, "a ws.Source, such as"),
        ({"mirror": ws.Source("orders", "start")}, "a position is ws.START"),  # type: ignore[arg-type] # that is the point
        ({"max_age": float("inf")}, "cannot be infinite"),
        ({"deduplication_window": float("nan")}, "not nan"),
    ],
)
async def test_wrong_fields_of_streams(fields: Any, problem: str) -> None:
    """What a field is not is told in words."""
    with pytest.raises((TypeError, ValueError), match=problem):
        await ws.Client(FakeCaller()).streams.ensure("copy", **fields)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"start": "start"}, "a position is ws.START"),
        ({"start": datetime(2026, 1, 1, tzinfo=UTC)}, "a position is ws.START"),
        ({"start": ws.at("2026-01-01")}, "a time is a datetime"),  # type: ignore[arg-type] # that is the point
        ({"retry": 5}, "retry is a ws.RetryPolicy, not 5"),
        ({"timeout": float("inf")}, "cannot be infinite"),
    ],
)
async def test_wrong_fields_of_consumers(fields: Any, problem: str) -> None:
    """What a field is not is told in words."""
    with pytest.raises((TypeError, ValueError), match=problem):
        await ws.Client(FakeCaller()).stream("s").consumers.ensure("c", **fields)
