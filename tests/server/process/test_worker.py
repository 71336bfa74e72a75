"""What a worker makes of what the process that started it says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import pytest

from windshift.server.config.read import config_from_environment
from windshift.server.process.app import App
from windshift.server.process.channel import Answer, Assignment, Channel, Order
from windshift.server.process.worker import WorkerProcess
from windshift.server.telemetry.signals import Telemetry


@asynccontextmanager
async def worker_with(reload: Callable[[], None]) -> AsyncIterator[tuple[Channel, WorkerProcess]]:
    """Make a worker that obeys, and give the other end of its channel; see that it obeys to the end."""
    ours, theirs = socket.socketpair()
    parent, channel = await Channel.of(ours), await Channel.of(theirs)
    config = config_from_environment({"HOME": "/"})
    worker = WorkerProcess(channel, Assignment(1, config, (), None, -1), Telemetry(config.telemetry))
    obeying = asyncio.create_task(worker._obey(cast("App", SimpleNamespace(reload=reload))))
    async with asyncio.timeout(30):
        yield parent, worker
        await parent.aclose()
        await obeying
    await channel.aclose()


async def test_an_answer_to_a_call_that_was_cancelled() -> None:
    """It may come before the call knows; the orders after it are obeyed."""

    def end_call() -> None:
        asking.cancel()

    async with worker_with(end_call) as (parent, worker):
        asking = asyncio.create_task(worker._ask_others("EndConnections", b""))
        question = await anext(parent.messages())
        for each in (Order.RELOAD, Answer(question.id, []), Order.STOP):  # which are read at once
            parent.send(each)
        await worker._stopping.wait()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks the other workers by way of a process that is frozen is told that they did not answer."""
    monkeypatch.setattr("windshift.server.process.worker._ANSWERING", 0.05)
    async with worker_with(lambda: None) as (parent, worker):
        assert await worker._ask_others("EndConnections", b"") == [None]
        question = await anext(parent.messages())
        for each in (Answer(question.id, []), Order.STOP):  # it thaws
            parent.send(each)
        await worker._stopping.wait()


async def test_an_order_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The worker stops, for another one to take its place, and the log says why."""

    def fail() -> None:
        raise ValueError("no rules")

    async with worker_with(fail) as (parent, worker):
        parent.send(Order.RELOAD)
        await worker._stopping.wait()
    assert "an order cannot be carried out; stopping" in caplog.text
    assert "ValueError: no rules" in caplog.text
    assert "is gone" not in caplog.text
