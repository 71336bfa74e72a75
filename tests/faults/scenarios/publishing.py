"""Publishing while nats-server and the server are killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence

from tests.faults import checks
from tests.faults.calls import Connection, ensure_stream
from tests.faults.history import Outcome, Stored
from tests.faults.places import single
from tests.faults.processes import Node, Server, running_node, running_servers
from tests.faults.run import Run, scenario
from tests.faults.witness import read_stream
from tests.faults.workloads import connections, crowd, publish_conditionally, publish_on, rounds


def check_stream(run: Run, stream: str, stored: Mapping[int, Stored]) -> None:
    """Check all that must hold of the publishes to one stream."""
    publishes = [each for each in run.history.publishes if each.stream == stream]
    events = list(stored.values())
    run.check(checks.lost(publishes, stored))
    run.check(checks.stored_twice(events))
    run.check(checks.ghosts(publishes, events))
    run.check(checks.conditions_kept(publishes))
    run.check(checks.one_id_per_key(publishes))


def count_publishes(run: Run) -> None:
    """Put down how publishes ended."""
    publishes = run.history.publishes
    done = [each for each in publishes if each.outcome is Outcome.DONE]
    run.count("acknowledged publishes", len(done))
    run.count("of these after a retry", sum(bool(each.failures) for each in done))
    run.count("of unknown outcome", sum(each.outcome is Outcome.UNKNOWN for each in publishes))
    run.count("refused for certain", sum(each.outcome is Outcome.NOT_DONE for each in publishes))


def longest_gap(run: Run, stream: str, since: float) -> float:
    """Return the longest time without an acknowledged publish to a stream."""
    publishes = [each for each in run.history.publishes if each.stream == stream]
    end = max((each.end for each in publishes), default=since)
    done = (each.end for each in publishes if each.outcome is Outcome.DONE)
    return round(checks.longest_gap(done, since, end), 2)


async def publish_all_ways(run: Run, servers: Sequence[Server], faults: Awaitable[None]) -> float:
    """Let 64 publishers work while faults happen: 4 without keys, 4 on conditions. Return the start."""
    async with connections(run.history, 8, *(server.address for server in servers)) as made:
        for stream in ("orders", "bare", "conditional"):
            await ensure_stream(made[0], stream)
        since = time.monotonic()
        async with crowd() as workers:
            for number in range(run.scale(56, 8)):
                workers.add(publish_on(workers, made[number % 8], f"p{number}", "orders"))
            for number in range(4):
                workers.add(publish_on(workers, made[number], f"b{number}", "bare", keys=False, pause=0.005))
                workers.add(
                    publish_conditionally(workers, made[number + 4], f"c{number}", "conditional", run.luck)
                )
            await faults
            await asyncio.sleep(0.5)
    return since


async def read_all(url: str) -> dict[str, dict[int, Stored]]:
    """Read the streams that `publish_all_ways` publishes to."""
    return {stream: await read_stream(url, stream) for stream in ("orders", "bare", "conditional")}


def check_all_ways(run: Run, streams: Mapping[str, Mapping[int, Stored]], since: float, gap: float) -> None:
    """Check each stream, and put the figures of all down."""
    for stream, stored in streams.items():
        check_stream(run, stream, stored)
    run.check(checks.undocumented(run.history.failures))
    count_publishes(run)
    run.bar("longest gap between publishes, s", longest_gap(run, "orders", since), gap)


async def _publish_through_kills(
    run: Run, node: Node, servers: list[Server], victim: Node | Server, longest_gap: float
) -> None:
    """Kill one process again and again, and start it at once, under all kinds of publishers."""
    kills = run.scale(20, 2)
    work = rounds(run, kills, run.scale(2, 1), lambda _: victim.crash(), "kill")
    since = await publish_all_ways(run, servers, work)
    run.count("kills", kills)
    check_all_ways(run, await read_all(node.url), since, longest_gap)


@scenario(
    "nats-kills",
    "kill -9 of an unreplicated nats-server, restarted at once, under 64 publishers",
)
async def nats_kills(run: Run) -> None:
    """Nothing that was acknowledged is lost, nothing is stored twice."""
    async with single(run) as (node, servers):
        await _publish_through_kills(run, node, servers, node, 3.0)


@scenario(
    "server-kills",
    "kill -9 of the server, restarted at once, under 64 publishers that retry with their keys",
)
async def server_kills(run: Run) -> None:
    """Nothing that was acknowledged is lost, nothing is stored twice."""
    async with single(run) as (node, servers):
        await _publish_through_kills(run, node, servers, servers[0], 5.0)


@scenario(
    "embedded-kills",
    "kill -9 of the server with its embedded nats-server, both at the same moment",
)
async def embedded_kills(run: Run) -> None:
    """Whatever was acknowledged is found by a server that starts on the same data."""
    kills = run.scale(10, 2)
    async with running_servers(run.history, run.directory, [""]) as (server,):

        async def kill(_: int) -> None:
            await server.kill_with_nats()
            await server.start()

        work = rounds(run, kills, run.scale(2, 1), kill, "kill")
        since = await publish_all_ways(run, [server], work)
        run.count("kills", kills)
        await server.kill_with_nats()
        async with running_node(run.history, run.directory / server.name) as node:  # on the same data
            check_all_ways(run, await read_all(node.url), since, 5.0)


@scenario(
    "one-key",
    "100 concurrent publishes of one key, and repeated conditional publishes",
    tested=False,  # one-key-cluster
)
async def one_key(run: Run) -> None:
    """One is stored, and every caller gets its id."""
    async with single(run, servers=2) as (node, servers):
        await publish_one_key(run, servers, node.url)


async def publish_one_key(run: Run, servers: Sequence[Server], url: str) -> None:
    """Publish keys many times at once by way of all servers, and check what is stored."""
    rounds_ = run.scale(50, 3)
    async with connections(run.history, 10, *(server.address for server in servers)) as made:
        await ensure_stream(made[0], "orders")
        for number in range(rounds_):
            run.progress(f"key {number + 1} of {rounds_}")
            await _publish_at_once(made, number)
            await _publish_on_condition(run, made, number)
        stored = await read_stream(url, "orders")
        run.count("keys", rounds_)
        run.count("publishes of each", 100)
        check_stream(run, "orders", stored)
        run.check(checks.undocumented(run.history.failures))
        run.demand(len(stored) == 2 * rounds_, "one key", f"{len(stored)} events are stored")


async def _publish_at_once(made: Sequence[Connection], number: int) -> None:
    key = f"k{number}"
    await asyncio.gather(
        *(made[each % len(made)].publish(f"p{each}", "orders.a", key, key) for each in range(100))
    )


async def _publish_on_condition(run: Run, made: Sequence[Connection], number: int) -> None:
    """Repeat a conditional publish, also after others have published; the first id is the answer to all."""
    last = max(each.id for each in run.history.publishes)
    key = f"c{number}"
    answers = await asyncio.gather(
        *(each.publish("c", "orders.b", key, key, last) for each in made),
    )
    answers.append(await made[0].publish("c", "orders.b", key, key, last))
    run.count("repeats of a conditional publish", len(answers))
    for answer in answers:
        run.demand(answer.id == last + 1, "condition", f"{answer} is not {last + 1}")
