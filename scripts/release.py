"""Commit and tag a release. The checks before it, and the packages after it, are `make release`'s.

    release.py [VERSION]

The first release has the version that pyproject.toml has, and keeps what CHANGELOG.md says of it; another
VERSION is refused. Later ones have VERSION, or the one that follows from the commits since the last release;
Commitizen writes the version and the changelog. Exits with 1, and changes nothing, if it cannot be made.
"""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, check=True, text=True, stdout=subprocess.PIPE
    ).stdout.strip()


def release_first(root: Path, today: dt.date, wanted: str = "") -> str:
    """Put version and date over what is unreleased, commit, tag, and return the tag.

    Raises:
        ValueError: another version is wanted than the one that is there.
    """
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    if wanted.removeprefix("v") not in {"", version}:
        raise ValueError(
            f"the first release is {version}, not {wanted}: to change it, commit another version in "
            "pyproject.toml, src/windshift/__init__.py and the Helm chart"
        )
    tag, changelog = f"v{version}", root / "CHANGELOG.md"
    text = changelog.read_text()
    changelog.write_text(text.replace("## Unreleased\n", f"## {tag} ({today})\n", 1))
    _git(root, "commit", "--quiet", "--message", f"chore(release): {version}", "CHANGELOG.md")
    _git(root, "tag", tag)
    return tag


def main(arguments: Sequence[str]) -> int:
    """Make the release, and return the exit status."""
    if _git(ROOT, "status", "--porcelain"):
        print("there are changes that no commit has", file=sys.stderr)
        return 1
    if _git(ROOT, "tag", "--list", "v*"):
        commitizen = Path(sys.executable).with_name("cz")
        return subprocess.run([commitizen, "bump", "--yes", *arguments], cwd=ROOT, check=False).returncode
    try:
        tag = release_first(ROOT, dt.datetime.now(dt.UTC).date(), *arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"tagged {tag}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
