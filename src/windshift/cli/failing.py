"""How a command ends that failed."""

from __future__ import annotations

import sys
from typing import NoReturn

import click


def fail(status: int, *lines: str) -> NoReturn:
    """Print lines to stderr, each with the name of the program before it, and exit with this status."""
    for line in lines:
        click.echo(f"windshift: {line}", err=True)
    sys.exit(status)
