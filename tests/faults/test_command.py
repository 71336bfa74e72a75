"""The command itself, on scenarios made for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.faults.command import main
from tests.faults.history import Fault
from tests.faults.run import SCENARIOS, Run, Scenario


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Replace the scenarios by four that do nothing but note their seeds, fail for odd ones, or break."""
    played: list[tuple[str, int]] = []

    async def well(run: Run) -> None:
        played.append((run.scenario, run.seed))
        run.count("things", 2)

    async def oddly(run: Run) -> None:
        await well(run)
        run.history.faults.append(Fault("kill", "nats", 1.0, 2.0))
        run.demand(run.seed % 2 == 0, "odd", f"seed {run.seed} is odd")

    async def badly(run: Run) -> None:
        raise OSError("no room")

    made = {
        "well": Scenario("well", "all goes well", well),
        "seeded": Scenario("seeded", "so does this", well, seeded=True),
        "oddly": Scenario("oddly", "odd seeds fail", oddly, seeded=True),
        "badly": Scenario("badly", "it breaks", badly),
    }
    for name in list(SCENARIOS):
        monkeypatch.delitem(SCENARIOS, name)
    for name, each in made.items():
        monkeypatch.setitem(SCENARIOS, name, each)
    return played


def run(tmp_path: Path, *arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, [*arguments, "--keep", str(tmp_path / "kept")])


def test_plays_what_is_named(tmp_path: Path, played: list[tuple[str, int]]) -> None:
    """What is seeded is played with as many seeds as were asked for, and the figures are added up."""
    result = run(tmp_path, "well", "seeded", "--seeds", "3")
    assert result.exit_code == 0
    assert played == [("well", 1), ("seeded", 1), ("seeded", 2), ("seeded", 3)]
    assert "ok" in result.output
    assert "6 things" in result.output
    assert list((tmp_path / "kept").iterdir()) == []


def test_tells_how_to_play_it_again(tmp_path: Path, played: list[tuple[str, int]]) -> None:
    """A violation has status 1, says its seed, and keeps the history; the other seeds are played too."""
    result = run(tmp_path, "oddly", "--seeds", "4", "--short")
    assert result.exit_code == 1
    assert [seed for _, seed in played] == [1, 2, 3, 4]
    assert "odd: seed 3 is odd" in result.output
    assert "again: python -m tests.faults oddly --seed 3 --short" in result.output
    kept = tmp_path / "kept" / "oddly-3"
    assert str(kept) in result.output
    assert '"nats"' in (kept / "history.jsonl").read_text()
    assert sorted(each.name for each in (tmp_path / "kept").iterdir()) == ["oddly-1", "oddly-3"]


def test_plays_one_seed(tmp_path: Path, played: list[tuple[str, int]]) -> None:
    """A seed that is named is played alone."""
    assert run(tmp_path, "oddly", "--seed", "16").exit_code == 0
    assert played == [("oddly", 16)]


def test_goes_on_after_an_exception(tmp_path: Path, played: list[tuple[str, int]]) -> None:
    """A scenario that breaks has failed, and the next one is played."""
    result = run(tmp_path, "badly", "well")
    assert result.exit_code == 1
    assert "exception: OSError: no room" in result.output
    assert played == [("well", 1)]


def test_lists(tmp_path: Path, played: list[tuple[str, int]]) -> None:
    """The list has every scenario with what it proves; an unknown name is refused."""
    result = run(tmp_path, "--list")
    assert [line.split()[0] for line in result.output.splitlines()] == list(SCENARIOS)
    assert run(tmp_path, "unknown").exit_code == 2
    assert played == []
