"""Pauses of consumers that the broker does not answer for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import time_ns
from typing import Any

import pytest

from tests.server.events.consuming import make_consumer
from tests.support.broker import Broker, in_seconds
from windshift.nats import Unavailable
from windshift.nats.times import NANOSECONDS
from windshift.server.admin.pausing import ConsumerPause, pause_of
from windshift.server.domain.errors import BrokerUnavailable, OutcomeUnknown
from windshift.server.events.model import ConsumerKey
from windshift.server.events.notes import CONSUMER, Notes


async def test_a_pause_that_cannot_be_looked_up(
    broker: Broker, unique: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be there, and all servers are told; what was not even asked for is not there."""
    consumer = ConsumerKey(await broker.stream(unique()), "c")
    await make_consumer(broker, *consumer)
    notes, told = Notes(broker.connection), asyncio.Event()
    notes.start()
    notes.listen(CONSUMER, *consumer, told.set)
    pauses, change = ConsumerPause(broker.api, notes), broker.api.change
    until_ns = time_ns() + 3600 * NANOSECONDS

    async def unavailable(*_: Any) -> Any:
        raise Unavailable

    async def answered(operation: str, request: Any, deadline: float) -> Any:
        answer = await change(operation, request, deadline)
        monkeypatch.setattr(broker.api, "consumer", unavailable)
        return answer

    monkeypatch.setattr(broker.api, "change", unavailable)
    with pytest.raises(BrokerUnavailable):
        await pauses.set(consumer, until_ns, in_seconds(20))
    told.clear()
    monkeypatch.setattr(broker.api, "change", answered)
    with pytest.raises(OutcomeUnknown):
        await pauses.set(consumer, until_ns, in_seconds(20))
    async with asyncio.timeout(30):
        await told.wait()
    monkeypatch.undo()
    state = await broker.api.consumer(*consumer, in_seconds(20))
    assert state is not None
    assert pause_of(state) is not None
