"""The disk that nats-server stores on becomes full."""

from __future__ import annotations

import asyncio
import time

from tests.faults.calls import ensure_consumer, ensure_stream
from tests.faults.disk import Disk, small_disk
from tests.faults.history import Outcome
from tests.faults.processes import Node, running_node, running_servers
from tests.faults.run import Run, scenario
from tests.faults.scenarios.consuming import check_consuming, finish
from tests.faults.scenarios.publishing import check_stream, count_publishes
from tests.faults.subscribers import Consumption, Subscriber
from tests.faults.witness import read_stream
from tests.faults.workloads import connections, crowd, publish_on, targets


@scenario("full-disk", "the disk that nats-server stores on becomes full, and is given room again")
async def full_disk(run: Run) -> None:
    """Refuse publishes with documented codes, lose nothing that was acknowledged, and go on."""
    directory = run.directory / "nats"
    async with (
        small_disk(directory / "data") as disk,
        running_node(run.history, directory, disk.config) as node,
        running_servers(run.history, run.directory, [node.url]) as servers,
        targets(run.history, servers) as places,
        connections(run.history, 4, servers[0].address) as made,
    ):
        run.notes.append(disk.how)
        await ensure_stream(made[0], "orders")
        await ensure_consumer(made[0], "orders", timeout=3.0)
        consumption = Consumption(run.history, "orders", "c")
        subscriber = Subscriber("s", consumption, places)
        subscriber.start()
        await subscriber.ready()
        size = run.scale(4000, 200_000)
        async with crowd() as workers:
            for number in range(4):
                workers.add(
                    publish_on(workers, made[number], f"p{number}", "orders", deadline=2.0, size=size)
                )
            await _fill_and_grow(run, node, disk)
        await finish(run, consumption, [subscriber], node.url)
        check_stream(run, "orders", stored := await read_stream(node.url, "orders"))
        check_consuming(run, stored)
        count_publishes(run)
        seen = {f"{each.code} / {each.reason or 'by the client'}" for each in run.history.failures}
        run.notes.append(f"Errors: {', '.join(sorted(seen))}.")


async def _fill_and_grow(run: Run, node: Node, disk: Disk) -> None:
    await run.until(
        lambda: any(each.outcome is not Outcome.DONE for each in run.history.publishes),
        120,
        "the disk is full",
        lambda: f"{len(run.history.publishes):,} publishes",
    )
    await asyncio.sleep(run.scale(10, 2))
    run.progress("room again")
    await disk.grow(node)
    if not await _goes_on(run, 3):
        run.notes.append("nats-server switches JetStream off when its disk is full, and had to be restarted.")
        await node.restart()
        run.demand(await _goes_on(run, 30), "full disk", "no publish succeeds after the restart")


async def _goes_on(run: Run, within: float) -> bool:
    """Tell whether publishes succeed again."""
    since = time.monotonic()
    while time.monotonic() < since + within:
        await asyncio.sleep(0.1)
        recent = [each for each in run.history.publishes[-50:] if each.start > since]
        if sum(each.outcome is Outcome.DONE for each in recent) > 10:
            return True
    return False
