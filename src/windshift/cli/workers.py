"""Several processes that run one app, and are started again when they end by themselves."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

import click

from windshift.cli.failing import USAGE

_LOOK_EVERY = 0.1
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds between an end and the next start
_GOOD_LIFE = 10.0  # seconds after which a worker is started again as at first


async def parent_gone(parent: int) -> None:
    """Return when this process is no child of `parent` any more, because that one has ended."""
    while os.getppid() == parent:  # noqa: ASYNC110 -- the system tells nobody
        await asyncio.sleep(1.0)


@dataclass(slots=True)
class _Worker:
    number: int
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = _FIRST_PAUSE
    due: float = 0.0

    def start(self) -> None:
        """Start it; if the system has no room for it now, it is due again later."""
        self.started = time.monotonic()
        try:
            # In a session of its own: a Ctrl-C of the terminal is for the parent, which passes it on once.
            self.process = subprocess.Popen(self.command, start_new_session=True)
        except OSError as error:
            self._again(f"could not be started ({error.strerror})")

    def ended(self, status: int) -> None:
        """Say when it starts again."""
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self._again(how)

    def _again(self, why: str) -> None:
        now = time.monotonic()
        if now - self.started >= _GOOD_LIFE:
            self.pause = _FIRST_PAUSE
        self.process, self.due = None, now + self.pause
        line = f"windshift: worker {self.number} {why}; another one starts in {self.pause:g} s"
        with suppress(OSError):  # where nobody reads it, the workers go on
            click.echo(line, err=True)
        self.pause = min(self.pause * 2, _LONGEST_PAUSE)


def supervise(count: int, health_port: int | None) -> int:
    """Run this command in `count` processes until a signal; return the exit status.

    A first signal stops them in good order, a second one kills them. A worker that says that there is no such
    app stops all.
    """
    workers = [_Worker(number, _command(number, health_port)) for number in range(1, count + 1)]
    signals: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        signals.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    try:
        while not signals:
            for worker in workers:
                status = worker.process.poll() if worker.process is not None else None
                if status == USAGE:
                    worker.process = None
                    _stop(workers, signals)
                    return USAGE
                if status is not None:
                    worker.ended(status)
                if worker.process is None and time.monotonic() >= worker.due:
                    worker.start()
            time.sleep(_LOOK_EVERY)
        return _stop(workers, signals)
    finally:
        for worker in workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.process.kill()


def _command(number: int, health_port: int | None) -> list[str]:
    """Return this process's command with a worker's options; of one given twice, the last counts."""
    more = ["--workers", "1", "--worker-of", str(os.getpid())]
    if health_port:
        more += ["--health-port", str(health_port + number - 1)]
    return [sys.executable, "-m", "windshift", *sys.argv[1:], *more]


def _stop(workers: list[_Worker], signals: list[int]) -> int:
    """Stop all workers in good order; kill them at a second signal."""
    running = [worker.process for worker in workers if worker.process is not None]
    for process in running:
        process.terminate()
    while any(process.poll() is None for process in running):
        if len(signals) > 1:
            for process in running:
                process.kill()
            return 128 + signals[-1]
        time.sleep(_LOOK_EVERY)
    # SIGTERM itself ends one that is so young that it does not handle signals yet.
    return 0 if all(process.returncode in (0, -signal.SIGTERM) for process in running) else 1
