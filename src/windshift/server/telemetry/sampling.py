"""Which traces are recorded, decided on the text of a trace context, before anything is made for a span.

The samplers are those of OpenTelemetry's SDK:
https://opentelemetry.io/docs/specs/otel/trace/sdk/#built-in-samplers.
"""

from __future__ import annotations

from random import getrandbits
from typing import Final

from windshift.server.config import SamplerConfig

_SAMPLED: Final = frozenset("13579bdf")
"""Last digits of flags that have the lowest bit."""
_LIMIT: Final = 1 << 64


class Sampler:
    """All six of the standard samplers: by the parent's flag or not, and a share of what has none.

    Like OpenTelemetry's for Python it decides a share by the lower 64 bits of the trace's id, so that every
    server with the same share comes to the same decision.
    """

    __slots__ = ("_bound", "_parent_based")

    def __init__(self, config: SamplerConfig) -> None:
        self._parent_based = config.parent_based
        self._bound = round(config.ratio * _LIMIT)

    def continues(self, parent: str) -> bool:
        """Decide about a trace that came from outside, by its valid ``traceparent``."""
        if self._parent_based:
            return parent[54] in _SAMPLED
        return int(parent[19:35], 16) < self._bound

    def begins(self) -> str | None:
        """Give the id of a new trace; None when it is not to be recorded."""
        low = getrandbits(64)
        if low >= self._bound:
            return None
        return f"{getrandbits(64) or 1:016x}{low:016x}"
