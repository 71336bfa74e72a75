"""The programs of others: building them, and what one run of each says."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

SOURCES = Path(__file__).parent / "go"
EXCEPTIONS = Path(__file__).parent / "h2spec_exceptions.txt"

_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program said.

    Attributes:
        passed: whether it succeeded.
        output: all that it printed.
    """

    passed: bool
    output: str = ""


def build(go: str, folder: Path) -> None:
    """Build the programs of `go/go.mod` into a folder: `client`, `server` and `h2spec`.

    Raises:
        subprocess.CalledProcessError: Go says no; its own words are on standard error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([go, "build", "-o", f"{folder}/", "tool"], cwd=SOURCES, check=True)


async def run(*command: str | Path) -> Outcome:
    """Run a program to its end."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return Outcome(False, f"it did not end within {_TIMEOUT:.0f} s")
    return Outcome(process.returncode == 0, output.decode(errors="replace"))


def read_exceptions() -> dict[str, str]:
    """Return the reasons of the listed cases of h2spec, by case."""
    lines = EXCEPTIONS.read_text().splitlines()
    listed = (line.partition(" | ") for line in lines if line and not line.startswith("#"))
    return {name: reason for name, _, reason in listed}


def read_report(report: Path) -> dict[str, str | None]:
    """Return why each case of an h2spec report failed, None where it passed."""
    text = report.read_bytes().decode(errors="replace")
    text = "".join(char for char in text if char.isprintable() or char == "\n")  # it quotes raw frames
    root = ET.fromstring(text)  # noqa: S314 -- written by the program that was just run
    cases: dict[str, str | None] = {}
    for case in root.iter("testcase"):
        problem = next((part for part in case if part.tag in {"error", "failure", "skipped"}), None)
        name = f"{case.get('package')}: {case.get('classname')}"
        cases[name] = None if problem is None else (problem.text or problem.tag)
    return cases
