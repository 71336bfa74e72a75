"""`windshift`, run as people run it, but in the process of the test: no interpreter has to start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from windshift.cli import main


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def windshift_command(*arguments: str | Path, text: str = "", **environment: str) -> Ended:
    """Run a command; `text` is what it reads. An exception that it lets through is raised."""
    result = CliRunner().invoke(
        main,
        [str(each) for each in arguments],
        input=text,
        env=environment,
        prog_name="windshift",
        catch_exceptions=False,
    )
    return Ended(result.exit_code, result.stdout, result.stderr)
