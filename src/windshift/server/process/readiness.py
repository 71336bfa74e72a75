"""Whether calls should be sent to this server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NO_JETSTREAM: Final = "no JetStream"
"""The reason while nothing can be stored or read at all."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether this server is ready, and since when."""

    reason: str | None
    """Why calls should not be sent here; None = ready."""
    since: float
    """In loop time."""
    detail: str = ""
    """More about the reason, for operators: may name hosts, but has no secrets."""
