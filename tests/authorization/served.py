"""A server process with an authorization file that tests change, and what can be seen of it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.authorization.callers import Caller, Callers, callers_of
from tests.authorization.policies import put, token_of
from tests.support.exposition import Exposition, scrape
from tests.support.windshift_process import WindshiftProcess, windshift

Record = dict[str, Any]


def records(process: WindshiftProcess, **fields: Any) -> list[Record]:
    """Return the records of a process's log that have these fields."""
    found = [json.loads(line) for line in process.err.splitlines() if line.startswith("{")]
    return [record for record in found if fields.items() <= record.items()]


class Served:
    """A process, its file and its clients."""

    def __init__(self, process: WindshiftProcess, file: Path, callers: Callers) -> None:
        self.process = process
        self.file = file
        self.callers = callers

    def caller(self, who: str, version: int = 1) -> Caller:
        """Return the client of a principal."""
        return self.callers.with_token(token_of(who, version))

    def records(self, **fields: Any) -> list[Record]:
        """Return what the log has with these fields."""
        return records(self.process, **fields)

    def seen(self) -> Exposition:
        """Return the metrics."""
        return scrape(self.process.health_port)

    def reloads(self, result: str = "ok") -> int:
        """Count what was loaded, or refused."""
        return int(self.seen().value("windshift_reloads_total", what="authorization", result=result))

    def put(self, text: str) -> None:
        """Replace the file, and have it loaded now."""
        put(self.file, text)
        self.hang_up()

    def hang_up(self, result: str = "ok") -> None:
        """Send SIGHUP, and wait until that is done."""
        before = self.reloads(result)
        self.process.signal(signal.SIGHUP)
        self.process.wait_for(lambda: self.reloads(result) > before)


@contextmanager
def served(directory: Path, text: str, **environment: str) -> Iterator[Served]:
    """Run a process with an authorization file for the length of a block."""
    file = put(directory / "auth.toml", text)
    with (
        windshift(directory, **{"WINDSHIFT_AUTH_FILE": str(file), **environment}) as process,
        callers_of(process.address) as callers,
    ):
        yield Served(process, file, callers)
