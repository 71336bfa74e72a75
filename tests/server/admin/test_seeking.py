"""Moves of one consumer from several servers, and beside others that change it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from time import time_ns
from typing import Any

import pytest

from tests.server.events.consuming import make_consumer, share
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import OutcomeUnknown, TooManyInFlight
from windshift.nats.jetstream.api import ConsumerState, consumer_state
from windshift.nats.times import NANOSECONDS
from windshift.server.admin.gathering import Gathering
from windshift.server.admin.pausing import ConsumerPause, pause_of
from windshift.server.admin.seeking import ConsumerSeek, Sought, marked
from windshift.server.domain import errors
from windshift.server.events import consumers
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.runs import Run
from windshift.server.events.specs import AtId, ConsumerSpec

KEY = ConsumerKey("S", "c")


@dataclass(frozen=True, slots=True)
class Server:
    """What one server needs to move consumers."""

    broker: Broker
    pauses: ConsumerPause
    seeks: ConsumerSeek

    async def seek(self, to: int) -> Sought:
        """Move the consumer."""
        return await self.seeks.seek(KEY, AtId(StreamSeq(to)), None, in_seconds(20), dry_run=False)

    async def state(self) -> ConsumerState:
        """Look the consumer up."""
        return consumer_state(await self.info())

    async def info(self) -> Any:
        """Say what the broker knows of it."""
        return await self.broker.api.consumer_info(*KEY, in_seconds(30))


@asynccontextmanager
async def server(url: str) -> AsyncIterator[Server]:
    """Run one, as far as moves need it."""
    async with connect(url) as broker:
        shared, gathering = share(broker), Gathering(broker.connection)
        pauses = ConsumerPause(broker.api, shared.notes)
        seeks = ConsumerSeek(broker.api, pauses, gathering, shared.store, shared.notes, shared.calls)
        running = asyncio.create_task(gathering.run())
        yield Server(broker, pauses, seeks)
        running.cancel()
        await asyncio.wait([running])


@pytest.fixture
async def pair(own_nats_server: NatsServer) -> AsyncIterator[tuple[Server, Server]]:
    """Run two servers that know of each other; there is a consumer of five events."""
    async with server(own_nats_server.url) as one, server(own_nats_server.url) as other:
        await one.broker.stream("S")
        for _ in range(5):
            await one.broker.publish("S.a")
        await make_consumer(one.broker, *KEY)
        yield one, other


async def test_two_servers_at_once(pair: tuple[Server, Server]) -> None:
    """One comes after the other, and the consumer is where the later one moved it, and not paused."""
    for _ in range(5):
        both = await asyncio.gather(*(each.seek(to) for each, to in zip(pair, (2, 4), strict=True)))
        assert [each.next_id for each in both] == [2, 4]
        info = await pair[0].info()
        assert pause_of(consumer_state(info)) is None
        assert info["num_pending"] in (4, 2)


async def test_an_older_configuration_that_is_written_back(
    pair: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker has no compare-and-swap: the consumer is moved again, into a run that stands."""
    mover, other = pair
    before = await other.state()
    change = mover.broker.api.change
    written: list[str] = []

    async def overtaken(operation: str, request: Any, deadline: float) -> Any:
        if operation.startswith("CONSUMER.RESET.") and not written:
            written.append(operation)
            await other.broker.api.update_consumer(*KEY, before.config, in_seconds(30))
        return await change(operation, request, deadline)

    monkeypatch.setattr(mover.broker.api, "change", overtaken)
    sought = await mover.seek(3)
    assert (sought.next_id, sought.was, sought.pending) == (3, 1, 3)
    after = await other.state()
    assert written
    assert Run.of(after).follows(Run.of(before))
    assert pause_of(after) is None


@pytest.mark.parametrize("is_written", [True, False])
async def test_a_move_whose_write_is_lost_beside_an_ensure(
    pair: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch, *, is_written: bool
) -> None:
    """It reads the consumer anew before it writes again: what was ensured meanwhile stands."""
    mover, other = pair
    before, call, lost = await other.state(), mover.broker.api.call, list[str]()

    async def unanswered(operation: str, request: Any, deadline: float, **options: Any) -> Any:
        if operation.startswith("CONSUMER.CREATE.") and not lost:
            lost.append(operation)
            if is_written:
                await call(operation, request, deadline, **options)
            await ensure(other, timedelta(seconds=50))
            raise OutcomeUnknown
        return await call(operation, request, deadline, **options)

    monkeypatch.setattr(mover.broker.api, "call", unanswered)
    sought = await mover.seek(3)
    assert (sought.next_id, sought.was, sought.pending) == (3, 1, 3)
    after = await other.state()
    assert lost
    assert after.config["ack_wait"] == 50 * NANOSECONDS
    assert Run.of(after).follows(Run.of(before))


async def test_an_ensure_whose_write_is_lost_beside_a_move(
    pair: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the consumer anew before it writes again: the run that the move began stands."""
    mover, other = pair
    before, call, lost = await other.state(), other.broker.api.call, list[str]()

    async def unanswered(operation: str, request: Any, deadline: float, **options: Any) -> Any:
        if operation.startswith("CONSUMER.CREATE.") and not lost:
            lost.append(operation)
            await mover.seek(3)
            raise OutcomeUnknown
        return await call(operation, request, deadline, **options)

    monkeypatch.setattr(other.broker.api, "call", unanswered)
    await ensure(other, timedelta(seconds=50))
    after = await other.state()
    assert lost
    assert after.config["ack_wait"] == 50 * NANOSECONDS
    assert Run.of(after).follows(Run.of(before))


async def test_an_ensure_that_stalls_beside_a_move(
    pair: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that stood still does not write back what it read before."""
    mover, other = pair
    before, consumer, stalled = await other.state(), other.broker.api.consumer, list[str]()

    async def read(stream: str, name: str, deadline: float) -> Any:
        found = await consumer(stream, name, deadline)
        if not stalled:
            await mover.seek(3)
        monkeypatch.setattr(consumers, "_FRESH", 60.0 if stalled else 0.0)  # as if that had taken a minute
        stalled.append(name)
        return found

    monkeypatch.setattr(other.broker.api, "consumer", read)
    await ensure(other, timedelta(seconds=50))
    after = await other.state()
    assert after.config["ack_wait"] == 50 * NANOSECONDS
    assert Run.of(after).follows(Run.of(before))


async def ensure(server: Server, timeout: timedelta) -> None:
    """Ensure the consumer with another timeout."""
    shared = share(server.broker)
    service = consumers.Consumers(server.broker.api, shared.store, shared.notes, shared.replays)
    await service.ensure(ConsumerSpec(KEY.stream, KEY.name, processing_timeout=timeout), in_seconds(20))


@pytest.mark.parametrize("is_asked_for", [True, False])
async def test_a_pause_that_is_there(pair: tuple[Server, Server], *, is_asked_for: bool) -> None:
    """One that somebody asked for stays; one that a server left which was killed in a move goes."""
    mover, _ = pair
    until_ns = (time_ns() + 8 * NANOSECONDS) // NANOSECONDS * NANOSECONDS
    await mover.pauses.set(KEY, until_ns if is_asked_for else marked(until_ns), in_seconds(30))
    await mover.seek(3)
    paused_until = pause_of(await mover.state())
    assert (paused_until is not None) == is_asked_for


async def test_a_pause_without_an_answer(
    pair: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The consumer is not moved, and the pause, which may be there, does not stay."""
    mover, _ = pair
    change, lost = mover.broker.api.change, list[str]()

    async def unanswered(operation: str, request: Any, deadline: float) -> Any:
        answer = await change(operation, request, deadline)
        if operation.startswith("CONSUMER.PAUSE.") and not lost:
            lost.append(operation)
            raise OutcomeUnknown
        return answer

    monkeypatch.setattr(mover.broker.api, "change", unanswered)
    with pytest.raises(errors.OutcomeUnknown):
        await mover.seek(3)
    assert lost
    assert pause_of(await mover.state()) is None


async def test_an_end_of_the_pause_that_fails(
    pair: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The consumer is moved all the same, and the pause ends by itself."""
    mover, _ = pair
    change = mover.broker.api.change

    async def refused(operation: str, request: Any, deadline: float) -> Any:
        if operation.startswith("CONSUMER.PAUSE.") and not request:
            raise TooManyInFlight
        return await change(operation, request, deadline)

    monkeypatch.setattr(mover.broker.api, "change", refused)
    assert (await mover.seek(3)).next_id == 3
    assert pause_of(await mover.state()) is not None
