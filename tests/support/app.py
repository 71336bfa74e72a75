"""The whole application in a thread of its own, as `windshift serve` runs it, for tests from the outside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import uvloop

from tests.support.ports import new_port
from windshift.server.config.read import config_from_environment
from windshift.server.process.app import App
from windshift.server.telemetry.signals import Telemetry


@contextmanager
def running_app(nats_url: str, **environment: str) -> Iterator[str]:
    """Run a server on this NATS for as long as the block lasts; give its ``host:port``."""
    settings = {"NATS_URL": nats_url, "GRPC_PORT": str(new_port()), "HEALTH_PORT": "0", **environment}
    started: SimpleQueue[tuple[str, asyncio.AbstractEventLoop, asyncio.Event] | BaseException] = SimpleQueue()

    async def serve() -> None:
        stop = asyncio.Event()
        config = config_from_environment(settings)
        app = App(config, config.nats.servers, Telemetry(config.telemetry))
        await app.start()
        started.put((f"127.0.0.1:{app.port}", asyncio.get_running_loop(), stop))
        await stop.wait()
        await app.drain(1)
        await app.close()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())
        except BaseException as error:  # noqa: BLE001 - raised where the server was asked for
            started.put(error)

    thread = threading.Thread(target=run, name="app")
    thread.start()
    outcome = started.get()
    if isinstance(outcome, BaseException):
        raise outcome
    address, loop, stop = outcome
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
