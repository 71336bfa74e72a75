"""What the measurements share: the options, the processes that stay up, and the figures."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from .broker import Broker, connected
from .figures import BEFORE, COMPARISON, WINDSHIFT, Figures
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
    """

    runs: int
    quick: bool = False
    soak: bool = False
    load_client: Path | None = None
    before: Path | None = None

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


@contextlib.asynccontextmanager
async def prepared(directory: Path, options: Options, figures: Figures) -> AsyncIterator[Bench]:
    """Start the broker and give the setting."""
    async with nats_server(directory) as nats, connected(nats.address) as broker:
        yield Bench(directory, options, nats, broker, figures)


@contextlib.asynccontextmanager
async def windshift_servers(bench: Bench) -> AsyncIterator[dict[str, Running]]:
    """Run each version of Windshift on the broker; give their processes by the name of their subject."""
    async with contextlib.AsyncExitStack() as stack:
        servers = {}
        for subject, path in bench.options.versions.items():
            server = windshift_server(bench.directory, bench.nats, path=path)
            servers[subject] = (await stack.enter_async_context(server)).server
        yield servers


@contextlib.asynccontextmanager
async def compared_servers(bench: Bench) -> AsyncIterator[dict[str, Running]]:
    """Run both versions of Windshift, or the one that there is and the comparison server."""
    url = f"nats://{bench.nats.address}"
    async with contextlib.AsyncExitStack() as stack:
        servers = await stack.enter_async_context(windshift_servers(bench))
        if bench.options.before is None:
            server = program(bench.directory, "comparison_server", url, name="comparison server")
            servers[COMPARISON], _ = await stack.enter_async_context(server)
        yield servers
