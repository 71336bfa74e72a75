"""The composition root: builds everything that serves calls, and connects it."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import windshift
from windshift.nats import Connection, ConnectionOptions, Requests, ServerAddress
from windshift.nats.budget import Budget
from windshift.nats.jetstream.api import JetStream
from windshift.nats.jetstream.kv import Buckets
from windshift.nats.jetstream.writes import WriteOptions, Writes
from windshift.rpc import (
    LOOPBACK,
    AdmissionOptions,
    Failure,
    HealthService,
    Interceptor,
    RpcError,
    Server,
    ServerCall,
    ServerOptions,
    Service,
    libnghttp2_version,
    reflection_services,
)
from windshift.rpc import ConnectionOptions as RpcConnectionOptions
from windshift.rpc.server_connection import ServerConnection
from windshift.server.admin.account import look_at_account
from windshift.server.admin.consumers import ConsumerAdmin
from windshift.server.admin.dead_letter_counts import DeadLetterCounts
from windshift.server.admin.events import EventReader
from windshift.server.admin.explaining import EventExplainer
from windshift.server.admin.gathering import Gathering
from windshift.server.admin.history import History
from windshift.server.admin.look import Look
from windshift.server.admin.pausing import ConsumerPause
from windshift.server.admin.seeking import ConsumerSeek
from windshift.server.admin.servers import ServerLoad, Servers, ServerView
from windshift.server.admin.streams import StreamAdmin
from windshift.server.admin.subscriptions import Subscriptions
from windshift.server.admin.tail import Tail
from windshift.server.api.admin import ADMIN, AdminService
from windshift.server.api.asking import ask_as_connection
from windshift.server.api.auditing import audit_calls
from windshift.server.api.authentication import AuthInterceptor
from windshift.server.api.dead_letters import DEAD_LETTERS, DeadLettersService
from windshift.server.api.errors import translate
from windshift.server.api.events import EVENTS, PAYLOADS, EventsService
from windshift.server.api.failures import FailureLog
from windshift.server.api.policies import LARGEST_OF_EVENTS, policy_of
from windshift.server.api.principals import PRINCIPALS, AskOthers, PrincipalsService
from windshift.server.api.sizes import limit_requests
from windshift.server.api.state import STATE, StateService
from windshift.server.api.tracing import trace_calls
from windshift.server.api.turns import list_turns, take_turns
from windshift.server.auth.audit import Audit
from windshift.server.auth.authorization import Authorization
from windshift.server.auth.ledger import Ledger
from windshift.server.background.pacing import Pacing
from windshift.server.broker.asking import asking
from windshift.server.broker.availability import Availability
from windshift.server.broker.room import PullRoom
from windshift.server.config.tree import LimitsConfig, NatsConfig, ServerConfig
from windshift.server.events.consumers import Consumers
from windshift.server.events.consuming.interfaces import ConsumeOptions
from windshift.server.events.consuming.shared import Shared
from windshift.server.events.copies import Copies
from windshift.server.events.counts import Counts
from windshift.server.events.dead_letters.admin import DeadLetterAdmin
from windshift.server.events.dead_letters.replay_queue import ReplayQueue
from windshift.server.events.dead_letters.store import DeadLetterStore
from windshift.server.events.dead_letters.upkeep import DeadLetterUpkeep
from windshift.server.events.managed_stream import SizeLimit
from windshift.server.events.notes import Notes
from windshift.server.events.publishing import Publishing
from windshift.server.events.streams import Streams
from windshift.server.monitoring.snapshot import SnapshotCollector
from windshift.server.monitoring.snapshot_cache import SnapshotCache
from windshift.server.monitoring.violations import ViolationLog
from windshift.server.ownership.ownership import Ownership
from windshift.server.process.metrics import AppMetrics
from windshift.server.process.readiness import NO_JETSTREAM, Readiness
from windshift.server.process.tls import api_tls, broker_credentials_expiry
from windshift.server.state.stores import Stores
from windshift.server.state.watching import Watch, watch_turns
from windshift.server.telemetry import instruments
from windshift.server.telemetry.propagation import extractor
from windshift.server.telemetry.signals import Telemetry
from windshift.server.telemetry.tracer import Tracer

log = logging.getLogger(__name__)

_INBOX_PREFIX = "_INBOX_windshift"
"""Our own prefix, so that our NATS user cannot see replies to others. No client can publish there: first
tokens that begin with ``_INBOX`` are reserved."""
_UNHEARD = 5.0
"""Seconds without a connection to read with after which calls should go to another server."""
_MESSAGE_MARGIN = 64 * 1024
"""Bytes that a request may have besides the event: subject, key, type."""
_CONNECTIONS_SHARE = 4
"""Of all connections a principal may have one part in so many, unless the rules say otherwise."""

_DEAD_LETTERS_MAX = 10_000_000_000
"""Bytes of dead letters, where nobody asks for another number."""
_DEAD_LETTERS_SHARE = 10
"""Of the bytes that the broker may store they may be one part in so many, where that is known."""
_TAILS_PART = 4
"""Tails share the connection for reads. With one part in so many of what consume calls may ask for, and what
reads may ask for, that stays below what nats-server tolerates."""


class App:
    """A server in the running event loop, without the process around it.

    Knows nothing of signals, of an embedded broker or of HTTP: see `windshift.server.process.serve`.
    Building it connects nothing.

    Args:
        config: all settings.
        servers: the NATS servers.
        telemetry: where traces and metrics go.
        share_port: whether other processes may listen on the API's port too.
        storage: how many bytes the broker may store; None = not known.
        worker: its number among the processes that serve the port, from 1; 0 = it is alone.
        ledger: where these count quotas together; None = it is alone.
        ask_others: asks them; None = it is alone.
    """

    authorization: Authorization | None
    """Who may do what; None = everybody may do everything."""
    principals: PrincipalsService
    """What is to be asked of all workers: see `PrincipalsService.answer`."""
    metrics: AppMetrics | None
    """The metrics of this server, unless turned off."""
    port = 0
    """The port of the API, once it listens."""
    _server: Server | None = None
    _serving_since: float | None = None
    _draining_since: float | None = None
    _flush_by = 0.0
    _watches: Sequence[asyncio.Task[None]] = ()
    _trouble: Readiness | None = None

    def __init__(
        self,
        config: ServerConfig,
        servers: tuple[ServerAddress, ...],
        telemetry: Telemetry,
        *,
        share_port: bool = False,
        storage: int | None = None,
        worker: int = 0,
        ledger: Ledger | None = None,
        ask_others: AskOthers | None = None,
    ) -> None:
        self._config = config
        self._share_port = share_port
        self._worker = worker
        self._telemetry = telemetry
        self._made_at, self._started_ns = asyncio.get_running_loop().time(), time.time_ns()
        nats = _nats(config.nats, servers)
        self.connection, self._api = nats.connection, nats.api
        self._notes, self._gathering = nats.notes, nats.gathering
        audit = Audit()
        self.authorization, self._ownership, self._copies = _rules(config, nats.api, audit, ledger)
        shared = _shared(config, nats, telemetry.tracer, storage)
        self._domain = _Domain(config, nats, shared, self._ownership, self._servers(nats))
        self._tls = api_tls(config)
        self.reloaders = [each.watched for each in (self._tls, self.authorization) if each is not None]
        """The files that are reloaded when they change, or on demand."""
        self._demanded = asyncio.Event()
        self._failures = FailureLog(extractor(config.telemetry.propagators))
        self.principals = PrincipalsService(self.authorization, self._open_connections, ask_others)
        self._health = HealthService()
        self._services = [*self._domain.services, Service(PRINCIPALS, self.principals)]
        self._answered = _with_reflection([*self._services, self._health])
        self._methods = tuple(path for service in self._answered for path in service.methods)
        self._pacing = Pacing()
        nats.budget.is_shared = nats.writes.is_shared = self.somebody_is_hindered
        self._interceptors = _interceptors(config, self.authorization, telemetry.tracer, audit, shared.counts)
        self.metrics = self._make_metrics(nats, shared, audit) if config.metrics else None
        self._jetstream = Availability(nats.requests, nats.api)
        self._follow_connection()

    def _servers(self, nats: _Nats) -> Servers:
        return Servers(nats.gathering, self._describe, self._load, nats.requests)

    def _follow_connection(self) -> None:
        """Keep gRPC health, and what calls remember, true to the connection."""
        self._domain.shared.follow()
        self.connection.on_connected.append(self._show_health)
        self.connection.on_lost.append(self._show_health)
        self._api.connection.on_connected.append(self._show_health)
        self._api.connection.on_lost.append(self._look_again)
        self._jetstream.on_change.append(self._show_health)
        self._show_health()

    def _look_again(self) -> None:
        """Show health when a lost connection to read with is no short break any more."""
        asyncio.get_running_loop().call_later(_UNHEARD + 0.1, self._show_health)

    def _open_connections(self) -> tuple[ServerConnection, ...]:
        return () if self._server is None else self._server.open_connections

    def _make_metrics(self, nats: _Nats, shared: Shared, audit: Audit) -> AppMetrics:
        connection, requests, api, writes, *_ = nats
        counts, stats = shared.counts, shared.stats
        shows_broker = self._worker <= 1
        cache = SnapshotCache(requests, SnapshotCollector(api)) if shows_broker else None
        connections = (connection, api.connection)
        metrics = AppMetrics(counts, stats, writes, cache, connections, self._methods, self._telemetry)
        metrics.add_broker(nats.budget, nats.room)
        metrics.add_denials(audit.denials, audit.exceeded)
        metrics.add_reloads(self.reloaders)
        tls, copies, add_number = self._tls, self._copies, metrics.registry.add_number
        add_number(instruments.CERTIFICATE_EXPIRY, lambda: math.inf if tls is None else tls.not_after)
        add_number(instruments.NATS_CREDENTIALS_EXPIRY, lambda: broker_credentials_expiry(self._config.nats))
        add_number(instruments.DENIED_COPIES, lambda: 0 if copies is None else len(copies.denied))
        metrics.add_principals(None if self.authorization is None else self.authorization.access)
        return metrics

    def readiness(self) -> Readiness:
        """Return whether calls should be sent here now."""
        connection, jetstream, trouble = self.connection, self._jetstream, self._trouble
        if self._draining_since is not None:
            return Readiness("draining", self._draining_since)
        if self._serving_since is None:
            return Readiness("starting", self._made_at)
        if not connection.connected:
            return Readiness("no connection to NATS", connection.since, connection.last_error)
        if jetstream.missing:
            return Readiness(NO_JETSTREAM, jetstream.since, jetstream.missing)
        reads, now = self._api.connection, asyncio.get_running_loop().time()
        if not reads.connected and now - reads.since > _UNHEARD:
            return Readiness("no connection to NATS to read with", reads.since, reads.last_error)
        return trouble or Readiness(None, max(self._serving_since, connection.since, jetstream.since))

    def refuse_writes(self, why: str, trouble: Readiness | None) -> None:
        """Refuse at once what cannot be stored, for a reason that clients are told; empty: take it again.

        `trouble` is what probes are told meanwhile.
        """
        self._api.refusal, self._trouble = why, trouble
        self._show_health()

    async def start(self) -> None:
        """Connect to NATS, and take calls, though without JetStream this is not ready.

        Raises `ConnectFailed` when NATS cannot be reached, OSError when the port cannot be used,
        `TlsNotUsable` when the TLS files cannot, and `NotUsable` when the authorization file cannot.
        """
        for each in self.reloaders:
            each.start()
        self._notes.start()
        await self.connection.connect()
        await self._api.connection.connect()
        await self._jetstream.look()
        server = self._make_server()
        listen = self._config.grpc.listen
        tls = None if self._tls is None else self._tls.context
        _, self.port = await server.listen(listen.host, listen.port, ssl=tls, reuse_port=self._share_port)
        self._server = server
        self.connection.is_hurried = self._api.connection.is_hurried = self._is_hurried
        self.connection.is_shared = self._api.connection.is_shared = self._is_shared
        self._watches = [asyncio.create_task(watch) for watch in self._watching()]
        for watch in self._watches:
            watch.add_done_callback(_tell_failure)
        self._serving_since = asyncio.get_running_loop().time()
        if self.metrics is not None:
            self.metrics.observe(server)
        self._show_health()

    def _watching(self) -> Iterator[Coroutine[Any, Any, None]]:
        """Return the background work of the server."""
        yield self._jetstream.watch()
        yield self._pacing.run(self._domain.upkeep.run())
        yield self._gathering.run()
        yield self._domain.admin.servers.measure()
        yield self._pacing.run(self._domain.admin.history.run())
        yield self._domain.shared.pauses.watch()
        if self._tls is not None:
            yield self._tls.watched.watch()
        if self.authorization is not None:
            yield self.authorization.watch()
        if self._ownership is not None:
            yield self._ownership.watch()
        if self._copies is not None:
            yield self._copies.watch()
        yield self._reload_on_demand()

    def _describe(self) -> ServerView:
        limits = self._config.grpc.limits
        return ServerView(
            name=socket.gethostname(),
            version=windshift.__version__,
            libnghttp2=libnghttp2_version(),
            started_ns=self._started_ns,
            max_payload=self.connection.max_payload,
            worker=self._worker,
            rules=self.authorization is not None,
            methods=self._methods,
            limits={
                "GRPC_MAX_CONNECTIONS": limits.max_connections,
                "GRPC_MAX_CONNECTIONS_PER_ADDRESS": limits.max_connections_per_address or 0,
                "GRPC_MAX_CONCURRENT_STREAMS": limits.max_concurrent_streams,
                "GRPC_MAX_HELD_MB": -(-(limits.max_held or 0) // 1_000_000),
                "NATS_PUBLISH_ASYNC_MAX_PENDING": self._config.nats.max_pending_publishes,
            },
        )

    def _load(self) -> ServerLoad:
        server = self._server
        if server is None:
            return ServerLoad(not_ready="starting")
        calls = sum(server.active_calls().values())
        return ServerLoad(server.connections, calls, not_ready=self.readiness().reason or "")

    def reload(self) -> None:
        """Reload all files soon; the log has the result."""
        self._demanded.set()

    async def _reload_on_demand(self) -> None:
        while True:
            await self._demanded.wait()
            self._demanded.clear()
            for each in self.reloaders:
                await each.reload()
            if self.authorization is not None:
                self.authorization.fetch_keys()

    def _make_server(self) -> Server:
        """Make the gRPC server, which accepts events as large as this broker stores."""
        largest = max(ServerOptions().max_message_size, self.connection.max_payload + _MESSAGE_MARGIN)
        calls = None if self.metrics is None else self.metrics.calls
        limits = self._config.grpc.limits
        options = ServerOptions(
            connection=rpc_options(limits),
            max_message_size=max(largest, LARGEST_OF_EVENTS),
            admission=admission_options(self._config),
            proxy_protocol=limits.proxy_protocol,
            authenticate_timeout=(
                limits.anonymous_timeout.total_seconds() if self._config.authorizes else None
            ),
            certificate_suffices=self.authorization is None,
            max_held=limits.max_held,
            first_request_timeout=limits.handshake_timeout.total_seconds(),
            connection_age=limits.max_connection_age.total_seconds() or None,
            connection_age_grace=limits.connection_age_grace.total_seconds(),
            pace=self._pace,
            translate=self._translate,
            on_call_finished=None if calls is None else calls.finished,
            on_call_refused=None if calls is None else calls.refused,
            on_call_failed=self._failed,
        )
        server = Server(self._answered, options, [partial(limit_requests, largest), *self._interceptors])
        server.turns.others_wait, server.turns.is_bulky = self._pacing.is_at_work, self._pacing.is_bulky
        server.turns.is_busy_elsewhere, server.turns.on_hurry = self._pacing.is_busy, self.connection.flush
        self._pacing.is_shared = lambda: server.turns.is_shared
        return server

    def _failed(self, failure: Failure) -> None:
        self._failures.failed(failure, asyncio.get_running_loop().time())

    def _is_hurried(self) -> bool:
        """Tell whether small calls wait behind bulk work, or those who use little behind who use much."""
        turns, pacing = None if self._server is None else self._server.turns, self._pacing
        is_shared = turns is not None and turns.is_shared and (turns.is_pressed or pacing.is_over)
        return is_shared or pacing.is_bulky()

    def _is_shared(self) -> bool:
        """Tell whether there is bulk work, or somebody is hindered: turns are to be short."""
        return self.somebody_is_hindered() or self._pacing.is_bulky()

    def somebody_is_hindered(self) -> bool:
        """Tell whether somebody who uses little of the event loop is about, and somebody who uses much."""
        return self._pacing.is_shared()

    def _pace(self, call: ServerCall, work: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """Have bulk work, and that of busy callers, wait while others have their turn."""
        return self._pacing.run(work, call.connection.account, bulk=policy_of(call.method).is_bulk)

    def _translate(self, path: str, error: Exception) -> RpcError | None:
        """Convert an error for the client; sizes are those of the current broker."""
        return translate(path, error, self.connection.max_payload)

    def _show_health(self) -> None:
        """Set gRPC health to what `readiness` says."""
        serving = self.readiness().reason is None
        for name in ("", *(service.descriptor.full_name for service in self._services)):
            self._health.set(name, serving)

    async def drain(self, timeout: float) -> bool:
        """Take no more calls, and let calls in flight finish, for `timeout` seconds at most.

        Returns whether all of them did.
        """
        self._draining_since = asyncio.get_running_loop().time()
        self._flush_by = self._draining_since + timeout
        self._show_health()
        self._domain.dead_letters.drain()
        return self._server is None or await self._server.drain(timeout)

    async def close(self) -> None:
        """End what is left, and disconnect from NATS.

        Metrics and spans are sent until the drain's timeout is over.
        """
        self._draining_since = self._draining_since or asyncio.get_running_loop().time()
        if self.metrics is not None:
            await self.metrics.close(self._time_to_flush())
        for watch in self._watches:
            watch.cancel()
        if self._server is not None:
            self._server.close()
        self._domain.shared.peers.leave()
        await asyncio.gather(self.connection.close(), self._api.connection.close())
        await self._telemetry.close_spans(self._time_to_flush())

    def _time_to_flush(self) -> float:
        return max(0.0, self._flush_by - asyncio.get_running_loop().time())


def _tell_failure(watch: asyncio.Task[None]) -> None:
    """Have the log say that a part of the background work has ended, which goes on until it is cancelled."""
    if not watch.cancelled() and (error := watch.exception()) is not None:
        log.critical("a part of the background work has failed; restart the server", exc_info=error)


class _Nats(NamedTuple):
    """The NATS layer, as the domain takes it.

    JetStream's API is asked on a connection of its own, what is stored is read there, and what is large is
    written there: it would delay what is published, delivered and acknowledged.
    """

    connection: Connection
    requests: Requests
    api: JetStream
    writes: Writes
    notes: Notes
    gathering: Gathering
    room: PullRoom
    budget: Budget


def _nats(config: NatsConfig, servers: tuple[ServerAddress, ...]) -> _Nats:
    options, log = connection_options(config, servers), ViolationLog(_INBOX_PREFIX)
    connection, reads = Connection(options), Connection(replace(options, name=f"{options.name} (reads)"))
    for each in (connection, reads):
        each.violations.on_any.append(log.log)
    budget, room = Budget(asker=asking.get), PullRoom(lambda: connection.max_payload)
    requests, on_reads = Requests(connection), Requests(reads)
    api = JetStream(on_reads, budget=budget)
    writes = Writes(requests, api, WriteOptions(max_in_flight=config.max_pending_publishes), on_reads)
    notes, gathering = Notes(connection), Gathering(connection)
    return _Nats(connection, requests, api, writes, notes, gathering, room, budget)


def _rules(
    config: ServerConfig, api: JetStream, audit: Audit, ledger: Ledger | None
) -> tuple[Authorization | None, Ownership | None, Copies | None]:
    """Return the rules, who made what, and what ends copies that are not allowed; None without rules."""
    if config.auth.file is None:
        return None, None, None
    places = config.grpc.limits.max_connections * config.workers
    quotas = {"connections": max(1, places // _CONNECTIONS_SHARE)}
    authorization = Authorization(config.auth.file, ledger, quotas)
    access = authorization.access
    return authorization, Ownership(api, access), Copies(api, access, audit)


def _shared(
    config: ServerConfig,
    nats: _Nats,
    tracer: Tracer | None,
    storage: int | None,
) -> Shared:
    replicas = config.nats.default_replicas
    limit = _dead_letters_limit(config.events.dead_letters_max, storage)
    store = DeadLetterStore(nats.api, nats.writes, replicas, limit)
    queue = ReplayQueue(nats.api, nats.writes, nats.notes, replicas)
    return Shared(nats.requests, nats.api, store, queue, nats.notes, nats.room, tracer)


class _Domain:
    """The domain, built on the NATS layer."""

    def __init__(
        self,
        config: ServerConfig,
        nats: _Nats,
        shared: Shared,
        ownership: Ownership | None,
        servers: Servers,
    ) -> None:
        connection, _, api, writes, notes, gathering, *_ = nats
        self.shared = shared
        store, queue, stats = shared.store, shared.replays, shared.stats
        subscriptions = Subscriptions(gathering)
        events = EventsService(
            Streams(api, config.nats.default_replicas, ownership),
            Consumers(api, store, notes, queue, ownership),
            Publishing(api, writes, shared.counts, shared.tracer),
            shared,
            ConsumeOptions(ephemeral_kept=config.events.ephemeral_kept),
            subscriptions,
            extractor(config.telemetry.propagators),
        )
        self.upkeep = DeadLetterUpkeep(store, queue, api, notes, stats)
        buckets = Buckets(api, writes, config.nats.default_replicas, asking.get)
        watch = partial(Watch, connection, buckets, nats.room, watch_turns())
        self.dead_letters = DeadLettersService(DeadLetterAdmin(store, queue, api, stats), store, notes)
        self.admin = _admin(nats, shared, ownership, subscriptions, servers)
        self.services = (
            Service(EVENTS, events),
            Service(STATE, StateService(Stores(buckets, ownership), watch)),
            Service(DEAD_LETTERS, self.dead_letters),
            Service(ADMIN, self.admin),
        )


def _admin(
    nats: _Nats,
    shared: Shared,
    ownership: Ownership | None,
    subscriptions: Subscriptions,
    servers: Servers,
) -> AdminService:
    connection, requests, api, _, notes, gathering, *_ = nats
    store, look, pauses = shared.store, Look(api), ConsumerPause(api, notes)
    letters = DeadLetterCounts(store)
    return AdminService(
        servers=servers,
        account=partial(look_at_account, api, requests),
        streams=StreamAdmin(api, look, letters, ownership),
        consumers=ConsumerAdmin(api, look, store, shared.replays),
        pauses=pauses,
        seeks=ConsumerSeek(api, pauses, gathering, store, notes, shared.calls),
        subscriptions=subscriptions,
        events=EventReader(api, look),
        explainer=EventExplainer(api, look, gathering, subscriptions, shared),
        tail=partial(Tail, api, PullRoom(lambda: connection.max_payload, _TAILS_PART), ownership=ownership),
        history=History(look, letters, gathering),
    )


def _dead_letters_limit(demanded: int | None, storage: int | None) -> SizeLimit:
    if demanded is not None:
        return SizeLimit(demanded, is_demanded=True)
    return SizeLimit(min(_DEAD_LETTERS_MAX, (storage or sys.maxsize) // _DEAD_LETTERS_SHARE))


def _with_reflection(services: list[Service]) -> list[Service]:
    """Add reflection; raise `NoPolicy` for a method that is not in the table."""
    answered = [*services, *reflection_services(services, PAYLOADS)]
    for service in answered:
        for path in service.methods:
            policy_of(path)
    return answered


def _interceptors(
    config: ServerConfig,
    authorization: Authorization | None,
    tracer: Tracer | None,
    audit: Audit,
    counts: Counts,
) -> list[Interceptor]:
    """List what stands before the handlers: a call that is denied has no span, and no record of its work.

    Sizes are limited before all that.
    """
    interceptors: list[Interceptor] = []
    if authorization is None:
        interceptors.append(ask_as_connection)
    else:
        interceptors.append(AuthInterceptor(authorization.access, audit, counts).intercept)
    if tracer is not None:
        interceptors.append(partial(trace_calls, tracer, extractor(config.telemetry.propagators)))
    return [*interceptors, partial(audit_calls, audit), partial(take_turns, list_turns())]


def connection_options(config: NatsConfig, servers: tuple[ServerAddress, ...]) -> ConnectionOptions:
    """Convert the configuration for the NATS layer."""
    return ConnectionOptions(
        servers=servers,
        credentials=config.credentials,
        nkey=config.nkey,
        password=config.password,
        tls_first=config.tls_first,
        tls_ca=config.tls.ca,
        tls_certificate=config.tls.certificate,
        tls_key=config.tls.key,
        name="windshift",
        inbox_prefix=_INBOX_PREFIX,
    )


def admission_options(config: ServerConfig) -> AdmissionOptions:
    """Translate the limits for connections and addresses."""
    limits = config.grpc.limits
    share = limits.max_connections * limits.max_anonymous_share // 100
    return AdmissionOptions(
        places=limits.max_connections,
        anonymous_places=max(1, share) if config.authorizes else None,
        per_address=limits.max_connections_per_address,
        failing_calls=limits.max_failing_calls,
        longest_wait=limits.longest_wait.total_seconds(),
        unlimited=LOOPBACK,
        proxies=limits.proxies + limits.proxy_protocol,
    )


def rpc_options(limits: LimitsConfig) -> RpcConnectionOptions:
    """Convert the limits for the gRPC layer."""
    return RpcConnectionOptions(
        max_concurrent_streams=limits.max_concurrent_streams,
        keepalive_interval=limits.keepalive_interval.total_seconds(),
        keepalive_timeout=limits.keepalive_timeout.total_seconds(),
        handshake_timeout=limits.handshake_timeout.total_seconds(),
    )
