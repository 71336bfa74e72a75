"""Where the readings of a server go."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest

from windshift.server.config.read import config_from_environment
from windshift.server.monitoring.snapshot import ConsumerProgress, Snapshot
from windshift.server.process import metrics
from windshift.server.process.metrics import Metrics
from windshift.server.telemetry import instruments as i
from windshift.server.telemetry.registry import Family
from windshift.server.telemetry.signals import Telemetry


async def test_a_scrape_after_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes the text is imported by the next scrape if the first one could not."""
    fails = iter([True])

    def load_once_more(name: str) -> ModuleType:
        if next(fails, False):
            raise OSError("too many open files")
        return import_module(name)

    async def collect() -> list[Family]:
        return [Family(i.PUBLISHED, [((), 7)])]

    monkeypatch.setattr(metrics, "import_module", load_once_more)
    served = Metrics(Telemetry(config_from_environment({"HOME": "/"}).telemetry), collect)
    with pytest.raises(OSError, match="too many open files"):
        await served.expose("")
    assert b"windshift_events_published_total 7" in (await served.expose("")).body


def test_ages() -> None:
    """They are those of the time of the snapshot, which may be shown much later."""
    consumer = ConsumerProgress(
        "S", "c", "", durable=True, pending=1, unacknowledged=0, redelivered=0, settled_to=0, filters=()
    )
    snapshot = Snapshot(consumers=[consumer], oldest={("S", "c"): 1_000_000_000}, taken_ns=3_500_000_000)
    assert dict(metrics._ages(snapshot)) == {("S", "c"): 2.5}
