"""Metrics of consuming, in a program that measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.metrics import _internal
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import windshift as ws
from windshift import conventions as c
from windshift.protos import test

Text = test.StringValue


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    """Measure the subscriptions that begin from now on."""
    reader = InMemoryMetricReader()
    monkeypatch.setattr(_internal, "_METER_PROVIDER", MeterProvider([reader]))
    return reader


def points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    """Return the points of each metric by its name."""
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


async def test_what_handlers_do_is_measured(
    server: str, unique: Callable[[], str], reader: InMemoryMetricReader
) -> None:
    """Deliveries, durations with what was raised, verdicts by outcome; nothing is in flight at the end."""
    space = unique()

    async def handle(delivery: ws.Delivery[Text]) -> None:
        if delivery.event.id == 2:
            raise ws.Drop("not wanted")
        if delivery.event.attempt == 1:
            raise OSError("not now")

    async with ws.connect(server, namespace=space) as client:
        stream = await client.streams.ensure("s", subjects=["s.>"])
        retry = ws.RetryPolicy(max_attempts=3, initial=0.01)
        consumer = await stream.consumers.ensure("w", start=ws.START, retry=retry)
        await client.publish_many([Text(value="a"), Text(value="b")], subject="s.x", in_flight=1)
        async with consumer.running(handle):
            await consumer.idle(30.0)
    found = points(reader)
    (delivered,) = found["messaging.client.consumed.messages"]
    assert delivered.value == 3
    assert delivered.attributes == {
        c.MESSAGING_SYSTEM: c.WINDSHIFT,
        c.DESTINATION_NAME: f"{space}-s",
        c.CONSUMER_GROUP_NAME: "w",
    }
    assert [point.value for point in found["windshift.client.in_flight"]] == [0]
    outcomes = {point.attributes[c.OUTCOME]: point.value for point in found["windshift.client.settlements"]}
    assert outcomes == {"ack": 1, "retry": 1, "drop": 1}
    durations = {
        point.attributes.get(c.ERROR_TYPE): point.count for point in found["messaging.process.duration"]
    }
    assert durations == {None: 1, "OSError": 1, "Drop": 1}
