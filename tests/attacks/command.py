"""The command: attacks one after the other, and the latencies of an honest client with and without each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import click
import grpc

from tests.attacks.calls import calls
from tests.attacks.frames import floods, half_sent, health_port, idle, watches, without_acknowledgement
from tests.attacks.place import HELD_MB, HONEST, Place, attacked
from tests.authorization.policies import token_of
from tests.authorization.served import Served
from tests.faults.results import BEGIN, END, ROOT, commit, machine, with_tables

REPORT: Final = ROOT / "docs" / "limits.md"
_ROW: Final = re.compile(r"^\| ([^|]+) \|.*\d.*\|$", re.MULTILINE)
P50_LIMIT: Final = 2.0
P99_LIMIT: Final = 4.0
MEMORY_LIMIT: Final = HELD_MB + 100
_PAUSE: Final = 0.005

Attack = Callable[[Place], None]


def attacks() -> dict[str, Attack]:
    """Return all attacks by name."""
    return {
        **floods(),
        "idle connections": idle,
        "requests that are never completed": half_sent,
        "refused calls, nothing acknowledged": without_acknowledgement,
        "health watches": watches,
        "the health port": health_port,
        **calls(),
    }


@dataclass
class Seen:
    """What the honest client saw.

    Attributes:
        times: of the calls that succeeded, in milliseconds.
        failures: codes of those that failed.
    """

    times: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def p50(self) -> float:
        """The median of the times."""
        return median(self.times)

    @property
    def p99(self) -> float:
        """The 99th percentile of the times."""
        return quantiles(self.times, n=100, method="inclusive")[98]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an attack.

    Attributes:
        alone: what the honest client saw before.
        beside: what it saw meanwhile.
        probes: failed probes of the health port.
        grown: the most resident memory meanwhile beyond that before, in MB.
    """

    name: str
    alone: Seen
    beside: Seen
    probes: int
    grown: float

    @property
    def harmed(self) -> bool:
        """Whether something failed that must not."""
        return bool(self.beside.failures or self.probes)

    @property
    def missed(self) -> bool:
        """Whether a limit was exceeded."""
        return (
            self.beside.p50 > P50_LIMIT * self.alone.p50
            or self.beside.p99 > P99_LIMIT * self.alone.p99
            or self.grown > MEMORY_LIMIT
        )

    def row(self) -> str:
        """Write a line of the table."""
        alone, beside = self.alone, self.beside
        ratios = f"{beside.p50 / alone.p50:.1f} | {beside.p99 / alone.p99:.1f}"
        return f"| {self.name} | {ratios} | {len(beside.failures) + self.probes} | {self.grown:+.0f} |"


def watch(running: Served, seconds: float, seen: Seen) -> int:
    """Publish as the honest client for some seconds; return how many probes failed meanwhile."""
    client = running.callers.with_token(token_of(HONEST))
    probes, end, next_probe = 0, time.monotonic() + seconds, 0.0
    while (started := time.monotonic()) < end:
        try:
            client.publish("honest.a", timeout=5)
            seen.times.append(1000 * (time.monotonic() - started))
        except grpc.RpcError as error:
            seen.failures.append(error.code().name)
        if started > next_probe:
            probes += running.process.probe("/healthz").status != 200
            next_probe = started + 0.5
        time.sleep(_PAUSE)
    return probes


@contextmanager
def attacking(running: Served, names: list[str], seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """Run attacks, one after the other, in a process of their own for the length of a block."""
    process = running.process
    arguments = (str(process.api_port), str(process.health_port), str(seconds), *names)
    attacker = subprocess.Popen(
        [sys.executable, "-m", "tests.attacks.attacker", *arguments], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert attacker.stdout is not None
        attacker.stdout.readline()  # it has begun
        yield attacker
        assert attacker.wait(60) == 0
    finally:
        attacker.kill()
        attacker.communicate()


def measure(running: Served, name: str, seconds: float) -> Result:
    """Measure the honest client without an attack, and beside it."""
    alone, beside = Seen(), Seen()
    watch(running, seconds / 2, alone)
    with attacking(running, [name], seconds + 1), peak(running) as grown:
        probes = watch(running, seconds, beside)
    time.sleep(1)
    return Result(name, alone, beside, probes, grown[0])


@contextmanager
def peak(running: Served) -> Iterator[list[float]]:
    """Watch the server's resident memory; the list then holds the most of its growth, in MB."""
    grown, over = [0.0], threading.Event()
    before = _resident(running)

    def look() -> None:
        while not over.wait(0.1):
            grown[0] = max(grown[0], _resident(running) - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield grown
    finally:
        over.set()
        thread.join()


def _resident(running: Served) -> float:
    """Return the resident memory in MB."""
    pages = Path(f"/proc/{running.process.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def merged(report: str, results: list[Result]) -> list[str]:
    """Return the rows of a report with new results in place of older ones, in the order of the list."""
    before = report.partition(BEGIN)[2].partition(END)[0]
    rows = {found[1]: found[0] for found in _ROW.finditer(before)}
    rows |= {result.name: result.row() for result in results}
    return [rows[name] for name in attacks() if name in rows]


def table(rows: list[str]) -> str:
    """Write the table of the report."""
    return "\n".join(
        (
            f"Measured on {machine()}, everything on one machine, at commit `{commit()}`.",
            "",
            "| attack | p50, times that without | p99, the same | failed calls and probes | growth, MB |",
            "|---|---|---|---|---|",
            *rows,
        )
    )


@click.command()
@click.argument("names", nargs=-1, metavar="[ATTACK]...")
@click.option("--list", "listing", is_flag=True, help="List the attacks.")
@click.option("--seconds", default=3.0, show_default=True, help="How long each of them is measured.")
@click.option("--report", is_flag=True, help="Write each result into the table of docs/limits.md.")
def main(*, names: tuple[str, ...], listing: bool, seconds: float, report: bool) -> None:
    """Attack a server, by all means or those whose names begin so.

    Status 1: a call or a probe of an honest client failed.
    """
    chosen = [each for each in attacks() if not names or each.startswith(names)]
    if not chosen:
        raise click.UsageError("no such attack; --list shows all")
    if listing:
        click.echo("\n".join(chosen))
        return
    results = []
    with (
        tempfile.TemporaryDirectory(prefix="windshift-attacks-") as directory,
        attacked(Path(directory)) as running,
    ):
        watch(running, 1, Seen())
        for name in chosen:
            results.append(measure(running, name, seconds))
            _say(results[-1])
            if report:
                text = REPORT.read_text()
                REPORT.write_text(with_tables(text, table(merged(text, results))))
        if status := running.process.stop():
            raise click.ClickException(f"the server ended with status {status}")
    sys.exit(any(result.harmed for result in results))


def _say(result: Result) -> None:
    verdict = "FAILED" if result.harmed else "missed" if result.missed else "ok"
    click.echo(
        f"{verdict:<7}{result.name:<50} p50 {result.alone.p50:6.2f} -> {result.beside.p50:6.2f} ms"
        f"  p99 {result.alone.p99:7.2f} -> {result.beside.p99:7.2f} ms  {result.grown:+5.0f} MB"
        f"  {' '.join(sorted(set(result.beside.failures)))}"
    )
