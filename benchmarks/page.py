"""The page of results: a table for each measurement, and a chart of each of its rows.

    python -m benchmarks.page [RESULTS.json...]

writes `docs/benchmarks.md` from `docs/benchmarks.json`, into which it puts the results first: they replace
what is there of the same measurements and bars. Each measurement says when and with which commit it was made.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from .figures import WINDSHIFT, number
from .processes import ROOT

PAGE, RESULTS = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks.json"
_HEAD = """# Benchmarks

What one server costs and reaches, beside other things measured in the same run.
[What each row measures](../benchmarks/README.md).

`python -m benchmarks.page` writes this page from [benchmarks.json](benchmarks.json), which
`python -m benchmarks --output` wrote. The load generator, the server and nats-server share the cores. Compare
figures with those beside them: alone they say more of the machine than of the server. With a load average
near 0 a measurement had the machine for itself; with a larger one only ratios within it are worth something.
"""
_EARLIER = "with an earlier version, beside other work"


def page(results: dict[str, Any]) -> str:
    """Write the page."""
    parts = [_HEAD, _machine(results["machine"])]
    for measurement, figures in groupby(results["figures"], key=lambda figure: figure["measurement"]):
        same = list(figures)
        parts += [
            f"## {measurement[0].upper()}{measurement[1:]}",
            f"Measured {same[0]['made'] or _EARLIER}.",
            *_measurement(same),
        ]
    parts += ["## Bars", "What the figures are held against.", _bars(results["bars"])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def merged(files: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of several runs as one: of each measurement and each bar the last.

    Each figure and bar says when it was measured, and with what (`made`; None = nobody knows).
    """
    figures: dict[str, list[Any]] = {}
    bars: dict[str, Any] = {}
    for file in files:
        machine = file["machine"]
        made = None
        if commit := machine.get("commits", {}).get(WINDSHIFT):
            made = f"{machine['date']}, at {commit}, load average {machine['load_average_before']}"
        measured: dict[str, list[Any]] = {}
        for figure in file["figures"]:
            measured.setdefault(figure["measurement"], []).append({"made": made} | figure)
        figures |= measured
        bars |= {bar["bar"]: {"made": made} | bar for bar in file["bars"]}
    return {
        "machine": files[-1]["machine"],
        "figures": [figure for group in figures.values() for figure in group],
        "bars": list(bars.values()),
    }


def _machine(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"Measured on {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}; Python {machine['python']}, {machine['nats-server']}, {packages}."
    )


def _measurement(figures: list[dict[str, Any]]) -> list[str]:
    rows = ["| | | median | runs |", "|---|---|---:|---:|"]
    charts = []
    figures.sort(key=lambda figure: str(figure["quantity"]))
    for quantity, group in groupby(figures, key=lambda figure: str(figure["quantity"])):
        same = list(group)
        for place, figure in enumerate(same):
            name = "" if place else f" {quantity}"
            median, runs = number(figure["median"]), len(figure["values"])
            rows.append(f"|{name} | {figure['subject']} | {median} | {runs} |")
        charts.append(_chart(quantity, same))
    return ["\n".join(rows), *charts]


def _chart(quantity: str, figures: list[dict[str, Any]]) -> str:
    names = ", ".join(f'"{figure["subject"]}"' for figure in figures)
    values = ", ".join(f"{figure['median']:g}" for figure in figures)
    return "\n".join(
        (
            "```mermaid",
            "xychart-beta",
            f"  x-axis [{names}]",
            f'  y-axis "{quantity}" 0 --> {1.1 * max(figure["median"] for figure in figures) or 1:.4g}',
            f"  bar [{values}]",
            "```",
        )
    )


def _bars(bars: list[dict[str, Any]]) -> str:
    said = {True: "met", False: "missed", None: ""}
    rows = ["| | limit | value | | measured |", "|---|---:|---:|---|---|"]
    for bar in bars:
        limit = "" if bar["limit"] is None else number(bar["limit"])
        made = bar["made"] or _EARLIER
        rows.append(f"| {bar['bar']} | {limit} | {number(bar['measured'])} | {said[bar['met']]} | {made} |")
    return "\n".join(rows)


@click.command()
@click.argument("results", nargs=-1, type=click.Path(exists=True, path_type=Path))
def main(results: tuple[Path, ...]) -> None:
    """Put results into those that the page shows, and write the page."""
    all_ = merged([json.loads(file.read_text()) for file in (RESULTS, *results)])
    RESULTS.write_text(json.dumps(all_, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(all_))


if __name__ == "__main__":
    main()
