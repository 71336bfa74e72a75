"""Transactions over keys, watches and values that expire, while things are killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from tests.faults import checks
from tests.faults.calls import Connection, Refused, ensure_store
from tests.faults.checks import Violation
from tests.faults.history import Change, Outcome
from tests.faults.places import clustered, single
from tests.faults.processes import Node, Server
from tests.faults.run import Run, scenario
from tests.faults.serializable import not_serializable
from tests.faults.watchers import Watcher, mistold, watching
from tests.faults.witness import ask, looking, read_bucket
from tests.faults.workloads import Crowd, connections, crowd, rounds, targets, transfer
from tests.support.client import STATE, any_of
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as pb

WRITERS = 8
KEYS = [f"k{number}" for number in range(10)]


@asynccontextmanager
async def bank(run: Run, node: Node, servers: Sequence[Server]) -> AsyncIterator[list[Connection]]:
    """Make a store that forgets nothing, so that everything can be looked at in the end."""
    async with connections(run.history, WRITERS, *(server.address for server in servers)) as made:
        await ensure_store(made[0], "bank")
        async with looking(node.url) as client:
            config = (await ask(client, "STREAM.INFO.KV_bank"))["config"]
            await ask(client, "STREAM.UPDATE.KV_bank", config | {"max_msgs_per_subject": -1})
        yield made


async def transact(
    run: Run, node: Node, servers: Sequence[Server], times: int, faults: Awaitable[None]
) -> None:
    """Let 8 writers make transactions over 10 keys, and 4 watchers follow; then check what came of it."""
    async with bank(run, node, servers) as made, targets(run.history, servers) as places:
        watchers = [
            Watcher(f"v{number}", "bank", places[number % 2 :] + places[: number % 2]) for number in range(4)
        ]
        since = time.monotonic()
        async with watching(watchers):
            async with crowd() as workers:
                for number in range(WRITERS):
                    work = transfer(workers, made[number], f"w{number}", "bank", KEYS, times, run.more_luck())
                    workers.add(work)
                workers.enough = False
                await faults
                workers.enough = True
                await workers.done(lambda: f"{len(run.history.transactions):,} transactions", run.progress)
            versions = await read_bucket(node.url, "bank")
            told_all = partial(_caught_up, watchers, len(versions))
            await run.until(told_all, 60, "watchers are told everything")
    transactions = run.history.transactions
    problems = not_serializable(versions, transactions, run.history.accesses)
    run.check(Violation("serializable", problem) for problem in problems)
    run.check(checks.undocumented(run.history.failures))
    for watcher in watchers:
        run.check(mistold(watcher, versions))
    done = [each.end for each in transactions if each.outcome is Outcome.DONE]
    run.count("transactions", len(done))
    run.count("refused by a check", sum(bool(each.refused_key) for each in transactions))
    run.count("of unknown outcome", sum(each.outcome is Outcome.UNKNOWN for each in transactions))
    run.count("reads", len(run.history.accesses))
    run.count("changes", len(versions))
    run.count("calls of the 4 watchers", sum(watcher.calls for watcher in watchers))
    run.count("longest gap, s", round(checks.longest_gap(done, since, max(done, default=since)), 2))


def _caught_up(watchers: Sequence[Watcher], count: int) -> bool:
    return all(len(watcher.changes) >= count for watcher in watchers)


@scenario(
    "transactions",
    "8 writers make transactions over 10 keys with three replicas through kill -9 of nodes and servers; "
    "4 watchers follow",
)
async def transactions(run: Run) -> None:
    """All happened one after the other, all or none; watchers see every change once and in order."""
    async with clustered(run) as (nodes, servers):

        async def strike(number: int) -> None:
            await (servers[number // 3 % 2] if number % 3 == 2 else nodes[run.luck.randrange(3)]).crash()

        work = rounds(run, run.scale(10, 2), run.scale(4, 1), strike, "kill")
        await transact(run, nodes[0], servers, run.scale(500, 20), work)


@scenario(
    "watches",
    "the same on one nats-server, which is killed in turn with the servers",
    tested=False,  # transactions
)
async def watches(run: Run) -> None:
    """All happened one after the other, all or none; watchers see every change once and in order."""
    async with single(run, servers=2) as (node, servers):

        async def strike(number: int) -> None:
            await (node if number % 2 else servers[number // 2 % 2]).crash()

        work = rounds(run, run.scale(12, 3), run.scale(3, 1), strike, "kill")
        await transact(run, node, servers, run.scale(150, 20), work)


# Values that expire


@dataclass(frozen=True, slots=True)
class Lease:
    """A key that was written once, with a time to live.

    Attributes:
        ttl: seconds.
        start: when the write began.
        end: when it was answered.
    """

    key: str
    ttl: int
    start: float
    end: float


class Leases:
    """What expires, and what is kept from expiring."""

    KEPT = 40
    """Seconds to live of keys that are touched all the time: longer than anything is away here."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.written: list[Lease] = []

    async def write(self, workers: Crowd, connection: Connection, who: str, luck: random.Random) -> None:
        """Write new keys that live for 2 to 8 seconds, and look at them: they must be there until then."""
        number = 0
        while not workers.stopping:
            number += 1
            ttl = luck.randrange(2, 9)
            lease = await self._set(connection, f"{who}.{number}", ttl)
            if lease is not None:
                self.written.append(lease)
            await asyncio.sleep(luck.uniform(0.1, 0.3))
            old = luck.choice(self.written) if self.written else None
            if old is not None and time.monotonic() < old.start + old.ttl:
                read = await connection.get(who, "leases", old.key)
                if read.outcome is Outcome.DONE and read.end < old.start + old.ttl:
                    self._run.demand(read.revision, "gone early", f"{old} at {read.end}")

    async def keep(self, workers: Crowd, connection: Connection, key: str) -> None:
        """Write a key, and touch it all the time."""
        request = pb.TouchRequest(store="leases", key=key, ttl={"seconds": self.KEPT})
        lease = None
        while not workers.stopping:
            if lease is None:
                lease = await self._set(connection, key, self.KEPT)
            else:
                await connection.attempt(STATE.methods_by_name["Touch"], request, 5)
            await asyncio.sleep(0.5)

    async def _set(self, connection: Connection, key: str, ttl: int) -> Lease | None:
        request = pb.SetRequest(store="leases", key=key, value=any_of(key), ttl={"seconds": ttl})
        start = time.monotonic()
        answer = await connection.attempt(STATE.methods_by_name["Set"], request, 5)
        return None if isinstance(answer, Refused) else Lease(key, ttl, start, time.monotonic())

    def check(self, watcher: Watcher) -> None:
        """See that a watcher was told each value and its expiry once, in order, not too early."""
        told: dict[str, list[Change]] = defaultdict(list)
        for change in watcher.changes:
            told[change.key].append(change)
        revisions = [change.revision for change in watcher.changes]
        self._run.demand(revisions == sorted(set(revisions)), "watch", "revisions are out of order")
        for lease in self.written:
            match [change.value for change in told[lease.key]]:
                case [lease.key, ""]:
                    at = told[lease.key][1].at
                    self._run.demand(at >= lease.start + lease.ttl, "expired early", f"{lease} at {at}")
                case values:
                    self._run.check([Violation("watch", f"{lease} was told as {values}")])

    def lateness(self, watcher: Watcher) -> float:
        """Return the longest time that passed until an expiry was told, in seconds."""
        at = {change.key: change.at for change in watcher.changes if not change.value}
        return max(at[lease.key] - lease.end - lease.ttl for lease in self.written if lease.key in at)


@scenario(
    "expiry",
    "values live for 2 to 8 s, others are touched all the time, through kill -9 of nats-server and servers "
    "in turn; 2 watchers follow",
)
async def expiry(run: Run) -> None:
    """Nothing expires early, everything expires, and watchers are told each expiry once."""
    leases = Leases(run)
    kept = [f"kept{number}" for number in range(4)]
    async with (
        single(run, servers=2) as (node, servers),
        connections(run.history, 4, *(server.address for server in servers)) as made,
        targets(run.history, servers) as places,
    ):
        await ensure_store(made[0], "leases")
        watchers = [Watcher(f"v{number}", "leases", places[number:] + places[:number]) for number in range(2)]

        async def strike(number: int) -> None:
            victim = servers[number // 2 % 2] if number % 2 else node
            await victim.kill()
            await asyncio.sleep(run.luck.uniform(0, 3))
            await victim.start()

        async with watching(watchers), crowd() as workers:
            for connection, key in zip(made, kept, strict=True):
                workers.add(leases.write(workers, connection, f"w{key}", run.more_luck()))
                workers.add(leases.keep(workers, connection, key))
            await rounds(run, run.scale(10, 1), run.scale(4, 1), strike, "kill")
            await workers.stop()
            told_all = partial(_told_all, watchers, leases)
            await run.until(told_all, 60, "watchers are told all expiries")
        for key in kept:
            read = await made[0].read("reader", "leases", key)
            run.demand(read.revision, "gone early", key)
    for watcher in watchers:
        leases.check(watcher)
        run.demand(
            not {each.key for each in watcher.changes if not each.value} & {*kept}, "gone early", "kept"
        )
    run.check(checks.undocumented(run.history.failures))
    run.count("values that expired", len(leases.written))
    run.count("reads", len(run.history.accesses))
    run.count("calls of the 2 watchers", sum(watcher.calls for watcher in watchers))
    late = max(leases.lateness(watcher) for watcher in watchers)
    run.bar("longest time until an expiry was told, s", round(late, 2), 15.0)


def _told_all(watchers: Sequence[Watcher], leases: Leases) -> bool:
    expired = {lease.key for lease in leases.written}
    return all(
        expired <= {change.key for change in watcher.changes if not change.value} for watcher in watchers
    )
