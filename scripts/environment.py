"""Write the tables of environment variables into the documents, from the one list that the server has.

A table stands between the lines `<!-- environment: NAME -->` and `<!-- environment: end -->`; NAME is
`telemetry` for the variables of OpenTelemetry, or `server` for all others.

    environment.py           rewrite the tables
    environment.py --check   exit 1 when one of them is not what it would be rewritten to
"""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path

from windshift.server.config import VARIABLES, Variable

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "observability.md")

_BLOCK = re.compile(r"(<!-- environment: (\w+) -->\n).*?(<!-- environment: end -->)", re.DOTALL)
_OF_ONE_KIND = re.compile(r"OTEL_EXPORTER_OTLP_\w+ for (\w+) alone\.")
_CODE = re.compile(r"(?<![\w/])(?:[A-Z][A-Z0-9]*_[A-Z0-9_]+|/(?:healthz|readyz|metrics))\b")


def chosen(name: str) -> list[Variable]:
    """Return the variables of one table."""
    telemetry = {"telemetry": True, "server": False}[name]
    return [each for each in VARIABLES if each.name.startswith("OTEL_") is telemetry]


def table(variables: list[Variable]) -> str:
    """Return a Markdown table. What only repeats others for one kind of telemetry shares a row."""
    rows = ["| variable | meaning | default |", "|---|---|---|"]
    for kind, group in groupby(variables, _kind):
        if kind is None:
            rows += [_row([each.name], each.meaning, each.default) for each in group]
        else:
            meaning = f"The same for {kind} alone, over those without `{kind.upper()}_`."
            rows.append(_row([each.name for each in group], meaning, ""))
    return "\n".join(rows)


def _kind(variable: Variable) -> str | None:
    found = _OF_ONE_KIND.fullmatch(variable.meaning)
    return found and found[1]


def _row(names: list[str], meaning: str, default: str) -> str:
    cells = (", ".join(f"`{name}`" for name in names), _prose(meaning), _prose(default))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _prose(text: str) -> str:
    return _CODE.sub(lambda found: f"`{found[0]}`", text.removesuffix("."))


def rewritten(text: str) -> str:
    """Return a document with its tables as they should be."""
    return _BLOCK.sub(lambda found: f"{found[1]}\n{table(chosen(found[2]))}\n\n{found[3]}", text)


def main(arguments: list[str]) -> int:
    """Rewrite or check, and return the exit status."""
    stale = [path for path in DOCUMENTS if rewritten(path.read_text()) != path.read_text()]
    if arguments == ["--check"]:
        for path in stale:
            where = path.relative_to(ROOT)
            print(f"{where}: the environment table is stale: run `make environment`.", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(rewritten(path.read_text()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
