"""A server in a process of its own, so that its memory can be read: ``python -m tests.rpc.sample_server``.

Prints its port, serves until its standard input ends, and prints what is left then.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from contextlib import suppress

import uvloop
from google.protobuf.message import Message

from tests._gen.grpc.testing import messages_pb2
from windshift.rpc import Server, ServerCall, Service

from .serving import SERVICE, eventually, output, server_options


class Sample:
    """``grpc.testing.TestService`` for measurements.

    Attributes:
        waiting: streams whose handlers wait for their clients to read.
    """

    def __init__(self) -> None:
        self.waiting = 0

    async def unary_call(self, request: messages_pb2.SimpleRequest, call: ServerCall) -> Message:
        """Answer at once; when asked for a name, collect garbage and tell how many handlers wait."""
        if not request.fill_username:
            return messages_pb2.SimpleResponse()
        gc.collect()
        return messages_pb2.SimpleResponse(username=str(self.waiting))

    async def streaming_output_call(
        self, request: messages_pb2.StreamingOutputCallRequest, call: ServerCall
    ) -> None:
        """Send messages of the first size without end, as fast as the client reads."""
        while True:
            call.send(output(request.response_parameters[0].size))
            self.waiting += 1
            try:
                await call.ready()
            finally:
                self.waiting -= 1

    async def streaming_input_call(self, call: ServerCall) -> Message:
        """Take messages, one every few milliseconds at most."""
        total = 0
        while (request := await call.receive()) is not None:
            total += len(request.payload.body)
            await asyncio.sleep(0.002)
        return messages_pb2.StreamingInputCallResponse(aggregated_payload_size=total % (1 << 31))

    async def half_duplex_call(self, call: ServerCall) -> None:
        """Take nothing."""
        await asyncio.Event().wait()

    async def full_duplex_call(self, call: ServerCall) -> None:
        """Take messages as fast as they come."""
        while await call.receive_many():
            pass


async def main() -> None:
    """Serve until standard input ends."""
    server = Server([Service(SERVICE, Sample())], server_options())
    _, port = await server.listen("127.0.0.1", 0)
    print(port, flush=True)  # noqa: T201 -- read by the test
    await asyncio.to_thread(sys.stdin.read)
    with suppress(TimeoutError):  # what is left is printed
        await eventually(lambda: server.connections == 0 and len(asyncio.all_tasks()) == 1, 25)
    print(server.connections, len(asyncio.all_tasks()) - 1, flush=True)  # noqa: T201 -- as above
    server.close()


if __name__ == "__main__":
    uvloop.run(main())
