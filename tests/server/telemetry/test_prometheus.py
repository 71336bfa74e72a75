"""Readings as text, held against Prometheus's own parsers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.support.exposition import OPENMETRICS
from windshift.server.telemetry import instruments as i
from windshift.server.telemetry.prometheus import expose
from windshift.server.telemetry.registry import Distribution, Family

MANY = 450


def families() -> list[Family]:
    """Make readings of each kind, one of them with many series."""
    labels = ("grpc", "a.B/Get", "OK", "")
    counts = (1,) * (len(i.CALL_DURATION.bounds) + 1)
    return [
        Family(i.CALL_DURATION, [(labels, Distribution(counts, 12.5))]),
        Family(i.PUBLISHED, [((), 3)]),
        Family(i.CONSUMER_PENDING, [(("S", f"c{number}"), number) for number in range(MANY)]),
        Family(i.NATS_ROUND_TRIP, []),
    ]


def parsed(content_type: str, body: bytes) -> dict[str, Any]:
    """Parse an exposition."""
    parse = parse_openmetrics if "openmetrics" in content_type else parse_text
    return {family.name: family for family in parse(body.decode())}


@pytest.mark.parametrize("accept", ["", "text/plain", OPENMETRICS])
async def test_formats(accept: str) -> None:
    """Both formats hold the same samples; what has no reading is left out."""
    content_type, body = await expose(families(), accept)
    assert ("openmetrics" in content_type) == (accept == OPENMETRICS)
    found = parsed(content_type, body)
    assert set(found) == {
        "rpc_server_call_duration_seconds",
        "windshift_events_published",
        "windshift_consumer_pending",
    }
    pending = {
        sample.labels["consumer"]: sample.value for sample in found["windshift_consumer_pending"].samples
    }
    assert pending == {f"c{number}": number for number in range(MANY)}
    assert found["windshift_events_published"].samples[0].value == 3
    assert body.count(b"# TYPE windshift_consumer_pending gauge") == 1
    assert body.count(b"# EOF") == (accept == OPENMETRICS)


async def test_histogram() -> None:
    """Buckets add up, and sum and count are there."""
    found = parsed(*await expose(families(), ""))["rpc_server_call_duration_seconds"]
    buckets = {s.labels["le"]: s.value for s in found.samples if s.name.endswith("_bucket")}
    assert list(buckets.values()) == list(range(1, len(i.CALL_DURATION.bounds) + 2))
    assert list(buckets)[-1] == "+Inf"
    rest = {sample.name: sample.value for sample in found.samples if not sample.name.endswith("_bucket")}
    name = "rpc_server_call_duration_seconds"
    assert rest == {f"{name}_sum": 12.5, f"{name}_count": len(buckets)}


async def test_labels_are_escaped() -> None:
    """No value of a label can break out of its line."""
    nasty = 'a"b\\c\nd'
    family = Family(i.STREAM_MESSAGES, [((nasty,), 1)])
    for accept in ("", OPENMETRICS):
        (sample,) = parsed(*await expose([family], accept))["windshift_stream_messages"].samples
        assert sample.labels == {"stream": nasty}


async def test_others_run_meanwhile() -> None:
    """A long text is written in pieces, with the event loop free in between."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    await expose(families(), "")
    task.cancel()
    assert turns >= MANY // 100


async def test_many_histograms_are_one_family() -> None:
    """They are written piece by piece, with the comments once, and every line is there."""
    instrument = i.DELIVERY_LATENCY
    reading = Distribution((1,) * (len(instrument.bounds) + 1), 2.0)
    points = [(("stream", f"c{number}"), reading) for number in range(50)]
    text = (await expose([Family(instrument, points)], "")).body.decode()
    assert text.count("# HELP") == text.count("# TYPE") == 1
    assert text.count("_bucket{") == 50 * (len(instrument.bounds) + 1)
    assert text.count("_count{") == 50
