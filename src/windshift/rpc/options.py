"""The limits and timers of connections, and of a channel. Those of a server are in ``server_options``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

MAX_WINDOW: Final = 2**31 - 1
"""Bytes of the largest window that HTTP/2 knows (RFC 9113, section 6.9.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """Limits and timers of one connection, the same for both sides.

    Attributes:
        max_concurrent_streams: calls that the peer may have open at once; libnghttp2 has no bound of its
            own.
        stream_window: bytes that a peer may send on one stream before the receiver took any; 64 KiB to 1 MiB.
        connection_window: the same over all streams; None = ``2 * max_concurrent_streams * stream_window``.
            With less, stalled uploads block all others (libnghttp2 withholds up to half the window).
        max_header_list_size: bytes of one header block, by the counting rule of RFC 9113, section 6.5.2.
        keepalive_interval: seconds without a received byte after which a PING is sent; 0 = never.
        keepalive_timeout: seconds in which its answer must come.
        handshake_timeout: seconds from the connection to the peer's SETTINGS, and to its acknowledgement of
            ours.
        stall_timeout: seconds in which a peer whose transport is full must take something.
        close_timeout: seconds in which the peer must close its side of the socket after we closed ours.
    """

    max_concurrent_streams: int = 256
    stream_window: int = 65_536
    connection_window: int | None = None
    max_header_list_size: int = 16_384
    keepalive_interval: float = 30.0
    keepalive_timeout: float = 10.0
    handshake_timeout: float = 10.0
    stall_timeout: float = 60.0
    close_timeout: float = 1.0

    @property
    def whole_window(self) -> int:
        """The bytes of ``connection_window``, also when it is to be found out."""
        if self.connection_window is not None:
            return self.connection_window
        return min(2 * self.max_concurrent_streams * self.stream_window, MAX_WINDOW)


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

    connection: ConnectionOptions = field(
        default_factory=lambda: ConnectionOptions(stream_window=262_144, keepalive_interval=360.0)
    )
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
