"""The tree itself: frozen values, all of them verified when they were read."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from windshift.nats import ServerAddress  # and with it asyncio, which help and probes do without


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class OtlpProtocol(StrEnum):
    """How telemetry is sent."""

    GRPC = "grpc"
    HTTP_PROTOBUF = "http/protobuf"


class OtlpCompression(StrEnum):
    """How telemetry is compressed on its way."""

    NONE = "none"
    GZIP = "gzip"


class ClientAuth(StrEnum):
    """Whether clients of the API show certificates, where there are authorities to check them against."""

    REQUIRE = "require"
    OPTIONAL = "optional"
    """One that is shown has to be good all the same."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files, readable when the configuration was read.

    `certificate` and `key` are both there or both absent.
    """

    ca: Path | None = None
    """Authorities that the other side is checked against.

    Absent: the system's for a client, no check for a server.
    """
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class NatsConfig:
    """How to reach NATS, and how much may be under way."""

    servers: tuple[ServerAddress, ...] = ()
    """Empty: an embedded server is started."""
    credentials: Path | None = None
    nkey: Path | None = None
    tls: TlsFiles = field(default_factory=TlsFiles)
    tls_first: bool = False
    max_pending_publishes: int = 256


@dataclass(frozen=True, slots=True)
class EmbeddedConfig:
    """The nats-server that is started when no other is named."""

    data_dir: Path
    program: Path | None = None
    """Absent: the one of the installed wheel."""
    sync: str = "1s"
    """How often nats-server flushes to disk, as it writes durations, or ``always``."""


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """An address to listen on. Port 0 means any free one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine gets there. Names but ``localhost`` may mean any address."""
        try:
            return ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """How much of the API's side clients may take up, and for how long."""

    max_connections: int = 10_000
    """At once."""
    max_connections_per_address: int = 0
    """Of one IPv4 address or one /64 network of IPv6; 0 = no limit of their own."""
    max_concurrent_streams: int = 256
    """Calls at once on one connection."""
    keepalive_interval: timedelta = timedelta(seconds=30)
    """How long a connection may be silent before it is asked whether anybody is there; 0 = for ever."""
    keepalive_timeout: timedelta = timedelta(seconds=10)
    """How long the answer may take."""
    handshake_timeout: timedelta = timedelta(seconds=10)
    """How long a TLS handshake may take, and then how long it may take until the first call begins."""
    max_held: int | None = None
    """Bytes of half messages and of unread answers, of all clients; None = a share of the memory there is."""


@dataclass(frozen=True, slots=True)
class SignalConfig:
    """Where one kind of telemetry goes, and how. Without an endpoint: nowhere."""

    endpoint: str | None = None
    """For HTTP the whole URL; for gRPC a URL, or ``host:port`` alone."""
    timeout: timedelta = timedelta(seconds=10)
    """How long one export may take, its retries included."""
    protocol: OtlpProtocol = OtlpProtocol.GRPC
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Sent along with every export; they may hold credentials."""
    compression: OtlpCompression = OtlpCompression.NONE
    tls: TlsFiles = field(default_factory=TlsFiles)
    insecure: bool = False
    """Whether a gRPC endpoint that is no URL is spoken to without TLS."""

    @property
    def plaintext(self) -> bool:
        """Whether there is no TLS. The scheme of a URL comes before `insecure`."""
        scheme, separator, _ = (self.endpoint or "").partition("://")
        return scheme.lower() == "http" if separator else self.insecure


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    """Which traces are recorded."""

    parent_based: bool = True
    """Whether traces that come from outside are recorded if they are there. Else `ratio` decides too."""
    ratio: float = 1.0
    """The share of traces that are recorded, from 0 to 1, decided by the trace's id."""


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """How finished spans are gathered for an export."""

    delay: timedelta = timedelta(seconds=5)
    """How long a span waits for others."""
    queue_size: int = 2048
    """Spans that may wait; further ones are dropped."""
    batch_size: int = 512
    """Spans in one export; as many are exported without waiting."""
    timeout: timedelta = timedelta(seconds=30)
    """How long the export of a batch may take; the exporter's own timeout counts too."""


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """What is told to the outside about the server's work."""

    service_name: str
    resource: tuple[tuple[str, str], ...]
    """Further attributes of the resource."""
    propagators: tuple[str, ...]
    traces: SignalConfig
    metrics: SignalConfig
    logs: SignalConfig
    sampler: SamplerConfig
    batch: BatchConfig
    metric_interval: timedelta
    metric_timeout: timedelta
    log_spans: bool


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything that a server process can be told."""

    nats: NatsConfig
    embedded: EmbeddedConfig
    grpc: ListenConfig
    grpc_tls: TlsFiles | None
    limits: LimitsConfig
    grpc_client_auth: ClientAuth
    """Of no meaning without `grpc_tls.ca`."""
    health: ListenConfig
    log_level: LogLevel
    development: bool
    default_replicas: int
    drain_timeout: timedelta
    auth_file: Path | None
    """The file that says who may do what. None: everybody may do everything."""
    insecure: bool
    """Whether other addresses than loopback may be served without authorization."""
    metrics: bool
    telemetry: TelemetryConfig

    @property
    def authorizes(self) -> bool:
        """Whether somebody has to be known to get in: by the authorization file, or by a certificate."""
        certificates = self.grpc_tls is not None and self.grpc_tls.ca is not None
        return self.auth_file is not None or (certificates and self.grpc_client_auth is ClientAuth.REQUIRE)

    @property
    def reloads(self) -> bool:
        """Whether there are files that are loaded again when they change."""
        return self.grpc_tls is not None or self.auth_file is not None
