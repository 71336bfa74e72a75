"""The delays between attempts to connect, without I/O.

Source: https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

_MULTIPLIER: Final = 1.6
"""Growth from one failure to the next."""

_JITTER: Final = 0.2
"""Share by which each delay varies, so that clients do not all reconnect at once."""


@dataclass(slots=True)
class Backoff:
    """Delays that grow with each consecutive failure.

    Attributes:
        initial: seconds after the first failure.
        maximum: longest delay, in seconds, before jitter.
    """

    initial: float
    maximum: float
    _last: float = 0.0

    def next(self) -> float:
        """Return the seconds from the start of the failed attempt to the start of the next."""
        self._last = min(self._last * _MULTIPLIER or self.initial, self.maximum)
        return self._last * random.uniform(1.0 - _JITTER, 1.0 + _JITTER)

    def reset(self) -> None:
        """Start over: a connection is up."""
        self._last = 0.0
