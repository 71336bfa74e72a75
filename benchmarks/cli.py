"""Measure the command line: how long it takes to start, and what it publishes and shows in a second.

    python -m benchmarks.cli [--events 50000] [--runs 3] [--before DIR]

Each command is a process of its own at one server. DIR is another checkout with an environment of its own,
whose command line takes turns with ours at the same server, A B A B …; then there are ratios, too. CPU is
that of the command alone.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click

import windshift as ws

from .processes import SERVER, FailedToRun, drive, nats_server, server_of, windshift_server

STARTS = 9
"""How often a command that only starts is run in a run; the median counts."""
OURS, BEFORE = "now", "before"
BARS: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "--help, ms": ("at most 100", lambda value: value <= 100),
    "streams ls, ms of CPU": ("at most 250", lambda value: value <= 250),
    "tail -o jsonl, events/s": ("at least 20,000", lambda value: value >= 20_000),
    "publish --each, events/s": ("at least 10,000", lambda value: value >= 10_000),
}


class Used(NamedTuple):
    """What a command took: seconds, and seconds of CPU."""

    seconds: float
    cpu: float


def run(command: Sequence[str], address: str, stdin: Path | None = None, stdout: Path | None = None) -> Used:
    """Run a command to its end."""
    with (stdin or Path(os.devnull)).open("rb") as source, (stdout or Path(os.devnull)).open("wb") as target:
        started = time.perf_counter()
        environment = {**os.environ, "WINDSHIFT_ADDRESS": address}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # nobody compiles anew at each start
        process = subprocess.Popen(command, stdin=source, stdout=target, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise FailedToRun(f"{' '.join(command)} ended with {process.returncode}")
    return Used(seconds, usage.ru_utime + usage.ru_stime)


def measure(program: Path, address: str, stream: str, directory: Path, count: int) -> dict[str, float]:
    """Run each command, and return what was measured by its name."""
    return dict(_measure(program, address, stream, directory, count))


def _measure(
    program: Path, address: str, stream: str, directory: Path, count: int
) -> Iterator[tuple[str, float]]:
    windshift, lines, shown = str(program), directory / "lines", directory / "shown"
    run([windshift, "streams", "ls"], address)  # what was never imported is compiled
    starts = [run([windshift, "--help"], address).seconds for _ in range(STARTS)]
    yield "--help, ms", statistics.median(starts) * 1000
    lists = [run([windshift, "streams", "ls"], address).cpu for _ in range(STARTS)]
    yield "streams ls, ms of CPU", statistics.median(lists) * 1000
    used = run([windshift, "publish", f"{stream}.placed", "-", "--each"], address, stdin=lines)
    yield "publish --each, events/s", count / used.seconds
    yield "publish --each, µs of CPU", used.cpu / count * 1e6
    tail = [windshift, "tail", stream, "--from", "start", "-n", str(count), "-o", "jsonl"]
    used = run(tail, address, stdout=shown)
    with shown.open("rb") as file:
        if sum(1 for _ in file) != count:
            raise FailedToRun("the tail did not show all events")
    yield "tail -o jsonl, events/s", count / used.seconds
    yield "tail -o jsonl, µs of CPU", used.cpu / count * 1e6


async def compare(programs: Mapping[str, Path], count: int, runs: int) -> None:
    """Measure programs in turns, and print a table."""
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "lines").write_text("".join(f'{{"orderId":"{number}"}}\n' for number in range(count)))
        async with (
            nats_server(directory) as nats,
            windshift_server(directory, nats) as server,
            ws.connect(server.address) as client,
        ):
            for number in range(runs):
                for which, program in programs.items():
                    stream = f"{which}-{number}"
                    await client.streams.ensure(stream, subjects=[f"{stream}.>"])
                    address = server.address
                    measured = await asyncio.to_thread(measure, program, address, stream, directory, count)
                    for name, value in measured.items():
                        found.setdefault(name, {}).setdefault(which, []).append(value)
                    print(f"  run {number + 1} of {runs}: {which}", flush=True)
                    await client.stream(stream).delete()
    print(f"Medians of {runs} runs of {count} events.")
    print(f"{'':<28}" + "".join(f"{which:>10}" for which in programs) + f"{'ratio':>8}" * (len(programs) - 1))
    for name, values in found.items():
        print(_row(name, values))


def _row(name: str, values: Mapping[str, Sequence[float]]) -> str:
    """Return a line of the table."""
    line = f"{name:<28}" + "".join(f"{statistics.median(each):>10,.0f}" for each in values.values())
    if BEFORE in values:
        ratios = [now / before for now, before in zip(values[OURS], values[BEFORE], strict=True)]
        line += f"{statistics.median(ratios):>8.2f}"
    if name in BARS:
        text, met = BARS[name]
        line += f"   {text}: {'met' if met(statistics.median(values[OURS])) else 'MISSED'}"
    return line


@click.command()
@click.option("--events", "count", default=50_000, help="Events that are published and shown.")
@click.option("--runs", default=3)
@click.option("--before", type=click.Path(path_type=Path, file_okay=False), help="Another checkout.")
def main(count: int, runs: int, before: Path | None) -> None:
    """Measure the command line."""
    programs = {OURS: SERVER} | ({} if before is None else {BEFORE: server_of(before)})
    try:
        drive(compare(programs, count, runs))
    except FailedToRun as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
