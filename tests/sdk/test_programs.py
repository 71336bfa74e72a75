"""The programs of programs.md, as they stand there, against a fresh server: no two have the same streams."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import windshift as ws

DOCUMENT = Path(__file__).with_name("programs.md").read_text()
PROLOGUE, *PROGRAMS = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
TESTS = PROGRAMS.pop()  # the last one is tests
WITH_A_SERVER = (5, 8)  # those that bring their own

pytestmark = pytest.mark.timeout(180)  # with many processes beside them, they may take their time


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
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def fresh() -> Iterator[str]:
    """Return the address of a server that has nothing yet."""
    with ws.testing.Server() as server:
        yield server.address


@pytest.mark.parametrize("number", range(1, len(PROGRAMS) + 1))
def test_prints_what_it_says(number: int, fresh: str, tmp_path: Path) -> None:
    """A program prints what its first comment says."""
    program = PROGRAMS[number - 1]
    expected = program.partition("\n")[0].removeprefix("# prints: ").replace(" / ", "\n")
    ending = "asyncio.run(main())\n" if "async def main()" in program else ""
    file = tmp_path / "program.py"
    file.write_text(PROLOGUE + program + ending)
    server = {} if number in WITH_A_SERVER else {"WINDSHIFT_ADDRESS": fresh}
    assert run(tmp_path, str(file), **server) == expected + "\n"


@pytest.mark.parametrize("plugin", ["asyncio", "anyio"])
def test_plugins(plugin: str, tmp_path: Path) -> None:
    """The fixture `windshift` works with pytest-asyncio in auto mode, and with anyio's mark.

    Each test has a namespace of its own: the same stream is new for each, and the server is shared.
    """
    anyio = (
        'import pytest\npytestmark = pytest.mark.anyio\nanyio_backend = pytest.fixture(lambda: "asyncio")\n'
    )
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest"]
    options += ["-o", "asyncio_mode=auto"] if plugin == "asyncio" else ["-p", "no:asyncio"]
    (tmp_path / "test_nine.py").write_text(PROLOGUE + (anyio if plugin == "anyio" else "") + TESTS)
    printed = run(tmp_path, "-m", "pytest", "-q", *options, "test_nine.py")
    assert "2 passed" in printed
