"""The composition root: everything that answers calls, built and connected."""

from __future__ import annotations

import logging
import ssl

from windshift.rpc import HealthService, Server, ServerOptions, Service, reflection_services, server_tls
from windshift.server.api.errors import translate
from windshift.server.api.events import EVENTS, EventsService
from windshift.server.api.state import STATE, StateService
from windshift.server.config import NatsConfig, ServerConfig, TlsFiles
from windshift.server.events.attachment import Broker, ConsumeOptions
from windshift.server.events.consumers import Consumers
from windshift.server.events.publish import Publisher
from windshift.server.events.streams import Streams
from windshift.server.nats.connection import Connection
from windshift.server.nats.consumers import ConsumerApi
from windshift.server.nats.jetstream import JetStreamApi
from windshift.server.nats.kv import Buckets
from windshift.server.nats.options import ConnectionOptions, ServerAddress
from windshift.server.nats.replies import Replies
from windshift.server.nats.streams import StreamApi
from windshift.server.nats.writes import WriteOptions, Writes
from windshift.server.state.stores import Stores

log = logging.getLogger(__name__)

CALL_TIMEOUT = 15.0
"""Seconds in which a call without streams must end when its client sets no deadline."""


class App:
    """A server in the running event loop, without the process around it.

    Knows nothing of signals, of an embedded broker or of HTTP: see `windshift.server.serve`.
    """

    def __init__(self, config: ServerConfig, servers: tuple[ServerAddress, ...]) -> None:
        """Build everything; nothing is connected yet. `servers` is where NATS is."""
        self._config = config
        self.connection = Connection(connection_options(config.nats, servers))
        self._replies = Replies(self.connection)
        services = self._services()
        self._health = HealthService()
        self._names = ["", *(service.descriptor.full_name for service in services)]
        self._server = Server(
            [*services, self._health, *reflection_services([*services, self._health])],
            ServerOptions(default_timeout=CALL_TIMEOUT, translate=translate),
        )
        self._started = False
        self._draining = False
        self.port = 0
        """Where the API listens, once it does."""
        self.connection.on_connected.append(self._show_health)
        self.connection.on_lost.append(self._show_health)
        self._show_health()

    def _services(self) -> list[Service]:
        api = JetStreamApi(self.connection, self._replies)
        writes = Writes(
            self.connection,
            self._replies,
            api,
            WriteOptions(max_in_flight=self._config.nats.max_pending_publishes),
        )
        stream_api, consumer_api = StreamApi(api), ConsumerApi(api)
        events = EventsService(
            Streams(stream_api, self._config.default_replicas),
            Consumers(stream_api, consumer_api),
            Publisher(self.connection, api, writes),
            Broker(self.connection, self._replies, consumer_api),
            ConsumeOptions(),
        )
        stores = Stores(Buckets(self.connection, api, writes, self._config.default_replicas))
        return [Service(EVENTS, events), Service(STATE, StateService(stores))]

    def not_ready(self) -> str | None:
        """Say why calls should not come here now; None when they should."""
        if self._draining:
            return "draining"
        if not self._started:
            return "starting"
        if not self.connection.connected:
            return "no connection to NATS"
        return None

    async def start(self) -> None:
        """Connect to NATS, and take calls.

        Raises `BrokerUnavailable` when NATS cannot be reached, OSError when the port or the TLS files cannot
        be used.
        """
        tls = _tls(self._config.grpc_tls)
        await self._replies.start()
        await self.connection.connect()
        listen = self._config.grpc
        _, self.port = await self._server.listen(listen.host, listen.port, ssl=tls)
        self._started = True
        self._show_health()

    def _show_health(self) -> None:
        """Tell probes and load balancers that ask over gRPC what `not_ready` says."""
        serving = self.not_ready() is None
        for name in self._names:
            self._health.set(name, serving)

    async def drain(self, timeout: float) -> bool:
        """Take no more calls, and let those in flight finish, for `timeout` seconds at most.

        Returns whether all of them did.
        """
        self._draining = True
        self._show_health()
        return await self._server.drain(timeout)

    async def close(self) -> None:
        """Drop what is still there, and disconnect from NATS."""
        self._draining = True
        self._server.close()
        await self.connection.close()


def connection_options(config: NatsConfig, servers: tuple[ServerAddress, ...]) -> ConnectionOptions:
    """Translate the configuration for the NATS layer."""
    return ConnectionOptions(
        servers=servers,
        credentials=config.credentials,
        tls_ca=config.tls.ca,
        tls_certificate=config.tls.certificate,
        tls_key=config.tls.key,
    )


def _tls(files: TlsFiles | None) -> ssl.SSLContext | None:
    if files is None or files.certificate is None or files.key is None:
        return None
    return server_tls(files.certificate, files.key, files.ca)
