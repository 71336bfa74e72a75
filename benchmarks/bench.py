"""What the measurements share: the options, the processes that stay up, and the figures."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from . import h2load
from .broker import Behind, Broker, Storage, connected, new_consumer, new_stream
from .contract import Elsewhere, knows, peer_server
from .credentials import write_rules
from .figures import BEFORE, COMPARISON, PEER, WINDSHIFT, Figures
from .processes import SERVER, Running, nats_server, program, windshift_server


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller asked for.

    Attributes:
        runs: how often each figure is measured.
        quick: shorter runs.
        soak: also what takes minutes.
        load_client: an independent load client of the contract; None = there is none.
        before: the program of another version, to measure beside this one; None = there is none.
        peer: any server that speaks the contract, see `contract.peer_server`; empty = there is none.
    """

    runs: int
    quick: bool = False
    soak: bool = False
    load_client: Path | None = None
    before: Path | None = None
    peer: str = ""

    @property
    def versions(self) -> dict[str, Path]:
        """The programs under test by the name of their subject, in the order in which they take turns."""
        before = {} if self.before is None else {BEFORE: self.before}
        return before | {WINDSHIFT: SERVER}

    def scaled(self, count: int) -> int:
        """Return a count of requests or events, smaller when it should be quick."""
        return count // 5 if self.quick else count


@dataclass(frozen=True, slots=True)
class Bench:
    """The setting of one run of the benchmarks.

    Attributes:
        directory: for everything temporary.
        options: what the caller asked for.
        nats: the broker that servers under test use.
        broker: a connection to it.
        figures: what was measured so far.
    """

    directory: Path
    options: Options
    nats: Running
    broker: Broker
    figures: Figures

    def say(self, text: str) -> None:
        """Tell the user what goes on."""
        print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)

    def has_h2load(self, what: str) -> bool:
        """Whether h2load is installed; without it, note that something is skipped."""
        if not h2load.available():
            self.figures.note(f"h2load was not found (Debian: nghttp2-client), so {what} was skipped.")
        return h2load.available()


@contextlib.asynccontextmanager
async def prepared(directory: Path, options: Options, figures: Figures) -> AsyncIterator[Bench]:
    """Start the broker and give the setting."""
    async with nats_server(directory) as nats, connected(nats.address) as broker:
        yield Bench(directory, options, nats, broker, figures)


class Server(Protocol):
    """A server under test, or the broker behind it."""

    @property
    def address(self) -> str:
        """``host:port`` where it listens."""

    def cpu_seconds(self) -> float:
        """Return the CPU time used so far; NaN = nobody knows."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server under test, and where its events lie.

    Attributes:
        server: the server.
        owner: the address of the server that makes its streams.
        nats: the broker behind it.
        storage: the same, as measurements use it.
        is_peer: whether it is none of ours, and knows the contract only.
        token: of somebody who may do everything there; empty = nobody asks.
    """

    server: Server
    owner: str
    nats: Server
    storage: Storage
    is_peer: bool = False
    token: str = ""

    @property
    def address(self) -> str:
        """Where the server listens."""
        return self.server.address

    def cpu_seconds(self) -> tuple[float, float]:
        """Return the CPU time used so far, of the server and of its broker."""
        return self.server.cpu_seconds(), self.nats.cpu_seconds()

    def used_since(self, before: tuple[float, float]) -> tuple[float, float]:
        """Return the CPU time used since then, of the server and of its broker."""
        server, nats = self.cpu_seconds()
        return server - before[0], nats - before[1]

    def stream(self) -> AbstractAsyncContextManager[str]:
        """Make a stream, whose only subject is its name."""
        return new_stream(self.owner, self.storage)

    async def consumer(self, stream: str) -> str:
        """Make a consumer of all events of a stream."""
        subjects = [stream] if self.is_peer else []  # not every server takes a consumer without
        return await new_consumer(self.address, stream, token=self.token, subjects=subjects)


@contextlib.asynccontextmanager
async def windshift_servers(bench: Bench) -> AsyncIterator[dict[str, Target]]:
    """Run each version of Windshift on the broker; give them by the name of their subject."""
    async with contextlib.AsyncExitStack() as stack:
        servers = {}
        for subject, path in bench.options.versions.items():
            server = windshift_server(bench.directory, bench.nats, path=path)
            servers[subject] = await stack.enter_async_context(server)
        owner = servers[WINDSHIFT].address
        yield {
            subject: Target(server, owner, bench.nats, bench.broker) for subject, server in servers.items()
        }


@contextlib.asynccontextmanager
async def server_with_token(bench: Bench, owner: str) -> AsyncIterator[Target]:
    """Run this version of Windshift with rules, for callers with a static token.

    Args:
        bench: the setting.
        owner: the address of a server without, which makes the streams.
    """
    rules = write_rules(bench.directory, issuer=False)
    async with windshift_server(bench.directory, bench.nats, environment=rules.environment) as server:
        yield Target(server, owner, bench.nats, bench.broker, token=rules.token)


@contextlib.asynccontextmanager
async def contract_servers(bench: Bench, measurement: str, *methods: str) -> AsyncIterator[dict[str, Target]]:
    """Run what `windshift_servers` does, and the peer if there is one and it has the methods."""
    async with windshift_servers(bench) as servers, contextlib.AsyncExitStack() as stack:
        if bench.options.peer:
            running = peer_server(bench.directory, bench.options.peer, bench.nats)
            peer = _peer(bench, await stack.enter_async_context(running), servers[WINDSHIFT].owner)
            wanted = {*methods, *(() if bench.nats is peer.nats else ("EnsureStream", "PublishEvent"))}
            if missing := [method for method in sorted(wanted) if not await knows(peer.address, method)]:
                without = " and ".join(missing)
                bench.figures.note(f"{measurement}: the {PEER} has no {without}, so it was left out.")
            else:
                servers[PEER] = peer
        yield servers


def _peer(bench: Bench, server: Running | Elsewhere, owner: str) -> Target:
    """Return the peer on our broker, with streams of Windshift's; or on its own, which is out of reach."""
    if isinstance(server, Running):
        return Target(server, owner, bench.nats, bench.broker, is_peer=True)
    storage = Behind(server.address, bench.directory)
    return Target(server, server.address, server, storage, is_peer=True)


@contextlib.asynccontextmanager
async def compared_servers(bench: Bench, measurement: str) -> AsyncIterator[dict[str, Target]]:
    """Run what publishes: both versions of Windshift, or the one and the comparison server; and the peer."""
    url = f"nats://{bench.nats.address}"
    async with contextlib.AsyncExitStack() as stack:
        servers = await stack.enter_async_context(contract_servers(bench, measurement, "PublishEvent"))
        if bench.options.before is None:
            server = program(bench.directory, "comparison_server", url, name="comparison server")
            started, _ = await stack.enter_async_context(server)
            servers[COMPARISON] = Target(started, servers[WINDSHIFT].owner, bench.nats, bench.broker)
        yield servers
