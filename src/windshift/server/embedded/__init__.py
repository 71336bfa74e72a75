"""The nats-server that Windshift brings along, as a child process that is started, watched and stopped."""

from __future__ import annotations

from windshift.server.embedded.directory import DataDirectory
from windshift.server.embedded.errors import EmbeddedError
from windshift.server.embedded.nats import EmbeddedNats, EmbeddedTimers

__all__ = ["DataDirectory", "EmbeddedError", "EmbeddedNats", "EmbeddedTimers"]
