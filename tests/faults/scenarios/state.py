"""Stores under compare-and-swap while things are killed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence

from tests.faults import checks
from tests.faults.calls import ensure_store
from tests.faults.history import Outcome
from tests.faults.places import clustered, single
from tests.faults.processes import Server
from tests.faults.run import Run, scenario
from tests.faults.workloads import connections, crowd, increment, number_of, rounds

WRITERS = 16
KEYS = 4


async def count_up(run: Run, servers: Sequence[Server], times: int, faults: Awaitable[None]) -> None:
    """Let 16 writers add to numbers, four to each, until each has added so often; then check the history."""
    async with connections(run.history, 8, *(server.address for server in servers)) as made:
        await ensure_store(made[0], "counters")
        since = time.monotonic()
        async with crowd() as workers:
            for number in range(WRITERS):
                workers.add(
                    increment(
                        workers,
                        made[number % 8],
                        f"w{number}",
                        "counters",
                        f"k{number % KEYS}",
                        times,
                        run.luck,
                    )
                )
            workers.enough = False
            await faults
            workers.enough = True
            await workers.done(lambda: f"{len(run.history.accesses):,} calls", run.progress)
        totals = [
            number_of((await made[0].read("reader", "counters", f"k{key}")).found) for key in range(KEYS)
        ]
    check_counters(run, totals, since)


def check_counters(run: Run, totals: Sequence[int], since: float) -> None:
    """Check that the calls have an order, and that no addition is missing."""
    writes = [each for each in run.history.accesses if each.kind == "set"]
    done = [each for each in writes if each.outcome is Outcome.DONE]
    unknown = [each for each in writes if each.outcome is Outcome.UNKNOWN]
    run.check(checks.not_linearizable(run.history.accesses))
    run.check(checks.undocumented(run.history.failures))
    run.demand(
        len(done) <= sum(totals) <= len(done) + len(unknown),
        "lost update",
        f"{len(done)} additions are certain, {len(unknown)} of unknown outcome, and the sum is {sum(totals)}",
    )
    run.count("calls in the history", len(run.history.accesses))
    run.count("additions", len(done))
    run.count("conflicts", sum(each.actual is not None for each in writes))
    run.count("of unknown outcome", len(unknown))
    ends = [each.end for each in done]
    run.count("longest gap, s", round(checks.longest_gap(ends, since, max(ends, default=since)), 2))


@scenario(
    "counters",
    "16 writers add to 4 numbers by compare-and-swap through kill -9 of nats-server and server in turn",
)
async def counters(run: Run) -> None:
    """Every history of a key is linearizable, and no update is lost."""
    async with single(run, servers=2) as (node, servers):

        async def strike(number: int) -> None:
            await (node if number % 2 else servers[number // 2 % 2]).crash()

        work = rounds(run, run.scale(12, 2), run.scale(3, 1), strike, "kill")
        await count_up(run, servers, run.scale(1000, 30), work)


@scenario(
    "counters-cluster",
    "the same on a store with three replicas: nodes are killed, frozen and stopped in turn",
    tested=False,  # counters, and transactions
)
async def counters_cluster(run: Run) -> None:
    """Every history of a key is linearizable, with replicas too."""
    async with clustered(run) as (nodes, servers):

        async def strike(number: int) -> None:
            victim = nodes[run.luck.randrange(3)]
            match number % 3:
                case 0:
                    await victim.crash()
                case 1:
                    await victim.freeze(8)
                case _:
                    await victim.restart()

        work = rounds(run, run.scale(6, 1), run.scale(8, 1), strike, "fault")
        await count_up(run, servers, run.scale(250, 30), work)
