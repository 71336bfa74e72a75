"""The pytest plugin without plugins for asyncio; `tests.sdk.test_programs` has it with each of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAD = """\
import asyncio

import windshift as ws
from windshift.protos import test

Text = test.StringValue

"""


def run(directory: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run tests in a process of their own."""
    (directory / "test_it.py").write_text(HEAD + code)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            *("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest"),
            *options,
            "test_it.py",
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )


def test_without_either(tmp_path: Path) -> None:
    """A test that runs a loop itself, and one that forgets to close its client, are no trouble.

    What the server logged is beside a failure; `windshift_options` sets up server and client.
    """
    (tmp_path / "conftest.py").write_text(
        "import pytest\nimport windshift as ws\n\n\n"
        '@pytest.fixture(scope="session")\n'
        "def windshift_options():\n"
        '    return ws.testing.Options({"DEVELOPMENT": "true"}, {"timeout": 3, "namespace": "mine"})\n'
    )
    code = """\
def test_a(windshift):
    async def main():
        await windshift.streams.ensure("x", subjects=["x.>"])

    asyncio.run(main())


def test_b(windshift_server, windshift):
    assert windshift_server.address


def test_c(windshift):
    async def main():
        async with windshift as client:
            await client.publish("nowhere", Text())

    asyncio.run(main())
"""
    done = run(tmp_path, code, "-p", "no:asyncio", "-p", "no:anyio")
    assert "1 failed, 2 passed" in done.stdout
    assert "log of the Windshift server" in done.stdout
    assert "EnsureStream" in done.stdout
    assert "mine.nowhere" in done.stdout
