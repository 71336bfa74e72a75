"""The command: runs the measurements one after the other and prints what came out."""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import click

from windshift.rpc import RpcError

from .auth import measure_auth, measure_auth_check
from .bars import judge
from .bench import Bench, Options, prepared
from .drain import measure_drain
from .encryption import measure_tls
from .figures import BEFORE, WINDSHIFT, Figures, as_json, table, verdict_table
from .looking import measure_looking
from .machine import commit, describe
from .memory import (
    measure_idle_streams,
    measure_soak,
    measure_stalled,
    measure_start,
    measure_upload,
)
from .neighbours import measure_neighbours
from .processes import ROOT, FailedToRun, drive, server_of
from .scale import measure_scale
from .sizing import measure_sizing
from .telemetry import measure_telemetry
from .throughput import measure_consume, measure_direct, measure_latency, measure_many, measure_publish
from .workers import measure_workers


@dataclass(frozen=True, slots=True)
class Measurement:
    """Something that can be asked for by name.

    Attributes:
        run: adds its figures to the bench's.
        versions: whether it can measure two versions of Windshift in turns.
        long: whether it takes minutes and must be asked for.
    """

    run: Callable[[Bench], Awaitable[None]]
    versions: bool = False
    long: bool = False


MEASUREMENTS = {
    "publish": Measurement(measure_publish, versions=True),
    "many": Measurement(measure_many, versions=True),
    "latency": Measurement(measure_latency, versions=True),
    "consume": Measurement(measure_consume, versions=True),
    "nats-py": Measurement(measure_direct),
    "telemetry": Measurement(measure_telemetry),
    "auth": Measurement(measure_auth),
    "auth-check": Measurement(measure_auth_check),
    "tls": Measurement(measure_tls),
    "workers": Measurement(measure_workers),
    "start": Measurement(measure_start, versions=True),
    "idle-streams": Measurement(measure_idle_streams, versions=True),
    "stalled": Measurement(measure_stalled),
    "neighbours": Measurement(measure_neighbours),
    "upload": Measurement(measure_upload),
    "drain": Measurement(measure_drain),
    "sizing": Measurement(measure_sizing, long=True),
    "scale": Measurement(measure_scale, long=True),
    "looking": Measurement(measure_looking, long=True),
    "soak": Measurement(measure_soak, long=True),
}


def chosen(only: tuple[str, ...], *, soak: bool, before: bool = False) -> list[str]:
    """Return the names of the measurements to run, in their order.

    Args:
        only: those asked for by name; none = all that need not be asked for.
        soak: whether what is long was asked for.
        before: whether two versions are measured, which not all can.

    Raises:
        click.UsageError: what was asked for cannot measure two versions.
    """
    able = [name for name, measurement in MEASUREMENTS.items() if measurement.versions or not before]
    asked = (*only, *(["soak"] if soak else []))
    if refused := [name for name in asked if name not in able]:
        raise click.UsageError(f"--before does not go with {', '.join(refused)}")
    if only:
        return [name for name in able if name in only]
    return [name for name in able if soak or not MEASUREMENTS[name].long]


async def run(names: list[str], options: Options, figures: Figures) -> list[str]:
    """Run measurements; return the names of those that failed to run."""
    failed = []
    with tempfile.TemporaryDirectory(prefix="windshift-bench-", ignore_cleanup_errors=True) as directory:
        for name in names:
            part = Path(directory) / name
            part.mkdir()
            try:
                async with prepared(part, options, figures) as bench:
                    await MEASUREMENTS[name].run(bench)
            except* (FailedToRun, RpcError, OSError, TimeoutError) as errors:
                failed.append(name)
                for error in errors.exceptions:
                    print(f"FAILED: {name}: {error}", file=sys.stderr, flush=True)
                    if not isinstance(error, FailedToRun):
                        traceback.print_exception(error)
    return failed


def _server_of(checkout: Path) -> Path:
    try:
        return server_of(checkout.resolve())
    except FailedToRun as error:
        raise click.BadParameter(str(error), param_hint="--before") from None


@click.command(context_settings={"show_default": True})
@click.option("--runs", default=5, type=click.IntRange(1), help="How often each speed is measured.")
@click.option("--quick", is_flag=True, help="Shorter runs, and three of each: for a look, not for quoting.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(MEASUREMENTS)), help="Measure this. Can be repeated."
)
@click.option("--soak", is_flag=True, help="Also what takes minutes: 1,000,000 requests.")
@click.option(
    "--load-client",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A load client of the contract to consume with as well, as a cross-check.",
)
@click.option(
    "--before",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Measure this version in turns with that of another checkout, with an environment of its own.",
)
@click.option(
    "--peer",
    envvar="WINDSHIFT_PEER",
    default="",
    metavar="SERVER",
    help="Measure another server of the contract as well: the command line that starts it, or host:port.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the results here, as JSON."
)
def main(
    *,
    runs: int,
    quick: bool,
    only: tuple[str, ...],
    soak: bool,
    load_client: Path | None,
    before: Path | None,
    peer: str,
    output: Path | None,
) -> None:
    """Measure the server beside a plain grpc.aio server and nats-py alone, or beside another version of it.

    Both servers use one broker and take turns, run by run; the table shows medians. Whether a bar is met is
    information: the exit status is 1 only when something failed to run.
    """
    names = chosen(only, soak=soak, before=before is not None)
    options = Options(
        runs=min(runs, 3) if quick else runs,
        quick=quick,
        soak=soak,
        load_client=load_client and load_client.resolve(),
        before=before and _server_of(before),
        peer=peer,
    )
    machine, figures = describe(), Figures()
    machine["commits"] = ({} if before is None else {BEFORE: commit(before)}) | {WINDSHIFT: commit(ROOT)}
    try:
        failed = drive(run(names, options, figures))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    verdicts = judge(figures)
    print(f"\n{machine['processor']}, {machine['cores']} cores; Python {machine['python']}")
    for version, checked_out in machine["commits"].items():
        print(f"{version}: {checked_out or 'not in git'}")
    print(f"\n{table(figures)}")
    if verdicts:
        print(f"\n{verdict_table(verdicts)}")
    for note in figures.notes:
        print(f"\nNote: {note}")
    if output is not None:
        text = json.dumps(as_json(figures, verdicts, machine), indent=2, ensure_ascii=False)
        output.write_text(text + "\n", encoding="utf-8")
    if failed:
        print(f"\nFailed to run: {', '.join(failed)}")
        sys.exit(1)
