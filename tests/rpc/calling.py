"""Channels for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import Channel, ChannelOptions, ClientCall, ConnectionOptions, RpcError

from .frames import WAIT
from .serving import DUPLEX, UNARY, Serving, eventually

Responses = ClientCall[messages_pb2.StreamingOutputCallResponse]


def channel_options(connection: ConnectionOptions | None = None, **changes: Any) -> ChannelOptions:
    """Return options whose timers are short."""
    options = ChannelOptions(backoff_initial=0.02, backoff_maximum=0.05, tick_interval=0.02)
    connection = replace(connection or options.connection, close_timeout=0.02)
    return replace(options, connection=connection, **changes)


@asynccontextmanager
async def calling(
    server: Serving | str, options: ChannelOptions | None = None, **arguments: Any
) -> AsyncIterator[Channel]:
    """Open a channel; when the body is done, it must leave no task behind."""
    tasks = asyncio.all_tasks()
    target = server if isinstance(server, str) else "{}:{}".format(*server.address)
    async with Channel(target, options=options or channel_options(), **arguments) as channel:
        yield channel
    await eventually(lambda: channel.connections == 0)
    assert {task for task in asyncio.all_tasks() - tasks if "connect to" in task.get_name()} == set()


def simple_request(body: bytes = b"", **fields: Any) -> messages_pb2.SimpleRequest:
    """Return a request of UnaryCall."""
    return messages_pb2.SimpleRequest(payload=messages_pb2.Payload(body=body), **fields)


async def unary(channel: Channel, body: bytes = b"", **arguments: Any) -> bytes:
    """Call UnaryCall and return the payload of the response."""
    response = await channel.unary(UNARY, simple_request(body), messages_pb2.SimpleResponse, **arguments)
    return bytes(response.payload.body)


def duplex(channel: Channel, **arguments: Any) -> Responses:
    """Start FullDuplexCall."""
    return channel.stream(DUPLEX, messages_pb2.StreamingOutputCallResponse, **arguments)


def message(body: bytes = b"") -> messages_pb2.StreamingOutputCallRequest:
    """Return a request of FullDuplexCall."""
    return messages_pb2.StreamingOutputCallRequest(payload=messages_pb2.Payload(body=body))


async def failure(call: Awaitable[object]) -> RpcError:
    """Wait for a call that must fail, and return its error."""
    try:
        async with asyncio.timeout(WAIT):
            await call
    except RpcError as error:
        return error
    raise AssertionError("the call did not fail")
