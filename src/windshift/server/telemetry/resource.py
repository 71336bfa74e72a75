"""What telemetry says about this server as such."""

from __future__ import annotations

import os
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import Final
from uuid import uuid4

from windshift.server.config import TelemetryConfig
from windshift.server.telemetry import conventions as c

_INSTANCE: Final = str(uuid4())
"""Tells this process from others with the same name, and from the one that had its place before."""


def resource_attributes(config: TelemetryConfig) -> dict[str, str | int]:
    """Give the attributes of this process; those that were configured come before its own."""
    return {
        c.SERVICE_VERSION: _version("windshift"),
        c.SERVICE_INSTANCE_ID: _INSTANCE,
        c.HOST_NAME: socket.gethostname(),
        c.PROCESS_PID: os.getpid(),
        c.SDK_NAME: "opentelemetry",
        c.SDK_LANGUAGE: "python",
        c.SDK_VERSION: _version("opentelemetry-sdk"),
        **dict(config.resource),
        c.SERVICE_NAME: config.service_name,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
