"""What the measurements share: the options, the processes that stay up, and the figures."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from .broker import Broker, connected
from .figures import Figures
from .processes import Running, nats_server, program, windshift_server


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller asked for.

    Attributes:
        runs: how often each figure is measured.
        quick: shorter runs.
        soak: also what takes minutes.
        load_client: an independent load client of the contract; None = there is none.
    """

    runs: int
    quick: bool = False
    soak: bool = False
    load_client: Path | None = None

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
async def both_servers(bench: Bench) -> AsyncIterator[tuple[Running, Running]]:
    """Run Windshift and the comparison server on the broker."""
    url = f"nats://{bench.nats.address}"
    async with (
        windshift_server(bench.directory, bench.nats) as started,
        program(bench.directory, "comparison_server", url, name="comparison server") as (comparison, _),
    ):
        yield started.server, comparison
