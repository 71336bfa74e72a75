"""What came out of runs: as JSON, as text for people, and as the tables of docs/reliability.md."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.run import SCENARIOS, Bar, Number, Run

ROOT = Path(__file__).resolve().parents[2]
JSON = ROOT / "docs" / "reliability.json"
REPORT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of all runs of one scenario.

    Attributes:
        seeds: those that were run.
        failed: those in which something was violated.
        counts: summed over the runs.
        bars: the worst of the runs.
    """

    scenario: str
    seeds: list[int]
    failed: list[int]
    seconds: float
    counts: dict[str, Number]
    bars: list[Bar]
    violations: list[str]
    notes: list[str]


def summed(runs: Sequence[Run], seconds: float) -> Result:
    """Make one result of the runs of one scenario."""
    counts: dict[str, Number] = {}
    worst: dict[str, Bar] = {}
    for run in runs:
        for name, value in run.counts.items():
            counts[name] = counts.get(name, 0) + value
        for bar in run.bars:
            if bar.name not in worst or bar.value > worst[bar.name].value:
                worst[bar.name] = bar
    return Result(
        scenario=runs[0].scenario,
        seeds=[run.seed for run in runs],
        failed=[run.seed for run in runs if run.violations],
        seconds=round(seconds, 1),
        counts={name: round(value, 2) for name, value in counts.items()},
        bars=list(worst.values()),
        violations=[f"{each.check}: {each.text}" for run in runs for each in run.violations],
        notes=list(dict.fromkeys(note for run in runs for note in run.notes)),
    )


def as_json(results: Iterable[Result]) -> str:
    """Write results with the machine and the commit that they are of."""
    about = {
        "machine": machine(),
        "commit": commit(),
        "scenarios": [dataclasses.asdict(each) for each in results],
    }
    return json.dumps(about, indent=1) + "\n"


def from_json(text: str) -> tuple[dict[str, Any], list[Result]]:
    """Read what `as_json` wrote."""
    about = json.loads(text)
    results = [
        Result(**{**each, "bars": [Bar(**bar) for bar in each["bars"]]}) for each in about.pop("scenarios")
    ]
    return about, results


def merged(old: Iterable[Result], new: Iterable[Result]) -> list[Result]:
    """Replace the results of those scenarios that were run again, in the order of the scenarios."""
    latest = {each.scenario: each for each in (*old, *new)}
    return [latest[name] for name in SCENARIOS if name in latest]


def machine() -> str:
    """Describe the machine in a few words."""
    cores = sum(line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines())
    return f"{cores} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def commit() -> str:
    """Name the commit."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


# For people


def figures(result: Result) -> str:
    """Write the counts in one line."""
    return ", ".join(f"{_number(value)} {name}" for name, value in result.counts.items())


def bar_text(bar: Bar) -> str:
    """Write a bar."""
    verdict = "" if bar.met else ", **missed**"
    return f"{bar.name}: {_number(bar.value)} (limit {_number(bar.limit)}{verdict})"


def _number(value: Number) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:,.2f}"


def tables(text: str) -> str:
    """Write the tables of the report from JSON."""
    about, results = from_json(text)
    lines = [
        f"Run on {about['machine']}, everything on one machine, at commit `{about['commit']}`.",
        "",
        "| scenario | what happens | violations | times and sizes |",
        "|---|---|---|---|",
    ]
    for each in results:
        bars = "; ".join(bar_text(bar) for bar in each.bars)
        proves = SCENARIOS[each.scenario].proves
        lines.append(f"| `{each.scenario}` | {proves} | {len(each.violations)} | {bars} |")
    lines += ["", "| scenario | what was done and seen |", "|---|---|"]
    for each in results:
        runs = f"{len(each.seeds)} seeds: " if len(each.seeds) > 1 else ""
        notes = "".join(f" {note}" for note in each.notes)
        lines.append(f"| `{each.scenario}` | {runs}{figures(each)}.{notes} |")
    return "\n".join(lines)


def write_report(results: Sequence[Result]) -> None:
    """Write the JSON file, and the tables of the report."""
    old = from_json(JSON.read_text())[1] if JSON.exists() else []
    JSON.write_text(as_json(merged(old, results)))
    REPORT.write_text(with_tables(REPORT.read_text(), tables(JSON.read_text())))


def with_tables(report: str, new: str) -> str:
    """Put tables in their place."""
    head, _, rest = report.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{new}\n\n{END}{tail}"
