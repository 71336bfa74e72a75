"""What is made of results: sums, JSON, tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.faults import results
from tests.faults import scenarios as _registered  # noqa: F401 - importing them makes them known
from tests.faults.checks import Violation
from tests.faults.results import Result
from tests.faults.run import SCENARIOS, Bar, Options, Run


def run_of(seed: int) -> Run:
    """Make a run with some figures."""
    run = Run("random", Path(), seed, Options())
    run.count("kills", seed)
    run.bar("gap, s", seed / 2, 1.0)
    return run


def test_summed() -> None:
    """Counts are added up, of the bars the worst counts, and failed seeds are named."""
    runs = [run_of(1), run_of(3), run_of(2)]
    runs[1].check([Violation("lost", "it is gone")])
    result = results.summed(runs, 1.23)
    assert (result.seeds, result.failed, result.counts) == ([1, 3, 2], [3], {"kills": 6})
    assert result.bars == [Bar("gap, s", 1.5, 1.0)]
    assert result.violations == ["lost: it is gone"]


def test_json_and_back() -> None:
    """Nothing of a result is lost in JSON."""
    result = results.summed([run_of(1)], 2.0)
    about, again = results.from_json(results.as_json([result]))
    assert again == [result]
    assert about.keys() == {"machine", "commit"}


def test_merged() -> None:
    """A scenario that was run again has its new result, in its old place."""
    old = [replace(results.summed([run_of(1)], 1.0), scenario=name) for name in list(SCENARIOS)[:3]]
    new = replace(old[1], seconds=9.0)
    assert results.merged(old, [new]) == [old[0], new, old[2]]


def test_report_has_the_results_that_are_kept() -> None:
    """The tables in docs/reliability.md are those of docs/reliability.json, and nothing was violated."""
    text = results.JSON.read_text()
    report = results.REPORT.read_text()
    assert results.with_tables(report, results.tables(text)) == report
    kept = results.from_json(text)[1]
    assert {result.scenario for result in kept} == set(SCENARIOS)
    assert [result.violations for result in kept if result.violations] == []


def test_missed_bars_are_told() -> None:
    """A missed bar says so."""
    missed: Result = results.summed([run_of(3)], 1.0)
    assert results.bar_text(missed.bars[0]) == "gap, s: 1.50 (limit 1, **missed**)"
    assert results.bar_text(Bar("gap, s", 0.5, 1.0)) == "gap, s: 0.50 (limit 1)"
