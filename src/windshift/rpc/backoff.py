"""The delays between attempts to connect, without I/O.

Source: https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

_MULTIPLIER: Final = 1.6
"""Growth from one failure to the next."""

_JITTER: Final = 0.2
"""Share by which each delay varies, so that clients do not all reconnect at once."""


class Backoff:
    """Delays that grow with each consecutive failure.

    Args:
        initial: seconds after the first failure.
        maximum: longest delay, in seconds, before jitter.
        spread: returns a number from -1 to 1; random except in tests.
    """

    def __init__(
        self,
        initial: float,
        maximum: float,
        spread: Callable[[], float] = lambda: random.uniform(-1.0, 1.0),
    ) -> None:
        self._initial = initial
        self._maximum = maximum
        self._spread = spread
        self._delay = initial

    def next(self) -> float:
        """Return the seconds from the start of the failed attempt to the start of the next."""
        delay = min(self._delay, self._maximum)
        self._delay = min(delay * _MULTIPLIER, self._maximum)
        return delay * (1.0 + _JITTER * self._spread())

    def reset(self) -> None:
        """Start over: a connection is up."""
        self._delay = self._initial
