from __future__ import annotations

import asyncio
import sys
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from windshift.server.events.consuming.pauses import INTERVAL, PAUSE, PauseDetector, fresh_time


def awake(*looks: float) -> PauseDetector:
    """Look at the clock at these times."""
    alertness = PauseDetector()
    for now in looks:
        alertness.look(now)
    return alertness


def test_what_is_read_at_once_has_just_arrived() -> None:
    """While the process is awake nothing waits."""
    assert awake().arrived(5.0) == 5.0
    assert awake(1.0, 1.25, 1.5).arrived(1.6) == 1.6
    assert awake(1.0, 1.0 + PAUSE).arrived(1.5) == 1.5


def test_what_is_read_after_a_pause_may_have_waited_all_of_it() -> None:
    """Whether the clock was looked at before or after it was read."""
    assert awake(1.0).arrived(9.0) == 1.0
    assert awake(1.0, 9.0).arrived(9.0) == 1.0
    assert awake(1.0, 9.0).arrived(9.0 + INTERVAL / 2) == 1.0


def test_soon_after_a_pause_all_of_it_is_read() -> None:
    """Then what is read has just arrived again."""
    assert awake(1.0, 9.0, 9.0 + INTERVAL).arrived(9.0 + INTERVAL) == 9.0 + INTERVAL


def test_a_fresh_time_is_of_the_clock_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is later than when the loop woke, but where another clock would have to be read for that."""
    loop: Any = SimpleNamespace(time=lambda: -1.0)
    monkeypatch.setattr(sys, "platform", "linux")
    assert monotonic() <= fresh_time(loop) <= monotonic()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert fresh_time(loop) == -1.0


async def test_watching() -> None:
    """The clock is looked at as long as it is watched."""
    alertness = PauseDetector()
    watching = asyncio.create_task(alertness.watch())
    await asyncio.sleep(0)
    now = asyncio.get_running_loop().time()
    assert alertness.arrived(now + PAUSE + 1) <= now
    watching.cancel()
