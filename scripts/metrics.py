"""Write the table of metrics into docs/metrics.md, from the one list that the server has.

The table stands between the lines `<!-- metrics -->` and `<!-- metrics: end -->`.

    metrics.py           rewrite the table
    metrics.py --check   exit 1 when it is not what it would be rewritten to
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from windshift.server.telemetry.instruments import INSTRUMENTS, Instrument

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "metrics.md"

_BLOCK = re.compile(r"(<!-- metrics -->\n).*?(<!-- metrics: end -->)", re.DOTALL)


def table() -> str:
    """Return a Markdown table of all instruments."""
    rows = ["| Prometheus | OpenTelemetry | kind, unit | labels | what it says |", "|---|---|---|---|---|"]
    return "\n".join([*rows, *map(_row, INSTRUMENTS)])


def _row(instrument: Instrument) -> str:
    kind = f"{instrument.kind.value}, {instrument.unit}" if instrument.unit else instrument.kind.value
    labels = ", ".join(f"`{label}`" for label in instrument.prometheus_labels)
    names = (f"`{instrument.prometheus_name}`", f"`{instrument.name}`")
    cells = (*names, kind, labels, instrument.description)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def rewritten(text: str) -> str:
    """Return the document with its table as it should be."""
    return _BLOCK.sub(lambda found: f"{found[1]}\n{table()}\n\n{found[2]}", text)


def main(arguments: list[str]) -> int:
    """Rewrite or check, and return the exit status."""
    text = DOCUMENT.read_text()
    if arguments != ["--check"]:
        DOCUMENT.write_text(rewritten(text))
    elif rewritten(text) != text:
        print("docs/metrics.md: the table is stale: run `make metrics`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
