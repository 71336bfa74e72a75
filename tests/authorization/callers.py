"""Clients that say who they are: grpcio, with metadata on every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from tests.support.app import running_app
from tests.support.client import Client, Metadata
from tests.support.nats_server import NatsServer

Continue = Callable[[Any, Any], Any]


class _Details(NamedTuple):
    """What a call is made of."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any


class WithMetadata(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds metadata to calls of every kind."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def _call(self, proceed: Continue, details: Any, request: Any) -> Any:
        return proceed(
            _Details(
                details.method,
                details.timeout,
                (*(details.metadata or ()), *self._metadata),
                details.credentials,
                details.wait_for_ready,
                details.compression,
            ),
            request,
        )

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._call(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._call(continuation, client_call_details, request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return self._call(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return self._call(continuation, client_call_details, request_iterator)


class Caller(Client):
    """A client that sends metadata with every call."""

    def __init__(
        self, address: str, metadata: Metadata = (), credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        channel = (
            grpc.insecure_channel(address, _OWN_CONNECTION)
            if credentials is None
            else grpc.secure_channel(address, credentials, _OWN_CONNECTION)
        )
        self.channel = grpc.intercept_channel(channel, WithMetadata(metadata)) if metadata else channel


_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


def bearer(token: str) -> Metadata:
    """Return what a client sends to show a token."""
    return (("authorization", f"Bearer {token}"),)


class Callers:
    """Clients of one server, each made once."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._callers: dict[Metadata, Caller] = {}

    def with_token(self, token: str) -> Caller:
        """Return a client that shows a token."""
        return self.with_metadata(bearer(token))

    def with_metadata(self, metadata: Metadata) -> Caller:
        """Return a client that sends this."""
        if metadata not in self._callers:
            self._callers[metadata] = Caller(self.address, metadata)
        return self._callers[metadata]

    def close(self) -> None:
        """Close all of them."""
        for caller in self._callers.values():
            caller.channel.close()


@contextmanager
def callers_of(address: str) -> Iterator[Callers]:
    """Make clients for the length of a block."""
    callers = Callers(address)
    try:
        yield callers
    finally:
        callers.close()


@contextmanager
def callers_with_rules(nats_server: NatsServer, file: Path | str) -> Iterator[Callers]:
    """Run a server with an authorization file for the length of a block, and make clients of it."""
    with (
        running_app(nats_server.url, WINDSHIFT_AUTH_FILE=str(file)) as address,
        callers_of(address) as callers,
    ):
        yield callers
