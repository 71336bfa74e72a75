"""The nats-server that Windshift brings along, as a child process that is started, watched and stopped."""

from __future__ import annotations

from windshift.server.process.embedded.directory import DataDirectory
from windshift.server.process.embedded.disk import Disk
from windshift.server.process.embedded.errors import EmbeddedError
from windshift.server.process.embedded.nats import EmbeddedNats, EmbeddedTimers

__all__ = ["DataDirectory", "Disk", "EmbeddedError", "EmbeddedNats", "EmbeddedTimers"]
