"""A server whose event loop tells how long it was held: the most CPU time of one callback.

    python -m benchmarks.held NATS_URL

Prints its port, and then, for each line that it reads, the largest number of milliseconds since the line
before. It runs on asyncio's own loop, whose callbacks can be measured; they are those of the real server. CPU
time is that of the loop's thread, so that a busy machine does not count.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio import Handle

from windshift.server.config.read import config_from_environment
from windshift.server.process.app import App
from windshift.server.process.serve import spare_collector
from windshift.server.telemetry.signals import Telemetry


class Holding:
    """Measures every callback of asyncio's loops from now on.

    Attributes:
        longest: CPU seconds of the longest one.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        run = Handle._run  # noqa: SLF001 - there is no other place to measure at

        def measured(handle: Handle) -> None:
            began = time.thread_time()
            run(handle)
            self.longest = max(self.longest, time.thread_time() - began)

        Handle._run = measured  # type: ignore[assignment, method-assign]  # noqa: SLF001


async def serve(url: str) -> None:
    """Serve until stdin ends."""
    config = config_from_environment({"NATS_URL": url, "GRPC_PORT": "0", "HEALTH_PORT": "0"})
    app = App(config, config.nats.servers, Telemetry(config.telemetry))
    await app.start()
    spare_collector()
    holding = Holding()
    print(app.port, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(round(holding.longest * 1000, 2)), flush=True)
        holding.longest = 0.0
    await app.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
