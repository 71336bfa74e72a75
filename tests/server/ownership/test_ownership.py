"""When a server looks which streams are full, without a broker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.nats.waiting import eventually
from windshift.server.auth.quotas import FullStreams
from windshift.server.ownership import ownership as ownership_module
from windshift.server.ownership.ownership import Ownership


async def test_full_streams_are_looked_for_as_long_as_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if nobody is known to have something that could fill: it may have been removed elsewhere."""
    monkeypatch.setattr(ownership_module, "_INTERVAL", 0.001)
    access = SimpleNamespace(on_replaced=[], full=None, quotas_of=lambda _: None)
    ownership = Ownership(cast("Any", None), cast("Any", access))
    looks = 0

    async def look(_: float) -> None:
        nonlocal looks
        looks += 1
        ownership._find_full()  # as it does when it has read the list

    monkeypatch.setattr(ownership, "_look", look)
    watching = asyncio.create_task(ownership.watch())
    await eventually(lambda: looks == 1)
    access.full = FullStreams()
    await eventually(lambda: access.full is None)
    watching.cancel()
