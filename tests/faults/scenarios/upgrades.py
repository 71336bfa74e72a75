"""Upgrades as docs/operations/upgrades.md has them: everything is replaced in turn, under load."""

from __future__ import annotations

import asyncio
import time

from tests.faults.calls import ensure_consumer, ensure_store, ensure_stream
from tests.faults.checks import not_linearizable
from tests.faults.places import clustered
from tests.faults.processes import ROOT
from tests.faults.run import Run, scenario
from tests.faults.scenarios.consuming import check_consuming, finish
from tests.faults.scenarios.publishing import check_stream, count_publishes, longest_gap
from tests.faults.scenarios.stops import check_hidden
from tests.faults.subscribers import Consumption, Subscriber, acknowledge, together
from tests.faults.witness import all_current, read_stream
from tests.faults.workloads import connections, crowd, increment, publish_on, targets
from tests.support.nats_server import BINARY

OLDER = ROOT / ".venv-before" / "bin" / BINARY.name
"""The nats-server of the release before (requirements/before.txt), which `make faults` installs."""


@scenario(
    "upgrade",
    "two servers, then the three nodes of their cluster are replaced in turn, the nodes by newer ones, "
    "under publishers, subscribers and writers",
    tested=False,  # test_operations restarts three nodes in turn, and rolling-restart is played
)
async def upgrade(run: Run) -> None:
    """Lose nothing, store and deliver nothing twice, and show clients nothing that a retry does not hide."""
    before = OLDER if OLDER.exists() else BINARY
    if before is BINARY:
        run.notes.append("nodes keep their version: make .venv-before/.installed brings an older nats-server")
    async with clustered(run, 2, "--share-port", binary=before) as (nodes, servers):
        addresses = [server.address for server in servers]
        async with connections(run.history, 4, *addresses) as made, targets(run.history, servers) as places:
            await ensure_stream(made[0], "orders")
            await ensure_consumer(made[0], "orders")
            store = await ensure_store(made[0], "counters")
            consumption = Consumption(run.history, "orders", "c")
            subscribers = [
                Subscriber(f"s{n}", consumption, places[n:] + places[:n], behave)
                for n, behave in enumerate((acknowledge, together(run.more_luck())))
            ]
            for subscriber in subscribers:
                subscriber.start()
                await subscriber.ready()
            since = time.monotonic()
            async with crowd() as workers:
                for number in range(run.scale(16, 4)):
                    workers.add(publish_on(workers, made[number % 4], f"p{number}", "orders", pause=0.01))
                workers.enough = False
                for number in range(2):
                    luck = run.more_luck()
                    workers.add(increment(workers, made[number], f"w{number}", store, "total", 0, luck, 0.05))
                await asyncio.sleep(1)
                for server in servers:
                    run.progress(f"{server.name} is replaced, {len(run.history.publishes):,} publishes")
                    run.demand(await server.replace() == 0, "stop", f"{server.name} did not stop in order")
                    run.count("servers replaced", 1)
                    await asyncio.sleep(1)
                for node in nodes:
                    run.progress(f"{node.name} is replaced, {len(run.history.publishes):,} publishes")
                    await node.retire()
                    node.server.binary = BINARY
                    await node.start()
                    await all_current(node.url)
                    run.count("nodes replaced", 1)
                    await asyncio.sleep(1)
            await finish(run, consumption, subscribers, nodes[0].url)
        stored = await read_stream(nodes[0].url, "orders")
    check_stream(run, "orders", stored)
    check_consuming(run, stored)
    run.check(not_linearizable(run.history.accesses))
    count_publishes(run)
    check_hidden(run, "ALREADY_EXISTS", "ABORTED")  # which is how writers of a store meet each other
    run.bar("longest gap between publishes, s", longest_gap(run, "orders", since), 1.0)
