"""The connection to the broker cut at every point of a call: what its caller is told is true."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from tests.server.events.management import manage, on
from tests.server.events.test_publish import event, publisher
from tests.support.broker import Broker, connect, in_seconds
from tests.support.cutting_proxy import CuttingProxy, cutting
from tests.support.nats_server import NatsServer
from windshift.nats.jetstream.kv import Buckets
from windshift.nats.jetstream.writes import Writes
from windshift.server.domain.errors import BrokerUnavailable, OutcomeUnknown
from windshift.server.events.specs import ConsumerSpec
from windshift.server.state.model import Revision
from windshift.server.state.stores import Stores

Unique = Callable[[], str]
T = TypeVar("T")

UP = range(0, 400, 17)
"""Bytes to the broker after which the connection ends: more than any of these requests has."""
DOWN = range(0, 120, 11)
POINTS = [("up", count) for count in UP] + [("down", count) for count in DOWN]
ENOUGH = 10
"""Cuts that must have happened, or the calls were too short for these points."""


@asynccontextmanager
async def cut_off(nats_server: NatsServer) -> AsyncIterator[tuple[Broker, CuttingProxy]]:
    """Connect by way of a proxy."""
    async with cutting(nats_server.port) as proxy, connect(proxy.url) as broker:
        yield broker, proxy


async def outcome(call: Awaitable[T]) -> T | type[Exception]:
    """Return what a call gives, or the kind of error that its caller is told."""
    try:
        return await call
    except (BrokerUnavailable, OutcomeUnknown) as error:
        return type(error)


@pytest.mark.parametrize("key", ["", "k"])
async def test_publishes(broker: Broker, nats_server: NatsServer, unique: Unique, key: str) -> None:
    """What is confirmed is stored once, and what failed for certain is not; with a key none fails."""
    stream = await broker.stream(unique())
    async with cut_off(nats_server) as (behind, proxy):
        for number, point in enumerate(POINTS):
            await behind.connection.wait_ready(in_seconds(30))
            before = await broker.messages(stream)
            proxy.cut_after(*point)
            request = event(f"{stream}.a", idempotency_key=key and f"{key}{number}")
            told = await outcome(publisher(behind).publish(request, in_seconds(30)))
            stored = await broker.messages(stream) - before
            if told is OutcomeUnknown:
                assert not key
                assert stored <= 1
            else:
                assert stored == (told is not BrokerUnavailable)
                assert told is not BrokerUnavailable or not key
        assert proxy.cuts >= ENOUGH


@pytest.mark.parametrize("conditional", [False, True])
async def test_state(broker: Broker, nats_server: NatsServer, unique: Unique, conditional: bool) -> None:
    """A write to a store is done where it is confirmed, and not done where it failed for certain."""
    store = unique()
    plain = Stores(Buckets(broker.api, Writes(broker.requests, broker.api)))
    await plain.ensure(store, in_seconds(30))
    last = await plain.set(store, "a", b"first", in_seconds(30))
    async with cut_off(nats_server) as (behind, proxy):
        stores = Stores(Buckets(behind.api, Writes(behind.requests, behind.api)))
        for number, point in enumerate(POINTS):
            await behind.connection.wait_ready(in_seconds(30))
            proxy.cut_after(*point)
            value = b"%d" % number
            expected = last if conditional else None
            told = await outcome(stores.set(store, "a", value, in_seconds(30), last_revision=expected))
            record = await plain.get(store, "a", in_seconds(30))
            if isinstance(told, type):
                assert told is OutcomeUnknown or record.sequence == last
            else:
                assert (record.sequence, record.value) == (told, value)
            last = Revision(record.sequence)
        assert proxy.cuts >= ENOUGH


async def test_streams_and_consumers(broker: Broker, nats_server: NatsServer, unique: Unique) -> None:
    """A stream or a consumer that was ensured is there; one that failed for certain is not."""
    existing = await broker.stream(unique())
    async with cut_off(nats_server) as (behind, proxy):
        management = manage(behind)
        for point in POINTS:
            await behind.connection.wait_ready(in_seconds(30))
            proxy.cut_after(*point)
            name = unique()
            told = await outcome(management.streams.ensure(on(f"{name}.>", name=name), in_seconds(30)))
            found = await broker.api.find_stream(name, in_seconds(30)) is not None
            assert told is OutcomeUnknown or found == (told is None)

            await behind.connection.wait_ready(in_seconds(30))
            proxy.cut_after(*point)
            wanted = ConsumerSpec(existing, name)
            told_name = await outcome(management.consumers.ensure(wanted, in_seconds(30)))
            found = await broker.api.consumer(existing, name, in_seconds(30)) is not None
            assert told_name is OutcomeUnknown or found == (told_name == name)
        assert proxy.cuts >= ENOUGH
