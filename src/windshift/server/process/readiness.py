"""Whether calls should be sent to this server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Readiness:
    """What holds now, and since when."""

    reason: str | None
    """Why calls should not come here; None when they should."""
    since: float
    """In the loop's time."""
    detail: str = ""
    """More about the reason, for operators: it may name hosts, but holds no secret."""
