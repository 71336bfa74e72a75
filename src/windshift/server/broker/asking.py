"""On whose behalf the broker is asked."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

asking: Final[ContextVar[str]] = ContextVar("asking", default="")
"""For whom the current task asks: a principal, or a connection without rules; empty = the server."""
