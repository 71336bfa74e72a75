"""The command line at a real server: in this process where that shows the same, else in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.app import running_app
from tests.support.nats_server import NatsServer
from windshift.cli import main

TEXT = "windshift.test.v1.StringValue"


@pytest.fixture(scope="session")
def cli_server(nats_server: NatsServer) -> Iterator[str]:
    """Share one server between all tests of a worker; give its ``host:port``."""
    with running_app(nats_server.url) as address:
        yield address


@dataclass(frozen=True, slots=True)
class Result:
    """What a command printed, and its exit code."""

    out: str
    err: str
    code: int

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Cli:
    """The command line, in a namespace and with settings of its own."""

    def __init__(self, address: str, namespace: str, home: Path) -> None:
        self.namespace = namespace
        self._started: list[subprocess.Popen[bytes]] = []
        self.environment = {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TZ": "UTC",
            "WINDSHIFT_ADDRESS": address,
            "WINDSHIFT_NAMESPACE": namespace,
        }

    def __call__(self, *arguments: str, stdin: str | None = None, code: int = 0) -> Result:
        """Run a command in this process, and see that it exits so."""
        done = CliRunner().invoke(main, arguments, input=stdin, env=self.environment)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        result = Result(done.stdout, done.stderr, done.exit_code)
        assert result.code == code, result
        return result

    def process(
        self, *arguments: str, stdin: bytes | None = None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "windshift", *arguments],
            input=stdin,
            capture_output=True,
            env=self.environment | environment,
            check=False,
            timeout=100,
        )

    def popen(self, arguments: Sequence[str], **settings: Any) -> subprocess.Popen[bytes]:
        """Start a command in a process of its own."""
        command = [sys.executable, "-m", "windshift", *arguments]
        self._started.append(subprocess.Popen(command, **{"env": self.environment, **settings}))
        return self._started[-1]

    def kill(self) -> None:
        """End what was started and still runs, as after a test that failed."""
        for process in self._started:
            process.kill()
            process.wait()


@pytest.fixture
def cli(cli_server: str, unique: Callable[[], str], tmp_path: Path) -> Iterator[Cli]:
    """Give the command line, in a namespace that no other test uses."""
    cli = Cli(cli_server, unique(), tmp_path)
    yield cli
    cli.kill()
