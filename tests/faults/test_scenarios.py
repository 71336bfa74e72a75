"""The short forms of the scenarios. Times are not asserted: they are what `make faults` is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import scenarios as _registered  # noqa: F401 - importing them makes them known
from tests.faults.run import SCENARIOS, Options, Run, play_watched


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.tested])
async def test_scenario(name: str, tmp_path: Path) -> None:
    """Nothing is violated that must hold."""
    run = Run(name, tmp_path, 1, Options(short=True))
    await play_watched(SCENARIOS[name], run)
    run.history.write(tmp_path / "history.jsonl")
    assert run.violations == [], f"{run.notes}; history and logs: {tmp_path}"
