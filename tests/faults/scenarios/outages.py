"""The broker is away for a while, or ends the connection with an error."""

from __future__ import annotations

import asyncio
import time

from tests.faults.calls import ensure_consumer, ensure_stream
from tests.faults.history import Outcome
from tests.faults.places import single
from tests.faults.processes import Node, Server, running_node, running_servers
from tests.faults.proxy import running_proxy
from tests.faults.run import Run, scenario
from tests.faults.scenarios.consuming import check_consuming, finish
from tests.faults.scenarios.publishing import check_stream, count_publishes
from tests.faults.subscribers import Consumption, Subscriber
from tests.faults.witness import read_stream
from tests.faults.workloads import connections, crowd, publish_on, targets

DEADLINE = 2.0
"""Seconds that publishes have during an outage."""


@scenario("outage", "nats-server is away for a minute, under publishers and subscribers")
async def outage(run: Run) -> None:
    """Fail calls in time with UNAVAILABLE, tell by readiness, and resume consume calls."""
    async with single(run) as (node, servers), targets(run.history, servers) as places:
        (server,) = servers
        async with connections(run.history, 4, server.address) as made:
            await ensure_stream(made[0], "orders")
            await ensure_stream(made[0], "bare")
            await ensure_consumer(made[0], "orders", timeout=5.0)
            consumption = Consumption(run.history, "orders", "c")
            subscribers = [Subscriber(f"s{number}", consumption, places) for number in range(4)]
            for subscriber in subscribers:
                subscriber.start()
                await subscriber.ready()
            async with crowd() as workers:
                for number in range(8):
                    workers.add(
                        publish_on(
                            workers, made[number % 4], f"p{number}", "orders", pause=0.01, deadline=DEADLINE
                        )
                    )
                    workers.add(
                        publish_on(
                            workers, made[number % 4], f"b{number}", "bare",
                            keys=False, pause=0.01, deadline=DEADLINE,
                        )
                    )  # fmt: skip
                away = await _go_and_come(run, node, server)
            await finish(run, consumption, subscribers, node.url)
        run.demand(
            all(subscriber.sessions == 1 for subscriber in subscribers),
            "resume",
            f"subscribers made {[subscriber.sessions for subscriber in subscribers]} calls",
        )
        check_stream(run, "orders", stored := await read_stream(node.url, "orders"))
        check_stream(run, "bare", await read_stream(node.url, "bare"))
        check_consuming(run, stored)
        count_publishes(run)
        _check_failures(run, away)


async def _go_and_come(run: Run, node: Node, server: Server) -> tuple[float, float]:
    """Kill the broker, start it after a while, and take the times at which readiness told."""
    await asyncio.sleep(1)
    run.progress("away")
    gone = time.monotonic()
    await node.kill()
    unready = await _until_ready_is(run, server, 503)
    run.bar("readiness says 503 after, s", round(unready - gone, 2), 15.0)
    await asyncio.sleep(max(0.0, gone + run.scale(60, 6) - time.monotonic()))
    run.progress("back")
    back = time.monotonic()
    await node.start()
    ready = await _until_ready_is(run, server, 200)
    run.bar("readiness says 200 after, s", round(ready - back, 2), 5.0)
    await asyncio.sleep(2)
    first = min((each.at for each in run.history.deliveries if each.at > back), default=ready + 60)
    run.bar("consume calls resume after, s", round(first - back, 2), 5.0)
    return gone, back


async def _until_ready_is(run: Run, server: Server, status: int, within: float = 30.0) -> float:
    give_up = time.monotonic() + within
    while (await server.probe()).status != status:
        if time.monotonic() > give_up:
            run.demand(False, "readiness", f"it did not become {status} in {within} s")
            break
        await asyncio.sleep(0.05)
    return time.monotonic()


def _check_failures(run: Run, away: tuple[float, float]) -> None:
    """Check that calls during the outage were told, before their deadlines, that the broker is not there."""
    lags = [fault for fault in run.history.faults if fault.kind == "lag"]
    during = [
        publish
        for publish in run.history.publishes
        if away[0] + 1 < publish.start
        and publish.end < away[1]
        and publish.failures
        # Clients that were late may have missed the answer.
        and not any(lag.start < publish.end and publish.start < lag.end for lag in lags)
    ]
    # The first try had the whole time; what a later one has left may be too little for an answer.
    told = {(publish.failures[0].code, publish.failures[0].reason) for publish in during}
    others = told - {("UNAVAILABLE", "BROKER_UNAVAILABLE")}
    run.demand(not others, "outage", f"calls failed with {others}")
    run.count("publishes that failed while the broker was away", len(during))
    slowest = max((publish.end - publish.start for publish in during), default=0.0)
    run.bar("slowest of these (deadline 2 s), s", round(slowest, 2), 2.5)


ERRORS = (
    b"-ERR 'Authorization Violation'\r\n",
    b"-ERR 'Maximum Payload Violation'\r\n",
    b"-ERR 'Unknown Protocol Operation'\r\n",
    b"-ERR 'Stale Connection'\r\n",
    b"-ERR 'User Authentication Expired'\r\n",
    b"-ERR 'maximum connections exceeded'\r\n",
)


@scenario("closed", "the connection to NATS is ended with each kind of -ERR")
async def closed(run: Run) -> None:
    """Make the connection anew, and go on."""
    async with (
        running_node(run.history, run.directory / "nats") as node,
        running_proxy("127.0.0.1", node.server.port) as proxy,
        running_servers(run.history, run.directory, [f"nats://{proxy.address}"]) as servers,
        targets(run.history, servers) as places,
    ):
        made = places[0].connection
        await ensure_stream(made, "orders")
        await ensure_consumer(made, "orders", timeout=3.0)
        consumption = Consumption(run.history, "orders", "c")
        subscriber = Subscriber("s", consumption, places)
        subscriber.start()
        slowest = 0.0
        async with crowd() as workers:
            for number in range(4):
                workers.add(publish_on(workers, made, f"p{number}", "orders", pause=0.02))
            for error in ERRORS * run.scale(3, 1):
                await asyncio.sleep(0.5)
                since = time.monotonic()
                proxy.inject(error)
                await asyncio.sleep(0.05)
                done = len(run.history.deliveries)
                await run.until(
                    lambda done=done: len(run.history.deliveries) > done + 5,  # type: ignore[misc]
                    15,
                    f"events after {error.decode().strip()}",
                )
                slowest = max(slowest, time.monotonic() - since)
                run.count("errors", 1)
        await finish(run, consumption, [subscriber], node.url)
        run.demand(subscriber.sessions == 1, "resume", f"the subscriber made {subscriber.sessions} calls")
        run.bar("slowest to go on, s", round(slowest, 2), 5.0)
        check_stream(run, "orders", stored := await read_stream(node.url, "orders"))
        check_consuming(run, stored)
        count_publishes(run)
        run.demand(
            all(publish.outcome is Outcome.DONE for publish in run.history.publishes),
            "caller error",
            "a publish failed within its deadline of 15 s",
        )
