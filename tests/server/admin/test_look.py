"""Lists that are shared, of a broker that does not answer, or only of a part of what it has."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from windshift.nats import Busy, JetStreamError, NatsError, Unanswered, Unavailable
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import Page
from windshift.server.admin.look import Look
from windshift.server.domain.errors import BrokerUnavailable


class Silent:
    """A broker that lists nothing, and is lost when the test says so."""

    changes = 0

    def __init__(self) -> None:
        self.is_lost = asyncio.Event()

    async def pages(self, *_: object) -> AsyncIterator[Page]:
        """Wait, and fail."""
        await self.is_lost.wait()
        if self.is_lost.is_set():
            raise Unavailable
        yield Page([], 0)


class Cluster:
    """A broker with streams that have a consumer each.

    Attributes:
        missing: streams whose consumers have no leader.
        failing: streams whose consumers are not listed, and why.
    """

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.failing: dict[str, NatsError] = {}

    async def pages(self, operation: str, *_: object) -> AsyncIterator[Page]:
        """List the consumers of a stream."""
        stream = operation.rpartition(".")[2]
        if stream in self.failing:
            raise self.failing[stream]
        if stream in self.missing:
            yield Page([], 1, frozenset({"c"}))
        else:
            yield Page([{"name": "c", "num_pending": 0, "num_ack_pending": 0, "config": {}}], 1)


async def consumers_seen(look: Look) -> list[str]:
    """Return the streams whose consumers are seen."""
    return [row.key.stream for row in await look.consumers_of(look.silent_last("CBA"), 0.0)]


async def test_consumers_without_leaders() -> None:
    """Each of their lists takes seconds: they come last, and what there was no time for is left out."""
    cluster = Cluster()
    look = Look(cast("Any", cluster))
    assert await consumers_seen(look) == ["A", "B", "C"]
    cluster.missing = {"A"}
    assert await consumers_seen(look) == ["B", "C"]
    assert look.silent_last("CBA") == ["B", "C", "A"]
    cluster.failing = {"A": Unanswered(), "B": Busy()}
    assert await consumers_seen(look) == ["C"]
    cluster.missing, cluster.failing = set(), {}
    assert await consumers_seen(look) == ["B", "C", "A"]
    assert look.silent_last("CBA") == ["A", "B", "C"]


@pytest.mark.parametrize(("error", "missing"), [(Unanswered(), set()), (Unavailable(), {"A"})])
async def test_consumers_that_cannot_be_listed(error: Unavailable, missing: set[str]) -> None:
    """Without a connection, or where it is not for leaders that are away, nothing is left out."""
    cluster = Cluster()
    cluster.missing, cluster.failing = missing, {"B": error}
    with pytest.raises(BrokerUnavailable):
        await consumers_seen(Look(cast("Any", cluster)))


async def test_leaders_that_were_away_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not why lists fail now."""
    cluster, loop = Cluster(), asyncio.get_running_loop()
    look = Look(cast("Any", cluster))
    cluster.missing = {"A"}
    assert await consumers_seen(look) == ["B", "C"]
    cluster.failing = {"B": Unanswered()}
    assert await look.consumers_of("B", 0.0) == []
    monkeypatch.setattr(look, "_loop", SimpleNamespace(time=lambda: loop.time() + 60))
    with pytest.raises(BrokerUnavailable):
        await look.consumers_of("B", 0.0)


async def test_streams_without_leaders_that_are_gone() -> None:
    """They are not why lists fail any more."""
    cluster = Cluster()
    look = Look(cast("Any", cluster))
    cluster.missing = {"A"}
    assert await consumers_seen(look) == ["B", "C"]
    cluster.failing = {"A": JetStreamError(codes.STREAM_NOT_FOUND, 404, "stream not found")}
    assert await consumers_seen(look) == ["B", "C"]
    cluster.failing = {"B": Unanswered()}
    with pytest.raises(BrokerUnavailable):
        await look.consumers_of("B", 0.0)


async def test_a_mirror_without_a_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is still known what it is a mirror of, however long it has none."""
    cluster = Cluster()
    look = Look(cast("Any", cluster))
    state = {"messages": 0, "bytes": 0, "last_seq": 0}
    config = {"name": "M", "mirror": {"name": "ORIGIN"}}
    page = Page([{"config": config, "state": state, "created": "2026-01-01T00:00:00Z"}], 1)

    async def pages(*_: object) -> AsyncIterator[Page]:
        yield page

    monkeypatch.setattr(cluster, "pages", pages)
    assert (await look._look_at_streams(0.0)).mirrored == {"ORIGIN"}
    page = Page([], 1, frozenset({"M", "never seen"}))
    for _ in range(2):
        seen = await look._look_at_streams(0.0)
        assert not seen.rows
        assert seen.mirrored == {"ORIGIN"}
    page = Page([], 0)
    assert not (await look._look_at_streams(0.0)).mirrored


async def test_a_look_that_nobody_waits_for_any_more() -> None:
    """That it fails is nothing to complain of: whoever wanted it was told so."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    broker = Silent()
    look = Look(cast("Any", broker))
    with pytest.raises(BrokerUnavailable):
        await look.seen(asyncio.get_running_loop().time() + 0.01)
    task = look._streams._task
    assert task is not None
    broker.is_lost.set()
    await asyncio.wait((task,))
    del task, look
    gc.collect()
    assert complaints == []
