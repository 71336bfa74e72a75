"""The tree itself: frozen values, all of them verified when they were read."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from windshift.server.nats.options import ServerAddress


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
    tls: TlsFiles = field(default_factory=TlsFiles)
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


@dataclass(frozen=True, slots=True)
class SignalConfig:
    """Where one kind of telemetry goes. Without an endpoint: nowhere."""

    endpoint: str | None
    timeout: timedelta


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """What is told to the outside about the server's work."""

    propagators: tuple[str, ...]
    protocol: OtlpProtocol
    traces: SignalConfig
    metrics: SignalConfig
    logs: SignalConfig
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
    health: ListenConfig
    log_level: LogLevel
    development: bool
    default_replicas: int
    drain_timeout: timedelta
    insecure: bool
    telemetry: TelemetryConfig
