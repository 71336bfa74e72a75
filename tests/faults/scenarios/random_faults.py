"""Everything at once: clients of all kinds under a random schedule of faults."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.faults import checks
from tests.faults.calls import Connection, ensure_consumer, ensure_store, ensure_stream
from tests.faults.history import Outcome
from tests.faults.places import Proxied, proxied
from tests.faults.run import Run, scenario
from tests.faults.scenarios.consuming import check_consuming, finish
from tests.faults.scenarios.publishing import check_stream, count_publishes
from tests.faults.schedules import Step, follow, schedule
from tests.faults.subscribers import Consumption, Subscriber, mixed
from tests.faults.witness import read_stream
from tests.faults.workloads import (
    Crowd,
    connections,
    crowd,
    in_background,
    increment,
    publish_conditionally,
    publish_on,
)

STREAMS = ("orders", "bare", "conditional")


@scenario(
    "random",
    "a random schedule, by its seed: kills, stops and freezes of nats-server and two servers; "
    "delays, stalls and resets of the ways between them and to their clients",
    seeded=True,
)
async def random_faults(run: Run) -> None:
    """Keep all that is promised, whatever comes together."""
    steps = schedule(run.luck, run.scale(14, 5), run.scale(10, 6) / 10)
    async with proxied(run) as place:
        async with connections(run.history, 4, *place.addresses) as made:
            consumption, subscribers = await _prepare(run, place, made)
            async with crowd() as workers:
                _work(run, workers, made)
                async with in_background(_tell(run, steps)):
                    await follow(steps, place)
                await asyncio.sleep(1)
            await finish(run, consumption, subscribers, place.node.url)
        for step in steps:
            run.count(f"{step.action} of {step.target}", 1)
        streams = {stream: await read_stream(place.node.url, stream) for stream in STREAMS}
    for stream, stored in streams.items():
        check_stream(run, stream, stored)
    check_consuming(run, streams["orders"])
    run.check(checks.not_linearizable(run.history.accesses))
    count_publishes(run)
    run.count("calls on keys", len(run.history.accesses))
    writes = [each for each in run.history.accesses if each.kind == "set"]
    run.count("additions", sum(each.outcome is Outcome.DONE for each in writes))


async def _prepare(
    run: Run, place: Proxied, made: Sequence[Connection]
) -> tuple[Consumption, list[Subscriber]]:
    for stream in STREAMS:
        await ensure_stream(made[0], stream)
    await ensure_store(made[0], "counters")
    await ensure_consumer(made[0], "orders", timeout=3.0)
    consumption = Consumption(run.history, "orders", "c")
    subscribers = [
        Subscriber(
            f"s{number}", consumption, place.targets[number % 2 :] + place.targets, mixed(run.more_luck())
        )
        for number in range(4)
    ]
    for subscriber in subscribers:
        subscriber.start()
    return consumption, subscribers


def _work(run: Run, workers: Crowd, made: Sequence[Connection]) -> None:
    for number in range(12):
        workers.add(publish_on(workers, made[number % 4], f"p{number}", "orders", pause=0.02))
    for number in range(3):
        luck = run.more_luck()
        workers.add(publish_on(workers, made[number], f"b{number}", "bare", keys=False, pause=0.03))
        workers.add(
            publish_conditionally(workers, made[number], f"c{number}", "conditional", luck, pause=0.02)
        )
    for number in range(6):
        key = f"k{number % 2}"
        workers.add(
            increment(workers, made[number % 4], f"w{number}", "counters", key, 10**6, run.more_luck(), 0.02)
        )


async def _tell(run: Run, steps: Sequence[Step]) -> None:
    for before, step in zip([0.0, *(each.at for each in steps)], steps, strict=False):
        await asyncio.sleep(step.at - before)
        run.progress(
            f"seed {run.seed}: {step.action} of {step.target} {step.number} for {step.seconds:.1f} s"
        )
