"""How a command fails: lines on stderr and exit code 1."""

from __future__ import annotations

import sys
from typing import NoReturn

import click


def fail(status: int, *lines: str) -> NoReturn:
    """Print lines to stderr, each prefixed with the program's name, and exit with this status."""
    for line in lines:
        click.echo(f"windshift: {line}", err=True)
    sys.exit(status)
