"""The command: plays scenarios one after the other, and says what was violated and how to play it again."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from tests.faults import scenarios as _registered  # noqa: F401 - importing them makes them known
from tests.faults.checks import Violation
from tests.faults.progress import Progress
from tests.faults.results import Result, bar_text, figures, summed, write_report
from tests.faults.run import MOST_VIOLATIONS, SCENARIOS, Options, Run, Scenario, play_watched

SEEDS = 20
"""How many seeds `make faults` plays of what is seeded."""


async def play(scenario: Scenario, seed: int, options: Options, progress: Progress, keep: Path) -> Run:
    """Play a scenario once. What its processes wrote is kept only when something was violated."""
    directory = Path(tempfile.mkdtemp(prefix=f"windshift-faults-{scenario.name}-"))
    run = Run(scenario.name, directory, seed, options, progress.say)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # as Ctrl-C does: in order
    try:
        await play_watched(scenario, run)
    except Exception as error:  # noqa: BLE001 - whatever it is, the others are played all the same
        run.violations.append(Violation("exception", f"{type(error).__name__}: {error}"))
        (directory / "exception").write_text(traceback.format_exc())
    if run.violations:
        kept = keep / f"{scenario.name}-{seed}"
        run.history.write(directory / "history.jsonl")
        (directory / "violations").write_text("\n".join(f"{v.check}: {v.text}" for v in run.violations))
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(directory, kept)
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return run


def play_all(
    scenario: Scenario, seeds: Sequence[int], options: Options, progress: Progress, keep: Path
) -> Result:
    """Play a scenario with each of the seeds, and say how it went."""
    runs, start = [], time.monotonic()
    progress.begin(scenario.name)
    for seed in seeds:
        try:
            run = asyncio.run(play(scenario, seed, options, progress, keep))
        except asyncio.CancelledError:
            progress.finish("stopped", "")
            sys.exit(128 + signal.SIGTERM)
        runs.append(run)
        if run.violations:
            _complain(run, progress, keep)
    result = summed(runs, time.monotonic() - start)
    progress.finish("FAILED" if result.failed else "ok    ", figures(result))
    for bar in result.bars:
        progress.line(f"{'':<20} {'' if bar.met else 'MISSED '}{bar_text(bar).replace('**', '')}")
    for note in result.notes:
        progress.line(f"{'':<20} {note}")
    return result


def _complain(run: Run, progress: Progress, keep: Path) -> None:
    progress.line("")
    for violation in run.violations[:MOST_VIOLATIONS]:
        progress.line(f"    {violation.check}: {violation.text}")
    if len(run.violations) > MOST_VIOLATIONS:
        progress.line(f"    and {len(run.violations) - MOST_VIOLATIONS} more")
    progress.line(f"    history and logs: {keep / f'{run.scenario}-{run.seed}'}")
    short = " --short" if run.options.short else ""
    progress.line(f"    again: python -m tests.faults {run.scenario} --seed {run.seed}{short}")


@click.command()
@click.argument("names", nargs=-1, metavar="[SCENARIO]...")
@click.option("--list", "listing", is_flag=True, help="List the scenarios.")
@click.option(
    "--seed", type=int, help="Play this seed alone: the same schedule again, if not the same timing."
)
@click.option("--seeds", type=click.IntRange(1), default=SEEDS, show_default=True, help="Of what is seeded.")
@click.option("--short", is_flag=True, help="A small part of everything, as in the test suite.")
@click.option("--events", type=int, default=0, help="For those that are measured in events: how many.")
@click.option(
    "--report", is_flag=True, help="Write the results to docs/reliability.json and docs/reliability.md."
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(tempfile.gettempdir()) / "windshift-faults",
    show_default=True,
    help="Where histories and logs of what failed go.",
)
def main(
    *,
    names: tuple[str, ...],
    listing: bool,
    seed: int | None,
    seeds: int,
    short: bool,
    events: int,
    report: bool,
    keep: Path,
) -> None:
    """Play fault scenarios, all or those named. Status 1: something was violated that must hold."""
    progress = Progress()
    if listing:
        for each in SCENARIOS.values():
            progress.line(f"{each.name:<20} {each.proves}{' (seeded)' if each.seeded else ''}")
        return
    if unknown := set(names) - SCENARIOS.keys():
        raise click.UsageError(f"no such scenario: {', '.join(sorted(unknown))}; --list shows all")
    keep.mkdir(parents=True, exist_ok=True)
    results = []
    for name in names or SCENARIOS:
        chosen = SCENARIOS[name]
        first = 1 if seed is None else seed
        count = seeds if chosen.seeded and seed is None else 1
        options = Options(short=short, events=events)
        results.append(play_all(chosen, range(first, first + count), options, progress, keep))
        if report:
            write_report(results)
    sys.exit(any(result.failed for result in results))
