"""A real server for tests: `windshift serve` with its own NATS, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from windshift.sdk.errors import WindshiftError

_READY = re.compile(r"API on (\S+):(\d+)")
_FOREIGN = ("NATS_", "GRPC_", "HEALTH_", "WINDSHIFT_", "OTEL_", "DEVELOPMENT", "LOG_LEVEL")
"""Variables by which the surroundings would lead a test elsewhere."""
_LOOK_EVERY = 0.005
_LOG_KEPT = 20_000


@dataclass(frozen=True, slots=True)
class Options:
    """What the session's server and the clients of its tests are, for the fixture `windshift_options`.

    Attributes:
        environment: settings of the server, such as `WINDSHIFT_AUTH_FILE`.
        connect: arguments of `windshift.connect`, such as `tls` and `token`.
    """

    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    connect: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


class ServerFailed(WindshiftError):
    """The server did not start, or did not stop; the message has the end of its log."""


class Server:
    """A server on this machine, on free ports that it keeps over restarts: `with Server() as server`.

    Its settings are those of `environment`; the surroundings' are ignored. It needs the extra `server`.

    Args:
        directory: for data and log, which are kept; None = a temporary one, which goes with the server.
        environment: its settings, see `windshift serve --help`.
        timeout: seconds that a start or a stop may take.
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        *,
        environment: Mapping[str, str] = MappingProxyType({}),
        timeout: float = 30.0,
    ) -> None:
        self._temporary = ExitStack()
        if directory is None:
            made = tempfile.TemporaryDirectory(prefix="windshift-", ignore_cleanup_errors=True)
            directory = self._temporary.enter_context(made)
        self._directory = Path(directory)
        self._environment = dict(environment)
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._port = environment.get("GRPC_PORT", "0")
        self._host = ""

    @property
    def address(self) -> str:
        """`host:port` of the API."""
        return f"{self._host}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Id of the process; None if it does not run."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._process is not None else None

    @property
    def logs(self) -> str:
        """The end of what it logged, of all its runs."""
        return self._read("server.log")[-_LOG_KEPT:]

    def start(self) -> None:
        """Start it, and return when it is ready. Blocks; in asynchronous code use `asyncio.to_thread`.

        Raises:
            ServerFailed: it did not start.
        """
        if self.pid is not None:
            raise ServerFailed("the server runs already")
        self._directory.mkdir(parents=True, exist_ok=True)
        out = self._directory / "server.out"
        with out.open("wb") as stdout, (self._directory / "server.log").open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "windshift", "serve"],
                env=self._settings(),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for the test run, which then stops the server
            )
        self._wait_until_ready(self._process)

    def stop(self) -> None:
        """Stop it in good order: calls in flight finish.

        Raises:
            ServerFailed: it did not stop in time, or ended with a status other than 0.
        """
        if self.pid is None or self._process is None:
            return
        self._process.terminate()
        try:
            status = self._process.wait(self._timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"the server did not stop within {self._timeout:g} s\n{self.logs}") from None
        if status != 0:
            raise ServerFailed(f"the server ended with status {status}\n{self.logs}")

    def kill(self) -> None:
        """End it as a crash would. What it had confirmed is there after `start`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(self._timeout)

    def close(self) -> None:
        """Stop it, or else kill it, and remove a temporary directory."""
        try:
            self.stop()  # a killed one leaves its nats-server, which writes a moment longer
        except ServerFailed:
            self.kill()
        self._temporary.close()

    def _settings(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        return {
            **kept,
            "HEALTH_PORT": "0",
            "WINDSHIFT_DATA_DIR": str(self._directory / "data"),
            **self._environment,
            "GRPC_PORT": self._port,
        }

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        give_up = time.monotonic() + self._timeout
        while "\n" not in (said := self._read("server.out")) and process.poll() is None:
            if time.monotonic() > give_up:
                self.kill()
                raise ServerFailed(f"the server was not ready within {self._timeout:g} s\n{self.logs}")
            time.sleep(_LOOK_EVERY)
        found = _READY.search(said)
        if found is None:
            self.kill()
            raise ServerFailed(f"the server did not start\n{said}{self.logs}")
        self._host, self._port = found[1], found[2]

    def _read(self, name: str) -> str:
        try:
            return (self._directory / name).read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
