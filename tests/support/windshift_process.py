"""A real `windshift serve` process, with ports and a data directory of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import count
from pathlib import Path

from tests.support import forking
from tests.support.ports import new_port

LIMIT = 30.0
"""Seconds that anything may take on a busy machine."""

EXECUTED = ("env",)
"""For ``under``: executed in a new interpreter, for tests of what a fork takes from its parent."""

_READY = re.compile(
    r"API on \S+:(?P<api>\d+)( \(TLS\))?, health on http://\S+:(?P<health>\d+), data in (?P<data>.*)$"
)


class WindshiftProcess:
    """One server process. What it writes goes to files, so that no pipe can fill.

    Its ports are known before it is started, unless the environment names others: then once it is ready.
    `under` is a program that executes the server, and its arguments: the server's own follow. Without one the
    server is forked.
    """

    def __init__(self, directory: Path, *options: str, under: Sequence[str] = (), **environment: str) -> None:
        self._directory = directory
        self._options = options
        self._under = under
        self.data = directory / "data"
        self.api_port, self.health_port = new_port(), new_port()
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.environment = {
            **kept,
            "HOME": str(directory),
            "GRPC_PORT": str(self.api_port),
            "HEALTH_PORT": str(self.health_port),
            "WINDSHIFT_DATA_DIR": str(self.data),
            **environment,
        }
        self._process: subprocess.Popen[bytes] | forking.Forked | None = None

    # Life

    def launch(self, stdout: int | None = None) -> None:
        """Start the process, in a process group of its own, and do not wait.

        What it prints goes to a file, or to a descriptor that is given.
        """
        with (
            Path(os.devnull).open("rb") as stdin,
            (self._directory / "out").open("wb") as out,
            (self._directory / "err").open("wb") as err,
        ):
            files = (stdin.fileno(), out.fileno() if stdout is None else stdout, err.fileno())
            run = forking.fork if forking.POSSIBLE and not self._under else self._execute
            self._process = run(["serve", *self._options], self.environment, self._directory, files)

    def _execute(
        self, arguments: Sequence[str], environment: Mapping[str, str], directory: Path, files: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._under, sys.executable, "-m", "windshift", *arguments],
            env=environment,
            stdin=files[0],
            stdout=files[1],
            stderr=files[2],
            cwd=directory,
            process_group=0,
        )

    def start(self) -> None:
        """Start the process, and return when it says that it is ready."""
        self.launch()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return when the process says that it is ready."""
        self.wait_for(lambda: "\n" in self.out or self.process.poll() is not None)
        found = _READY.search(self.out.strip())
        if found is None:
            raise RuntimeError(f"windshift did not start: {self.out}{self.err}")
        self.api_port, self.health_port = int(found["api"]), int(found["health"])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end, and return the exit status (negative: the signal)."""
        return self.process.wait(LIMIT)

    def stop(self) -> int:
        """Ask it to stop, and return the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it as a crash would, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(LIMIT)

    @property
    def process(self) -> subprocess.Popen[bytes] | forking.Forked:
        assert self._process is not None
        return self._process

    # What can be seen from outside

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.api_port}"

    @property
    def out(self) -> str:
        return (self._directory / "out").read_text()

    @property
    def err(self) -> str:
        return (self._directory / "err").read_text()

    @property
    def nats_pid(self) -> int | None:
        """The id of the embedded nats-server, from the file that it writes while it runs."""
        files = list((self.data / "run").glob("nats-server_*.ports"))
        return int(files[0].stem.rpartition("_")[2]) if len(files) == 1 else None

    @property
    def workers(self) -> set[int]:
        """The process ids of its workers, if it has some."""
        command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(self.process.pid)]  # lines of any length
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return {int(line.split()[0]) for line in found.splitlines() if "process.worker" in line}

    def probe(self, path: str) -> Probe:
        """Ask the health port; status 0 when nothing listens."""
        connection = HTTPConnection("127.0.0.1", self.health_port, timeout=LIMIT)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return Probe(response.status, json.loads(response.read()))
        except ConnectionError:
            return Probe(0, {})
        finally:
            connection.close()

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds."""
        wait_for(condition, lambda: f"{self.out}{self.err}")


@dataclass(frozen=True, slots=True)
class Probe:
    """An answer of the health port."""

    status: int
    body: dict[str, str]


@contextmanager
def windshift(
    directory: Path, *options: str, under: Sequence[str] = (), **environment: str
) -> Iterator[WindshiftProcess]:
    """Run a server for as long as the block lasts."""
    process = WindshiftProcess(directory, *options, under=under, **environment)
    try:
        process.start()
        yield process
    finally:
        process.kill()


Started = Callable[..., WindshiftProcess]
"""Starts a server with what is given as its environment."""


@contextmanager
def starting(directory: Path, **environment: str) -> Iterator[Started]:
    """Run servers, each in a directory of its own, from when they are started until the block ends."""
    numbers = count()
    with ExitStack() as running:

        def start(**own: str) -> WindshiftProcess:
            place = directory / f"server{next(numbers)}"
            place.mkdir()
            return running.enter_context(windshift(place, **{**environment, **own}))

        yield start


def wait_for(condition: Callable[[], object], explain: Callable[[], str] = str) -> None:
    """Wait until the condition holds. What takes longer is looked at less often: looking takes time too."""
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        if waited > LIMIT:
            raise AssertionError(f"waited in vain. {explain()}")
        time.sleep(min(0.01 + waited / 10, 0.05))


def lives(pid: int) -> bool:
    """Tell whether a process runs; one that ended and was not collected does not."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(state) and not state.startswith("Z")
