"""Lists that are shared, of a broker that does not answer."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from windshift.nats import Unavailable
from windshift.server.admin.look import Look
from windshift.server.domain.errors import BrokerUnavailable


class Silent:
    """A broker that lists nothing, and is lost when the test says so."""

    changes = 0

    def __init__(self) -> None:
        self.is_lost = asyncio.Event()

    async def listed(self, *_: object) -> AsyncIterator[dict[str, Any]]:
        """Wait, and fail."""
        await self.is_lost.wait()
        if self.is_lost.is_set():
            raise Unavailable
        yield {}


async def test_a_look_that_nobody_waits_for_any_more() -> None:
    """That it fails is nothing to complain of: whoever wanted it was told so."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    broker = Silent()
    look = Look(cast("Any", broker))
    with pytest.raises(BrokerUnavailable):
        await look.streams(asyncio.get_running_loop().time() + 0.01)
    task = look._streams._task
    assert task is not None
    broker.is_lost.set()
    await asyncio.wait((task,))
    del task, look
    gc.collect()
    assert complaints == []
