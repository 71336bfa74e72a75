"""The configuration of a server: every setting, declared as the field that holds its value."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from windshift.server.config import parsers as p
from windshift.server.config.settings import Reader, Section, Setting, computed, optional, section, setting
from windshift.server.config.telemetry import TelemetryConfig, TlsFiles, tls_files

if TYPE_CHECKING:
    from windshift.nats import ServerAddress  # imports asyncio, which `--help` and probes do without


class LogLevel(StrEnum):
    """The least severe records that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class ClientAuth(StrEnum):
    """Whether clients must present a certificate, where there are authorities to verify it against."""

    REQUIRE = "require"
    OPTIONAL = "optional"
    """One that is presented must be valid all the same."""


def _level(reader: Reader) -> LogLevel | None:
    return LogLevel.DEBUG if reader.value(SETTINGS["DEVELOPMENT"]) else None


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged, and in which form."""

    development: bool = setting(
        "DEVELOPMENT", p.boolean, "Development mode: readable logs, debug level.", "false"
    )
    level: LogLevel = setting(
        "LOG_LEVEL", p.choice(LogLevel, warn="warning"), "Lowest level to log.", "info", fallback=_level
    )


@dataclass(frozen=True, slots=True)
class NatsConfig:
    """How to connect to NATS, and how to use it."""

    servers: tuple[ServerAddress, ...] = setting(
        "NATS_URL",
        p.servers,
        "URL of the NATS server, or several separated by commas; with user and password or a token. "
        "Absent: an embedded server is started.",
        "",
    )
    credentials: Path | None = optional(
        "NATS_CREDS", p.file, "Credentials file for NATS: a JWT and the seed of its nkey."
    )
    nkey: Path | None = optional(
        "NATS_NKEY", p.file, "File with an nkey seed for NATS; not together with NATS_CREDS."
    )
    password: Path | None = optional(
        "NATS_PASSWORD_FILE",
        p.file,
        "File with the password of the user in NATS_URL, or with a token if that has no user.",
    )
    tls: TlsFiles = tls_files(
        Setting("NATS_TLS_CERT", p.file, "Client certificate for NATS; needs NATS_TLS_KEY."),
        "NATS_TLS_KEY",
        Setting("NATS_TLS_CA", p.file, "CA certificates to verify NATS servers against; requires TLS."),
    )
    tls_first: bool = setting(
        "NATS_TLS_FIRST", p.boolean, "Start with TLS, for a nats-server with handshake_first.", "false"
    )
    max_pending_publishes: int = setting(
        "NATS_PUBLISH_ASYNC_MAX_PENDING",
        p.integer(1, 10_000),
        "Publishes that may await the broker's answer at once, small ones and large ones apart; a large one, "
        "or several sent together, count once more for each 16 KiB. Further ones wait their turn.",
        "256",
    )
    default_replicas: int = setting(
        "WINDSHIFT_DEFAULT_REPLICAS",
        p.integer(1, 5),
        "Replicas of streams and stores whose request names no number; more than 1 needs NATS_URL.",
        "1",
    )


@dataclass(frozen=True, slots=True)
class EventsConfig:
    """What is kept of events and consumers, and for how long."""

    ephemeral_kept: timedelta = setting(
        "WINDSHIFT_EPHEMERAL_KEPT",
        p.seconds(1, 3600),
        "Seconds an ephemeral consumer is kept after its last subscriber left.",
        "60",
    )
    dead_letters_max: int | None = optional(
        "WINDSHIFT_DEAD_LETTERS_MAX_MB",
        p.integer(0, 1_000_000_000, unit=1_000_000),
        "Megabytes of dead letters; beyond that, events are retried in place of becoming some. 0: no limit.",
        otherwise="10,000; a tenth at most of an embedded server's disk, or of the NATS account's",
    )
    """In bytes."""


def _data_dir(reader: Reader) -> Path:
    return reader.value(_DATA_DIR) or _data_home(reader) / "windshift"


def _data_home(reader: Reader) -> Path:
    """Return the platform's directory for a user's data."""
    xdg = reader.text("XDG_DATA_HOME")
    if xdg is not None and Path(xdg).is_absolute():  # the XDG specification has relative ones ignored
        return Path(xdg)
    return _home(reader) / ("Library/Application Support" if sys.platform == "darwin" else ".local/share")


def _home(reader: Reader) -> Path:
    home = reader.text("HOME")
    if home is not None:
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:  # as in a container that runs as an unknown user
        if reader.text("NATS_URL") is None:
            reader.problem(_DATA_DIR.name, "this user has no home directory for data; set it")
        return Path("/")


_DATA_DIR: Final = Setting(
    "WINDSHIFT_DATA_DIR", p.path, "Data of the embedded server.", None, "windshift under the user's data home"
)


@dataclass(frozen=True, slots=True)
class EmbeddedConfig:
    """The nats-server that is started when NATS_URL is absent."""

    data_dir: Path = computed(_data_dir, _DATA_DIR)
    program: Path | None = optional(
        "WINDSHIFT_NATS_SERVER", p.program, "The nats-server to embed.", otherwise="the installed wheel's"
    )
    sync: str = setting(
        "WINDSHIFT_NATS_SYNC",
        p.flush_interval,
        "How often the embedded server flushes to disk, such as 500ms or 2m, or always: before every answer.",
        "1s",
    )
    max_payload: int = setting(
        "WINDSHIFT_NATS_MAX_PAYLOAD_KB",
        p.integer(64, 8192, unit=1024),
        "The largest event with its headers, or value, in the embedded server, in KiB.",
        "1024",
    )
    """In bytes."""
    stop_timeout: timedelta = setting(
        "WINDSHIFT_NATS_STOP_TIMEOUT",
        p.seconds(1, 3600),
        "Seconds the embedded server has to stop, after the drain, before it is killed.",
        "60",
    )
    accepted_losses: tuple[str, ...] | None = optional(
        "WINDSHIFT_NATS_ACCEPT_LOSS",
        p.names,
        "Streams of the embedded server that may be damaged, separated by commas, or all.",
    )

    def accepts_loss(self, stream: str) -> bool:
        """Whether a stream may be damaged."""
        accepted = self.accepted_losses or ()
        return stream in accepted or "all" in accepted


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """An address to listen on. Port 0 means any free one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect. Names other than ``localhost`` may mean any address."""
        try:
            return ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """How much of the server clients may take up, and for how long."""

    max_connections: int = setting(
        "GRPC_MAX_CONNECTIONS",
        p.integer(1, 1_000_000),
        "Connections at once, as far as the limit on open files allows; further ones are closed.",
        "10000",
    )
    max_connections_per_address: int = setting(
        "GRPC_MAX_CONNECTIONS_PER_ADDRESS",
        p.integer(0, 1_000_000),
        "Connections at once from one IPv4 address or IPv6 /64 network, loopback excepted; 0: no limit.",
        "1000",
    )
    max_anonymous_share: int = setting(
        "GRPC_MAX_ANONYMOUS_PERCENT",
        p.integer(1, 100),
        "Percent of GRPC_MAX_CONNECTIONS for connections on which nobody has authenticated, where "
        "authentication is asked for; one more takes the place of the oldest.",
        "50",
    )
    anonymous_timeout: timedelta = setting(
        "GRPC_ANONYMOUS_TIMEOUT",
        p.seconds(1, 86_400),
        "Seconds in which somebody must authenticate on a connection, where authentication is asked for.",
        "60",
    )
    max_failing_calls: int = setting(
        "GRPC_MAX_FAILING_CALLS",
        p.integer(0, 1_000_000),
        "Calls per second from one address that fail before they do anything, and five times as many at "
        "once; beyond that its connections are closed, and it waits. 0: no limit.",
        "1000",
    )
    longest_wait: timedelta = setting(
        "GRPC_MAX_ADDRESS_WAIT",
        p.seconds(0, 86_400),
        "Seconds, at most, for which an address cannot connect after that; the wait begins with 0.5 and "
        "doubles each time. 0: it never has to wait.",
        "60",
    )
    proxies: tuple[IPv4Network | IPv6Network, ...] = setting(
        "GRPC_PROXY_ADDRESSES",
        p.networks,
        "Addresses and networks, separated by commas, of proxies and load balancers: there are no limits "
        "per address for them.",
        "",
    )
    proxy_protocol: tuple[IPv4Network | IPv6Network, ...] = setting(
        "GRPC_PROXY_PROTOCOL_FROM",
        p.networks,
        "The same, for those that begin each connection with a PROXY header (version 1 or 2), by which the "
        "client's address counts.",
        "",
    )
    max_concurrent_streams: int = setting(
        "GRPC_MAX_CONCURRENT_STREAMS", p.integer(1, 10_000), "Calls at once on one connection.", "256"
    )
    keepalive_interval: timedelta = setting(
        "GRPC_KEEPALIVE_INTERVAL", p.seconds(0, 3600), "Seconds of silence before a PING; 0: never.", "30"
    )
    keepalive_timeout: timedelta = setting(
        "GRPC_KEEPALIVE_TIMEOUT", p.seconds(1, 3600), "Seconds a client has to answer a PING.", "10"
    )
    handshake_timeout: timedelta = setting(
        "GRPC_HANDSHAKE_TIMEOUT",
        p.seconds(1, 3600),
        "Seconds a client has for the TLS handshake, and then to begin its first call.",
        "10",
    )
    max_connection_age: timedelta = setting(
        "GRPC_MAX_CONNECTION_AGE",
        p.seconds(0, 86_400),
        "Seconds, give or take a tenth, after which a connection is drained as at a stop, so that clients "
        "spread over all servers again; 0: never.",
        "0",
    )
    connection_age_grace: timedelta = setting(
        "GRPC_MAX_CONNECTION_AGE_GRACE",
        p.seconds(1, 86_400),
        "Seconds that the calls of such a connection then have to end.",
        "60",
    )
    max_held: int | None = optional(
        "GRPC_MAX_HELD_MB",
        p.integer(1, 1_000_000, unit=1_000_000),
        "Megabytes of incomplete messages, unread answers, bytes to be parsed and open streams, of all "
        "clients together; beyond that, the connections that hold most are closed.",
        otherwise="a quarter of the memory",
    )
    """In bytes."""


@dataclass(frozen=True, slots=True)
class GrpcConfig:
    """The API: where it listens, and on which terms."""

    listen: ListenConfig = section(
        ListenConfig,
        host=Setting("GRPC_HOST", p.host, "Address of the API.", "127.0.0.1"),
        port=Setting("GRPC_PORT", p.port, "Port of the API; 0: any free one.", "8080"),
    )
    tls: TlsFiles = tls_files(
        Setting("GRPC_TLS_CERT", p.file, "Certificate of the API; needs GRPC_TLS_KEY. Absent: plain text."),
        "GRPC_TLS_KEY",
        Setting(
            "GRPC_TLS_CLIENT_CA",
            p.file,
            "CA certificates to verify client certificates against; needs GRPC_TLS_CERT.",
            needs=("GRPC_TLS_CERT", "GRPC_TLS_KEY"),
        ),
    )
    client_auth: ClientAuth = setting(
        "GRPC_TLS_CLIENT_AUTH",
        p.choice(ClientAuth),
        "Whether clients must present a certificate; needs GRPC_TLS_CLIENT_CA.",
        "require",
        needs=("GRPC_TLS_CLIENT_CA",),
    )
    limits: LimitsConfig = section(LimitsConfig)
    drain_timeout: timedelta = setting(
        "WINDSHIFT_DRAIN_TIMEOUT", p.seconds(0, 3600), "Seconds a stop waits for calls in flight.", "10"
    )


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Who may do what."""

    file: Path | None = optional(
        "WINDSHIFT_AUTH_FILE", p.file, "TOML file: who may do what. Absent: everybody may do everything."
    )
    insecure: bool = setting(
        "WINDSHIFT_INSECURE",
        p.boolean,
        "Serve other addresses than loopback without authorization: everybody may do everything.",
        "false",
    )


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything a server process can be configured with."""

    log: LogConfig = section(LogConfig, "Logs")
    nats: NatsConfig = section(NatsConfig, "NATS")
    events: EventsConfig = section(EventsConfig, "Events")
    embedded: EmbeddedConfig = section(EmbeddedConfig, "The embedded NATS server")
    grpc: GrpcConfig = section(GrpcConfig, "The API")
    workers: int = setting(
        "WINDSHIFT_WORKERS",
        p.workers,
        "Processes that serve the port together, on Linux; auto: one for each core that the server may use.",
        "1",
    )
    auth: AuthConfig = section(AuthConfig, "Authorization")
    health: ListenConfig = section(
        ListenConfig,
        "Probes and metrics",
        host=Setting(
            "HEALTH_HOST",
            p.host,
            "Address of /healthz, /readyz and /metrics.",
            otherwise="GRPC_HOST",
            fallback=lambda reader: reader.value(SETTINGS["GRPC_HOST"]),
        ),
        port=Setting(
            "HEALTH_PORT", p.port, "Port of /healthz, /readyz and /metrics; 0: any free one.", "8088"
        ),
    )
    health_probes: tuple[IPv4Network | IPv6Network, ...] = setting(
        "HEALTH_PROBES_FROM",
        p.networks,
        "Addresses and networks, separated by commas, whose connections to HEALTH_PORT are never closed to "
        "make room for others, as loopback's are not.",
        "",
    )
    metrics: bool = setting("WINDSHIFT_METRICS", p.boolean, "Collect metrics, for /metrics and OTLP.", "true")
    watchdog_timeout: timedelta = setting(
        "WINDSHIFT_WATCHDOG_TIMEOUT",
        p.seconds(0, 3600),
        "Seconds that the event loop may be blocked before the process exits with 70; 0: never.",
        "60",
    )
    telemetry: TelemetryConfig = section(TelemetryConfig, "OpenTelemetry")

    @property
    def authorizes(self) -> bool:
        """Whether clients must identify themselves: by the authorization file, or by a certificate."""
        certificates = self.grpc.tls.ca is not None and self.grpc.client_auth is ClientAuth.REQUIRE
        return self.auth.file is not None or certificates

    @property
    def is_open(self) -> bool:
        """Whether anybody on other machines may do everything."""
        return not (self.grpc.listen.loopback or self.authorizes)

    @property
    def reloads(self) -> bool:
        """Whether there are files that are reloaded when they change."""
        return self.grpc.tls.certificate is not None or self.auth.file is not None


def _by_heading() -> dict[str, tuple[Setting[Any], ...]]:
    groups: dict[str, tuple[Setting[Any], ...]] = {}
    heading = ""
    for part in SERVER.parts.values():
        heading = getattr(part, "heading", heading)
        groups[heading] = groups.get(heading, ()) + part.settings
    return groups


SERVER: Final = Section.of(ServerConfig)
GROUPS: Final = _by_heading()
"""Every setting, under its heading in the documentation."""
SETTINGS: Final[dict[str, Setting[Any]]] = {each.name: each for group in GROUPS.values() for each in group}
"""Every setting by name, in the order of the documentation."""
