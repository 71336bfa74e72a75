"""Write the tables of settings into the documents, and .envrc.example, from the one list that the server has.

A table stands between the lines `<!-- environment: NAME -->` and `<!-- environment: end -->`; NAME is
`telemetry` for the variables of OpenTelemetry, or `server` for all others.

    environment.py           rewrite the tables and the example
    environment.py --check   exit 1 when one of them is stale
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from windshift.server.config.settings import Setting
from windshift.server.config.tree import GROUPS, SETTINGS

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / ".envrc.example"
DOCUMENTS = (ROOT / "docs" / "settings.md", ROOT / "docs" / "observability.md")

_WIDTH = 110
_INTRODUCTION = """\
# Every variable that `windshift serve` reads, written by `make environment`.
# Copy to .envrc (direnv) or source it. Lines that are commented out show the default, or an example.
"""
_SET = {"DEVELOPMENT": "true"}
"""What the example sets; the rest is commented out."""

_BLOCK = re.compile(r"(<!-- environment: (\w+) -->\n).*?(<!-- environment: end -->)", re.DOTALL)
_CODE = re.compile(r"(?<![\w/])(?:[A-Z][A-Z0-9]*_[A-Z0-9_]*|/(?:healthz|readyz|metrics))\b")


def rows(settings: Iterable[Setting[Any]]) -> list[list[Setting[Any]]]:
    """Group settings that share a meaning, as those of one signal do."""
    return [list(group) for _, group in groupby(settings, lambda each: each.meaning)]


def description(row: list[Setting[Any]]) -> str:
    """Return what the settings of a row mean; ranges are only of one alone."""
    return row[0].description if len(row) == 1 else row[0].meaning


def table(name: str) -> str:
    """Return one of the tables, in Markdown."""
    telemetry = {"telemetry": True, "server": False}[name]
    lines = ["| variable | meaning | default |", "|---|---|---|"]
    for row in rows(each for each in SETTINGS.values() if each.name.startswith("OTEL_") is telemetry):
        names = ", ".join(f"`{each.name}`" for each in row)
        cells = (names, _prose(description(row)), _prose(row[0].shown_default))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _prose(text: str) -> str:
    return _CODE.sub(lambda found: f"`{found[0]}`", text.removesuffix("."))


def example() -> str:
    """Return the text of .envrc.example."""
    lines = [_INTRODUCTION]
    for heading, settings in GROUPS.items():
        lines.append(f"# --- {heading} ".ljust(_WIDTH, "-") + "\n")
        for row in rows(settings):
            otherwise = f" Default: {row[0].otherwise}." if row[0].otherwise else ""
            text = description(row) + otherwise
            lines += textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")
            lines += map(_assignment, row)
        lines[-1] += "\n"
    return "\n".join(lines)


def _assignment(setting: Setting[Any]) -> str:
    if setting.name in _SET:
        return f"export {setting.name}={_SET[setting.name]}"
    return f"# export {setting.name}={setting.default or setting.parser.example}"


def rewritten(text: str) -> str:
    """Return a document with its tables as they should be."""
    return _BLOCK.sub(lambda found: f"{found[1]}\n{table(found[2])}\n\n{found[3]}", text)


def main(arguments: list[str]) -> int:
    """Rewrite or check, and return the exit status."""
    wanted = {path: rewritten(path.read_text()) for path in DOCUMENTS} | {EXAMPLE: example()}
    stale = {path: text for path, text in wanted.items() if path.read_text() != text}
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run `make environment`.", file=sys.stderr)
        return 1 if stale else 0
    for path, text in stale.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
