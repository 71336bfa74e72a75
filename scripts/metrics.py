"""Write the table of metrics into docs/metrics.md, and that of alerts into docs/operations/alerts.md.

The first comes from the one list that the server has, the second from the rules for Prometheus. Each stands
between lines such as `<!-- metrics -->` and `<!-- metrics: end -->`.

    metrics.py           rewrite the tables
    metrics.py --check   exit 1 when one is not what it would be rewritten to
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from windshift.server.telemetry.instruments import INSTRUMENTS, Instrument

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"


def metrics() -> str:
    """Return a Markdown table of all instruments."""
    rows = ["| Prometheus | OpenTelemetry | kind, unit | labels | what it says |", "|---|---|---|---|---|"]
    return "\n".join([*rows, *map(_row, INSTRUMENTS)])


def _row(instrument: Instrument) -> str:
    kind = f"{instrument.kind.value}, {instrument.unit}" if instrument.unit else instrument.kind.value
    labels = ", ".join(f"`{label}`" for label in instrument.prometheus_labels)
    names = (f"`{instrument.prometheus_name}`", f"`{instrument.name}`")
    cells = (*names, kind, labels, instrument.description)
    return _line(cells)


def alerts() -> str:
    """Return a Markdown table of all alerts."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rows = ["| alert | severity | it says | the first thing to do |", "|---|---|---|---|"]
    return "\n".join([*rows, *(_alert(rule) for group in groups for rule in group["rules"])])


def _alert(rule: dict[str, Any]) -> str:
    told = rule["annotations"]
    summary = re.sub(r"{{ \$labels\.(\w+) }}", r"*\1*", told["summary"])
    summary = re.sub(r"{{ \$value[^}]*}}", "N", summary)
    first = told["runbook"].replace("*", r"\*")
    return _line((f"`{rule['alert']}`", rule["labels"]["severity"], summary, first))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


DOCUMENTS: dict[str, tuple[Path, Callable[[], str]]] = {
    "metrics": (ROOT / "docs" / "metrics.md", metrics),
    "alerts": (ROOT / "docs" / "operations" / "alerts.md", alerts),
}
"""The tables, by what their lines are called: the document of each, and what makes it."""


def rewritten(text: str, name: str, table: str) -> str:
    """Return a document with its table as it should be."""
    block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
    return block.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", text)


def main(arguments: list[str]) -> int:
    """Rewrite or check, and return the exit status."""
    stale = []
    for name, (document, make) in DOCUMENTS.items():
        text = document.read_text()
        wanted = rewritten(text, name, make())
        if arguments != ["--check"]:
            document.write_text(wanted)
        elif wanted != text:
            stale.append(str(document.relative_to(ROOT)))
    for document_name in stale:
        print(f"{document_name}: the table is stale: run `make metrics`.", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
