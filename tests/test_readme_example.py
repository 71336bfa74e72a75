"""The README's first example, run as it stands there against a server started as it says there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.support.ports import new_port

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = "127.0.0.1:8080"
"""Where the README's server listens; the test replaces it by an address that is free."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Run `windshift serve` with an embedded broker; stop it in good order."""
    port = new_port()
    settings = {"GRPC_PORT": str(port), "HEALTH_PORT": "0", "WINDSHIFT_DATA_DIR": str(tmp_path / "data")}
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("NATS_", "WINDSHIFT_"))
    }
    program = Path(sys.executable).parent / "windshift"
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([program, "serve"], env=inherited | settings, stdout=log, stderr=log)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
        yield f"127.0.0.1:{port}"
        server.send_signal(signal.SIGTERM)
        assert server.wait(15) == 0, (tmp_path / "log").read_text()
    finally:
        server.kill()
        server.wait()


def test_first_example_of_the_readme_works(address: str) -> None:
    """The example publishes its event and receives it back."""
    (example,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert ADDRESS in example
    done = subprocess.run(
        [sys.executable, "-c", example.replace(ADDRESS, address)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    expected = ["stored as event 1", "billed Order(id='A-17', cents=3490)"]
    assert done.stdout.splitlines() == expected, done.stderr
