"""Build ngh2 with another libnghttp2, and try it: `make engine NGHTTP2=…`.

The wheels of ngh2 have libnghttp2 inside (which one: docs/supply-chain.md), so a fix of libnghttp2
reaches a server only through a wheel. This makes one from ngh2's source, checked against
requirements.lock, and the source of libnghttp2 that is given: a directory, or an archive as its releases
have (compare its digest, which is printed, with the one that is published). The wheel goes to
dist/engine. Its version names the library, and its extension module has `nghttp2_version`, so that one can
ask what was really linked (ngh2's own wheels leave it out). An environment of its own, build/engine/venv,
has the wheel in place of the one of the lock, and runs every suite that there is: the tests of ngh2, the
conformance suites where there is Go, all tests of this project, and `make attack` in short. The last line
says which libnghttp2 was tried, and what came of it.

    engine.py [--build-only] NGHTTP2 [TEST…]

Runs with the interpreter of `.venv-engine`. Exits 1 when anything fails.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
BUILD = ROOT / "build" / "engine"
WHEELS = ROOT / "dist" / "engine"
_EPOCH = 1_700_000_000
"""The time of all files in the wheel, so that building it again at the same place gives the same digest."""
ENVIRONMENT = BUILD / "venv"
PYTHON = str(ENVIRONMENT / "bin" / "python")
ASK = """
import ctypes, ngh2._core
class Info(ctypes.Structure):
    _fields_ = [("age", ctypes.c_int), ("number", ctypes.c_int), ("version", ctypes.c_char_p)]
ask = ctypes.CDLL(ngh2._core.__file__).nghttp2_version
ask.restype = ctypes.POINTER(Info)
print(ask(0)[0].version.decode())
"""
"""A program that asks the library that is loaded for its version."""


class EngineError(Exception):
    """It cannot be built. The text says why."""


def main() -> int:
    """Build, try, and return the exit status."""
    parser = argparse.ArgumentParser(description="Build ngh2 with another libnghttp2, and try it.")
    parser.add_argument("nghttp2", type=Path, help="source of libnghttp2: a directory, or a tar archive")
    parser.add_argument("--build-only", action="store_true", help="try nothing")
    parser.add_argument("tests", nargs="*", default=["tests"], help="tests of this project")
    given = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what suites print comes between
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    try:
        with _directory(given.nghttp2) as library:
            source = _source()
            wheel = _wheel(source, library)
        loaded = _load(wheel)
    except (EngineError, OSError, subprocess.CalledProcessError) as error:
        print(f"engine: {error}", file=sys.stderr)
        return 1
    print(f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.relative_to(ROOT)}")
    print(f"engine: a process with it loads libnghttp2 {loaded}")
    if given.build_only:
        return 0
    results = _try(source, given.tests)
    told = ", ".join(f"{name}: {result}" for name, result in results.items())
    print(f"engine: libnghttp2 {loaded} in {wheel.name}: {told}")
    return 1 if "FAILED" in results.values() else 0


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
    vendored = source / "vendor" / "nghttp2"
    brought, given = _version(vendored), _version(library)
    print(f"engine: {source.name} brings libnghttp2 {brought}; building it with {given}")
    shutil.rmtree(vendored)
    shutil.copytree(library, vendored, ignore=shutil.ignore_patterns(".git"))
    version = source / "src" / "ngh2" / "_version.py"
    text, count = re.subn(r'(__version__ = "[^"+]+)"', rf'\1+nghttp2.{given}"', version.read_text())
    if count != 1:
        raise EngineError("ngh2's version does not stand where it did")
    version.write_text(text)
    with (source / "CMakeLists.txt").open("a") as build:
        build.write("\ntarget_sources(_core PRIVATE vendor/nghttp2/lib/nghttp2_version.c)\n")
    _pip(
        "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--wheel-dir", str(BUILD), str(source)
    )
    (built,) = BUILD.glob("ngh2-*.whl")
    WHEELS.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(built, WHEELS))


def _version(library: Path) -> str:
    """Return the version that a source of nghttp2 says it has."""
    told = re.search(r"project\(nghttp2 VERSION ([0-9.]+)", (library / "CMakeLists.txt").read_text())
    if told is None:
        raise EngineError(f"{library} is not the source of nghttp2")
    return told[1]


def _load(wheel: Path) -> str:
    """Make the environment with the wheel alone, and return the version of the libnghttp2 that it loads."""
    venv.create(ENVIRONMENT, with_pip=True)
    _install("--no-deps", str(wheel))
    loaded = subprocess.run([PYTHON, "-c", ASK], check=True, text=True, stdout=subprocess.PIPE).stdout.strip()
    if f"+nghttp2.{loaded}-" not in wheel.name:
        raise EngineError(f"{wheel.name} loads libnghttp2 {loaded}")
    return loaded


def _try(source: Path, tests: list[str]) -> dict[str, str]:
    """Run all suites with the wheel. Return by their names what came of them."""
    print("engine: installing the packages of the lock, but for ngh2")
    _install("--require-hashes", "--requirement", str(LOCK))  # the wheel is there, and its version fits
    _install("--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    suites: dict[str, tuple[list[str], Path]] = {
        "the tests of ngh2": (
            ["-m", "pytest", "-q", "-p", "no:asyncio", "--import-mode=importlib", "tests"],
            source,
        ),
        "conformance": (["-m", "tests.conformance"], ROOT),
        f"the tests of this project ({' '.join(tests)})": (
            ["-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", *tests],
            ROOT,
        ),
        "attacks": (["-m", "tests.attacks", "--seconds", "1"], ROOT),
    }
    results = {}
    for number, (name, (command, directory)) in enumerate(suites.items(), 1):
        print(f"engine: {number} of {len(suites)}: {name}")
        started = time.monotonic()
        if name == "conformance" and shutil.which("go") is None:
            results[name] = "not run, there is no Go"
        elif subprocess.run([PYTHON, *command], cwd=directory, check=False).returncode == 0:
            results[name] = "passed"
        else:
            results[name] = "FAILED"
        print(f"engine: {name}: {results[name]}, {time.monotonic() - started:.0f} s")
    return results


def _install(*arguments: str) -> None:
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *arguments]
    subprocess.run(command, check=True)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": str(_EPOCH)})


if __name__ == "__main__":
    raise SystemExit(main())
