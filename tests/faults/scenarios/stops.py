"""Servers are told to stop, under load: one with its embedded broker, and two in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from tests.faults.calls import ensure_consumer, ensure_stream
from tests.faults.history import Outcome
from tests.faults.places import single
from tests.faults.processes import Server, running_node, running_servers
from tests.faults.run import Run, scenario
from tests.faults.scenarios.consuming import check_consuming, finish
from tests.faults.scenarios.publishing import check_stream, count_publishes, longest_gap
from tests.faults.subscribers import Consumption, Subscriber
from tests.faults.witness import read_stream
from tests.faults.workloads import connections, crowd, publish_on, targets
from tests.support.windshift_process import lives


@scenario("stops", "SIGTERM of a server with its embedded nats-server, under publishers and subscribers")
async def stops(run: Run) -> None:
    """Stop in time with status 0, leave no process behind, and lose nothing that was acknowledged."""
    async with running_servers(run.history, run.directory, [""]) as servers:
        (server,) = servers
        slowest = 0.0
        async with (
            connections(run.history, 4, server.address) as made,
            targets(run.history, servers) as places,
        ):
            await ensure_stream(made[0], "orders")
            await ensure_consumer(made[0], "orders", timeout=3.0)
            consumption = Consumption(run.history, "orders", "c")
            subscribers = [Subscriber(f"s{number}", consumption, places) for number in range(4)]
            for subscriber in subscribers:
                subscriber.start()
            async with crowd() as workers:
                for number in range(run.scale(32, 4)):
                    workers.add(publish_on(workers, made[number % 4], f"p{number}", "orders", pause=0.005))
                for number in range(run.scale(10, 2)):
                    run.progress(f"stop {number + 1}")
                    await asyncio.sleep(run.luck.uniform(0.5, 1.5))
                    slowest = max(slowest, await _stop(run, server))
                    await server.start()
            await asyncio.sleep(1)
            await _all_delivered(run, consumption, subscribers)
        run.bar("slowest stop, s", round(slowest, 2), 10.0)
        await server.stop()
        async with running_node(run.history, run.directory / server.name) as node:
            check_stream(run, "orders", stored := await read_stream(node.url, "orders"))
        check_consuming(run, stored)
        count_publishes(run)
        codes = {(each.code, each.reason) for each in run.history.failures}
        expected = {("UNAVAILABLE", ""), ("UNAVAILABLE", "SHUTTING_DOWN")}
        run.demand(codes <= expected, "stop", f"calls failed with {codes - expected}")


async def _stop(run: Run, server: Server) -> float:
    nats = server.nats_pid
    start = time.monotonic()
    status = await server.stop()
    took = time.monotonic() - start
    run.count("stops", 1)
    run.demand(status == 0, "stop", f"exit status {status}")
    run.demand(nats is not None and not lives(nats), "stop", "nats-server lives on")
    return took


async def _all_delivered(run: Run, consumption: Consumption, subscribers: Sequence[Subscriber]) -> None:
    wanted = {each.id for each in run.history.publishes if each.id}
    await run.until(lambda: consumption.settled >= wanted, 30, "all that was acknowledged is settled")
    for subscriber in subscribers:
        await subscriber.stop()


# A rolling restart


async def restart_in_turn(servers: Sequence[Server]) -> None:
    """Restart servers one after the other, as an operator or an orchestrator does.

    For each: SIGTERM; wait until the process has ended, which takes as long as its calls in flight, at most
    `WINDSHIFT_DRAIN_TIMEOUT`; start the new one; wait until `/readyz` says 200; go on with the next.
    """
    for server in servers:
        await server.restart()
        while (await server.probe("/readyz")).status != 200:  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(0.1)


@scenario(
    "rolling-restart", "two servers on one nats-server are restarted in turn, again and again, under load"
)
async def rolling_restart(run: Run) -> None:
    """Nothing is lost or stored twice, and a retry of UNAVAILABLE hides all that clients could see."""
    async with single(run, servers=2) as (node, servers):
        addresses = [server.address for server in servers]
        async with connections(run.history, 4, *addresses) as made, targets(run.history, servers) as places:
            await ensure_stream(made[0], "orders")
            await ensure_consumer(made[0], "orders", timeout=5.0)
            consumption = Consumption(run.history, "orders", "c")
            subscribers = [
                Subscriber(f"s{number}", consumption, places[number % 2 :] + places) for number in range(4)
            ]
            for subscriber in subscribers:
                subscriber.start()
            since = time.monotonic()
            async with crowd() as workers:
                for number in range(run.scale(32, 4)):
                    workers.add(publish_on(workers, made[number % 4], f"p{number}", "orders", pause=0.005))
                for number in range(run.scale(10, 2)):
                    run.progress(f"round {number + 1}, {len(run.history.publishes):,} publishes")
                    await asyncio.sleep(1)
                    await restart_in_turn(servers)
                    run.count("restarts", len(servers))
            await finish(run, consumption, subscribers, node.url)
        check_stream(run, "orders", stored := await read_stream(node.url, "orders"))
        check_consuming(run, stored)
        count_publishes(run)
        check_hidden(run)
        again = len(run.history.deliveries) - len({each.id for each in run.history.deliveries})
        run.count("events delivered again because their call ended", again)
        run.bar("longest gap between publishes, s", longest_gap(run, "orders", since), 1.0)


def check_hidden(run: Run, *expected: str) -> None:
    """Check that a retry of UNAVAILABLE was all that clients had to do; other codes may be expected."""
    run.demand(
        all(each.outcome is Outcome.DONE for each in run.history.publishes),
        "caller error",
        "a publish failed",
    )
    codes = {each.code for each in run.history.failures}
    run.demand(codes <= {"UNAVAILABLE", *expected}, "caller error", f"calls failed with {codes}")
    hidden = sum(each.code == "UNAVAILABLE" for each in run.history.failures)
    run.count("failures that a retry hid", hidden)
