"""Reading several events of one request."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.server.api.publishing import read_events
from windshift.server.domain.errors import InvalidField


async def test_others_run_while_many_events_are_read() -> None:
    """It takes several turns of the event loop, however many events there are."""
    call: Any = SimpleNamespace(state=None, peer="p")
    reading = asyncio.ensure_future(read_events([pb.PublishEventRequest()] * 1000, None, call, {}))
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10
    items = reading.result()
    assert len(items) == 1000
    assert all(isinstance(item, InvalidField) for item in items)
