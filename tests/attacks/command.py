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
from dataclasses import dataclass, field, replace
from functools import partial
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

    def with_others(self, others: Seen) -> Seen:
        """Return both together."""
        return Seen(self.times + others.times, self.failures + others.failures)

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
        alone: what the honest client saw before and after.
        beside: what it saw meanwhile.
        probes: failed probes of the health port.
        grown: the most resident memory meanwhile beyond that before, in MB.
        control: what came of the same attack on another server; None = it was not made.
    """

    name: str
    alone: Seen
    beside: Seen
    probes: int
    grown: float
    control: Result | None = None

    @property
    def ratios(self) -> tuple[float, float]:
        """The median and the 99th percentile, times those without the attack."""
        return self.beside.p50 / self.alone.p50, self.beside.p99 / self.alone.p99

    @property
    def controlled(self) -> str:
        """The same of the control; empty if it was not made."""
        if self.control is None:
            return ""
        p50, p99 = self.control.ratios
        return f"{p50:.1f}, {p99:.1f}"

    @property
    def harmed(self) -> bool:
        """Whether something failed that must not."""
        return bool(self.beside.failures or self.probes)

    @property
    def missed(self) -> bool:
        """Whether a limit was exceeded."""
        p50, p99 = self.ratios
        return p50 > P50_LIMIT or p99 > P99_LIMIT or self.grown > MEMORY_LIMIT

    def with_another(self, other: Result) -> Result:
        """Take what came of the same attack at another time together with this."""
        return replace(
            self,
            alone=self.alone.with_others(other.alone),
            beside=self.beside.with_others(other.beside),
            probes=self.probes + other.probes,
            grown=max(self.grown, other.grown),
        )

    def row(self) -> str:
        """Write a line of the table."""
        p50, p99 = self.ratios
        failed = len(self.beside.failures) + self.probes
        return f"| {self.name} | {p50:.1f} | {p99:.1f} | {self.controlled} | {failed} | {self.grown:+.0f} |"


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


def measure(running: Served, name: str, seconds: float, target: Served | None = None) -> Result:
    """Measure the honest client without an attack, before and after, and beside it.

    Args:
        running: the server that it uses.
        name: of the attack.
        seconds: how long the attack is watched.
        target: the server that is attacked; None = the same.
    """
    alone, beside = Seen(), Seen()
    watch(running, seconds / 2, alone)
    with attacking(target or running, [name], seconds + 1), peak(running) as grown:
        probes = watch(running, seconds, beside)
    time.sleep(1)
    watch(running, seconds / 2, alone)  # a machine's speed changes
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
            f"Measured on {machine()}, everything on one machine; the latest rows at commit `{commit()}`.",
            "",
            "| attack | p50, times that without | p99, the same | control | failed calls | growth, MB |",
            "|---|---|---|---|---|---|",
            *rows,
        )
    )


@click.command()
@click.argument("names", nargs=-1, metavar="[ATTACK]...")
@click.option("--list", "listing", is_flag=True, help="List the attacks.")
@click.option("--seconds", default=3.0, show_default=True, help="How long each of them is measured.")
@click.option("--runs", default=1, show_default=True, help="How often; what all runs saw counts together.")
@click.option("--control", is_flag=True, help="Repeat what exceeds a limit against another server.")
@click.option("--report", is_flag=True, help="Write each result into the table of docs/limits.md.")
def main(
    *, names: tuple[str, ...], listing: bool, seconds: float, runs: int, control: bool, report: bool
) -> None:
    """Attack a server, by all means or those whose names begin so.

    Status 1: a call or a probe of an honest client failed.
    """
    chosen = [each for each in attacks() if not names or each.startswith(names)]
    if not chosen:
        raise click.UsageError("no such attack; --list shows all")
    if listing:
        click.echo("\n".join(chosen))
        return
    take = partial(_take, report=report)
    with _attacked("server") as running:
        results = _measure_all(running, chosen, seconds, runs, take)
        missed = [name for name, result in results.items() if result.missed] if control else []
        if missed:
            with _attacked("another") as other:

                def take_control(again: Result) -> None:
                    take(replace(results[again.name], control=again))

                _measure_all(running, missed, seconds, runs, take_control, other)
    sys.exit(any(result.harmed for result in results.values()))


def _measure_all(
    running: Served,
    names: list[str],
    seconds: float,
    runs: int,
    take: Callable[[Result], None],
    target: Served | None = None,
) -> dict[str, Result]:
    """Measure these attacks, one after the other and so many times; give what came of each up to then."""
    results: dict[str, Result] = {}
    for _ in range(runs):
        for name in names:
            result = measure(running, name, seconds, target)
            results[name] = results[name].with_another(result) if name in results else result
            take(results[name])
    return results


@contextmanager
def _attacked(name: str) -> Iterator[Served]:
    """Run a server that was used a little; what it keeps is in a directory of its own."""
    with (
        tempfile.TemporaryDirectory(prefix=f"windshift-attacks-{name}-") as directory,
        attacked(Path(directory)) as running,
    ):
        watch(running, 1, Seen())
        yield running
        if status := running.process.stop():
            raise click.ClickException(f"the server ended with status {status}")


def _take(result: Result, *, report: bool) -> None:
    """Tell of a result, and write it into the report if that is wanted."""
    _say(result)
    if report:
        text = REPORT.read_text()
        REPORT.write_text(with_tables(text, table(merged(text, [result]))))


def _say(result: Result) -> None:
    verdict = "FAILED" if result.harmed else "missed" if result.missed else "ok"
    control = f"  if another is attacked {result.controlled}" if result.control else ""
    click.echo(
        f"{verdict:<7}{result.name:<50} p50 {result.alone.p50:6.2f} -> {result.beside.p50:6.2f} ms"
        f"  p99 {result.alone.p99:7.2f} -> {result.beside.p99:7.2f} ms  {result.grown:+5.0f} MB"
        f"{control}  {' '.join(sorted(set(result.beside.failures)))}"
    )
