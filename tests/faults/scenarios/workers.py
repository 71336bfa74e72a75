"""A server of several processes loses some of them."""

from __future__ import annotations

import time

from tests.faults.places import single
from tests.faults.run import Run, scenario
from tests.faults.scenarios.consuming import consume_through
from tests.faults.scenarios.publishing import check_stream, count_publishes, longest_gap
from tests.faults.witness import read_stream
from tests.faults.workloads import rounds


@scenario(
    "worker-kills",
    "kill -9 of any of a server's three workers, under publishers and subscribers that ack, reject and drop",
)
async def worker_kills(run: Run) -> None:
    """Nothing that was acknowledged is lost or stored twice, and what was confirmed does not come again."""
    kills = run.scale(30, 3)
    async with single(run, WINDSHIFT_WORKERS="3") as (node, servers):
        (server,) = servers

        async def kill(_: int) -> None:
            await server.kill_worker(run.luck)

        since = time.monotonic()
        # Three times, since each is a connection, which the kernel gives to any worker.
        await consume_through(run, [server] * 3, node.url, rounds(run, kills, run.scale(2, 1), kill, "kill"))
        run.count("kills", kills)
        run.bar("longest gap between publishes, s", longest_gap(run, "orders", since), 5.0)
        check_stream(run, "orders", await read_stream(node.url, "orders"))
        count_publishes(run)
