"""Attacks in short: an honest client is served, and the server stops in good order.

Floods of frames are in tests/hardening and tests/rpc.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.command import Result, Seen, attacking, attacks, merged, table, watch
from tests.attacks.place import attacked
from tests.faults.results import BEGIN, END, with_tables


def test_a_table_grows_part_by_part() -> None:
    """A new result takes the place of an older one, and those of other attacks stay."""
    first, second, *_ = attacks()

    def result(name: str, times: float) -> Result:
        return Result(name, Seen([1.0, 1.0]), Seen([times, times]), 0, 0.0)

    report = with_tables(f"a | b\n{BEGIN}\n{END}\n", table(merged("", [result(second, 2.0)])))
    rows = merged(report, [result(first, 1.5)])
    assert [row.split(" | ")[:2] for row in rows] == [[f"| {first}", "1.5"], [f"| {second}", "2.0"]]
    (row,) = merged(report, [result(second, 3.0)])
    assert row == f"| {second} | 3.0 | 3.0 |  | 0 | +0 |"


def test_a_control_has_a_column_of_its_own() -> None:
    """The ratios stay those of the attack on the client's own server."""
    name, *_ = attacks()
    control = Result(name, Seen([1.0, 1.0]), Seen([1.5, 1.5]), 0, 0.0)
    result = Result(name, Seen([2.0, 2.0]), Seen([6.0, 6.0]), 0, 0.0, control)
    assert result.row() == f"| {name} | 3.0 | 3.0 | 1.5, 1.5 | 0 | +0 |"
    assert result.missed
    assert not control.missed


def test_several_runs_count_together() -> None:
    """So do their failures; the growth of memory is the largest."""
    name, *_ = attacks()
    first = Result(name, Seen([1.0]), Seen([2.0, 2.0]), 0, 5.0)
    second = Result(name, Seen([1.0, 1.0]), Seen([4.0], ["UNAVAILABLE"]), 1, 3.0)
    both = first.with_another(second)
    assert both == Result(name, Seen([1.0] * 3), Seen([2.0, 2.0, 4.0], ["UNAVAILABLE"]), 1, 5.0)


@pytest.mark.timeout(240)
def test_an_honest_client_is_served_beside_each_attack(tmp_path: Path) -> None:
    """No call and no probe of it fails."""
    names = [name for name in attacks() if not name.startswith("flood")]
    with attacked(tmp_path) as running:
        seen = Seen()
        failed_probes = 0
        with attacking(running, names, 0.05) as attacker:
            while attacker.poll() is None:
                failed_probes += watch(running, 0.2, seen)
        assert (seen.failures, failed_probes) == ([], 0)
        assert seen.times
        assert running.process.stop() == 0, running.process.err
