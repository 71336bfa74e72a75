"""A peer: any server that speaks the contract, which ``WINDSHIFT_PEER`` names."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import shlex
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf import empty_pb2

from windshift.rpc import Channel, RpcError, StatusCode

from .broker import SERVICE
from .processes import FailedToRun, Running, free_port, running, wait_listening

_START_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A server that others started: nobody here knows what it costs.

    Attributes:
        address: ``host:port`` where it listens.
    """

    address: str

    def cpu_seconds(self) -> float:
        """Return NaN."""
        return math.nan


@contextlib.asynccontextmanager
async def peer_server(directory: Path, named: str, nats: Running) -> AsyncIterator[Running | Elsewhere]:
    """Run a server of the contract, or find it.

    Args:
        directory: where its log lies.
        named: the command line that starts it, with its settings in the contract's variables; or
            ``host:port`` of one that runs, on a broker of its own.
        nats: the broker of the one that is started.

    Raises:
        FailedToRun: it does not start, or does not answer.
    """
    if re.fullmatch(r"\S+:\d+", named):
        yield Elsewhere(named)
        return
    port = free_port()
    settings = {
        "NATS_URL": f"nats://{nats.address}",
        "GRPC_HOST": "127.0.0.1",
        "GRPC_PORT": str(port),
        "HEALTH_PORT": str(free_port()),
    }
    name = "the server of WINDSHIFT_PEER"
    async with running(name, _command(named), directory, settings, read=False) as started:
        await wait_listening(started, port, _START_TIMEOUT)
        yield replace(started, address=f"127.0.0.1:{port}")


def _command(named: str) -> list[str]:
    words = shlex.split(named)
    program = shutil.which(words[0]) if words else None
    if program is None:
        raise FailedToRun(f"WINDSHIFT_PEER names no program: {named!r}")
    return [str(Path(program).absolute()), *words[1:]]


async def knows(address: str, method: str) -> bool:
    """Whether a server has a method of the contract's ``EventsService``; it is asked with an empty request.

    Raises:
        FailedToRun: it does not answer.
    """
    give_up = time.monotonic() + _START_TIMEOUT
    async with Channel(address) as channel:
        while True:
            try:
                await channel.unary(f"{SERVICE}/{method}", empty_pb2.Empty(), empty_pb2.Empty, timeout=5)
            except RpcError as error:
                if error.code is not StatusCode.UNAVAILABLE:
                    return error.code is not StatusCode.UNIMPLEMENTED
                if time.monotonic() > give_up:
                    raise FailedToRun(f"the server at {address} does not answer: {error.message}") from None
            else:
                return True
            await asyncio.sleep(0.1)
