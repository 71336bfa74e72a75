"""Connects the instruments of `windshift.server.telemetry.instruments` to what they read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from itertools import chain, islice
from math import inf
from typing import Any, Final

from windshift.nats import Connection
from windshift.nats.budget import Budget
from windshift.nats.jetstream.writes import Writes
from windshift.nats.times import NANOSECONDS
from windshift.rpc import Server, libnghttp2_version
from windshift.server.auth.access import ActivePolicy
from windshift.server.background.pacing import paced
from windshift.server.background.reloading import Watched
from windshift.server.background.threads import in_thread
from windshift.server.broker.room import PullRoom
from windshift.server.events.counts import Counts
from windshift.server.events.dead_letters.replay_queue import STREAM as REPLAYS
from windshift.server.events.dead_letters.stats import DeadLetterStats
from windshift.server.events.latencies import Latencies
from windshift.server.monitoring.snapshot import ConsumerProgress, Snapshot
from windshift.server.monitoring.snapshot_cache import SnapshotCache
from windshift.server.telemetry import instruments as i
from windshift.server.telemetry.calls import CallDurations
from windshift.server.telemetry.process import LoopLag, add_process
from windshift.server.telemetry.registry import Collect, Exposition, Point, Registry
from windshift.server.telemetry.signals import Telemetry

_MOST_PRINCIPALS: Final = 200
"""Principals that are shown by name: the first that called, or those whose tokens expire first."""

_MOST_REPLAYED: Final = 200
"""Consumers whose outstanding replays are shown, those with most of them."""

_PROMETHEUS: Final = "windshift.server.telemetry.prometheus"
"""What makes their text is imported with the first scrape: 2 MB, and a tenth of a second."""


class Metrics:
    """The metrics of a server: for who scrapes them, and for a collector where there is one.

    Attributes:
        registry: reads the instruments of this process.

    Args:
        telemetry: where metrics are pushed.
        collect: reads all that are given away; None = those in the registry are.
    """

    def __init__(self, telemetry: Telemetry, collect: Collect | None = None) -> None:
        self.registry = Registry()
        self._collect = collect or self.registry.collect
        self._push = telemetry.metric_reader(self._collect)
        self._exposing: dict[str, asyncio.Task[Exposition]] = {}
        add_process(self.registry, libnghttp2_version())
        self.registry.add_number(i.PUSH_FAILURES, lambda: 0 if self._push is None else self._push.failures)

    def start(self) -> None:
        """Start to push."""
        if self._push is not None:
            self._push.start()

    async def close(self, timeout: float) -> None:
        """Push the last readings, for `timeout` seconds at most."""
        if self._push is not None:
            await self._push.close(timeout)

    async def expose(self, accept: str) -> Exposition:
        """Return all metrics as text. Concurrent requests share one result."""
        task = self._exposing.get(accept)
        if task is None:
            task = self._exposing[accept] = asyncio.create_task(paced(self._expose(accept)))
            task.add_done_callback(lambda _: self._exposing.pop(accept, None))
        return await asyncio.shield(task)

    async def _expose(self, accept: str) -> Exposition:
        prometheus = await in_thread(partial(import_module, _PROMETHEUS), "metrics")
        exposition: Exposition = await prometheus.expose(await self._collect(), accept)
        return exposition


class AppMetrics(Metrics):
    """The metrics of one `App`.

    Attributes:
        calls: observes the calls of the gRPC server.

    Args:
        counts: counts events.
        dead_letters: counts events that consumers gave up on.
        writes: writes to JetStream.
        cache: what JetStream holds; None = another process of this server shows it.
        connections: the connections to NATS.
        methods: the paths that the gRPC server serves.
        telemetry: where metrics are pushed.
    """

    def __init__(
        self,
        counts: Counts,
        dead_letters: DeadLetterStats,
        writes: Writes,
        cache: SnapshotCache | None,
        connections: Sequence[Connection],
        methods: Iterable[str],
        telemetry: Telemetry,
    ) -> None:
        super().__init__(telemetry)
        registry, spans = self.registry, telemetry.spans
        self.calls = CallDurations(methods)
        registry.add(i.CALL_DURATION, self.calls.read)
        _add_events(registry, counts, writes)
        _add_latencies(registry, counts.latencies)
        _add_dead_letters(registry, dead_letters)
        registry.add_number(i.NATS_CONNECTED, lambda: int(all(each.connected for each in connections)))
        registry.add_number(i.NATS_RECONNECTS, lambda: max(each.reconnects for each in connections))
        if cache is not None:
            _add_snapshots(registry, cache, dead_letters)
        registry.add_number(i.SPANS_EXPORTED, lambda: 0 if spans is None else spans.exported)
        registry.add_number(i.SPANS_DROPPED, lambda: 0 if spans is None else spans.dropped)
        self._lag = LoopLag(registry)
        self._cache = cache

    def add_denials(self, denials: Mapping[str, int], exceeded: Mapping[str, int]) -> None:
        """Show how many calls were denied, by reason, and those that exceeded a quota, by that."""
        self.registry.add(i.DENIALS, lambda: _by_label(denials))
        self.registry.add(i.QUOTAS_EXCEEDED, lambda: _by_label(exceeded))

    def add_principals(self, access: ActivePolicy | None) -> None:
        """Show what principals ask for, and when they lose their tokens; nothing of anybody without rules."""
        self.registry.add(i.PRINCIPAL_CALLS, lambda: _by_principal(access, "calls"))
        self.registry.add(i.PRINCIPAL_DELIVERIES, lambda: _by_principal(access, "delivered"))
        self.registry.add(i.TOKEN_EXPIRY, lambda: _token_expiries(access))

    def add_reloads(self, watched: Sequence[Watched[Any]]) -> None:
        """Show how often files were reloaded, and whether their current version is refused."""
        self.registry.add(i.RELOADS, lambda: _reloads(watched))
        self.registry.add(i.RELOAD_FAILING, lambda: _refused(watched))

    def add_broker(self, reads: Budget, room: PullRoom) -> None:
        """Show what may be on its way from the broker, and who waits for more."""
        self.registry.add_number(i.NATS_READS, lambda: reads.used)
        self.registry.add_number(i.NATS_READS_WAITING, lambda: reads.waiting)
        self.registry.add_number(i.NATS_DELIVERIES, lambda: room.used + room.whole.used)
        self.registry.add_number(i.NATS_DELIVERIES_WAITING, lambda: room.whole.waiting)

    def observe(self, server: Server) -> None:
        """Start observing the event loop and a gRPC server, and to push."""
        _add_rpc(self.registry, server)
        self._lag.start()
        self.start()

    async def close(self, timeout: float) -> None:
        """Push the last readings, for `timeout` seconds at most, and stop observing."""
        await super().close(timeout)
        self._lag.stop()
        if self._cache is not None:
            self._cache.stop()


# --- What this process does -------------------------------------------------------------------------------


def _add_rpc(registry: Registry, server: Server) -> None:
    methods = [path.decode() for path in server.methods]

    def active() -> Iterator[Point]:
        counts = server.active_calls()
        for path in methods:
            yield (path.removeprefix("/"),), counts[path]

    registry.add(i.ACTIVE_CALLS, active)
    registry.add_number(i.CONNECTIONS, lambda: server.connections)
    registry.add(i.CONNECTIONS_ENDED, lambda: _by_label(server.connection_limiter.refused))
    registry.add(i.TRAFFIC, lambda: ((("receive",), server.received), (("transmit",), server.sent)))


def _add_events(registry: Registry, counts: Counts, writes: Writes) -> None:
    registry.add_number(i.PUBLISHED, lambda: counts.published)
    registry.add_number(i.DUPLICATES, lambda: counts.duplicates)
    registry.add(i.PUBLISH_FAILURES, lambda: _by_label(counts.failures))
    registry.add_number(i.PUBLISHES_IN_FLIGHT, lambda: writes.in_flight)
    registry.add_number(i.PUBLISHES_WAITING, lambda: writes.waiting)
    registry.add_number(i.DELIVERED, lambda: counts.delivered)
    registry.add_number(i.REDELIVERED, lambda: counts.redelivered)
    registry.add(i.SETTLED, lambda: _settled(counts))
    registry.add_number(i.IN_FLIGHT, lambda: counts.in_flight)
    registry.add_number(i.CONFIRMATIONS_FAILED, lambda: counts.failed)
    registry.add_number(i.CONFIRMATIONS_INVALID, lambda: counts.invalid)
    registry.add_number(i.SUBSCRIPTIONS, lambda: len(counts.holdings))


def _add_latencies(registry: Registry, latencies: Latencies) -> None:
    registry.add(i.DELIVERY_LATENCY, lambda: [(key, each.delivery.read()) for key, each in latencies.items()])
    registry.add(
        i.SETTLEMENT_LATENCY, lambda: [(key, each.settlement.read()) for key, each in latencies.items()]
    )
    registry.add(i.CONSUMER_EXPIRED, lambda: [(key, each.expired) for key, each in latencies.items()])
    registry.add(i.CONSUMER_STALLS, lambda: [(key, each.stalls) for key, each in latencies.items()])


def _add_dead_letters(registry: Registry, stats: DeadLetterStats) -> None:
    registry.add(i.DEAD_LETTERS, lambda: _by_label(stats.written))
    registry.add_number(i.DEAD_LETTER_FAILURES, lambda: stats.failures)
    registry.add(i.DROPPED, lambda: _by_label(stats.drops))
    registry.add_number(i.DEAD_LETTERS_SIZE, lambda: stats.size)
    registry.add_number(i.DEAD_LETTERS_LIMIT, lambda: stats.limit)
    registry.add_number(i.REPLAYS, lambda: stats.replays)


def _by_label(counts: Mapping[str, int]) -> Iterable[Point]:
    return [((label,), count) for label, count in counts.items()]


def _settled(counts: Counts) -> Iterator[Point]:
    yield ("ack",), counts.acknowledged
    yield ("reject",), counts.rejected
    yield ("terminate",), counts.terminated
    yield ("ping",), counts.prolonged
    yield ("expired",), counts.expired
    yield ("released",), counts.released
    yield ("lingered",), counts.lingered
    yield ("resumed",), counts.resumed


def _by_principal(access: ActivePolicy | None, attribute: str) -> Iterator[Point]:
    usages = iter(() if access is None else access.usages.items())
    for name, usage in islice(usages, _MOST_PRINCIPALS):
        yield (name,), getattr(usage, attribute)
    yield (i.OTHERS,), sum(getattr(usage, attribute) for _, usage in usages)


def _token_expiries(access: ActivePolicy | None) -> Iterator[Point]:
    principals = () if access is None else access.authenticator.principals.values()
    found = ((principal.expires, principal.name) for principal in principals)
    soonest = sorted(each for each in found if each[0] < inf)
    for expires, name in soonest[:_MOST_PRINCIPALS]:
        yield (name,), expires
    yield (i.OTHERS,), next((expires for expires, _ in soonest[_MOST_PRINCIPALS:]), inf)


def _reloads(watched: Sequence[Watched[Any]]) -> Iterator[Point]:
    by = {each.what: each for each in watched}
    for what in i.RELOADED:
        yield (what, "ok"), by[what].reloads if what in by else 0
        yield (what, "failed"), by[what].failures if what in by else 0


def _refused(watched: Sequence[Watched[Any]]) -> Iterable[Point]:
    failing = {each.what for each in watched if each.failing}
    return [((what,), int(what in failing)) for what in i.RELOADED]


# --- NATS -------------------------------------------------------------------------------------------------


def _add_snapshots(registry: Registry, cache: SnapshotCache, dead_letters: DeadLetterStats) -> None:
    registry.refresh.append(cache.refresh)
    registry.add_number(i.NATS_ROUND_TRIP, lambda: cache.round_trip)
    registry.add_number(i.POLL_FAILURES, lambda: cache.failures)
    registry.add(i.POLL_OMITTED, lambda: _omitted(cache.snapshot))
    registry.add(i.STREAM_MESSAGES, lambda: _streams(cache.snapshot, "messages"))
    registry.add(i.STREAM_SIZE, lambda: _streams(cache.snapshot, "size"))
    registry.add(i.STREAM_MESSAGES_LIMIT, lambda: _limits(cache.snapshot, "most_messages"))
    registry.add(i.STREAM_SIZE_LIMIT, lambda: _limits(cache.snapshot, "most_size"))
    registry.add(i.STREAM_LAST_ID, lambda: _streams(cache.snapshot, "last_id"))
    registry.add(
        i.CONSUMER_PENDING, lambda: chain(_consumers(cache.snapshot, "pending"), _replays(dead_letters))
    )
    registry.add(i.CONSUMER_UNACKNOWLEDGED, lambda: _consumers(cache.snapshot, "unacknowledged"))
    registry.add(i.CONSUMER_REDELIVERED, lambda: _consumers(cache.snapshot, "redelivered"))
    registry.add(i.CONSUMER_OLDEST, lambda: _ages(cache.snapshot))


def _omitted(snapshot: Snapshot | None) -> Iterator[Point]:
    if snapshot is not None:
        yield ("stream",), snapshot.omitted_streams
        yield ("consumer",), snapshot.omitted_consumers
        yield ("age",), snapshot.omitted_ages


def _streams(snapshot: Snapshot | None, attribute: str) -> Iterator[Point]:
    for stream in () if snapshot is None else snapshot.streams:
        yield (stream.name,), getattr(stream, attribute)


def _limits(snapshot: Snapshot | None, attribute: str) -> Iterator[Point]:
    for stream in () if snapshot is None else snapshot.streams:
        limit = getattr(stream, attribute)
        if limit is not None:
            yield (stream.name, stream.discard), limit


def _consumers(snapshot: Snapshot | None, attribute: str) -> Iterable[Point]:
    sums: dict[tuple[str, ...], int] = {}
    for consumer in () if snapshot is None else snapshot.consumers:
        labels = _labels(consumer)
        sums[labels] = sums.get(labels, 0) + getattr(consumer, attribute)
    return sums.items()


def _ages(snapshot: Snapshot | None) -> Iterable[Point]:
    ages: dict[tuple[str, ...], float] = {}
    if snapshot is None:
        return ()
    for consumer in snapshot.consumers:
        stored_ns = snapshot.oldest.get((consumer.stream, consumer.name))
        if stored_ns is None and consumer.behind:
            continue  # not known
        age = 0.0 if stored_ns is None else max(0.0, (snapshot.taken_ns - stored_ns) / NANOSECONDS)
        labels = _labels(consumer)
        ages[labels] = max(ages.get(labels, 0.0), age)
    return ages.items()


def _replays(stats: DeadLetterStats) -> Iterator[Point]:
    for (stream, consumer), count in stats.outstanding.most_common(_MOST_REPLAYED):
        yield (REPLAYS, f"{stream}.{consumer}"), count


def _labels(consumer: ConsumerProgress) -> tuple[str, str]:
    return consumer.stream, consumer.name if consumer.durable else i.EPHEMERAL
