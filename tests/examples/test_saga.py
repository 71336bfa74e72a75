"""The saga example, on a server of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_all_orders_come_to_their_end() -> None:
    """One is paid, one declined and given back, one paid after its dead letter was replayed."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.saga"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "orders.3 reserved" in done.stdout
    assert "on saga.reserved, nobody knows east" in done.stdout
    assert done.stdout.endswith("orders.1 paid  orders.2 declined  orders.3 paid  stock 6\n")
