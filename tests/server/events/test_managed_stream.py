"""Windshift's own streams on a real broker: made when they are missing, and written to under conditions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.broker import Broker, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import JetStreamError
from windshift.nats.jetstream.acks import PubAck
from windshift.nats.jetstream.writes import Write, Writes
from windshift.server.domain.errors import BrokerUnavailable, OutcomeUnknown, ReplicasUnavailable, StreamFull
from windshift.server.events.managed_stream import Conflict, ManagedStream, changed_config

Unique = Callable[[], str]


def managed_stream(broker: Broker, name: str, replicas: int = 1, **config: Any) -> ManagedStream:
    """Wish for a stream."""
    writes = Writes(broker.requests, broker.api)
    config = {"name": name, "subjects": [f"{name}.>"], "max_msgs_per_subject": 1} | config
    return ManagedStream(broker.api, writes, config, ("subjects", "max_msgs_per_subject"), replicas)


async def test_written_under_conditions(broker: Broker, unique: Unique) -> None:
    """A message is stored only where the subject's last message is the expected one."""
    name = unique()
    stream = managed_stream(broker, name)
    first = await stream.put(f"{name}.a", b"1", (), in_seconds(30), expected=0)
    for wrong in (0, first.sequence + 1):
        with pytest.raises(Conflict):
            await stream.put(f"{name}.a", b"2", (), in_seconds(30), expected=wrong)
    second = await stream.put(f"{name}.a", b"2", (), in_seconds(30), expected=first.sequence)
    third = await stream.put(f"{name}.a", b"3", (), in_seconds(30))
    assert (first.stream, second.sequence, third.sequence) == (name, 2, 3)
    assert await broker.messages(name) == 1


async def test_a_message_that_does_not_fit(broker: Broker, unique: Unique) -> None:
    """A message larger than the stream's limit, or one more than it takes, finds it full."""
    name = unique()
    stream = managed_stream(broker, name, max_msg_size=100, max_msgs=1, discard="new")
    with pytest.raises(StreamFull):
        await stream.put(f"{name}.a", bytes(200), (), in_seconds(30))
    await stream.put(f"{name}.a", b"", (), in_seconds(30))
    with pytest.raises(StreamFull):
        await stream.put(f"{name}.b", b"", (), in_seconds(30))


async def test_a_sealed_stream(broker: Broker, unique: Unique) -> None:
    """A stream that takes nothing any more is full."""
    name = unique()
    stream = managed_stream(broker, name)
    await stream.ensure(None, in_seconds(30))
    config = (await broker.api.stream_info(name, in_seconds(30)))["config"]
    await broker.api.call(f"STREAM.UPDATE.{name}", config | {"sealed": True}, in_seconds(30))
    with pytest.raises(StreamFull):
        await stream.put(f"{name}.a", b"", (), in_seconds(30))


async def test_a_broker_that_falls_silent(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """What may have arrived has an unknown outcome; writing it again tells."""
    stream = managed_stream(own_broker, "s")
    await stream.ensure(None, in_seconds(30))
    own_nats_server.freeze()
    with pytest.raises(OutcomeUnknown):
        await stream.put("s.a", b"", (), in_seconds(0.3), expected=0)
    own_nats_server.thaw()
    with pytest.raises(Conflict):
        await stream.put("s.a", b"", (), in_seconds(30), expected=0)


async def test_a_refusal_of_a_later_attempt(broker: Broker, unique: Unique) -> None:
    """That the stream is full now does not say that an earlier attempt was not stored."""

    class Doubtful(Writes):
        async def write(self, write: Write) -> PubAck:
            try:
                return await super().write(write)
            except JetStreamError as error:
                error.in_doubt = True
                raise

    name = unique()
    config = {"name": name, "subjects": [f"{name}.>"], "max_msgs": 1, "discard": "new"}
    stream = ManagedStream(broker.api, Doubtful(broker.requests, broker.api), config, (), 1)
    await stream.put(f"{name}.a", b"", (), in_seconds(30))
    with pytest.raises(OutcomeUnknown):
        await stream.put(f"{name}.b", b"", (), in_seconds(30))


async def test_more_replicas_than_servers(broker: Broker, unique: Unique) -> None:
    """A stream cannot have more replicas than there are servers: ensuring says so, writing tries in vain."""
    name = unique()
    with pytest.raises(ReplicasUnavailable):
        await managed_stream(broker, name).ensure(3, in_seconds(30))
    with pytest.raises(BrokerUnavailable):
        await managed_stream(broker, name, 3).put(f"{name}.a", b"", (), in_seconds(30))
    await managed_stream(broker, name).ensure(1, in_seconds(30))
    await managed_stream(broker, name, 3).ensure(None, in_seconds(30))


async def test_made_by_many(broker: Broker, unique: Unique) -> None:
    """Any number of servers may make it at once, also with differing wishes."""
    name = unique()
    streams = [managed_stream(broker, name, max_age=(n + 1) * 10**12) for n in range(20)]
    await asyncio.gather(*(stream.ensure(None, in_seconds(20)) for stream in streams))
    assert await broker.messages(name) == 0


def test_what_changes_in_an_existing_stream() -> None:
    """What is needed is set, replicas only grow, and all else stays as it is."""
    wish = {"name": "s", "subjects": ["a"], "max_age": 1, "num_replicas": 1}
    stored = {"name": "s", "subjects": ["b"], "max_age": 2, "num_replicas": 3, "new_in_nats": True}
    assert changed_config(stored, wish, ("subjects",), 1) == stored | {"subjects": ["a"]}
    assert changed_config(stored, wish, (), 5) == stored | {"num_replicas": 5}
    assert changed_config(stored, wish, (), None) == stored
