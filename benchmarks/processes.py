"""The processes that take part in a measurement: starting, watching and stopping them.

What a process costs is read from the kernel (Linux only), for that process alone, all its threads included.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parent.parent
SERVER = BIN / "windshift"
"""The program of this checkout."""
_CPU_CLOCK = 2
"""Of the clocks of a process the exact one, see clock_getcpuclockid(3); /proc counts in steps of 10 ms."""
_START_TIMEOUT, _STOP_TIMEOUT = 60.0, 15.0


T = TypeVar("T")


class FailedToRun(Exception):
    """A process did not start, or did not do what it was started for."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process that runs.

    Attributes:
        name: what it is, for messages.
        process: its handle.
        address: ``host:port`` where it listens; empty for others.
        log: the file that holds what it wrote to stderr.
        seconds: of a Windshift server, from its start until it was ready.
    """

    name: str
    process: asyncio.subprocess.Process
    address: str
    log: Path
    seconds: float = 0.0

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def cpu_seconds(self) -> float:
        """Return the CPU time used so far, user and system, of all threads."""
        try:
            return cpu_seconds_of(self.pid)
        except OSError:
            raise FailedToRun(f"{self.name} has ended: {self.last_words()}") from None

    def resident_kib(self) -> int:
        """Return the resident memory."""
        return self._status("VmRSS")

    def peak_kib(self) -> int:
        """Return the most resident memory since the start, or since ``forget_peak``."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Count the peak from now on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, key: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1])
        raise FailedToRun(f"{self.name} has ended: {self.last_words()}")

    def last_words(self) -> str:
        """Return the end of what it wrote to stderr."""
        return self.log.read_text(errors="replace")[-2000:].strip()


def cpu_seconds_of(pid: int) -> float:
    """Return the CPU time that a process has used, user and system, of all threads. Raises OSError."""
    return time.clock_gettime(~pid << 3 | _CPU_CLOCK)


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Do a driver's work. SIGTERM ends it as Ctrl-C does: with KeyboardInterrupt, its processes stopped."""

    async def until_told() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(until_told())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextlib.asynccontextmanager
async def running(
    name: str,
    command: list[str],
    directory: Path,
    environment: Mapping[str, str] | None = None,
    *,
    read: bool = True,
) -> AsyncIterator[Running]:
    """Run a command, its stdin and stdout piped; it is terminated at the end.

    Args:
        name: what it is, for messages.
        command: its words.
        directory: where its log lies.
        environment: further variables.
        read: whether somebody reads its stdout. What is not read must go into the log: a full pipe stops the
            program, and its end is not noticed before the pipe's.
    """
    with tempfile.NamedTemporaryFile(dir=directory, suffix=".log", delete=False) as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if read else log,
            stderr=log,
            cwd=ROOT,
            env={**_environment(), **(environment or {})},
            start_new_session=True,  # Ctrl-C ends the driver, and the driver ends the others in order
        )
    try:
        yield Running(name, process, "", Path(log.name))
    finally:
        await stop(process)


def _environment() -> dict[str, str]:
    """Return our environment without anything that configures a server."""
    prefixes = ("WINDSHIFT_", "NATS_", "GRPC_", "HEALTH_", "OTEL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


async def stop(process: asyncio.subprocess.Process) -> float:
    """Terminate a process and wait for its end; return the seconds that it took."""
    started = time.monotonic()
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()
    return time.monotonic() - started


def server_of(checkout: Path) -> Path:
    """Return the server's program in another checkout, where ``make install`` puts it.

    Raises:
        FailedToRun: there is none, or it runs the code of yet another place, as a copied environment does.
    """
    programs = checkout / ".venv" / "bin"
    command = [str(programs / "python"), "-c", "import windshift; print(windshift.__file__)"]
    try:
        source = subprocess.run(command, check=True, text=True, capture_output=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        raise FailedToRun(
            f"no Windshift is installed in {programs.parent}: run `make install` there"
        ) from None
    if not Path(source).resolve().is_relative_to(checkout.resolve()):
        raise FailedToRun(f"what is installed in {programs.parent} is the code of {Path(source).parent}")
    return programs / "windshift"


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def nats_server(directory: Path, port: int = 0) -> AsyncIterator[Running]:
    """Run nats-server with file storage below ``directory``, configured as the embedded one is.

    With `port` 0 it listens on any free one.
    """
    port = port or free_port()
    config = directory / "nats.conf"
    store = directory / "jetstream"
    config.write_text(
        f"listen: 127.0.0.1:{port}\njetstream {{ store_dir: {json.dumps(str(store))}, sync_interval: 1s }}\n"
    )
    command = [str(BIN / "nats-server"), "-c", str(config)]
    async with running("nats-server", command, directory, read=False) as started:
        await wait_listening(started, port)
        yield replace(started, address=f"127.0.0.1:{port}")


async def wait_listening(process: Running, port: int, timeout: float = 10.0) -> None:
    """Wait until a process listens on a port of the loopback address.

    Raises:
        FailedToRun: it has ended, or does not listen in time.
    """
    give_up = time.monotonic() + timeout
    while process.process.returncode is None and time.monotonic() < give_up:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        await asyncio.sleep(0.01)
    raise FailedToRun(f"{process.name} does not listen: {process.last_words()}")


@contextlib.asynccontextmanager
async def windshift_server(
    directory: Path,
    nats: Running | None,
    *,
    path: Path = SERVER,
    port: int = 0,
    shared: bool = False,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Running]:
    """Run ``windshift serve``, with its defaults, on free ports.

    Args:
        directory: where logs lie, and the embedded broker's data.
        nats: the broker to use; None = the server's embedded one.
        path: the program; that of another checkout brings its own packages.
        port: where to serve the API; 0 = any free port.
        shared: whether others may listen on the port too.
        environment: further settings.
    """
    settings = {
        "GRPC_PORT": str(port),
        "HEALTH_PORT": "0",
        "WINDSHIFT_DATA_DIR": tempfile.mkdtemp(dir=directory, prefix="data-"),
        **(environment or {}),
    }
    if nats is not None:
        settings["NATS_URL"] = f"nats://{nats.address}"
    command = [str(path), "serve", *(["--share-port"] if shared else [])]
    begun = time.monotonic()
    async with running("windshift", command, directory, settings) as started:
        address = await _announced(started)
        seconds = time.monotonic() - begun
        discard = asyncio.create_task(_discard(started.process))
        try:
            yield replace(started, address=address, seconds=seconds)
        finally:
            discard.cancel()
            await asyncio.wait([discard])


async def _announced(process: Running) -> str:
    """Wait for the line that a server prints when it is ready; return the address of its API."""
    assert process.process.stdout is not None  # noqa: S101 - it is piped
    line = ""
    with contextlib.suppress(TimeoutError):
        line = (await asyncio.wait_for(process.process.stdout.readline(), _START_TIMEOUT)).decode()
    found = re.search(r"API on (\S+:\d+)", line)
    if found is None:
        await stop(process.process)
        status = process.process.returncode
        raise FailedToRun(f"{process.name} did not get ready (status {status}): {line}{process.last_words()}")
    return found[1]


async def _discard(process: asyncio.subprocess.Process) -> None:
    """Read what a server prints, so that it never waits for a reader."""
    assert process.stdout is not None  # noqa: S101 - it is piped
    while await process.stdout.readline():
        pass


@contextlib.asynccontextmanager
async def program(
    directory: Path, module: str, *arguments: str, name: str = ""
) -> AsyncIterator[tuple[Running, Any]]:
    """Run a module of this package as a process; give it with the first line that it prints, JSON decoded."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    async with running(name or module, command, directory) as started:
        line = await read_line(started)
        address = f"127.0.0.1:{line}" if isinstance(line, int) else ""
        yield replace(started, address=address), line


async def read_line(process: Running, timeout: float = 300.0) -> Any:
    """Return the next line that a process prints, JSON decoded."""
    assert process.process.stdout is not None  # noqa: S101 - it is piped
    line = await asyncio.wait_for(process.process.stdout.readline(), timeout)
    if not line:
        raise FailedToRun(f"{process.name} ended early: {process.last_words()}")
    return json.loads(line)


async def write_line(process: Running) -> None:
    """Send a process an empty line: it is to go on."""
    assert process.process.stdin is not None  # noqa: S101 - it is piped
    process.process.stdin.write(b"\n")
    await process.process.stdin.drain()


async def output(directory: Path, command: list[str]) -> tuple[str, float]:
    """Run a command to its end; return what it printed, and the CPU seconds that it used.

    Raises:
        FailedToRun: its exit status is not 0.
    """
    before = _children_cpu()
    async with running(Path(command[0]).name, command, directory) as started:
        text, _ = await started.process.communicate()
    if started.process.returncode != 0:
        raise FailedToRun(f"{' '.join(command[:4])} … failed: {started.last_words()}")
    return text.decode(), _children_cpu() - before


def _children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system


async def run_program(directory: Path, module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of this package to its end; return the JSON object that it printed last."""
    text, _ = await output(directory, [sys.executable, "-m", f"benchmarks.{module}", *arguments])
    result: dict[str, Any] = json.loads(text.splitlines()[-1])
    return result
