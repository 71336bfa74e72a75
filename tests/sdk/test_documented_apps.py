"""The examples of docs/apps.md and docs/testing.md, run as they stand there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import windshift as ws
from tests.support.web_service import web_service
from windshift.cli.run import run
from windshift.protos import test

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEST_PARCELS = """
from parcels import Parcel, app


async def test_parcels():
    with app.test() as trial:
        await trial.deliver("parcels.sent", Parcel(40_000))
        assert trial.published[0].subject == "parcels.heavy"
"""


def write(directory: Path, document: str, module: str) -> None:
    """Write the code of a document: a block that begins with a file's name there, others to `module`.

    What is TOML is for `pyproject.toml`.
    """
    files = defaultdict(list)
    for language, block in re.findall(
        r"^```(python|toml)\n(.*?)^```", (DOCS / document).read_text(), re.DOTALL | re.MULTILINE
    ):
        found = re.match(r"# (\w+\.py)\n", block)
        files["pyproject.toml" if language == "toml" else found[1] if found else module].append(block)
    for name, blocks in files.items():
        (directory / name).write_text("\n".join(blocks))


@pytest.mark.timeout(180)
def test_examples(tmp_path: Path) -> None:
    """The apps of one document pass the tests of the other."""
    write(tmp_path, "apps.md", "shop.py")
    write(tmp_path, "testing.md", "test_shop.py")
    (tmp_path / "test_parcels.py").write_text(TEST_PARCELS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert "3 passed" in done.stdout, done.stdout
    assert "handled 1\n" in done.stdout


async def test_the_app_within_a_web_service(tmp_path: Path, server: str, unique: Callable[[], str]) -> None:
    """FastAPI publishes what the app handles in the same process."""
    write(tmp_path, "apps.md", "shop.py")
    namespace = unique()
    environment = {"WINDSHIFT_ADDRESS": server, "WINDSHIFT_NAMESPACE": namespace}
    with web_service("web:web", tmp_path, tmp_path / "log", environment) as service:
        service.ask_until((200, {"ready": True}), "GET", "/readyz")
        assert service.ask("POST", "/orders/3") == (200, {"event": 1})
        async with ws.connect(server, namespace=namespace) as client:
            await client.stream("orders").consumer("accounting").idle(30)
            entry = await client.store("accounting", test.StringValue).get("total")
            assert entry is not None
            assert entry.value.value == "3"


def test_an_app_in_production() -> None:
    """What the image and the unit run is what `windshift run` takes, and both have time enough to stop."""
    blocks = dict(
        re.findall(
            r"^```(dockerfile|yaml|ini)\n(.*?)^```",
            (DOCS / "apps.md").read_text(),
            re.DOTALL | re.MULTILINE,
        )
    )
    (in_image,) = re.findall(r"(?m)^CMD (.*)$", blocks["dockerfile"])
    (in_unit,) = re.findall(r"(?m)^ExecStart=(.*)$", blocks["ini"])
    pod = yaml.safe_load(blocks["yaml"])["spec"]["template"]["spec"]
    (waits,) = re.findall(r"(?m)^TimeoutStopSec=(\d+)$", blocks["ini"])
    for words in (json.loads(in_image), shlex.split(in_unit)):
        told = run.make_context("run", words[2:]).params
        assert told["target"] == "shop:app"
        assert pod["terminationGracePeriodSeconds"] == int(waits) == told["grace"] + 20
    (port,) = pod["containers"][0]["ports"]
    image = run.make_context("run", json.loads(in_image)[2:]).params
    assert (image["health_host"], image["health_port"]) == ("0.0.0.0", port["containerPort"])  # noqa: S104
