"""Where a server's probes are answered, for somebody who wants to ask."""

from __future__ import annotations

from collections.abc import Mapping

from windshift.server.config.reader import Reader
from windshift.server.config.tree import ListenConfig

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here
"""Addresses that only listeners know, and what to connect to instead."""


def read_health(reader: Reader, grpc_host: str) -> ListenConfig:
    """Read where probes are answered; without an address of their own, on that of the API."""
    return ListenConfig(reader.host("HEALTH_HOST", grpc_host), reader.port("HEALTH_PORT", 8088))


def health_address(environment: Mapping[str, str]) -> ListenConfig:
    """Return where to ask a server with this environment, on the same machine, how it is.

    Raises `ConfigurationError`; what is wrong with other variables does not matter.
    """
    reader = Reader(environment)
    listen = read_health(reader, reader.host("GRPC_HOST", "127.0.0.1"))
    if listen.port == 0:
        reader.problem("HEALTH_PORT", "0 means any free port: name the one that the server says it has")
    reader.finish()
    return ListenConfig(_ANY.get(listen.host, listen.host), listen.port)
