"""docs/tutorial.md, done as it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.sdk.test_recipes import python_with_grpc_tools

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```", re.DOTALL | re.MULTILINE)
LIMIT = 120.0
"""Seconds that anything may take on a busy machine."""


@contextmanager
def running(command: str, folder: Path, environment: dict[str, str]) -> Iterator[Callable[[], str]]:
    """Run a program, give its output so far, and end it as Ctrl-C does."""
    log = folder / f"{command.replace(' ', '-')}.log"
    with log.open("w") as out:
        process = subprocess.Popen(command.split(), cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        yield log.read_text
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT)
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool], told: Callable[[], str]) -> None:
    """Return once the condition holds."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, told()
        time.sleep(0.05)


def shape(text: str) -> list[str]:
    """Return the words of a text, with times, ages and ids of dead letters as such."""
    text = re.sub(r"\d\d:\d\d:\d\d|\b(\d+[smh])+\b", "TIME", text)
    return re.sub(r"(orders\.accounting\.2)\.\d+", r"\1.ID", text).split()


@pytest.mark.timeout(600)
def test_tutorial(tmp_path: Path) -> None:
    """The files and commands of the tutorial work, and show what it shows."""
    tools = python_with_grpc_tools() or pytest.skip("grpcio-tools is not installed")
    blocks = BLOCK.findall(DOCUMENT)
    for language, title, text in blocks:
        if language in {"protobuf", "python"}:
            (tmp_path / title).write_text(text)
    commands = [
        (text.splitlines(), shown if following == "text" else "")
        for (language, _, text), (following, _, shown) in pairwise(blocks)
        if language == "sh"
    ]
    (path, _), (dev, _), (compiler, _), (run, _), published, looked, (again, _), replayed, total = commands
    assert path == ["PATH=/path/to/windshift/.venv/bin:$PATH"]
    subprocess.run([tools / "python", *compiler[1].split()[1:]], cwd=tmp_path, check=True)

    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINDSHIFT_")}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    environment |= {"HEALTH_PORT": "0", "COLUMNS": "200"}

    def done(command: tuple[list[str], str]) -> str:
        lines = "\n".join(command[0])
        return subprocess.run(
            ["sh", "-ec", lines], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, check=True
        ).stdout

    def shows(command: tuple[list[str], str]) -> bool:
        return shape(done(command)) == shape(command[1])

    with running(f"{dev[0]} --port 0", tmp_path, environment) as server:
        wait_for(lambda: "API on" in server(), server)
        found = re.search(r"API on (\S+:\d+)", server())
        assert found is not None
        environment["WINDSHIFT_ADDRESS"] = found[1].rstrip(",")
        with running(run[0], tmp_path, environment) as app:
            wait_for(lambda: "shop runs" in app(), app)
            assert done(published) == published[1]
            wait_for(lambda: shows(looked), app)
        program = (tmp_path / "shop.py").read_text()
        assert "order.cents <= 0" in program
        (tmp_path / "shop.py").write_text(program.replace("order.cents <= 0", "order.cents < 0"))
        with running(again[0], tmp_path, environment) as app:
            wait_for(lambda: "shop runs" in app(), app)
            assert done(replayed) == replayed[1]
            wait_for(lambda: shows(total), app)
