"""The sample server in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests._gen.grpc.testing import messages_pb2

from .frames import WAIT, Peer
from .serving import UNARY, simple

ROOT = Path(__file__).parents[2]
READABLE = Path("/proc/self/status").exists()
"""Whether the memory of another process can be read here."""


@dataclass(frozen=True, slots=True)
class SampleProcess:
    """A running sample server."""

    pid: int
    address: tuple[str, int]

    async def peer(self, **arguments: Any) -> Peer:
        """Connect a client, see ``Peer.connect``."""
        return await Peer.connect(self.address, **arguments)

    async def call(self) -> messages_pb2.SimpleResponse:
        """Make one call on a connection of its own; the server collects its garbage meanwhile."""
        async with await self.peer() as peer:
            response = await peer.call(UNARY, simple(fill_username=True))
            assert response.status == 0
            return messages_pb2.SimpleResponse.FromString(response.messages[0])

    async def waiting(self) -> int:
        """Return how many of its handlers wait for clients to read."""
        return int((await self.call()).username)

    async def memory(self) -> int:
        """Return its resident memory in bytes, garbage not included."""
        await self.call()
        return self._status("VmRSS:")

    def peak(self) -> int:
        """Return the most resident memory that it had since ``forget_peak``, in bytes."""
        return self._status("VmHWM:")

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition(name)[2].split()[0]) * 1024

    def forget_peak(self) -> None:
        """Let ``peak`` begin anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@asynccontextmanager
async def sample_process() -> AsyncIterator[SampleProcess]:
    """Run the sample server; in the end it must have no connections and no tasks left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.rpc.sample_server"),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WAIT):
            port = int(await process.stdout.readline())
        yield SampleProcess(process.pid, ("127.0.0.1", port))
        process.stdin.close()
        async with asyncio.timeout(WAIT):
            assert await process.stdout.readline() == b"0 0\n"
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
