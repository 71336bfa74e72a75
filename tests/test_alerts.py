"""When the alert rules fire, played by Prometheus's own tool."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.support.exposition import ALERTS, alert_rules

TESTS = ALERTS.with_name("alerts.test.yaml")


def firing(test: dict[str, Any]) -> set[str]:
    """Return the alerts that a test wants to fire."""
    samples = [sample for each in test["promql_expr_test"] for sample in each["exp_samples"]]
    return {name for sample in samples for name in re.findall('alertname="(.*?)"', sample["labels"])}


def test_each_alert_has_a_test() -> None:
    """Each rule is seen to fire, and there is a test in which none does."""
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    assert set().union(*map(firing, tests)) == {rule["alert"] for rule in alert_rules()}
    assert set() in map(firing, tests)


def test_alerts() -> None:
    """Each rule fires when it should, and not before, and no others do."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; it is part of Prometheus")
    done = subprocess.run(
        [promtool, "test", "rules", TESTS.name], cwd=TESTS.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
