"""Write the locks, or check that they belong to what they were made from.

`requirements.lock` is for development and holds everything that pyproject.toml asks for,
`requirements/server.lock` what a server needs, each `requirements/NAME.lock` what the tools of
`requirements/NAME.txt` need. They hold exact versions for every supported Python and platform, as
markers, the digests of all files that may be installed for them, and nothing about where packages come
from. A line in each has a digest of what it was made from, so that the check needs neither a resolver nor
a network.

    lock.py UV [ARGUMENT…]   resolve with the program UV; further arguments (`--upgrade`) go to it
    lock.py --check          exit 1 when a lock was made from something else than there is now
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "pyproject.toml"
TOOLS = ROOT / "requirements"
EVERYTHING = ROOT / "requirements.lock"
SERVER = TOOLS / "server.lock"
MARK = "# made from: "
HEADER = "# Exact versions, and the digests of their files. Written by `make lock`; do not edit.\n"


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock: its file, what it is made from, and arguments for the resolver."""

    file: Path
    source: Path
    arguments: tuple[str, ...] = ()

    def digest(self) -> str:
        """Return a digest of everything in the source that decides what is installed."""
        if self.source != PROJECT:
            return hashlib.sha256(self.source.read_bytes()).hexdigest()
        project = tomllib.loads(PROJECT.read_text())["project"]
        wanted = [project[key] for key in ("requires-python", "dependencies", "optional-dependencies")]
        return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()

    def fresh(self) -> bool:
        """Tell whether the lock was made from the present source."""
        return self.file.exists() and f"{MARK}{self.digest()}\n" in self.file.read_text()

    def resolve(self, uv: str, arguments: list[str]) -> None:
        """Write the lock. Versions of the present one stay where they fit, unless there is an `--upgrade`."""
        command = [uv, "pip", "compile", str(self.source.relative_to(ROOT)), *self.arguments, "--quiet"]
        command += ["--output-file", str(self.file.relative_to(ROOT)), "--generate-hashes"]
        command += ["--universal", "--python-version", lowest_python(), "--no-emit-package", "windshift"]
        command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", *arguments]
        subprocess.run(command, cwd=ROOT, check=True)
        self.file.write_text(f"{HEADER}{MARK}{self.digest()}\n{self.file.read_text()}")


def locks() -> Iterator[Lock]:
    """Give all locks, in the order in which they are made."""
    yield Lock(EVERYTHING, PROJECT, ("--all-extras",))
    yield Lock(SERVER, PROJECT, ("--extra", "server", "--constraint", EVERYTHING.name))
    for tools in sorted(TOOLS.glob("*.txt")):
        yield Lock(tools.with_suffix(".lock"), tools)


def lowest_python() -> str:
    """Return the oldest Python that the project supports, such as 3.11."""
    required: str = tomllib.loads(PROJECT.read_text())["project"]["requires-python"]
    return required.removeprefix(">=")


def main(arguments: list[str]) -> int:
    """Resolve or check and return the exit status."""
    if arguments != ["--check"]:
        for lock in locks():
            lock.resolve(arguments[0], arguments[1:])
        return 0
    stale = [lock for lock in locks() if not lock.fresh()]
    for lock in stale:
        name, source = lock.file.relative_to(ROOT), lock.source.relative_to(ROOT)
        print(f"{name} is not made from this {source}: run `make lock`.", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
