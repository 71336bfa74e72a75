"""The calls that consume, of several servers."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.server.admin.test_gathering import known, serving
from tests.support.broker import Broker, connect
from tests.support.nats_server import NatsServer
from windshift.server.admin import gathering
from windshift.server.admin.subscriptions import Holder, Subscriptions, SubscriptionView
from windshift.server.events.model import ConsumerKey, StreamSeq


class Turns:
    """Counts turns of the event loop, and what is done in each."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self.steps = Counter[int]()
        self._next()

    def _next(self) -> None:
        self._number += 1
        self._loop.call_soon(self._next)

    def step(self) -> None:
        """Note that something was done."""
        self.steps[self._number] += 1


class Call:
    """A call that consumes."""

    def __init__(self, name: str, turns: Turns) -> None:
        self._key, self._turns = ConsumerKey("S", name), turns

    @property
    def consumer(self) -> ConsumerKey | None:
        self._turns.step()
        return self._key

    def view(self) -> SubscriptionView | None:
        return SubscriptionView(*self._key)

    def holder(self, seq: StreamSeq) -> Holder | None:
        del seq
        return None


async def test_counting_thousands(
    own_broker: Broker, own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All servers are asked once for all who want to know, and let others run in between."""
    monkeypatch.setattr(gathering, "TIMEOUT", 30.0)
    async with connect(own_nats_server.url) as broker, serving(own_broker) as one, serving(broker) as other:
        await known(one, other.id)
        own, others, turns = Subscriptions(one), Subscriptions(other), Turns()
        for number in range(1_000):
            others.add(Call(f"c{number % 300}", turns))
        for name in ("c0", "own"):
            own.add(Call(name, turns))
        asked: list[object] = []
        own_broker.connection.subscribe(b"_WS.ask.*", asked.append)
        counts = await asyncio.gather(*(own.counts() for _ in range(20)))
        assert len(asked) == 1
        assert (len(counts[0]), counts[0].total()) == (301, 1_002)
        assert (counts[0]["S", "c0"], counts[0]["S", "c299"]) == (5, 3)  # type: ignore[index]
        assert max(turns.steps.values()) <= 100
        turns.steps.clear()
        found, missing = await own.all("S", "c0")
        assert (len(found), missing) == (5, [])
        assert max(turns.steps.values()) <= 100
