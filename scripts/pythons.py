"""Install a built wheel as users do, on the lowest and the highest Python that are here, and use it.

    pythons.py WHEEL [PYTHON…]

Without names it looks for the versions that pyproject.toml lists, on PATH and among those of pyenv. For each
it makes an environment, installs `WHEEL[server]` with the newest versions of what that needs, starts a
server, and sends an event through it. The lowest, and those above the highest that is here, are named as
skipped if they are missing. Exits with 1 when a Python fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 900.0
"""Seconds that an installation may take."""
START = 120.0
"""Seconds that the program may take."""

PROGRAM = """\
import asyncio, subprocess, sys, tempfile
from pathlib import Path

import windshift as ws
from windshift.protos import test

async def main(address):
    async with ws.connect(address) as client:
        stream = await client.streams.ensure("orders", subjects=["orders.>"])
        consumer = await stream.consumers.ensure("billing", start=ws.START)
        assert (await client.publish("orders.placed", test.StringValue(value="A-17"))).id == 1
        async with consumer.subscribe() as deliveries:
            async for delivery in deliveries:
                async with delivery:
                    assert delivery.event.id == 1
                break

with tempfile.TemporaryDirectory() as directory:
    ports = {"GRPC_PORT": "0", "HEALTH_PORT": "0", "LOG_LEVEL": "warning"}
    environment = {"WINDSHIFT_DATA_DIR": directory, "HOME": directory, **ports}
    windshift = Path(sys.executable).with_name("windshift")
    server = subprocess.Popen([windshift, "serve"], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().partition("API on ")[2].split()[0].rstrip(",")
        asyncio.run(main(address))
        server.terminate()
        assert server.wait(30) == 0
    finally:
        server.kill()
"""


def versions() -> list[str]:
    """Return the versions that the package says it is for, the lowest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    return sorted(found, key=lambda version: int(version.partition(".")[2]))


def interpreter(version: str) -> Path | None:
    """Find an interpreter of a version; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    on_path = shutil.which(f"python{version}")
    for each in [*([Path(on_path)] if on_path else []), *sorted(pyenv.glob(f"{version}.*/bin/python"))]:
        done = subprocess.run(
            [each, "-c", "import sys, venv; print(sys.version)"], capture_output=True, check=False
        )
        if done.returncode == 0:
            return each
    return None


def chosen(names: Sequence[str]) -> Iterator[tuple[str, Path | None]]:
    """Yield what to try: what is named, or the lowest and the highest that are here, and what is missing."""
    if names:
        yield from ((name, Path(name)) for name in names)
        return
    lowest, *others = versions()
    yield lowest, interpreter(lowest)
    for version in reversed(others):
        found = interpreter(version)
        yield version, found
        if found is not None:
            return


def attempt(python: Path, wheel: Path, directory: Path) -> None:
    """Install and use the wheel. Raises ``subprocess.CalledProcessError``."""
    subprocess.run([python, "-m", "venv", directory], check=True)
    own = directory / "bin" / "python"
    install = (own, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", f"{wheel}[server]")
    subprocess.run(install, check=True, timeout=LIMIT)
    subprocess.run([own, "-I", "-c", PROGRAM], check=True, timeout=START, cwd=directory)


def main(arguments: Sequence[str]) -> int:
    """Try each, say how it went, and return the exit status."""
    wheel, *names = arguments
    status = 0
    for name, python in chosen(names):
        if python is None:
            print(f"{name}: skipped: no such Python", flush=True)
            continue
        with tempfile.TemporaryDirectory(prefix="windshift-wheel-") as directory:
            try:
                attempt(python, Path(wheel).resolve(), Path(directory) / "venv")
            except subprocess.CalledProcessError as error:  # it has said why itself
                status = 1
                print(f"{name}: FAILED, status {error.returncode}, {python}")
            except (subprocess.TimeoutExpired, OSError) as error:
                status = 1
                print(f"{name}: FAILED: {type(error).__name__}, {python}")
            else:
                print(f"{name}: ok, {python}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
