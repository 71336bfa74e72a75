"""Backups while everything goes on, and a move to a cluster, as docs/operations/backup.md has them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.faults import checks
from tests.faults.calls import Connection, duration, ensure_consumer, ensure_store, ensure_stream
from tests.faults.checks import Violation
from tests.faults.history import History, Outcome, Publish, Stored, Told
from tests.faults.places import single
from tests.faults.processes import Node, command, running_cluster, running_node, running_servers
from tests.faults.run import Run, scenario
from tests.faults.scenarios.consuming import finish
from tests.faults.scenarios.publishing import check_stream, count_publishes
from tests.faults.serializable import Version
from tests.faults.subscribers import Behaviour, Consumption, Session, Subscriber
from tests.faults.witness import (
    all_current,
    ask,
    dead_letters,
    has_leader,
    looking,
    read_bucket,
    read_stream,
)
from tests.faults.workloads import connections, crowd, publish_on, targets
from tests.support.client import EVENTS, any_of
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

_BATCH = EVENTS.methods_by_name["PublishBatch"]
_TOGETHER = 500
_KEYS = tuple(f"account.{number}" for number in range(20))
_AGAIN = 200
"""Events that are published once more, with their keys, after a restore."""


def uneven(luck: random.Random) -> Behaviour:
    """Acknowledge most; give up on some, and leave some until their timeout."""

    def behave(session: Session, event: pb.Event) -> None:
        match luck.random():
            case chance if chance < 0.01:
                session.settle("bury", event.id)
            case chance if chance < 0.02:
                pass
            case _:
                session.settle("ack", event.id)

    return behave


async def prepare(run: Run, connection: Connection, count: int) -> None:
    """Make a consumer, a store, and a stream that remembers the keys of its many events for an hour."""
    await ensure_stream(connection, "orders", deduplication_window=duration(3600))
    await ensure_consumer(connection, "orders", timeout=3.0, retry_policy={"max_attempts": 100})
    await ensure_store(connection, "accounts")
    for first in range(0, count, _TOGETHER):
        values = [f"many.{number}" for number in range(first, min(count, first + _TOGETHER))]
        events = [
            pb.PublishEventRequest(subject="orders.many", data=any_of(value), idempotency_key=value)
            for value in values
        ]
        start = time.monotonic()
        response = await connection.insist(_BATCH, pb.PublishBatchRequest(events=events))
        assert not response.errors, response.errors[0]
        end = time.monotonic()
        run.history.publishes += [
            Publish("many", "orders", "orders.many", value, value, None, start, end, id_, Outcome.DONE)
            for value, id_ in zip(values, response.ids, strict=True)
        ]
        run.progress(f"{first:,} events published")


async def write_values(connection: Connection, luck: random.Random, times: int) -> None:
    """Write values, each of them new."""
    for number in range(times):
        await connection.set("w", "accounts", luck.choice(_KEYS), f"{number} w")


class Kept(NamedTuple):
    """What a nats-server has.

    Attributes:
        position: the last event before the first unsettled one, the last delivered one, the unsettled ones.
    """

    events: dict[int, Stored]
    letters: list[int]
    values: list[Version]
    position: tuple[int, int, int]


async def kept(url: str) -> Kept:
    """Read all of it."""
    async with looking(url) as client:
        info = await ask(client, "CONSUMER.INFO.orders.c")
    position = info["ack_floor"]["stream_seq"], info["delivered"]["stream_seq"], info["num_ack_pending"]
    events, values = await read_stream(url, "orders", 300), await read_bucket(url, "accounts")
    return Kept(events, sorted(await dead_letters(url)), values, position)


async def check_keys(run: Run, connection: Connection, publishes: Sequence[Publish]) -> None:
    """Check that what is published again, with its key, is what it was."""
    for publish in run.luck.sample(publishes, min(_AGAIN, len(publishes))):
        again = await connection.publish("again", publish.subject, publish.value, publish.key)
        run.demand(again.id == publish.id, "key", f"{publish.key} was {publish.id} and is now {again.id}")
        run.count("events published again", 1)


async def check_values(run: Run, connection: Connection, values: Sequence[Version]) -> None:
    """Check that values have their revisions."""
    for value in values:
        found = await connection.read("again", "accounts", value.key)
        run.demand(
            (found.revision, found.found) == (value.revision, value.value), "value", f"{value} is {found}"
        )


# --- A move -----------------------------------------------------------------------------------------------


@scenario(
    "move",
    "an embedded NATS is backed up, and restored into a cluster with three replicas: events with keys, a "
    "consumer half-way, dead letters and a store",
    tested=False,  # test_operations moves to another nats-server, and restores into a cluster
)
async def move(run: Run) -> None:
    """Find all of it, and go on from there: nothing is lost, nothing comes twice."""
    count = run.events(100_000, 1000)
    consumption = Consumption(run.history, "orders", "c")
    backup = str(run.directory / "backup")
    async with running_servers(run.history, run.directory, [""]) as (server,):
        async with (
            connections(run.history, 1, server.address) as (connection,),
            targets(run.history, [server]) as places,
        ):
            await prepare(run, connection, count)
            await write_values(connection, run.luck, run.scale(200, 20))
            subscribers = [
                Subscriber(f"s{n}", consumption, places, uneven(run.more_luck())) for n in range(2)
            ]
            for subscriber in subscribers:
                subscriber.start()
            await run.until(lambda: len(consumption.settled) > count // 2, 600, "half of it is settled")
            for subscriber in subscribers:
                await subscriber.stop()
        await server.stop()
        await timed(run, "backup", backup, **server.environment)
    async with running_node(run.history, run.directory / server.name) as node:
        before = await kept(node.url)
    async with running_cluster(run.history, run.directory) as nodes:
        urls = ",".join(node.url for node in nodes)
        await has_leader(nodes[0].url)
        await timed(run, "restore", backup, "--replicas", "3", NATS_URL=urls)
        await all_current(nodes[0].url)
        run.demand(await kept(nodes[0].url) == before, "restored", "it is not what there was")
        for node in nodes:
            await node.restart()
            await all_current(node.url)
        async with (
            running_servers(run.history, run.directory / "new", [urls]) as servers,
            connections(run.history, 1, servers[0].address) as (connection,),
            targets(run.history, servers) as places,
        ):
            await check_keys(run, connection, list(run.history.publishes))
            await check_values(run, connection, before.values)
            subscribers = [Subscriber(f"n{n}", consumption, places) for n in range(2)]
            for subscriber in subscribers:
                subscriber.start()
            await finish(run, consumption, subscribers, nodes[0].url, 600)
        stored, letters = await read_stream(nodes[0].url, "orders"), await dead_letters(nodes[0].url)
    check_stream(run, "orders", stored)
    run.check(checks.wrongly_ended(stored, run.history.settlements, letters))
    run.check(checks.redelivered(run.history.deliveries, run.history.settlements).violations)
    run.check(checks.unfaithful(run.history.deliveries, stored))
    count_publishes(run)
    run.count("deliveries", len(run.history.deliveries))
    run.count("dead letters", len(letters))


async def timed(run: Run, *arguments: str, **environment: str) -> None:
    """Run a command of `windshift`, and put down how long it took."""
    run.progress(arguments[0])
    start = time.monotonic()
    await command(*arguments, **{"HOME": str(run.directory), **environment})
    run.count(f"seconds of the {arguments[0]}", round(time.monotonic() - start, 1))


# --- While everything goes on -----------------------------------------------------------------------------


@scenario(
    "backup",
    "a backup is made under publishers, subscribers and writers of a store, and restored into another NATS",
)
async def backup(run: Run) -> None:
    """Find in it what was confirmed before it began, and go on from there: nothing is lost or comes again."""
    count = run.events(100_000, 500)
    directory = str(run.directory / "backup")
    async with (
        single(run) as (node, servers),
        connections(run.history, 3, servers[0].address) as made,
        targets(run.history, servers) as places,
    ):
        await prepare(run, made[0], count)
        consumption = Consumption(run.history, "orders", "c")
        subscribers = [Subscriber(f"s{n}", consumption, places, uneven(run.more_luck())) for n in range(2)]
        for subscriber in subscribers:
            subscriber.start()
        async with crowd() as workers:
            for number in range(2):
                workers.add(publish_on(workers, made[number], f"p{number}", "orders", pause=0.005))
            workers.add(write_values(made[2], run.luck, run.scale(1000, 50)))
            await run.until(lambda: len(consumption.settled) > count // 2, 600, "half of it is settled")
            begin = time.monotonic()
            await timed(run, "backup", directory, NATS_URL=node.url)
            end = time.monotonic()
            await asyncio.sleep(0.5)
        for subscriber in subscribers:
            await subscriber.stop()
    first = run.history
    run.history = History()
    async with running_node(run.history, run.directory / "restored") as node:
        await timed(run, "restore", directory, NATS_URL=node.url)
        found = await kept(node.url)
        await node.restart()
        await go_on(run, node, [each for each in first.publishes if each.end < begin], found.values)
        letters = await dead_letters(node.url)
    run.check(checks.lost((each for each in first.publishes if each.end < begin), found.events))
    run.check(checks.stored_twice(list(found.events.values())))
    run.check(checks.ghosts(first.publishes, found.events.values()))
    run.check(checks.unfaithful(run.history.deliveries, found.events))
    run.check(wrongly_restored(first, run.history, found.events, letters, begin, end))
    run.check(values_lost(first, found.values, begin))
    run.count("events in the backup", len(found.events))
    run.count("settled before it", len(found.events) - len({each.id for each in run.history.deliveries}))
    run.count("dead letters", len(letters))


async def go_on(run: Run, node: Node, publishes: Sequence[Publish], values: Sequence[Version]) -> None:
    """Serve what was restored, and settle what is left."""
    async with (
        running_servers(run.history, run.directory / "second", [node.url]) as servers,
        connections(run.history, 1, servers[0].address) as (connection,),
        targets(run.history, servers) as places,
    ):
        await check_keys(run, connection, publishes)
        await check_values(run, connection, values)
        consumption = Consumption(run.history, "orders", "c")
        subscribers = [Subscriber(f"n{n}", consumption, places) for n in range(2)]
        for subscriber in subscribers:
            subscriber.start()
        await finish(run, consumption, subscribers, node.url, 600)


def wrongly_restored(
    first: History,
    second: History,
    events: Mapping[int, Stored],
    letters: Sequence[int],
    begin: float,
    end: float,
) -> Iterator[Violation]:
    """Find events that came again though they were settled before the backup, and those that never came.

    Those that were settled while it was made may be in it either way.
    """
    delivered, dead = {each.id for each in second.deliveries}, set(letters)
    sure = {
        (each.id, each.kind)
        for each in first.settlements
        if each.kind in ("ack", "bury") and each.told is Told.CONFIRMED and each.end < begin
    }
    asked = {
        each.id
        for each in first.settlements
        if each.kind in ("ack", "bury") and each.told is not Told.INVALID and each.start < end
    }
    for id_, kind in sure:
        if id_ in delivered:
            yield Violation("came again", f"{id_} was settled ({kind}) before the backup")
        if (kind == "bury") != (id_ in dead):
            yield Violation(
                "dead letter", f"{id_} was settled by {kind}; it is {'' if id_ in dead else 'no '}dead letter"
            )
    for id_ in events.keys() - delivered - asked - dead:
        yield Violation("skipped", f"{id_} was not settled, and never came after the restore")


def values_lost(first: History, values: Sequence[Version], begin: float) -> Iterator[Violation]:
    """Find values that are older than what was written before the backup, or that nobody wrote."""
    written = {each.revision: each for each in first.accesses if each.kind == "set" and each.revision}
    newest: dict[str, int] = {}
    for access in written.values():
        if access.end < begin:
            newest[access.key] = max(newest.get(access.key, 0), access.revision)
    found = {value.key: value for value in values}
    for key, revision in newest.items():
        if key not in found or found[key].revision < revision:
            yield Violation("value", f"{key} was written as {revision}, and is {found.get(key)}")
    for value in values:
        write = written.get(value.revision)
        if write is not None and (write.key, write.value) != (value.key, value.value):
            yield Violation("value", f"{value} was written as {write}")
