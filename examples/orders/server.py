"""A real `windshift serve`, with its own NATS and a data directory that goes away with the example."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

_START = 30.0
_STOP = 30.0


class ServerFailed(Exception):
    """The server did not start, or did not stop in good order."""


class Server:
    """The process. Its log goes to `server.log` in the directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = directory / "server.log"
        self._process: Process | None = None
        self._asked = False
        self.address = ""
        """``host:port`` of the API, once it is ready."""

    async def start(self) -> str:
        """Start it on free ports, and return the line in which it says that it is ready."""
        settings = {
            "GRPC_PORT": "0",
            "HEALTH_PORT": "0",
            "WINDSHIFT_DATA_DIR": str(self._directory / "data"),
            "WINDSHIFT_DRAIN_TIMEOUT": "10",
            "LOG_LEVEL": "info",
        }
        # Settings of the surroundings must not lead the example elsewhere.
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("NATS_", "GRPC_", "HEALTH_", "WINDSHIFT_", "OTEL_", "DEVELOPMENT"))
        }
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "windshift", "serve"),
                env=kept | settings,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the example, which then stops the server
            )
        line = await self._ready_line(self._process)
        found = re.search(r"API on (\S+:\d+)", line)
        if found is None:
            raise ServerFailed("the server did not start")
        self.address = found[1]
        return line

    async def _ready_line(self, process: Process) -> str:
        if process.stdout is None:
            raise AssertionError("started with a pipe")
        async with asyncio.timeout(_START):
            return (await process.stdout.readline()).decode().strip()

    def terminate(self) -> None:
        """Ask it to stop, as an orchestrator would: SIGTERM. Only once: a second one means at once."""
        if self._process is not None and self._process.returncode is None and not self._asked:
            self._asked = True
            self._process.terminate()

    async def stop(self) -> str:
        """Stop it, and say how that went. Raises `ServerFailed` when it did not go well."""
        if self._process is None:
            return "was not started"
        self.terminate()
        try:
            async with asyncio.timeout(_STOP):
                status = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            raise ServerFailed("the server did not stop") from None
        if status != 0:
            raise ServerFailed(f"the server ended with status {status}")
        if "drained: all calls ended" not in self._log.read_text():
            raise ServerFailed("the server cut calls off")
        return "drained: every call came to its end; the process exited with status 0"
