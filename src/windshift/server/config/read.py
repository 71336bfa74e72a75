"""From the environment to the tree."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from windshift.server.config.health import read_health
from windshift.server.config.limits import read_limits
from windshift.server.config.reader import Reader
from windshift.server.config.telemetry import read_telemetry
from windshift.server.config.tree import (
    ClientAuth,
    EmbeddedConfig,
    ListenConfig,
    LogLevel,
    NatsConfig,
    ServerConfig,
    TlsFiles,
)

if TYPE_CHECKING:
    from windshift.nats import ServerAddress

_LONGEST_DRAIN = 3600


def config_from_environment(environment: Mapping[str, str]) -> ServerConfig:
    """Read and verify everything. Raises `ConfigurationError`, which names every variable that is wrong."""
    reader = Reader(environment)
    development = reader.boolean("DEVELOPMENT")
    grpc = ListenConfig(reader.host("GRPC_HOST", "127.0.0.1"), reader.port("GRPC_PORT", 8080))
    config = ServerConfig(
        nats=_nats(reader),
        embedded=_embedded(reader),
        grpc=grpc,
        grpc_tls=_grpc_tls(reader),
        limits=read_limits(reader),
        grpc_client_auth=_client_auth(reader),
        health=read_health(reader, grpc.host),
        log_level=reader.choice(
            "LOG_LEVEL", LogLevel.DEBUG if development else LogLevel.INFO, {"warn": "warning"}
        ),
        development=development,
        default_replicas=reader.integer("WINDSHIFT_DEFAULT_REPLICAS", 1, 1, 5),
        drain_timeout=reader.seconds("WINDSHIFT_DRAIN_TIMEOUT", 10, _LONGEST_DRAIN),
        auth_file=reader.file("WINDSHIFT_AUTH_FILE"),
        insecure=reader.boolean("WINDSHIFT_INSECURE"),
        metrics=reader.boolean("WINDSHIFT_METRICS", default=True),
        telemetry=read_telemetry(reader),
    )
    _distinct_ports(reader, config)
    _enough_servers(reader, config)
    _safe(reader, config)
    reader.finish()
    return config


def _distinct_ports(reader: Reader, config: ServerConfig) -> None:
    if config.grpc == config.health and config.grpc.port != 0:
        reader.problem("HEALTH_PORT", f"{config.health.port} is GRPC_PORT too; use another port")


def _enough_servers(reader: Reader, config: ServerConfig) -> None:
    """Refuse replicas where there is one NATS server only: no stream and no store could be made."""
    if config.default_replicas > 1 and reader.text("NATS_URL") is None:
        reader.problem(
            "WINDSHIFT_DEFAULT_REPLICAS",
            f"{config.default_replicas} needs a cluster, and the embedded NATS is one server; "
            "set NATS_URL, or use 1",
        )


def _safe(reader: Reader, config: ServerConfig) -> None:
    """Refuse to let other machines in where nothing says who may do what, unless that is meant."""
    if not (config.grpc.loopback or config.authorizes or config.insecure):
        reader.problem(
            "GRPC_HOST",
            f"{config.grpc.host!r} may let other machines in, and nothing says who may do what; set "
            "WINDSHIFT_AUTH_FILE, or GRPC_HOST=127.0.0.1, or WINDSHIFT_INSECURE=true to let everybody who "
            "reaches the port do everything",
        )


def _nats(reader: Reader) -> NatsConfig:
    from windshift.nats import parse_servers  # noqa: PLC0415 - and with it asyncio, which help does without

    nothing: tuple[ServerAddress, ...] = ()
    if reader.text("NATS_CREDS") is not None and reader.text("NATS_NKEY") is not None:
        reader.problem("NATS_NKEY", "not together with NATS_CREDS; set one of them")
    return NatsConfig(
        servers=reader.secret("NATS_URL", nothing, parse_servers),
        credentials=reader.file("NATS_CREDS"),
        nkey=reader.file("NATS_NKEY"),
        tls=_tls_files(reader, "NATS_TLS_CA", "NATS_TLS_CERT", "NATS_TLS_KEY"),
        tls_first=reader.boolean("NATS_TLS_FIRST"),
        max_pending_publishes=reader.integer("NATS_PUBLISH_ASYNC_MAX_PENDING", 256, 1, 10_000),
    )


def _embedded(reader: Reader) -> EmbeddedConfig:
    return EmbeddedConfig(
        data_dir=reader.path("WINDSHIFT_DATA_DIR") or _data_home(reader) / "windshift",
        program=reader.program("WINDSHIFT_NATS_SERVER"),
        sync=reader.flush_interval("WINDSHIFT_NATS_SYNC", "1s"),
    )


def _data_home(reader: Reader) -> Path:
    """Give the directory that the platform means for a user's data."""
    xdg = reader.text("XDG_DATA_HOME")
    if xdg is not None and Path(xdg).is_absolute():  # relative ones must be ignored (XDG base directories)
        return Path(xdg)
    return _home(reader) / ("Library/Application Support" if sys.platform == "darwin" else ".local/share")


def _home(reader: Reader) -> Path:
    home = reader.text("HOME")
    if home is not None:
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:  # as in a container under a user that it does not know
        if reader.text("NATS_URL") is None:
            reader.problem("WINDSHIFT_DATA_DIR", "this user has no home directory for data; set it")
        return Path("/")


def _grpc_tls(reader: Reader) -> TlsFiles | None:
    files = _tls_files(reader, "GRPC_TLS_CLIENT_CA", "GRPC_TLS_CERT", "GRPC_TLS_KEY")
    if files == TlsFiles():
        return None
    if files.certificate is None and files.key is None:
        reader.problem("GRPC_TLS_CLIENT_CA", "needs GRPC_TLS_CERT and GRPC_TLS_KEY; set them too")
    return files


def _client_auth(reader: Reader) -> ClientAuth:
    name = "GRPC_TLS_CLIENT_AUTH"
    if reader.text(name) is not None and reader.text("GRPC_TLS_CLIENT_CA") is None:
        reader.problem(name, "needs GRPC_TLS_CLIENT_CA; set it too")
    return reader.choice(name, ClientAuth.REQUIRE)


def _tls_files(reader: Reader, ca: str, certificate: str, key: str) -> TlsFiles:
    files = TlsFiles(ca=reader.file(ca), certificate=reader.file(certificate), key=reader.file(key))
    if files.certificate is not None and files.key is None:
        reader.problem(certificate, f"needs {key}; set it too")
    if files.key is not None and files.certificate is None:
        reader.problem(key, f"needs {certificate}; set it too")
    return files
