"""Reads the configuration from the environment, and applies the rules about several settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from windshift.server.config import parsers
from windshift.server.config.settings import Reader
from windshift.server.config.tree import SERVER, SETTINGS, ListenConfig, ServerConfig

_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here
"""Wildcard addresses, and where to connect instead."""
_HOW_TO_CONNECT: Final = (
    *("NATS_CREDS", "NATS_NKEY", "NATS_PASSWORD_FILE"),
    *("NATS_TLS_CERT", "NATS_TLS_KEY", "NATS_TLS_CA", "NATS_TLS_FIRST"),
)
_OF_CLIENTS: Final = {
    "WINDSHIFT_TLS_CERT": "GRPC_TLS_CERT",
    "WINDSHIFT_TLS_KEY": "GRPC_TLS_KEY",
    "WINDSHIFT_TLS_CA": "GRPC_TLS_CLIENT_CA",
}
"""TLS files of clients, and what a server has in their place."""


def config_from_environment(environment: Mapping[str, str]) -> ServerConfig:
    """Read and validate everything. Raises `ConfigurationError`, which names every variable that is wrong."""
    reader = Reader(environment)
    config = SERVER.read(reader)
    reader.refuse_unknown(SETTINGS)
    _check_credentials(reader, config)
    _check_ports(reader, config)
    _check_replicas(reader, config)
    _check_url(reader)
    _check_exposure(reader, config)
    _check_tls_of_clients(reader, config)
    _check_workers(reader, config)
    reader.finish()
    return config


def auth_file(environment: Mapping[str, str]) -> Path | None:
    """Return the authorization file of a server with this environment, or None if it has none.

    Raises `ConfigurationError` for a value that is not a path. The file is not looked at.
    """
    reader = Reader(environment)
    file = reader.value(replace(SETTINGS["WINDSHIFT_AUTH_FILE"], parser=parsers.path))
    reader.finish()
    return file


def health_address(environment: Mapping[str, str]) -> ListenConfig:
    """Return where a client on the same machine reaches the probes of a server with this environment.

    Raises `ConfigurationError`. Other variables are not looked at.
    """
    reader = Reader(environment)
    listen: Any = SERVER.parts["health"].read(reader)
    if listen.port == 0:
        reader.problem("HEALTH_PORT", "0 means any free port: name the one that the server says it has")
    reader.finish()
    return ListenConfig(_ANY.get(listen.host, listen.host), listen.port)


# --- Rules ------------------------------------------------------------------------------------------------


def _check_credentials(reader: Reader, config: ServerConfig) -> None:
    if reader.text("NATS_CREDS") is not None and reader.text("NATS_NKEY") is not None:
        reader.problem("NATS_NKEY", "not together with NATS_CREDS; set one of them")
    if config.nats.password is not None and any(server.password for server in config.nats.servers):
        reader.problem("NATS_PASSWORD_FILE", "NATS_URL has a password, too; take that out")


def _check_ports(reader: Reader, config: ServerConfig) -> None:
    if config.grpc.listen == config.health and config.health.port != 0:
        reader.problem("HEALTH_PORT", f"{config.health.port} is GRPC_PORT too; use another port")


def _check_replicas(reader: Reader, config: ServerConfig) -> None:
    """Refuse replicas with the embedded NATS server: it could create no stream and no store."""
    replicas = config.nats.default_replicas
    if replicas > 1 and reader.text("NATS_URL") is None:
        reader.problem(
            "WINDSHIFT_DEFAULT_REPLICAS",
            f"{replicas} needs a cluster, and the embedded NATS is one server; set NATS_URL, or use 1",
        )


def _check_url(reader: Reader) -> None:
    """Refuse what says how to connect to NATS, but not where: an embedded server would be started."""
    if reader.text("NATS_URL") is None:
        for name in _HOW_TO_CONNECT:
            if reader.value(SETTINGS[name]):
                reader.problem(name, "needs NATS_URL; set it too")


def _check_exposure(reader: Reader, config: ServerConfig) -> None:
    """Refuse to serve other machines without authorization, unless that is explicitly allowed."""
    if config.is_open and not config.auth.insecure:
        reader.problem(
            "GRPC_HOST",
            f"{config.grpc.listen.host!r} may let other machines in, and nothing says who may do what; set "
            "WINDSHIFT_AUTH_FILE, or GRPC_HOST=127.0.0.1, or WINDSHIFT_INSECURE=true to let everybody who "
            "reaches the port do everything",
        )


def _check_tls_of_clients(reader: Reader, config: ServerConfig) -> None:
    """Refuse names that clients have for TLS where the server would do without it, and others reach it.

    On loopback they are those of clients in the same shell.
    """
    if not config.grpc.listen.loopback:
        for name, meant in _OF_CLIENTS.items():
            if reader.is_set(name) and not reader.is_set(meant):
                reader.problem(name, f"only clients read it; did you mean {meant}? If not, unset it")


def _check_workers(reader: Reader, config: ServerConfig) -> None:
    """Refuse several processes where the system does not spread connections over them."""
    if config.workers > 1 and not parsers.SHARES_PORTS:
        reader.problem(
            "WINDSHIFT_WORKERS",
            f"{config.workers} processes cannot share a port on this system: only Linux spreads connections "
            "over them (SO_REUSEPORT); use 1",
        )
