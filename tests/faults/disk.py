"""A disk that is soon full: a small tmpfs, or where nothing may be mounted a limit of nats-server's own."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.processes import Node

SMALL, LARGE = 48, 512
"""Megabytes, before and after it was given room."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Where a nats-server stores.

    Attributes:
        config: for nats-server.
        how: for the report.
    """

    directory: Path
    mounted: bool

    @property
    def config(self) -> str:
        """What nats-server has to be told."""
        return "" if self.mounted else _limit(SMALL)

    @property
    def how(self) -> str:
        """Say what kind of disk it is."""
        what = "a tmpfs" if self.mounted else "a limit of nats-server (max_file_store)"
        return f"The disk is {what} of {SMALL} MB."

    async def grow(self, node: Node) -> None:
        """Give it room."""
        if self.mounted:
            await _run("mount", "-o", f"remount,size={LARGE}m", str(self.directory))
        else:
            (self.directory.parent / "nats.conf").write_text(_limit(LARGE))
            await node.stop()
            await node.start()


def _limit(megabytes: int) -> str:
    return f"jetstream {{ max_file_store: {megabytes}MB }}\n"


@asynccontextmanager
async def small_disk(directory: Path) -> AsyncIterator[Disk]:
    """Make a small disk there."""
    await asyncio.to_thread(directory.mkdir, parents=True)
    mounted = await _run("mount", "-t", "tmpfs", "-o", f"size={SMALL}m", "tmpfs", str(directory))
    try:
        yield Disk(directory, mounted)
    finally:
        if mounted:
            await _run("umount", "--lazy", str(directory))


async def _run(*command: str) -> bool:
    """Run a program; tell whether it could do what it was asked to."""
    try:
        result = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
    except OSError:
        return False
    return result.returncode == 0
