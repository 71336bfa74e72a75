"""How a command fails: one line on stderr, or JSON, and an exit code for each kind of failure."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Final, NoReturn

import click

FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
CONFLICT: Final = 4
UNAVAILABLE: Final = 5
"""Nothing happened; the same command may succeed later."""
DENIED: Final = 6
UNKNOWN: Final = 7
"""It may have been done or not."""
INTERRUPTED: Final = 130
TERMINATED: Final = 143


class Failure(Exception):
    """What a command ends with.

    Attributes:
        message: what went wrong.
        status: the exit code.
        reason: the server's name for it.
        hint: what to do about it.
    """

    def __init__(self, message: str, status: int = FAILED, *, reason: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.hint = hint


def fail(status: int, *lines: str) -> NoReturn:
    """Print lines to stderr, each prefixed with the program's name, and exit with this status."""
    for line in lines:
        click.echo(f"windshift: {line}", err=True)
    sys.exit(status)


def drop_output() -> None:
    """Have all that is printed from now on, and what flushes find at the exit, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def stop_early(number: int, _: FrameType | None) -> NoReturn:
    """End the process on a signal before there is anything to stop."""
    with suppress(OSError, RuntimeError):  # nobody reads it, or a line is just being written
        sys.stderr.write(f"windshift: {signal.Signals(number).name}: stopped before it had started\n")
        sys.stderr.flush()
    os._exit(0)


def report(failure: Failure, *, json: bool) -> NoReturn:
    """Print a failure to stderr and exit with its status."""
    from windshift.cli.output import as_json, plain

    if json:
        parts = {"reason": failure.reason, "message": failure.message, "hint": failure.hint}
        click.echo(as_json({"error": {name: text for name, text in parts.items() if text}}), err=True)
    else:
        message = failure.message.removesuffix(".") + (f"; {failure.hint}" if failure.hint else "")
        reason = f" ({failure.reason})" if failure.reason else ""
        click.echo(f"windshift: {plain(message)}{reason}", err=True)
    sys.exit(failure.status)
