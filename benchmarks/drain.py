"""Servers that replace each other under load: no call may fail, and none may be handled twice."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from .bench import Bench
from .broker import new_stream
from .figures import WINDSHIFT, number
from .processes import FailedToRun, Running, free_port, program, read_line, stop, windshift_server, write_line

DRAIN = "drain"
FAILED, TWICE, LOST, SECONDS = (
    "failed calls",
    "calls handled twice",
    "answered calls lost",
    "seconds for a drain",
)
_INFLIGHT = 200


async def measure_drain(bench: Bench) -> None:
    """Replace the server under 200 unary calls in flight, with both of grpcio's clients."""
    drains = 3 if bench.options.quick else 10
    for kind in ("sync", "aio"):
        bench.say(f"drain: {drains} times, grpcio {kind}")
        await _measure(bench, kind, drains)


async def _measure(bench: Bench, kind: str, drains: int) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    async with contextlib.AsyncExitStack() as stack:
        server = await _next_server(bench, stack, port)
        stream = await stack.enter_async_context(new_stream(address, bench.broker))
        arguments = (address, stream, f"--kind={kind}", f"--inflight={_INFLIGHT}")
        client, _ = await stack.enter_async_context(program(bench.directory, "grpcio_load", *arguments))
        for _ in range(drains):
            await asyncio.sleep(0.5)
            successor = await _next_server(bench, stack, port)
            await asyncio.sleep(0.2)
            seconds = await stop(server.process)
            if server.process.returncode != 0:
                raise FailedToRun(f"a drained server exited with {server.process.returncode}")
            bench.figures.add(DRAIN, f"{WINDSHIFT}, grpcio {kind}", SECONDS, seconds)
            server = successor
        await asyncio.sleep(0.5)
        await write_line(client)
        await _judge(bench, kind, stream, await read_line(client))


async def _next_server(bench: Bench, stack: contextlib.AsyncExitStack, port: int) -> Running:
    server = windshift_server(bench.directory, bench.nats, port=port, shared=True)
    return await stack.enter_async_context(server)


async def _judge(bench: Bench, kind: str, stream: str, seen: dict[str, Any]) -> None:
    """Compare what the client saw with what the stream holds."""
    stored = await bench.broker.texts(stream)
    succeeded = {str(call) for call in range(1, seen["begun"] + 1)} - {str(call) for call in seen["failed"]}
    subject = f"{WINDSHIFT}, grpcio {kind}"
    twice = sum(1 for times in stored.values() if times > 1)
    bench.figures.add(DRAIN, subject, "calls", seen["begun"])
    bench.figures.add(DRAIN, subject, FAILED, len(seen["failed"]))
    bench.figures.add(DRAIN, subject, TWICE, twice)
    bench.figures.add(DRAIN, subject, LOST, len(succeeded - stored.keys()))
    for failure, times in seen["failures"].items():
        bench.figures.note(f"drain, grpcio {kind}: {times} times {failure}")
    bench.say(f"    {number(seen['begun'])} calls, {len(seen['failed'])} failed, {twice} handled twice")
