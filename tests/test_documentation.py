"""What the documents claim: settings, links, make targets, and the README's example as it stands there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.faults import scenarios as _registered  # noqa: F401 - importing them makes them known
from tests.faults.run import SCENARIOS
from tests.support.nats_server import BINARY
from windshift.server.config.tree import SETTINGS

ROOT = Path(__file__).resolve().parent.parent
CLASSES = {"WindshiftError"}
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def documented_variables(text: str, line: str) -> list[str]:
    """Return the variable names in those lines of `text` that match the pattern `line`."""
    found = re.findall(line, text, re.MULTILINE)
    return [name for row in found for name in re.findall(r"\b[A-Z][A-Z0-9_]{4,}\b", row)]


def test_tables_list_every_setting_once() -> None:
    """The tables together have the variables that the server reads, no more and no fewer."""
    text = "".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("settings", "observability"))
    tables = "".join(re.findall(r"<!-- environment: \w+ -->.*?<!-- environment: end -->", text, re.DOTALL))
    listed = documented_variables(tables, r"^\| (`[^|]*) \|")
    assert sorted(listed) == sorted(SETTINGS)


def test_example_environment_lists_every_setting_once() -> None:
    """.envrc.example sets, or shows commented out, the variables that the server reads."""
    listed = documented_variables((ROOT / ".envrc.example").read_text(), r"^(?:# )?export (\w+)=")
    assert sorted(listed) == sorted(SETTINGS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link of a document names a file that is there."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_targets_exist(document: Path) -> None:
    """Every `make` target that a document names is in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", document.read_text(), re.MULTILINE)) <= targets


def test_alerts_exist() -> None:
    """Every alert that a document names is among the rules."""
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())["groups"]
    alerts = {rule["alert"] for group in rules for rule in group["rules"]}
    for document in DOCUMENTS:
        named = set(re.findall(r"`(Windshift[A-Z][A-Za-z]+)`", document.read_text()))
        assert named - alerts <= CLASSES, document


def test_nats_takes_the_configuration_of_a_cluster(tmp_path: Path) -> None:
    """The file that the document shows is one that nats-server starts with."""
    text = (ROOT / "docs" / "operations" / "cluster.md").read_text()
    (found,) = re.findall(r"^```\n(# nats\.conf.*?)^```$", text, re.MULTILINE | re.DOTALL)
    file = tmp_path / "nats.conf"
    file.write_text(found)
    environment = {"NATS_WINDSHIFT_PASSWORD": "s3cret"}
    done = subprocess.run([BINARY, "-t", "--config", file], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_recipes_are_run_by_what_there_is() -> None:
    """Each page of operations has its recipes in the table, with tests and fault scenarios that exist."""
    page = ROOT / "docs" / "operations" / "drills.md"
    rows = re.findall(r"^\| .* \| (.*) \| (.*) \|$", page.read_text(), re.MULTILINE)[1:]
    pages = {name for place, _ in rows for name in re.findall(r"\((\w+\.md)", place)}
    assert {each.name for each in page.parent.glob("*.md")} - pages == {page.name}
    run_by = "\n".join(runs for _, runs in rows)
    files = re.findall(r"`(tests/[\w/]+\.py)`", run_by)
    assert [file for file in files if not (ROOT / file).exists()] == []
    named = re.findall(r"scenarios? ((?:`[\w-]+`(?:, )?)+)", run_by)
    assert {name for names in named for name in re.findall(r"`([\w-]+)`", names)} <= SCENARIOS.keys()
