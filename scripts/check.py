"""Run every check of the project but the tests, say how each went, and exit 1 when one failed.

All of them run, also after a failure, and the output of those that failed follows its line. `check.py NAME…`
runs only the named ones.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CODE = [
    name
    for name in ("src", "tests", "typing_tests", "examples", "benchmarks", "scripts")
    if (ROOT / name).is_dir()
]

CHECKS: dict[str, list[str]] = {
    "format": [f"{BIN}/ruff", "format", "--check", "--quiet", *CODE],
    "lint": [f"{BIN}/ruff", "check", "--quiet", *CODE],
    "types": [f"{BIN}/mypy", "--no-error-summary", *CODE],
    "layers": [f"{BIN}/lint-imports", "--no-logo"],
    "proto-format": [f"{BIN}/buf", "format", "--diff", "--exit-code"],
    "proto-lint": [f"{BIN}/buf", "lint"],
    "generated": [".venv-generate/bin/python", "scripts/generate.py", "--check"],
    "sync": [sys.executable, "scripts/sync.py", "--check"],
    "environment": [sys.executable, "scripts/environment.py", "--check"],
    "cli": [sys.executable, "scripts/cli.py", "--check"],
    "metrics": [sys.executable, "scripts/metrics.py", "--check"],
    "dockerfile": [f"{BIN}/hadolint", "Dockerfile"],
    "compose": [f"{BIN}/check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"],
    "workflows": [
        *(f"{BIN}/check-jsonschema", "--builtin-schema", "vendor.github-workflows"),
        *map(str, sorted(ROOT.glob(".github/workflows/*.yml"))),
    ],
    "materials": [".venv-release/bin/python", "scripts/artifacts.py", "--check"],
    "lock": [sys.executable, "scripts/lock.py", "--check"],
    "tree": [sys.executable, "scripts/tree.py"],
}


def run(name: str) -> bool:
    """Run one check, report it, and tell whether it passed."""
    print(f"  {name:<13}", end="", flush=True)
    started = time.monotonic()
    done = subprocess.run(
        CHECKS[name], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    print(f"{'ok' if done.returncode == 0 else 'FAILED'} ({time.monotonic() - started:.1f} s)", flush=True)
    if done.returncode != 0:
        print(done.stdout, flush=True)
    return done.returncode == 0


def main(names: list[str]) -> int:
    """Run the named checks, or all, and return the exit status."""
    failed = [name for name in names or CHECKS if not run(name)]
    if failed:
        print(
            f"Failed: {', '.join(failed)}. Some have a remedy: `make format`, `make generate`, "
            "`make environment`, `make metrics`, `make cli`, `make lock`."
        )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
