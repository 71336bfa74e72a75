"""How much of the server clients may take up."""

from __future__ import annotations

from windshift.server.config.reader import Reader
from windshift.server.config.tree import LimitsConfig

_MOST_CONNECTIONS = 1_000_000
_MOST_STREAMS = 10_000
_LONGEST = 3600
_MB = 1_000_000


def read_limits(reader: Reader) -> LimitsConfig:
    """Read the limits of the API."""
    default = LimitsConfig()
    held = reader.integer("GRPC_MAX_HELD_MB", 0, 1, 1_000_000)
    return LimitsConfig(
        max_connections=reader.integer("GRPC_MAX_CONNECTIONS", default.max_connections, 1, _MOST_CONNECTIONS),
        max_connections_per_address=reader.integer(
            "GRPC_MAX_CONNECTIONS_PER_ADDRESS", default.max_connections_per_address, 0, _MOST_CONNECTIONS
        ),
        max_concurrent_streams=reader.integer(
            "GRPC_MAX_CONCURRENT_STREAMS", default.max_concurrent_streams, 1, _MOST_STREAMS
        ),
        keepalive_interval=reader.seconds(
            "GRPC_KEEPALIVE_INTERVAL", default.keepalive_interval.total_seconds(), _LONGEST
        ),
        keepalive_timeout=reader.seconds(
            "GRPC_KEEPALIVE_TIMEOUT", default.keepalive_timeout.total_seconds(), _LONGEST, low=1
        ),
        handshake_timeout=reader.seconds(
            "GRPC_HANDSHAKE_TIMEOUT", default.handshake_timeout.total_seconds(), _LONGEST, low=1
        ),
        max_held=held * _MB or None,
    )
