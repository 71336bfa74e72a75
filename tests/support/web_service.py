"""A web service in a process of its own, and requests to it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

LIMIT = 50.0
"""Seconds that anything may take on a busy machine."""


class WebService:
    """A web service that runs.

    Attributes:
        log: what it wrote.
    """

    def __init__(self, host: str, log: Callable[[], str]) -> None:
        self._host = host
        self.log = log

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return the status and the JSON of an answer; None where it has none."""
        connection = HTTPConnection(self._host, timeout=LIMIT)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"content-type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            return response.status, json.loads(answer) if answer else None
        finally:
            connection.close()

    def ask_until(self, wanted: tuple[int, Any], method: str, path: str) -> None:
        """Ask until this is the answer."""
        end = time.monotonic() + LIMIT
        while (found := self.ask(method, path)) != wanted:
            assert time.monotonic() < end, f"{found} {self.log()}"
            time.sleep(0.02)


@contextmanager
def web_service(
    target: str, directory: Path, log: Path, environment: Mapping[str, str]
) -> Iterator[WebService]:
    """Run `uvicorn TARGET` in a directory, and stop it as SIGTERM does."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", target, "--port", "0"],
            cwd=directory,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        end = time.monotonic() + LIMIT
        while (found := re.search(r"running on http://(\S+)", log.read_text())) is None:
            assert process.poll() is None and time.monotonic() < end, log.read_text()  # noqa: PT018 -- either
            time.sleep(0.02)
        yield WebService(found[1], log.read_text)
        process.terminate()
        process.wait(LIMIT)
        assert "Application shutdown complete" in log.read_text()
        assert "Traceback" not in log.read_text().rpartition("Shutting down")[2]
    finally:
        process.kill()
        process.wait()
