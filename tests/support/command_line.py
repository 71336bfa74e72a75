"""`windshift`, run as people run it, but in the process of the test: no interpreter has to start."""

from __future__ import annotations

import subprocess
import sys
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


HEAVY = ("asyncio", "google.protobuf", "grpc", "ngh2", "nkeys", "h11", "uvloop", "windshift.nats")
_LOADED = f"""
import sys
from windshift.cli import main
for command in sys.argv[1:]:
    try:
        main(command.split(), prog_name="windshift")
    except SystemExit as end:
        print(command, "ended with", end.code)
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def heavy_modules_after(*commands: str) -> tuple[list[int], str]:
    """Run commands after each other in a fresh interpreter.

    Return their exit codes, and the list of what it has loaded then of modules that take time.
    """
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, *commands], capture_output=True, text=True, check=True, timeout=60
    )
    lines = done.stdout.splitlines()
    codes = [int(line.rpartition(" ")[2]) for line in lines if " ended with " in line]
    return codes, lines[-1]
