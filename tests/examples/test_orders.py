"""The orders example, as `make run` runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_sums_agree() -> None:
    """Every order is counted once, with rejections and long work on the way, and the server drains."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.orders"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (published,) = re.findall(r"published  (\d+ orders, EUR .*)$", done.stdout, re.MULTILINE)
    assert f"in store   {published}\n" in done.stdout
    for step in (
        "once more with the same key: still event 1\n",
        "not paid yet, to come again",
        "and still has event",
        "gives up on order-004: customer west has no account",
        "finds a dead letter, event 4: NoAccount, customer west has no account",
        "replays 3 dead letters",
        "left, with everything settled that it held",
        "library  subscription to accounting of orders: UNAVAILABLE",
        "drained: every call came to its end",
    ):
        assert step in done.stdout
    assert done.stdout.endswith("The sums agree, and the server stopped in good order.\n")
