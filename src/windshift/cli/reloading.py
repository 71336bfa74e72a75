"""Starting a process anew when a file of its program changes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

_LOOK_EVERY = 0.3
_started = time.time_ns()  # this module is imported before the program is
_seen: dict[Path, int] = {}


async def changed() -> None:
    """Return when a file changed that an imported module below the current directory was read from."""
    while not _look():  # noqa: ASYNC110 -- files tell nobody
        await asyncio.sleep(_LOOK_EVERY)
    print("windshift: a file changed; starting anew", file=sys.stderr, flush=True)  # noqa: T201 -- a command


def wait_and_start_anew(module: str) -> NoReturn:
    """Wait for a change of a file that was imported so far, or of a module that could not be; start anew."""
    try:
        spec = find_spec(module)
    except Exception:  # noqa: BLE001 -- a package around it cannot be imported either, and is seen by itself
        spec = None
    more = [Path(spec.origin)] if spec is not None and spec.origin else []
    print("windshift: waiting for a file to change", file=sys.stderr, flush=True)  # noqa: T201 -- a command
    while not _look(more):
        time.sleep(_LOOK_EVERY)
    start_anew()


def start_anew() -> NoReturn:
    """Replace this process by a new one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 -- this program again


def _look(more: list[Path] | None = None) -> bool:
    """Say whether a file changed since the start. One that is gone may be about to be written."""
    result = False
    for path in [*_files(), *(more or [])]:
        try:
            modified = path.stat().st_mtime_ns
        except OSError:
            continue
        if path in _seen:
            result |= modified != _seen[path]
        else:
            result |= _started < modified <= time.time_ns()
            _seen[path] = modified
    return result


def _files() -> list[Path]:
    here, installed = Path.cwd(), Path(sys.prefix)
    paths = {
        Path(file).resolve()
        for module in list(sys.modules.values())
        if isinstance(file := _file(module), str)
    }
    return [path for path in paths if path.is_relative_to(here) and not path.is_relative_to(installed)]


def _file(module: object) -> object:
    try:
        return getattr(module, "__file__", None)
    except Exception:  # noqa: BLE001 -- it stands for one that it loads when it is asked, and cannot
        return None
