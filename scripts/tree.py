"""Check that the tracked files say nothing about the machine or the mirror that they were written on.

Looked for: paths below somebody's home, addresses of package registries, and conflict markers.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Written so that this file does not match itself.
FORBIDDEN = {
    "a path below a home": r"/(?:root|home|Users)/[\w.-]+",
    "the address of a package registry": r"(?:pypi|pythonhosted|npmjs|crates|goproxy)\.(?:org|com|io|cn)",
    "an option that names a registry": r"--(?:extra-)?index-url|--find-links(?! requirements\b)",
    "a conflict marker": r"^(?:<{7}|>{7}) ",
}


def tracked() -> list[Path]:
    """Return the files that git tracks and that are there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, text=True, capture_output=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def findings(path: Path) -> list[str]:
    """Return a line for each thing in the file that should not be there. A file that is not text has none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []
    where = path.relative_to(ROOT)
    return [
        f"{where}:{number}: {what}: {match.group()}"
        for number, line in enumerate(lines, 1)
        for what, pattern in FORBIDDEN.items()
        if (match := re.search(pattern, line))
    ]


def main() -> int:
    """Report every finding and return the exit status."""
    found = [line for path in tracked() if path != Path(__file__).resolve() for line in findings(path)]
    print("\n".join(found), end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
