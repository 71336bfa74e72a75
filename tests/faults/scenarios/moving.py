"""A consumer is moved and paused under load and kills, with retries, dead letters and replays in flight."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from tests.faults.calls import Connection, Refused, ensure_consumer, ensure_stream
from tests.faults.history import Told
from tests.faults.places import single
from tests.faults.processes import Node, Server
from tests.faults.run import Run, scenario
from tests.faults.subscribers import Behaviour, Consumption, Session, Subscriber
from tests.faults.workloads import connections, targets
from tests.support.client import DEAD_LETTERS
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin_pb
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

ENDS = ("ack", "drop", "bury")
ADMIN = admin_pb.DESCRIPTOR.services_by_name["AdminService"]

Strike = Callable[[], Awaitable[object]]


def work(luck: random.Random) -> Behaviour:
    """Mostly acknowledge, at once or after a while; reject some, and give up on a few."""

    def behave(session: Session, event: pb.Event) -> None:
        match luck.random():
            case chance if chance < 0.05:
                session.settle("reject", event.id)
            case chance if chance < 0.08:
                session.settle("bury", event.id)
            case chance if chance < 0.3:
                session.later(luck.uniform(0, 0.2), lambda: session.settle("ack", event.id))
            case _:
                session.settle("ack", event.id)

    return behave


@scenario(
    "seek",
    "a consumer is moved back, and paused, again and again; two servers and nats-server are killed meanwhile",
)
async def seek(run: Run) -> None:
    """Every event from the new position on is delivered anew and ends anew, whatever had become of it."""
    events = run.events(2000, 150)
    async with single(run, servers=2) as (node, servers):
        addresses = [server.address for server in servers]
        async with connections(run.history, 2, *addresses) as made, targets(run.history, servers) as places:
            await ensure_stream(made[0], "s")
            await ensure_consumer(
                made[0], "s", timeout=3.0, retry_policy={"dead_letters": True, "max_attempts": 50}
            )
            for number in range(events):
                await made[0].publish("p", "s.x", str(number), f"k{number}", stream="s")
            consumption = Consumption(run.history, "s", "c")
            subscribers = [
                Subscriber(f"s{number}", consumption, places[number % 2 :] + places, work(run.more_luck()))
                for number in range(4)
            ]
            for subscriber in subscribers:
                subscriber.start()
            for number in range(run.scale(30, 4)):
                run.progress(f"move {number + 1}")
                await _move(run, consumption, made[number % 2], events, _strikes(run, node, servers))
            for subscriber in subscribers:
                await subscriber.stop()


def _strikes(run: Run, node: Node, servers: Sequence[Server]) -> Strike:
    """Choose what happens while the consumer is moved."""

    async def restart(process: Node | Server) -> None:
        await asyncio.sleep(run.luck.uniform(0, 0.1))
        await process.crash()

    async def nothing() -> None:
        await asyncio.sleep(0)

    match run.luck.randrange(4):
        case 0:
            return lambda: restart(servers[run.luck.randrange(2)])
        case 1:
            return lambda: restart(node)
        case 2:
            return lambda: servers[run.luck.randrange(2)].freeze(run.luck.uniform(0.5, 4))
        case _:
            return nothing


async def _move(
    run: Run, consumption: Consumption, connection: Connection, events: int, strike: Strike
) -> None:
    """Move the consumer, and see that all from there on is settled anew.

    What was asked for and not confirmed may have come about all the same.
    """
    await asyncio.sleep(run.luck.uniform(0, 1))
    if run.luck.random() < 0.3:
        pause = admin_pb.PauseConsumerRequest(stream="s", consumer=consumption.consumer)
        pause.until.FromSeconds(int(time.time()) + 2)
        await connection.insist(ADMIN.methods_by_name["PauseConsumer"], pause)
        run.count("pauses", 1)
    replay = dead_letters_pb.ReplayRequest(filter=dead_letters_pb.Filter(stream="s"))
    await connection.insist(DEAD_LETTERS.methods_by_name["Replay"], replay)
    target = run.luck.randrange(1, events // 2)
    begun, _ = await asyncio.gather(_seek(connection, target), strike())
    run.count("moves", 1)
    missing = set(range(target, events + 1))
    perhaps: set[int] = set()
    seen = 0

    def is_done() -> bool:
        nonlocal seen
        for each in run.history.settlements[seen:]:
            if each.kind not in ENDS or each.start < begun:
                continue
            if each.told is Told.CONFIRMED:
                missing.discard(each.id)
            elif each.told is not Told.INVALID:
                perhaps.add(each.id)
        seen = len(run.history.settlements)
        return missing <= perhaps

    if await run.until(is_done, 60, "all from there on is settled anew"):
        run.count("ends without an answer", len(missing))
    else:
        missing -= perhaps
        run.notes.append(
            f"moved to {target}, and of {events:,} these did not end anew: {sorted(missing)[:20]}"
        )


async def _seek(connection: Connection, target: int) -> float:
    """Move the consumer, and try until it is done; return when the last attempt began."""
    request = admin_pb.SeekConsumerRequest(stream="s", consumer="c", to={"offset": target})
    while True:
        begun = time.monotonic()
        answer = await connection.attempt(ADMIN.methods_by_name["SeekConsumer"], request)
        if not isinstance(answer, Refused):
            return begun
        if not answer.retryable:
            raise AssertionError(f"the seek ended with {answer}")
        await asyncio.sleep(0.1)
