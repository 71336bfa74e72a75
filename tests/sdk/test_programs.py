"""The programs of programs.md, as they stand there, each in a namespace of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).with_name("programs.md").read_text()
PROLOGUE, *PROGRAMS = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.timeout(90)  # with many processes beside them, they may take their time


def run(directory: Path, *arguments: str, **environment: str) -> str:
    """Run Python in a directory, without settings of the surroundings, and return what it printed."""
    base: Mapping[str, str] = {"HOME": str(directory), "PATH": ""}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env={**base, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=80,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("number", range(1, len(PROGRAMS) + 1))
def test_prints_what_it_says(number: int, tmp_path: Path, server: str, unique: Callable[[], str]) -> None:
    """A program prints what its first comment says."""
    program = PROGRAMS[number - 1]
    expected = program.partition("\n")[0].removeprefix("# prints: ").replace(" / ", "\n")
    ending = "asyncio.run(main())\n" if "async def main()" in program else ""
    file = tmp_path / "program.py"
    file.write_text(PROLOGUE + program + ending)
    namespace = unique()
    printed = run(tmp_path, str(file), WINDSHIFT_ADDRESS=server, WINDSHIFT_NAMESPACE=namespace)
    assert printed.replace(f"{namespace}.", "") == expected + "\n"
