"""What happens on a connection, for those who carry calls over it."""

from __future__ import annotations

import asyncio

Headers = tuple[tuple[bytes, bytes], ...]


class ConnectionHooks(asyncio.Protocol):
    """What a connection calls when something happened; each does nothing unless a subclass says what.

    None of them may flush, or await.
    """

    def on_no_http2(self) -> None:
        """Note that the peer did not choose ``h2`` in the TLS handshake: the connection is dropped."""

    def on_ready(self) -> None:
        """Note that the transport is there and the preface is queued."""

    def on_settings(self) -> None:
        """Note that SETTINGS of the peer arrived; the first ones end the handshake."""

    def on_request(self, stream_id: int, headers: Headers, ended: bool) -> None:
        """Take the headers of a request (server side)."""

    def on_response(self, stream_id: int, headers: Headers, ended: bool) -> None:
        """Take the headers of a response (client side)."""

    def on_data(self, stream_id: int, data: bytes, ended: bool) -> None:
        """Take body bytes; every one of them must be given to ``acknowledge`` at some time."""

    def on_trailers(self, stream_id: int, headers: Headers) -> None:
        """Take trailers, and with them the end of the peer's side."""

    def on_stream_closed(self, stream_id: int, error_code: int) -> None:
        """Forget a stream: nothing more comes of it and nothing more can be sent."""

    def on_goaway(self, last_stream_id: int, error_code: int, debug: bytes) -> None:
        """Note that the peer takes no streams above ``last_stream_id``."""

    def on_ping_answered(self, payload: bytes) -> None:
        """Note that the peer answered a PING."""

    def on_lost(self, error: Exception | None) -> None:
        """Forget every stream: the connection is over. Called exactly once."""

    def on_gone(self) -> None:
        """Note that the socket is closed, for which a connection that is over still waits."""
