"""Which events go by fast ingest: those whose receipts have no ids."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.broker import Broker, in_seconds
from windshift.nats.jetstream.writes import Writes
from windshift.server.events.model import PublishRequest, Results
from windshift.server.events.pipeline import Feed, Pipeline
from windshift.server.events.publish import Publisher
from windshift.server.events.targets import Target, Targets

Unique = Callable[[], str]


class Replicated(Targets):
    """Says of every stream that several servers have copies of it."""

    async def of(self, subject: str, deadline: float) -> Target:
        """Look it up."""
        return (await super().of(subject, deadline))._replace(is_replicated=True)


async def publish(
    broker: Broker, targets: Targets, *requests: PublishRequest, without_ids: bool = True
) -> list[int | Exception]:
    """Publish events that are at hand together; return the id of each, or why it has none."""
    writes = Writes(broker.connection, broker.requests, broker.api)
    outcomes: list[int | Exception] = []

    async def feed() -> Feed:
        yield requests, in_seconds(20)

    async def take(some: Results) -> None:
        outcomes.extend(some.errors.get(place, each) for place, each in enumerate(some.ids, some.first))

    pipeline = Pipeline(Publisher(broker.api, writes), writes, targets)
    await pipeline.publish(feed(), take, without_ids=without_ids)
    return outcomes


def event(subject: str, key: str = "") -> PublishRequest:
    """Make an event."""
    return PublishRequest(subject, "type.googleapis.com/a.B", b"", idempotency_key=key)


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("kind", [Targets, Replicated])
async def test_keys(broker: Broker, unique: Unique, kind: type[Targets], *, keyed: bool) -> None:
    """Of streams with several replicas events with keys do not."""
    name = await broker.stream(unique(), allow_batched=True)
    requests = [event(f"{name}.a"), event(f"{name}.a", "k" if keyed else "")]
    outcomes = await publish(broker, kind(broker.api), *requests)
    assert (outcomes == [0, 0]) == (not keyed or kind is Targets)
    assert await broker.messages(name) == 2


@pytest.mark.parametrize(
    ("config", "without_ids"),
    [({"allow_batched": True}, False), ({}, True), ({"allow_batched": True, "no_ack": True}, True)],
)
async def test_neither(
    broker: Broker, unique: Unique, config: dict[str, object], *, without_ids: bool
) -> None:
    """Nor do those of streams that do not allow it, or do not answer, or of calls that ask for ids."""
    name = await broker.stream(unique(), **config)
    outcomes = await publish(broker, Targets(broker.api), event(f"{name}.a"), without_ids=without_ids)
    assert outcomes != [0]
