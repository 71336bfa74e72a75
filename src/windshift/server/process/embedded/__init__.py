"""The embedded nats-server: a child process that is started, watched and stopped."""

from __future__ import annotations

from windshift.server.process.embedded.directory import DataDirectory
from windshift.server.process.embedded.disk import Disk
from windshift.server.process.embedded.nats import EmbeddedNats, EmbeddedTimers
from windshift.server.process.embedded.stock import Damage

__all__ = ["Damage", "DataDirectory", "Disk", "EmbeddedNats", "EmbeddedTimers"]
