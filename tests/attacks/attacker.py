"""The process that attacks: ``python -m tests.attacks.attacker API_PORT HEALTH_PORT SECONDS ATTACK...``."""

from __future__ import annotations

import os
import sys

from tests.attacks.command import attacks
from tests.attacks.place import Place


def main(api: str, health: str, seconds: str, *names: str) -> None:
    """Attack by each of these means for so many seconds."""
    os.nice(10)  # its own processor time is not what is measured
    known = attacks()
    print("attacking", flush=True)  # noqa: T201 - whoever started it waits for this
    for name in names:
        known[name](Place(int(api), int(health), float(seconds)))


if __name__ == "__main__":
    main(*sys.argv[1:])
