"""A real nats-server of its own, from the wheel, on a port of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import new_port

BINARY = Path(sysconfig.get_path("scripts")) / "nats-server"


class NatsServer:
    """One nats-server process. It keeps its port and its data over restarts.

    Attributes:
        jetstream: whether it is started with JetStream.
        binary: the program; another one of the same name takes over at the next start.
    """

    jetstream = True

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._directory = directory
        self._arguments: Sequence[str] = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.binary = BINARY
        self.port = new_port()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def store(self) -> Path:
        """Where JetStream keeps its data."""
        return self._directory / "data"

    @property
    def log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start, and return when the server takes connections."""
        with (self._directory / "crash").open("ab") as crash:  # what Go says of a panic
            self._process = subprocess.Popen(
                [
                    str(self.binary),
                    *("--addr", "127.0.0.1", "--port", str(self.port)),
                    *(("--jetstream", "--store_dir", str(self.store)) if self.jetstream else ()),
                    *("--ports_file_dir", str(self._directory), "--log", str(self._directory / "log")),
                    *self._arguments,
                ],
                stdout=subprocess.DEVNULL,
                stderr=crash,
            )
        self.port = self._read_port(self._process)

    def _read_port(self, process: subprocess.Popen[bytes]) -> int:
        """Read the file that the server writes once it listens, and removes when it stops in good order."""
        file = self._directory / f"{BINARY.name}_{process.pid}.ports"
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up and process.poll() is None:
            try:
                urls = json.loads(file.read_text())["nats"]
            except (FileNotFoundError, ValueError):
                time.sleep(0.005)
            else:
                file.unlink()
                return int(urls[0].rpartition(":")[2])
        raise RuntimeError(f"nats-server did not start: {self.log}")

    @property
    def is_running(self) -> bool:
        """Whether it was started, and has not ended."""
        return self._process is not None and self._process.poll() is None

    def reload(self) -> None:
        """Have it read its configuration file anew, and return when it has."""
        assert self._process is not None
        before = self.log.count("Reloaded server configuration")
        self._process.send_signal(signal.SIGHUP)
        give_up = time.monotonic() + 60
        while self.log.count("Reloaded server configuration") == before:
            if time.monotonic() > give_up:
                raise RuntimeError(f"nats-server did not reload: {self.log}")
            time.sleep(0.005)

    def enter_lame_duck_mode(self) -> None:
        """Have it send its clients away, and stop after a while."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR2)

    def stop(self) -> None:
        """Ask the server to stop, and wait until it has."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a crash would."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it neither read nor answer, with all its connections open, from now on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """Undo `freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            process.wait(20)


@contextmanager
def running_nats(directory: Path, *arguments: str, jetstream: bool = True) -> Iterator[NatsServer]:
    """Run a nats-server in a directory, which is made if need be, for as long as the block lasts."""
    directory.mkdir(exist_ok=True)
    server = NatsServer(directory, *arguments)
    server.jetstream = jetstream
    server.start()
    try:
        yield server
    finally:
        server.kill()
