"""Build ngh2 with another libnghttp2, and try it: `make engine NGHTTP2=…`.

The wheels of ngh2 have libnghttp2 inside (which one: docs/supply-chain.md), so a fix of libnghttp2
reaches a server only through a wheel. This makes one from ngh2's source, checked against
requirements.lock, and the source of libnghttp2 that is given: a directory, or an archive as its releases
have (compare its digest, which is printed, with the one that is published). The wheel goes to
dist/engine. An environment of its own, build/engine/venv, has it in place of the one of the lock, and
runs the tests of ngh2, those of this project, and the conformance suites where there is Go.

    engine.py NGHTTP2 [--build-only] [TEST…]

Runs with the interpreter of `.venv-engine`. Exits 1 when anything fails.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
BUILD = ROOT / "build" / "engine"
WHEELS = ROOT / "dist" / "engine"


class EngineError(Exception):
    """It cannot be built. The text says why."""


def main() -> int:
    """Build, try, and return the exit status."""
    parser = argparse.ArgumentParser(description="Build ngh2 with another libnghttp2, and try it.")
    parser.add_argument("nghttp2", type=Path, help="source of libnghttp2: a directory, or a tar archive")
    parser.add_argument("--build-only", action="store_true", help="try nothing")
    parser.add_argument("tests", nargs="*", default=["tests"], help="tests of this project")
    given = parser.parse_args()
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    try:
        with _directory(given.nghttp2) as library:
            source = _source()
            wheel = _wheel(source, library)
    except (EngineError, OSError, subprocess.CalledProcessError) as error:
        print(f"engine: {error}", file=sys.stderr)
        return 1
    print(f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.relative_to(ROOT)}")
    return 0 if given.build_only or _try(wheel, source, given.tests) else 1


@contextmanager
def _directory(nghttp2: Path) -> Iterator[Path]:
    """Give the directory of a source, unpacked if need be."""
    if nghttp2.is_dir():
        yield nghttp2
        return
    print(f"{hashlib.sha256(nghttp2.read_bytes()).hexdigest()}  {nghttp2.name}")
    with TemporaryDirectory() as directory:
        yield _unpack(nghttp2, Path(directory))


def _unpack(archive: Path, into: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
    (found,) = (each for each in into.iterdir() if each.is_dir())
    return found


def _source() -> Path:
    """Download ngh2's source, checked against the lock, and unpack it."""
    found = re.search(r"(?m)^ngh2==(?:.*\\\n)*.*\n", LOCK.read_text())
    if found is None:
        raise EngineError("requirements.lock has no ngh2")
    wanted = BUILD / "ngh2.txt"
    wanted.write_text(found[0])
    _pip(
        *("download", "--no-deps", "--no-binary", "ngh2", "--no-build-isolation", "--require-hashes"),
        *("--dest", str(BUILD), "--requirement", str(wanted)),
    )
    (archive,) = BUILD.glob("ngh2-*.tar.gz")
    return _unpack(archive, BUILD)


def _wheel(source: Path, library: Path) -> Path:
    """Put the library in the place of the one that ngh2 brings, and build. The version says which it is."""
    told = re.search(r"project\(nghttp2 VERSION ([0-9.]+)", (library / "CMakeLists.txt").read_text())
    if told is None:
        raise EngineError(f"{library} is not the source of nghttp2")
    vendored = source / "vendor" / "nghttp2"
    shutil.rmtree(vendored)
    shutil.copytree(library, vendored, ignore=shutil.ignore_patterns(".git"))
    version = source / "src" / "ngh2" / "_version.py"
    text, count = re.subn(r'(__version__ = "[^"+]+)"', rf'\1+nghttp2.{told[1]}"', version.read_text())
    if count != 1:
        raise EngineError("ngh2's version does not stand where it did")
    version.write_text(text)
    _pip(
        "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--wheel-dir", str(BUILD), str(source)
    )
    (built,) = BUILD.glob("ngh2-*.whl")
    WHEELS.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(built, WHEELS))


def _try(wheel: Path, source: Path, tests: list[str]) -> bool:
    """Run all suites with the wheel, and tell whether all of them passed."""
    environment = BUILD / "venv"
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    subprocess.run([*install, "--require-hashes", "--requirement", str(LOCK)], check=True)
    subprocess.run([*install, "--no-deps", "--force-reinstall", str(wheel)], check=True)
    subprocess.run([*install, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], check=True)
    suites = {
        "the tests of ngh2": (
            [python, "-m", "pytest", "-q", "-p", "no:asyncio", "--import-mode=importlib", "tests"],
            source,
        ),
        "the tests of this project": (
            [python, "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", *tests],
            ROOT,
        ),
    }
    if shutil.which("go"):
        suites["the conformance suites"] = ([python, "-m", "tests.conformance"], ROOT)
    failed = []
    for name, (command, directory) in suites.items():
        print(f"engine: {name}", flush=True)
        if subprocess.run(command, cwd=directory, check=False).returncode != 0:
            failed.append(name)
    print(f"engine: {wheel.name}: {'failed: ' + ', '.join(failed) if failed else 'passed'}")
    return not failed


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    raise SystemExit(main())
