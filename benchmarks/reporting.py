"""What the programs of a measurement tell the driver: lines of JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import uvloop


def reporting(work: Callable[..., Coroutine[Any, Any, object]]) -> Callable[..., None]:
    """Turn a coroutine function into a command, which runs it and prints its result."""

    @wraps(work)
    def command(**options: Any) -> None:
        tell(uvloop.run(work(**options)))

    return command


def tell(seen: object) -> None:
    """Print a line."""
    print(json.dumps(seen), flush=True)


def tell_and_wait(seen: object) -> None:
    """Print a line, and wait for one on stdin."""
    tell(seen)
    sys.stdin.readline()
