"""How events end: once each, with several consumers, whatever is late, frozen, stopped or killed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.faults import checks
from tests.faults.calls import Connection, ensure_consumer, ensure_stream
from tests.faults.history import Told
from tests.faults.places import Proxied, clustered, proxied
from tests.faults.processes import Node, Server
from tests.faults.run import Run, scenario
from tests.faults.scenarios.consuming import finish
from tests.faults.scenarios.publishing import check_stream, count_publishes
from tests.faults.subscribers import Behaviour, Consumption, Session, Subscriber, Target
from tests.faults.witness import dead_letters_of, read_stream
from tests.faults.workloads import connections, crowd, publish_on, targets
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Kind:
    """A consumer: its timeout in seconds, and how many attempts it makes."""

    name: str
    timeout: float
    attempts: int


SHORT_ONES = (Kind("once", 1.0, 1), Kind("twice", 1.0, 2), Kind("longer", 3.0, 2))
KINDS = (*SHORT_ONES, Kind("long", 8.0, 3), Kind("longest", 30.0, 2))


def indecisive(kind: Kind, luck: random.Random, is_enough: asyncio.Event) -> Behaviour:
    """Settle in any way, at any time, often when the timeout is about to be over, or never."""

    def behave(session: Session, event: pb.Event) -> None:
        if is_enough.is_set():
            session.settle("ack", event.id)
            return
        how = luck.choices(
            ("ack", "reject", "drop", "bury", "ping", "never"),
            (60, 20, 4, 6, 6, 4 if kind.timeout < 5 else 0),
        )[0]
        after = luck.choices(
            (0.0, luck.uniform(0, 0.2), luck.uniform(0, kind.timeout), kind.timeout + luck.gauss(0, 0.1)),
            (40, 30, 15, 15),
        )[0]
        match how:
            case "never":
                pass
            case "ping":
                session.later(kind.timeout * 0.7, lambda: session.settle("ping", event.id))
                session.later(kind.timeout * luck.uniform(0.9, 1.5), lambda: session.settle("ack", event.id))
            case _:
                session.later(max(0.0, after), lambda: session.settle(how, event.id))

    return behave


# --- By chance ----------------------------------------------------------------------------------------------


@scenario(
    "ends",
    "nats-server is frozen, restarted and killed, two servers are paused, restarted and killed, the ways to "
    "NATS stall, under consumers with timeouts from 1 s that acknowledge, reject and drop at the last moment",
)
async def ends(run: Run) -> None:
    """End each event of each consumer acknowledged, dropped, or as one dead letter."""
    async with proxied(run) as place, connections(run.history, 4, *place.addresses) as made:
        faults = _faults_of_one(run, place)
        await _play(run, made, place.targets, place.node.url, faults)


@scenario(
    "ends-cluster",
    "the same with three replicas: nodes are frozen, stopped and killed, servers paused and killed",
    tested=False,  # ends, and cluster
)
async def ends_cluster(run: Run) -> None:
    """End each event of each consumer acknowledged, dropped, or as one dead letter."""
    async with (
        clustered(run) as (nodes, servers),
        targets(run.history, servers) as places,
        connections(run.history, 4, *(server.address for server in servers)) as made,
    ):
        await _play(run, made, places, nodes[0].url, _faults_of_three(run, nodes, servers))


def _faults_of_one(run: Run, place: Proxied) -> Sequence[Callable[[], Awaitable[None]]]:
    node, luck = place.node, run.luck

    async def freeze_nats() -> None:
        await node.freeze(luck.uniform(0.1, 4))

    async def pause_server() -> None:
        await luck.choice(place.servers).freeze(luck.uniform(0.02, 4))

    async def stall() -> None:
        await luck.choice(place.links[:2]).disturb("stall", luck.uniform(0.1, 4))

    async def restart_server() -> None:
        await luck.choice(place.servers).restart()

    async def kill_server() -> None:
        await luck.choice(place.servers).crash()

    return (freeze_nats,) * 4 + (pause_server,) * 2 + (stall,) * 2 + (
        node.restart, node.crash, restart_server, kill_server,
    )  # fmt: skip


def _faults_of_three(
    run: Run, nodes: Sequence[Node], servers: Sequence[Server]
) -> Sequence[Callable[[], Awaitable[None]]]:
    luck = run.luck

    async def freeze_node() -> None:
        await luck.choice(nodes).freeze(luck.uniform(0.1, 4))

    async def pause_server() -> None:
        await luck.choice(servers).freeze(luck.uniform(0.02, 4))

    async def restart_node() -> None:
        await luck.choice(nodes).restart()

    async def kill_node() -> None:
        await luck.choice(nodes).crash()

    async def kill_server() -> None:
        await luck.choice(servers).crash()

    return (freeze_node,) * 4 + (pause_server,) * 2 + (restart_node, kill_node, kill_server)


async def _play(
    run: Run,
    made: Sequence[Connection],
    places: Sequence[Target],
    url: str,
    faults: Sequence[Callable[[], Awaitable[None]]],
) -> None:
    kinds = SHORT_ONES if run.options.short else KINDS
    await ensure_stream(made[0], "orders")
    working: list[tuple[Consumption, list[Subscriber]]] = []
    is_enough = asyncio.Event()
    for kind in kinds:
        policy = {"max_attempts": kind.attempts, "initial_backoff": {"nanos": 10_000_000}}
        await ensure_consumer(made[0], "orders", kind.name, kind.timeout, retry_policy=policy)
        consumption, subscribers = Consumption(run.history, "orders", kind.name), []
        for number in range(4):
            behave = indecisive(kind, run.more_luck(), is_enough)
            turned = [*places[number % 2 :], *places]
            subscribers.append(Subscriber(f"{kind.name}{number}", consumption, turned, behave))
            subscribers[-1].start()
        working.append((consumption, subscribers))

    async def strike() -> None:
        """Go on until it is enough; not cut off, or what was stopped would never be started again."""
        while not is_enough.is_set():
            await asyncio.sleep(run.luck.uniform(0.3, 3.0))
            await run.luck.choice(faults)()
            run.count("faults", 1)

    most, publishes = run.events(4_000, 100), run.history.publishes
    async with crowd() as workers:
        for number in range(8):
            workers.add(publish_on(workers, made[number % 4], f"p{number}", "orders", pause=0.15))
        async with asyncio.TaskGroup() as striking:
            striking.create_task(strike())
            while len(publishes) < most or run.counts.get("faults", 0) < run.scale(20, 2):
                run.progress(f"{len(publishes):,} publishes, {run.counts.get('faults', 0)} faults")
                await asyncio.sleep(0.1)
            is_enough.set()
    for consumption, subscribers in working:
        await finish(run, consumption, subscribers, url, within=180)
    await check_ends(run, url, kinds)


async def check_ends(run: Run, url: str, kinds: Sequence[Kind]) -> None:
    """Check how each event of each consumer ended, and put the figures down."""
    history = run.history
    stored = await read_stream(url, "orders")
    check_stream(run, "orders", stored)
    run.check(checks.unfaithful(history.deliveries, stored))
    run.check(checks.undocumented(history.failures))
    for kind in kinds:
        letters = await dead_letters_of(url, "orders", kind.name)
        name = f"orders.{kind.name}"
        settlements = [each for each in history.settlements if each.consumer == name]
        run.check(checks.wrongly_ended(stored, settlements, letters))
        run.count("events x consumers", len(stored))
        run.count("ended as a dead letter", len(letters))
        ends = [each for each in settlements if each.kind in ("ack", "drop")]
        run.count("ended otherwise", len({each.id for each in ends if each.told is Told.CONFIRMED}))
        run.count("acks and drops that came too late", sum(each.told is Told.INVALID for each in ends))
    again = checks.redelivered(history.deliveries, history.settlements, history.faults)
    run.check(again.violations)
    run.count("under way when confirmed", again.crossed)
    run.count("forgotten by a killed nats-server", again.forgotten)
    count_publishes(run)
