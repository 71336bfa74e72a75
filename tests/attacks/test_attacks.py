"""Attacks in short: an honest client is served, and the server stops in good order.

Floods of frames are in tests/hardening and tests/rpc.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.command import Seen, attacking, attacks, watch
from tests.attacks.place import attacked


@pytest.mark.timeout(240)
def test_an_honest_client_is_served_beside_each_attack(tmp_path: Path) -> None:
    """No call and no probe of it fails."""
    names = [name for name in attacks() if not name.startswith("flood")]
    with attacked(tmp_path) as running:
        seen = Seen()
        failed_probes = 0
        with attacking(running, names, 0.05) as attacker:
            while attacker.poll() is None:
                failed_probes += watch(running, 0.2, seen)
        assert (seen.failures, failed_probes) == ([], 0)
        assert seen.times
        assert running.process.stop() == 0, running.process.err
