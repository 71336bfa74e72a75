"""A server on ``windshift.rpc`` alone, for what bounds its memory: slow handlers and slow readers.

    python -m benchmarks.sink serve            prints its port, runs until it is killed
    python -m benchmarks.sink upload ADDRESS   sends it a large stream

Its service, made at run time, takes uploads slowly and sends without end:

    rpc Upload(stream BytesValue) returns (Int64Value)
    rpc Flood(Int64Value) returns (stream BytesValue)
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import click
import uvloop
from google.protobuf import descriptor_pb2, descriptor_pool, wrappers_pb2
from google.protobuf.descriptor import ServiceDescriptor

from windshift.rpc import Channel, Server, ServerCall, Service

from .reporting import reporting

UPLOAD = "/windshift.benchmarks.Sink/Upload"
FLOOD = "/windshift.benchmarks.Sink/Flood"
_MESSAGE = 65_536 - 16


def descriptor() -> ServiceDescriptor:
    """Return the description of the service."""
    file = descriptor_pb2.FileDescriptorProto(
        name="windshift/benchmarks.proto",
        package="windshift.benchmarks",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    service = file.service.add(name="Sink")
    many, one = ".google.protobuf.BytesValue", ".google.protobuf.Int64Value"
    service.method.add(name="Upload", input_type=many, output_type=one, client_streaming=True)
    service.method.add(name="Flood", input_type=one, output_type=many, server_streaming=True)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName("windshift.benchmarks.Sink")


class Sink:
    """The service's methods."""

    async def upload(self, call: ServerCall) -> wrappers_pb2.Int64Value:
        """Take an upload, a pause after every fourth message; answer how many bytes came."""
        size = count = 0
        while (message := await call.receive()) is not None:
            size += len(message.value)
            count += 1
            if count % 4 == 0:
                await asyncio.sleep(0.001)
        return wrappers_pb2.Int64Value(value=size)

    async def flood(self, request: wrappers_pb2.Int64Value, call: ServerCall) -> None:
        """Send messages of the size asked for, as long as the client takes them."""
        payload = wrappers_pb2.BytesValue(value=bytes(request.value)).SerializeToString()
        while True:
            call.send_bytes(payload)
            await call.ready()
            await asyncio.sleep(0)


async def run_server() -> None:
    """Serve on a free port of the loopback address."""
    server = Server([Service(descriptor(), Sink())])
    _, port = await server.listen("127.0.0.1", 0)
    print(port, flush=True)
    await asyncio.Event().wait()


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Serve uploads and floods, or send an upload."""


@main.command()
@click.argument("address")
@click.option("--size", default=2**30, help="Bytes.")
@reporting
async def upload(address: str, size: int) -> dict[str, Any]:
    """Send an upload in one call, as fast as the server takes it, and report how much arrived."""
    payload = wrappers_pb2.BytesValue(value=bytes(_MESSAGE)).SerializeToString()
    started = time.perf_counter()
    async with Channel(address) as channel, channel.stream(UPLOAD, wrappers_pb2.Int64Value) as call:
        for _ in range(size // _MESSAGE):
            call.send_bytes(payload)
            await call.ready()
        call.close_send()
        answer = await call.receive()
    taken = 0 if answer is None else answer.value
    return {"bytes": taken, "seconds": time.perf_counter() - started}


@main.command()
def serve() -> None:
    """Serve until the process is killed."""
    uvloop.run(run_server())


if __name__ == "__main__":
    main()
