"""Random schedules of faults. A seed gives the same schedule again, if not the same timing."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.places import Proxied

NATS, SERVER, LINK = "nats", "server", "link"

ACTIONS = {
    NATS: ("kill", "kill", "stop", "freeze"),
    SERVER: ("kill", "stop", "freeze"),
    LINK: ("delay", "stall", "cut"),
}
TARGETS = [(NATS, 0)] * 2 + [(SERVER, 0), (SERVER, 1)] + [(LINK, number) for number in range(4)]


@dataclass(frozen=True, slots=True)
class Step:
    """One fault of a schedule.

    Attributes:
        at: seconds since the start.
        seconds: how long it stays away, frozen, delayed or stalled.
    """

    at: float
    action: str
    target: str
    number: int
    seconds: float


def schedule(luck: random.Random, steps: int, pace: float) -> list[Step]:
    """Make a schedule of so many steps, with a pause of about `pace` seconds between their beginnings."""
    made, at = [], 0.0
    for _ in range(steps):
        at += luck.uniform(0.2, 1.8) * pace
        target, number = luck.choice(TARGETS)
        action = luck.choice(ACTIONS[target])
        longest = 3.0 if action in ("freeze", "stall", "delay") else 1.0
        made.append(Step(round(at, 3), action, target, number, round(luck.uniform(0.05, longest), 3)))
    return made


async def follow(steps: Sequence[Step], place: Proxied) -> None:
    """Let the steps of a schedule happen. Those that strike the same process wait for each other."""
    start = time.monotonic()
    locks: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def strike(step: Step) -> None:
        await asyncio.sleep(start + step.at - time.monotonic())
        async with locks[step.target, step.number]:
            await _strike(step, place)

    async with asyncio.TaskGroup() as tasks:
        for step in steps:
            tasks.create_task(strike(step))


async def _strike(step: Step, place: Proxied) -> None:
    if step.target == LINK:
        await place.links[step.number].disturb(step.action, step.seconds)
        return
    victim = place.node if step.target == NATS else place.servers[step.number]
    match step.action:
        case "freeze":
            await victim.freeze(step.seconds)
        case "kill":
            await victim.kill()
            await asyncio.sleep(step.seconds)
            await victim.start()
        case _:
            await victim.stop()
            await asyncio.sleep(step.seconds)
            await victim.start()
