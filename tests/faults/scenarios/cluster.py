"""A cluster of three nats-servers whose members fail, under publishers and consumers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.faults import checks
from tests.faults.calls import ensure_consumer, ensure_stream
from tests.faults.history import Outcome
from tests.faults.places import clustered
from tests.faults.processes import Node, Server
from tests.faults.run import Run, scenario
from tests.faults.scenarios.consuming import check_consuming, finish
from tests.faults.scenarios.publishing import check_stream, count_publishes, publish_one_key
from tests.faults.subscribers import Consumption, Subscriber, acknowledge, together
from tests.faults.witness import ask, leader, looking, read_stream
from tests.faults.workloads import connections, crowd, publish_on, targets

PUBLISHERS = 16


class Rounds:
    """Faults of a cluster, one after the other, with the gaps that each of them made."""

    def __init__(self, run: Run, nodes: Sequence[Node], servers: Sequence[Server]) -> None:
        self._run = run
        self._nodes = {node.member: node for node in nodes}
        self._servers = servers

    async def leads(self) -> Node:
        """Find the stream's leader."""
        return await self._leader()

    async def leads_consumer(self) -> Node:
        """Find the consumer's leader."""
        return await self._leader("c")

    async def _leader(self, consumer: str = "") -> Node:
        while True:
            for node in self._nodes.values():
                async with looking(node.url) as client:
                    name = await leader(client, "orders", consumer)
                if name in self._nodes:
                    return self._nodes[name]
            await asyncio.sleep(0.2)

    async def connected(self) -> Node:
        """Find the node that the first server is connected to."""
        ports = self._servers[0].peers()
        return next(node for node in self._nodes.values() if node.server.port in ports)

    async def strike(self, fault: Fault) -> None:
        """Let one fault happen, let things settle, and take the gaps."""
        victim = await fault.find(self)
        start, what = time.monotonic(), fault.what
        self._run.progress(f"{what}: {victim.name}, {len(self._run.history.publishes):,} publishes")
        await fault.strike(victim)
        await self._settled()
        await asyncio.sleep(1)
        history = self._run.history
        done = [each.end for each in history.publishes if each.outcome is Outcome.DONE]
        seen = [each.at for each in history.deliveries]
        now = time.monotonic()
        publishing = checks.longest_gap(done, start, now)
        consuming = checks.longest_gap(seen, start, now)
        limit = 1.0 if fault.graceful else 15.0
        self._run.bar(f"{what}: longest gap between publishes, s", round(publishing, 2), limit)
        self._run.bar(f"{what}: longest gap between deliveries, s", round(consuming, 2), 15.0)

    async def _settled(self) -> None:
        """Wait until every replica of the stream and its consumer has caught up."""
        async with looking(next(iter(self._nodes.values())).url) as client, asyncio.timeout(90):
            while True:
                for api in ("STREAM.INFO.orders", "CONSUMER.INFO.orders.c"):
                    cluster = (await ask(client, api)).get("cluster", {})
                    peers = cluster.get("replicas", [])
                    if not cluster.get("leader") or not all(each.get("current") for each in peers):
                        break
                else:
                    return
                await asyncio.sleep(0.3)


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        find: says which node it strikes.
        graceful: whether the node can hand over what it leads.
        short: whether the short form has it too.
    """

    what: str
    find: Callable[[Rounds], Awaitable[Node]]
    strike: Callable[[Node], Awaitable[None]]
    graceful: bool = False
    short: bool = False


async def _kill(node: Node) -> None:
    await node.kill()
    await asyncio.sleep(2)
    await node.start()


async def _freeze(node: Node) -> None:
    await node.freeze(10)


async def _stop(node: Node) -> None:
    await node.stop()
    await asyncio.sleep(2)
    await node.start()


async def _retire(node: Node) -> None:
    await node.retire()
    await asyncio.sleep(2)
    await node.start()


FAULTS = (
    Fault("leader killed", Rounds.leads, _kill, short=True),
    Fault("consumer's leader killed", Rounds.leads_consumer, _kill),
    Fault("connected node killed", Rounds.connected, _kill),
    Fault("leader frozen for 10 s", Rounds.leads, _freeze),
    Fault("leader stopped", Rounds.leads, _stop, graceful=True, short=True),
    Fault("leader a lame duck", Rounds.leads, _retire, graceful=True),
)


@scenario(
    "cluster",
    "three nodes, two servers: leaders and connected nodes are killed, frozen, stopped, made lame ducks",
)
async def cluster(run: Run) -> None:
    """No caller sees an error within 15 seconds, nothing is lost, nothing is stored twice."""
    async with clustered(run) as (nodes, servers):
        addresses = [server.address for server in servers]
        async with connections(run.history, 4, *addresses) as made, targets(run.history, servers) as places:
            await ensure_stream(made[0], "orders")
            await ensure_consumer(made[0], "orders")
            await ensure_consumer(made[0], "orders", "o")
            consumption = Consumption(run.history, "orders", "c")
            order = checks.Order()
            ordered = Consumption(
                run.history,
                "orders",
                "o",
                keep=False,
                watch=lambda each: run.count("events that came late", len(list(order.see(each)))),
            )
            subscribers = [
                Subscriber(f"s{n}", consumption, places[n:] + places[:n], behave)
                for n, behave in enumerate((acknowledge, together(run.more_luck())))
            ]
            subscribers.append(Subscriber("o", ordered, places))
            for subscriber in subscribers:
                subscriber.start()
                await subscriber.ready()
            async with crowd() as workers:
                for number in range(PUBLISHERS):
                    workers.add(publish_on(workers, made[number % 4], f"p{number}", "orders", pause=0.01))
                await strike_all(run, Rounds(run, nodes, servers))
            await finish(run, ordered, subscribers[2:], nodes[0].url)
            await finish(run, consumption, subscribers[:2], nodes[0].url)
        stored = await read_stream(nodes[0].url, "orders")
        check_stream(run, "orders", stored)
        check_consuming(run, stored)
        count_publishes(run)
        for publish in run.history.publishes:
            run.demand(
                publish.outcome is Outcome.DONE, "caller error", f"{publish.value}: {publish.failures[-1:]}"
            )


async def strike_all(run: Run, rounds: Rounds) -> None:
    """Let every kind of fault happen as often as was asked for."""
    await asyncio.sleep(1)
    for _ in range(run.scale(3, 1)):
        for fault in FAULTS:
            if fault.short or not run.options.short:
                await rounds.strike(fault)
                run.count("faults", 1)


@scenario(
    "one-key-cluster", "100 concurrent publishes of one key, and repeats on conditions, with three replicas"
)
async def one_key_cluster(run: Run) -> None:
    """One is stored, and every caller gets its id."""
    async with clustered(run) as (nodes, servers):
        await publish_one_key(run, servers, nodes[0].url)
