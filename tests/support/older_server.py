"""A server that has only the first contract, in front of one that has all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from google.protobuf.message import Message

from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.rpc import Channel, ClientCall, Server, ServerCall, Service

_FIRST_ADDED = 100
"""The first number of fields that came later."""
_SERVICE = pb.DESCRIPTOR.services_by_name["EventsService"]


def _reduce(message: Message) -> None:
    """Leave out what the first contract does not have: an older server ignores it, or never sends it."""
    for field, value in message.ListFields():
        if field.number >= _FIRST_ADDED:
            message.ClearField(field.name)
        elif isinstance(value, Message):
            _reduce(value)


class OlderServer:
    """Passes calls on. What it has no method for is UNIMPLEMENTED.

    Attributes:
        consumers: the ids of those that were made.
        deleted: of those that were deleted.
        responses: the kinds of what consume calls were sent.
        subscribed: set when one was taken up.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.consumers: list[str] = []
        self.deleted: list[str] = []
        self.responses: list[str | None] = []
        self.subscribed = asyncio.Event()

    async def ensure_consumer(
        self, request: pb.EnsureConsumerRequest, call: ServerCall
    ) -> pb.EnsureConsumerResponse:
        """Make a consumer."""
        _reduce(request)
        response = await self._channel.unary(call.method, request, pb.EnsureConsumerResponse)
        self.consumers.append(response.id)
        return response

    async def delete_consumer(
        self, request: pb.DeleteConsumerRequest, call: ServerCall
    ) -> pb.DeleteConsumerResponse:
        """Delete a consumer."""
        response = await self._channel.unary(call.method, request, pb.DeleteConsumerResponse)
        self.deleted.append(request.id)
        return response

    async def consume(self, call: ServerCall) -> None:
        """Deliver events, one by one."""
        call.begin_response()
        async with self._channel.stream(call.method, pb.EventsResponse) as inner:
            passing = asyncio.create_task(self._pass_on(call, inner))
            try:
                while responses := await inner.receive_many():
                    for response in responses:
                        _reduce(response)
                        self.responses.append(response.WhichOneof("response"))
                        if self.responses[-1] == "subscribed":
                            self.subscribed.set()
                        call.send(response)
            finally:
                passing.cancel()

    async def _pass_on(self, call: ServerCall, inner: ClientCall[pb.EventsResponse]) -> None:
        while requests := await call.receive_many():
            for request in requests:
                _reduce(request)
                inner.send(request)
        inner.close_send()


@asynccontextmanager
async def older_server(address: str) -> AsyncIterator[tuple[OlderServer, str]]:
    """Run one in front of the server at an address; give it and its own address."""
    channel = Channel(address)
    service = OlderServer(channel)
    server = Server([Service(_SERVICE, service)])
    _, port = await server.listen("127.0.0.1", 0)
    try:
        yield service, f"127.0.0.1:{port}"
    finally:
        server.close()
        await channel.close()
