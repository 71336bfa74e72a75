"""Write requirements.lock from pyproject.toml, or check that it belongs to it.

The lock holds exact versions for every supported Python and platform, as markers, and nothing about where
packages come from. Its first lines carry a digest of what it was made from, so that the check needs neither a
resolver nor a network.

    lock.py UV [ARGUMENT…]   resolve with the program UV; further arguments (`--upgrade`) go to it
    lock.py --check          exit 1 when pyproject.toml asks for something else than when the lock was written
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
MARK = "# made from: "
HEADER = """\
# Exact versions of everything that `make install` installs. Written by `make lock`; do not edit.
"""


def digest() -> str:
    """Return a digest of everything in pyproject.toml that decides what is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [project[key] for key in ("requires-python", "dependencies", "optional-dependencies")]
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()


def lowest_python() -> str:
    """Return the oldest Python that the project supports, such as 3.11."""
    required: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    return required.removeprefix(">=")


def resolve(uv: str, arguments: list[str]) -> None:
    """Write the lock. Versions of the present one stay where they fit, unless there is an `--upgrade`."""
    command = [uv, "pip", "compile", "pyproject.toml", "--all-extras", "--output-file", LOCK.name, "--quiet"]
    command += ["--universal", "--python-version", lowest_python(), "--no-emit-package", "windshift"]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", *arguments]
    subprocess.run(command, cwd=ROOT, check=True)
    LOCK.write_text(f"{HEADER}{MARK}{digest()}\n{LOCK.read_text()}")


def fresh() -> bool:
    """Tell whether the lock was made from the present pyproject.toml."""
    return LOCK.exists() and f"{MARK}{digest()}\n" in LOCK.read_text()


def main(arguments: list[str]) -> int:
    """Resolve or check and return the exit status."""
    if arguments != ["--check"]:
        resolve(arguments[0], arguments[1:])
    elif not fresh():
        print("requirements.lock is not made from this pyproject.toml: run `make lock`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
