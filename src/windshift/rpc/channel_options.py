"""The limits and timers of a channel."""

from __future__ import annotations

from dataclasses import dataclass, field

from .connection_options import ConnectionOptions


def _client_connection_options() -> ConnectionOptions:
    return ConnectionOptions(stream_window=262_144, keepalive_interval=360.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """Limits and timers of a channel. The defaults of connecting are those of gRPC's connection backoff.

    Attributes:
        connection: limits of each connection. Many servers close connections that are pinged more often than
            every five minutes, so the default interval is longer.
        max_message_size: bytes of one response message, also after decompression.
        deadline_grace: seconds that a call waits beyond its deadline for the server's status, which tells
            more than our own.
        connect_timeout: seconds for one attempt over all addresses, up to the server's SETTINGS.
        backoff_initial: seconds between the starts of the first two attempts; they grow with each failure.
        backoff_maximum: their upper bound.
        max_connections: connections to the server at most. Another one is made while calls wait because the
            server takes no more on those that there are.
        retry_buffer: bytes of a streaming call's requests that are kept until the response begins, to start
            the call again if the server refuses it unprocessed.
        keepalive_without_calls: whether idle connections are pinged too; many servers forbid it.
        user_agent: value of the header ``user-agent``.
        tick_interval: seconds between checks of a connection's timers.
    """

    connection: ConnectionOptions = field(default_factory=_client_connection_options)
    max_message_size: int = 4 * 1024 * 1024
    deadline_grace: float = 0.0
    connect_timeout: float = 20.0
    backoff_initial: float = 1.0
    backoff_maximum: float = 120.0
    max_connections: int = 1
    retry_buffer: int = 262_144
    keepalive_without_calls: bool = False
    user_agent: str = "grpc-python-windshift"
    tick_interval: float = 1.0
