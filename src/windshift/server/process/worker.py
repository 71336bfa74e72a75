"""One of several processes that serve a port together, `python -m … DESCRIPTOR`.

The descriptor is the worker's end of a channel to the process that started it (`workers`), which says what to
serve. The worker stops when that process says so, and when it is gone.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import socket
import sys
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final

import uvloop

from windshift.server.auth.ledger import Ledger
from windshift.server.process.app import App
from windshift.server.process.channel import (
    Answer,
    Assignment,
    Channel,
    Collected,
    Drained,
    Failed,
    Order,
    Question,
    Refusal,
    Serving,
)
from windshift.server.process.errors import StartError
from windshift.server.process.logging import configure_logging, exported_logs
from windshift.server.process.memory import keep_large_blocks
from windshift.server.process.serve import Process
from windshift.server.telemetry.registry import Registry
from windshift.server.telemetry.signals import Telemetry

log = logging.getLogger("windshift.server.process.worker")  # also where it is `__main__`

_FAILED: Final = 1
_LOOK: Final = 0.1
"""Seconds between two looks at whether this worker is ready."""
_WORD: Final = 10
"""So many looks until that is told again, changed or not."""
_ANSWERING: Final = 3.0
"""Seconds that the other workers have to answer together; the process between them gives each a second."""


class WorkerProcess(Process):
    """A process that serves; another one, at the end of the channel, has the broker and the health port."""

    def __init__(self, channel: Channel, assignment: Assignment, telemetry: Telemetry) -> None:
        super().__init__(assignment.config, telemetry, lambda _: None)
        self._channel = channel
        self._assignment = assignment
        self._collecting: asyncio.Task[None] | None = None

    async def _start(self, stack: AsyncExitStack) -> None:
        given = self._assignment
        ledger = Ledger(given.ledger, given.config.workers, given.number)
        app = App(
            given.config,
            given.servers,
            self._telemetry,
            share_port=True,
            storage=given.storage,
            worker=given.number,
            ledger=ledger,
            ask_others=self._ask_others,
        )
        obeying = asyncio.create_task(self._obey(app), name="orders")
        stack.callback(obeying.cancel)
        await self._begin(app, stack)
        telling = asyncio.create_task(self._tell_readiness(app), name="readiness")
        stack.callback(telling.cancel)

    async def _obey(self, app: App) -> None:
        """Do what the other end says, and stop when it is gone, or says what cannot be done."""
        try:
            async for message in self._channel.messages():
                self._take(message, app)
        except Exception:
            log.exception("an order cannot be carried out; stopping")
            self._stop()
        if not self._stopping.is_set():
            log.warning("the process that started this worker is gone; stopping")
            self._stop()

    def _take(self, message: object, app: App) -> None:
        match message:
            case Order.RELOAD:
                app.reload()
            case Order.COLLECT if app.metrics is not None:
                self._collecting = asyncio.create_task(self._collect(app.metrics.registry))
            case Order.STOP:
                self._stop()
            case Refusal(why, trouble):
                app.refuse_writes(why, trouble)
            case Question(id, method, request):
                now = asyncio.get_running_loop().time()
                self._channel.send(Answer(id, [app.principals.answer(method, request, now)]))
            case _:
                raise AssertionError(f"{message!r} is no order")

    async def _ask_others(self, method: str, request: bytes) -> list[bytes | None]:
        return await self._channel.ask(method, request, _ANSWERING)

    async def _collect(self, registry: Registry) -> None:
        self._channel.send(Collected(await registry.collect()))

    async def _tell_readiness(self, app: App) -> None:
        looks, sent = 0, None
        while True:
            readiness = None if self._stopping.is_set() else app.readiness()
            if readiness != sent or looks % _WORD == 0:
                sent = readiness
                self._channel.send(Serving(readiness))
            looks += 1
            await asyncio.sleep(_LOOK)

    def _tell_of_drain(self, *, wholly: bool) -> None:
        if self._app is not None and self._app.metrics is not None:
            self._channel.send(Collected(self._app.metrics.registry.read()))
        self._channel.send(Drained(wholly))


def main(descriptor: int) -> int:
    """Serve until the other end of the channel says otherwise, or a signal; return the exit status."""
    faulthandler.enable()
    keep_large_blocks()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(descriptor))


async def _serve(descriptor: int) -> int:
    async with aclosing(await Channel.of(socket.socket(fileno=descriptor))) as channel:
        async for assignment in channel.messages():
            return await _serve_assigned(channel, assignment)
    return _FAILED


async def _serve_assigned(channel: Channel, assignment: Assignment) -> int:
    config = assignment.config
    _number_records(assignment.number)
    configure_logging(config.log.level, readable=config.log.development)
    telemetry = Telemetry(config.telemetry)
    with exported_logs(telemetry):
        try:
            await WorkerProcess(channel, assignment, telemetry).run()
        except StartError as error:
            channel.send(Failed(str(error)))
            return _FAILED
    return 0


def _number_records(worker: int) -> None:
    """Have every log record say which worker it is of."""
    make = logging.getLogRecordFactory()

    def numbered(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.worker = worker
        return record

    logging.setLogRecordFactory(numbered)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
