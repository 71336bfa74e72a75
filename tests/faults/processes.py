"""The processes that faults happen to. Each fault is put down in the history, with what it struck."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from tests.faults.history import Fault, History
from tests.support.cluster import cluster_of_three
from tests.support.nats_server import BINARY, NatsServer
from tests.support.windshift_process import Probe, WindshiftProcess

ROOT = Path(__file__).resolve().parents[2]


class Struck:
    """What one can do to any process here, put down in the history."""

    def __init__(self, name: str, history: History) -> None:
        self.name = name
        self.wanted = False
        """Whether it should run."""
        self._history = history

    async def _do(self, kind: str, target: str, what: Callable[[], object]) -> None:
        start = time.monotonic()
        await asyncio.to_thread(what)
        self._history.faults.append(Fault(kind, target, start, time.monotonic()))


class Restartable(Struck, ABC):
    """One that can be started again, where it was."""

    @abstractmethod
    async def start(self) -> None:
        """Start it."""

    @abstractmethod
    async def kill(self) -> None:
        """SIGKILL."""

    @abstractmethod
    async def stop(self) -> object:
        """SIGTERM, and wait for the end."""

    async def crash(self) -> None:
        """Kill it, and start it again at once."""
        await self.kill()
        await self.start()

    async def restart(self) -> None:
        """Stop it, and start it again."""
        await self.stop()
        await self.start()


class Node(Restartable):
    """A nats-server."""

    def __init__(self, name: str, history: History, server: NatsServer) -> None:
        super().__init__(name, history)
        self.server = server

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.server.url

    @property
    def member(self) -> str:
        """Its name in its cluster."""
        return self.name.replace("nats", "node")

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self.server._process is not None
        return self.server._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended though it should run."""
        process = self.server._process
        return self.wanted and process is not None and process.poll() is not None

    async def start(self) -> None:
        """Start it, with the port and the data that it had."""
        await self._do("start", self.name, self.server.start)
        self.wanted = True

    async def kill(self) -> None:
        """SIGKILL."""
        self.wanted = False
        await self._do("kill", self.name, self.server.kill)

    async def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self.wanted = False
        await self._do("stop", self.name, self.server.stop)

    async def retire(self) -> None:
        """SIGUSR2, the lame duck mode: it hands leaders over, sends clients away, and ends by itself."""
        process = self.server._process
        assert process is not None
        self.wanted = False

        def wait() -> None:
            process.send_signal(signal.SIGUSR2)
            process.wait(60)
            self.server.kill()

        await self._do("lame duck", self.name, wait)

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        start = time.monotonic()
        await asyncio.to_thread(self.server.freeze)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.server.thaw()
        self._history.faults.append(Fault("freeze", self.name, start, time.monotonic()))


class Server(Restartable):
    """A `windshift serve` process. It keeps its ports over restarts."""

    def __init__(self, name: str, history: History, directory: Path, *options: str, **settings: str) -> None:
        super().__init__(name, history)
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._options = options
        self._process = WindshiftProcess(directory, *options, LOG_LEVEL="info", **settings)
        self._life = 0

    @property
    def life(self) -> str:
        """Names the process that runs at the moment, and no earlier one."""
        return f"{self.name}#{self._life}"

    @property
    def address(self) -> str:
        """Where clients connect."""
        return self._process.address

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.process.pid

    @property
    def environment(self) -> dict[str, str]:
        """The variables that it is started with."""
        return self._process.environment

    @property
    def nats_pid(self) -> int | None:
        """The id of the embedded nats-server."""
        return self._process.nats_pid

    @property
    def log(self) -> str:
        """What the process that runs, or ran last, has written."""
        return self._process.err

    @property
    def ended(self) -> bool:
        """Whether it has ended though it should run."""
        return self.wanted and self._process.process.poll() is not None

    async def start(self) -> None:
        """Start it, and return when it is ready."""
        self._life += 1
        await self._do("start", self.life, self._process.start)
        self.wanted = True

    async def kill(self) -> None:
        """SIGKILL."""
        self.wanted = False
        await self._do("kill", self.life, self._process.kill)

    async def kill_with_nats(self) -> None:
        """SIGKILL of the embedded nats-server and of the process at the same moment."""
        pid = self.nats_pid
        assert pid is not None
        self.wanted = False

        def end() -> None:
            os.kill(pid, signal.SIGKILL)
            self._process.kill()

        await self._do("kill", self.life, end)

    async def kill_worker(self, luck: random.Random) -> None:
        """SIGKILL of one of its workers."""
        workers = await asyncio.to_thread(lambda: sorted(self._process.workers))
        if workers:
            await self._do(
                "kill", f"{self.life} worker", lambda: os.kill(luck.choice(workers), signal.SIGKILL)
            )

    async def stop(self) -> int:
        """SIGTERM; return the exit status."""
        self.wanted = False
        statuses: list[int] = []
        await self._do("stop", self.life, lambda: statuses.append(self._process.stop()))
        return statuses[0]

    async def replace(self) -> int:
        """Start another process on its ports, which are shared, and stop it then; return its exit status."""
        old, before = self._process, self.life
        directory = self._directory / f"life{self._life + 1}"
        directory.mkdir()
        new = WindshiftProcess(directory, *self._options)
        new.environment = {**old.environment, "HOME": str(directory)}
        await self._do("start", f"{self.name}#{self._life + 1}", new.start)
        self._process, self._life = new, self._life + 1
        statuses: list[int] = []
        await self._do("stop", before, lambda: statuses.append(old.stop()))
        return statuses[0]

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        start = time.monotonic()
        self._process.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._process.signal(signal.SIGCONT)
        self._history.faults.append(Fault("freeze", self.life, start, time.monotonic()))

    async def probe(self, path: str = "/readyz") -> Probe:
        """Ask the health port."""
        return await asyncio.to_thread(self._process.probe, path)

    def peers(self) -> set[int]:
        """Return the ports that it is connected to."""
        own = {str(each.readlink()) for each in Path(f"/proc/{self.pid}/fd").iterdir() if each.is_symlink()}
        ports = set()
        for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in own:
                ports.add(int(fields[2].rpartition(":")[2], 16))
        return ports

    def resident(self) -> int:
        """Return the resident memory in bytes."""
        return read_status(self.pid, "VmRSS") * 1024

    def descriptors(self) -> int:
        """Count the open file descriptors."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())


def read_status(pid: int, key: str) -> int:
    """Read a number from a process's status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise LookupError(key)


# Making them

LAME_DUCK = 'lame_duck_duration: "30s"\nlame_duck_grace_period: "1s"\n'


@asynccontextmanager
async def running_node(history: History, directory: Path, config: str = "") -> AsyncIterator[Node]:
    """Run a nats-server alone."""
    node = Node("nats", history, NatsServer(directory, *_configured(directory, config)))
    try:
        await node.start()
        yield node
    finally:
        await end_all([node])


@asynccontextmanager
async def running_cluster(
    history: History, directory: Path, binary: Path = BINARY
) -> AsyncIterator[list[Node]]:
    """Run three nats-servers that make a cluster. It may take some seconds more until it has a leader."""
    nodes: list[Node] = []
    for attempt in range(5):  # another process may take a port that was free a moment ago
        servers = _cluster(directory / f"cluster{attempt}", binary)
        nodes = [Node(f"nats{number}", history, server) for number, server in enumerate(servers)]
        try:
            await asyncio.gather(*(node.start() for node in nodes))
            break
        except RuntimeError:
            await asyncio.gather(*(node.kill() for node in nodes))
    try:
        yield nodes
    finally:
        await end_all(nodes)


def _cluster(directory: Path, binary: Path) -> list[NatsServer]:
    directory.mkdir(parents=True)
    servers = cluster_of_three(directory)
    for number, server in enumerate(servers):
        server.binary = binary
        server._arguments = (*server._arguments, *_configured(directory / str(number), LAME_DUCK))
    return servers


def _configured(directory: Path, config: str) -> tuple[str, ...]:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "nats.conf"
    file.write_text(config)
    return ("--config", str(file))


@asynccontextmanager
async def running_servers(
    history: History,
    directory: Path,
    urls: Sequence[str],
    *,
    options: Sequence[str] = (),
    **settings: str,
) -> AsyncIterator[list[Server]]:
    """Run one server for each NATS_URL; an empty one means an embedded nats-server."""
    servers = []
    for number, url in enumerate(urls):
        given = {"NATS_URL": url, **settings} if url else settings
        name = f"windshift{number}"
        servers.append(Server(name, history, directory / name, *options, **given))
    try:
        for server in servers:
            await server.start()
        yield servers
    finally:
        await end_all(servers)


async def end_all(processes: Sequence[Node] | Sequence[Server]) -> None:
    """Kill what still runs. Raise when something had ended by itself: nothing that was seen then counts."""
    ended = [each.name for each in processes if each.ended]
    await asyncio.gather(*(each.kill() for each in processes))
    if ended:
        raise RuntimeError(f"ended without being told to by this suite: {', '.join(ended)}")


async def command(*arguments: str, **environment: str) -> None:
    """Run a command of `windshift`, which must succeed."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "windshift", *arguments),
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"windshift {arguments[0]}: {told.decode(errors='replace')}")


# Clients that are to be killed


class Worker(Struck):
    """A client in a process of its own that consumes, and prints a line for each event."""

    def __init__(self, name: str, history: History, *arguments: str) -> None:
        super().__init__(name, history)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.worker", *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def lines(self, count: int) -> list[int]:
        """Read what it got next."""
        return await asyncio.to_thread(self._read, count)

    def _read(self, count: int) -> list[int]:
        return [int(self._output.readline()) for _ in range(count)]

    @property
    def _output(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    async def kill(self) -> None:
        """SIGKILL."""

        def end() -> None:
            self._process.kill()
            self._process.wait(10)
            self._output.close()

        await self._do("kill", self.name, end)
