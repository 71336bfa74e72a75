"""Mirrors and aggregates, as a client in the field sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.client import Client, refused
from tests.support.nats_server import NatsServer
from tests.wire.management import ensure_stream, stored_stream

Unique = Callable[[], str]


async def eventually_holds(nats_server: NatsServer, stream: str, subjects: dict[str, int]) -> None:
    """Wait until a stream holds so many events of these subjects: copies take their time."""
    async with asyncio.timeout(30):
        held: object = None
        while held != subjects:
            held = (await stored_stream(nats_server, stream))["state"].get("subjects", {})


async def test_mirror(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """A mirror copies from where it is told, what it is told, with the ids of its origin, and is fixed."""
    name, origin = unique(), unique()
    ensure_stream(client, origin)
    for subject in ("a", "b", "c"):
        client.publish(f"{origin}.{subject}")
    source = {"name": origin, "from": {"offset": 2}, "filter_subjects": [f"{origin}.a", f"{origin}.c"]}
    ensure_stream(client, name, mirror=source)
    ensure_stream(client, name, mirror=source)
    await eventually_holds(nats_server, name, {f"{origin}.c": 1})
    assert (await stored_stream(nats_server, name))["state"]["last_seq"] == 3
    for change in (
        {"mirror": {"name": origin}},
        {"mirror": {**source, "from": {"offset": 3}}},
        {"subjects": {"subjects": [name]}},
        {"aggregate": {"sources": [{"name": origin}]}},
    ):
        with refused("FAILED_PRECONDITION", "MIRROR_CHANGE"):
            ensure_stream(client, name, **change)
    with refused("FAILED_PRECONDITION", "MIRROR_CHANGE"):
        ensure_stream(client, unique_stream(client, unique), mirror={"name": origin})


@pytest.mark.parametrize("pointer", [{"end": True}, {"end": False}])
async def test_mirror_from_the_end(
    client: Client, nats_server: NatsServer, unique: Unique, pointer: dict[str, bool]
) -> None:
    """A mirror from the end has what arrives after it was made; ensured again it is the end of back then."""
    name, origin = unique(), unique()
    ensure_stream(client, origin)
    client.publish(f"{origin}.before")
    ensure_stream(client, name, mirror={"name": origin, "from": pointer})
    client.publish(f"{origin}.after")
    ensure_stream(client, name, mirror={"name": origin, "from": pointer}, max_event_size=1000)
    await eventually_holds(nats_server, name, {f"{origin}.after": 1})


async def test_limits_of_a_mirror(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """What a mirror keeps may change; it takes no events of its own."""
    name, origin = unique(), unique()
    ensure_stream(client, origin)
    policy = {"max_age": "60s", "max_events": "5", "max_events_per_subject": "1"}
    ensure_stream(client, name, mirror={"name": origin}, deduplication_window="5s", retention_policy=policy)
    for _ in range(2):
        client.publish(f"{origin}.a")
    await eventually_holds(nats_server, name, {f"{origin}.a": 1})
    ensure_stream(client, name, mirror={"name": origin})
    config = (await stored_stream(nats_server, name))["config"]
    assert (config["max_age"], config["max_msgs"], config["max_msgs_per_subject"]) == (0, -1, -1)
    with refused("FAILED_PRECONDITION", "UNBOUND_SUBJECT"):
        client.publish(f"{name}.a")


async def test_aggregate_gains_and_loses_sources(
    client: Client, nats_server: NatsServer, unique: Unique
) -> None:
    """A source that is added is copied, one that is removed no more, and nothing is copied twice."""
    name, one, two = unique(), unique(), unique()
    for stream in (one, two):
        ensure_stream(client, stream)
        client.publish(f"{stream}.a")
    ensure_stream(client, name, aggregate={"sources": [{"name": one}]})
    await eventually_holds(nats_server, name, {f"{one}.a": 1})
    ensure_stream(client, name, aggregate={"sources": [{"name": two}, {"name": one}]})
    await eventually_holds(nats_server, name, {f"{one}.a": 1, f"{two}.a": 1})
    ensure_stream(client, name, aggregate={"sources": [{"name": two}]})
    client.publish(f"{one}.b")
    client.publish(f"{two}.b")
    await eventually_holds(nats_server, name, {f"{one}.a": 1, f"{two}.a": 1, f"{two}.b": 1})
    ensure_stream(client, name)
    assert client.publish(f"{name}.a") == 4
    with refused("INVALID_ARGUMENT", "UNSUPPORTED_COMBINATION"):
        ensure_stream(client, name, aggregate={"sources": [{"name": one}, {"name": one}]})
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        ensure_stream(client, name, aggregate={"sources": [{"name": name}]})
    assert caught[0].fields == ("aggregate.sources[0].name",)


def unique_stream(client: Client, unique: Unique) -> str:
    """Make a stream of subjects."""
    return client.ensure_stream(unique())


async def test_aggregate(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """An aggregate collects from each stream from where it is told; the end stays what it was at first."""
    name, one, two, three = unique(), unique(), unique(), unique()
    for stream in (one, two, three):
        ensure_stream(client, stream)
        client.publish(f"{stream}.before")
    sources = [
        {"name": one, "from": {"end": True}},
        {"name": two, "from": {"start": False}, "filter_subjects": ["*.before"]},
        {"name": three, "from": {"time": "2200-01-01T00:00:00Z"}},
    ]
    ensure_stream(client, name, aggregate={"sources": sources})
    before = (await stored_stream(nats_server, name))["config"]
    client.publish(f"{one}.after")
    client.publish(f"{two}.after")
    ensure_stream(client, name, aggregate={"sources": sources})
    await eventually_holds(nats_server, name, {f"{one}.after": 1, f"{two}.before": 1})
    assert (await stored_stream(nats_server, name))["config"] == before


@pytest.mark.parametrize("kind", ["mirror", "aggregate"])
def test_missing_and_overlapping(client: Client, unique: Unique, kind: str) -> None:
    """A stream to copy from has to exist, and its filters must not overlap."""

    def ensure(**source: Any) -> None:
        fields = {"mirror": source} if kind == "mirror" else {"aggregate": {"sources": [source]}}
        ensure_stream(client, unique(), **fields)

    missing = unique()
    with refused("NOT_FOUND", "STREAM_NOT_FOUND") as caught:
        ensure(name=missing)
    assert caught[0].metadata == {"name": missing}
    with refused("INVALID_ARGUMENT", "UNSUPPORTED_COMBINATION"):
        ensure(name=unique_stream(client, unique), filter_subjects=["a.>", "a.b"])
