"""When to ask the broker for deliveries, and for how many. No I/O, no clock."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from windshift.server.events.consuming.window import Window
from windshift.server.nats.deliveries import Delivery, Ended

SMALLEST_LIMIT = 16 * 1024
"""Bytes that a request to the broker may bring for a client of which nothing is known, or that does not
read."""

LARGEST_LIMIT = 64 * 1024

PAUSE = 1.0
"""Seconds before asking again when the broker refused to be asked."""


class Pull(NamedTuple):
    """A pull request: at most `batch` deliveries of at most `max_bytes` together (0 = no limit)."""

    batch: int
    max_bytes: int


class Pulls:
    """Decides on pull requests.

    Requests are limited in bytes too, so that a window of large events does not pile up here for a client
    that does not read: little at first, more for one that took it. An event that is larger than the limit
    is asked for alone and without one.

    Args:
        window: how many deliveries there is room for.
        silence: seconds without a word of the broker after which its requests count as lost, and the consumer
            as possibly gone.
    """

    __slots__ = ("_heard", "_limit", "_one_by_one", "_resume_at", "_silence", "_window")

    def __init__(self, window: Window, silence: float) -> None:
        self._window = window
        self._silence = silence
        self._limit = SMALLEST_LIMIT
        self._one_by_one = False
        self._heard = inf  # nothing was asked yet
        self._resume_at = inf  # not paused

    @property
    def due(self) -> float:
        """When `tick` has something to do, or earlier."""
        return min(self._heard + self._silence, self._resume_at)

    def tick(self, now: float) -> bool:
        """Let time pass; return whether the broker was silent for too long.

        Requests that it had are lost then: it should have shown a sign of life. If there were none, it had no
        cause to; whether there still is a consumer is another question, to be asked in either case.
        """
        if self._resume_at <= now:
            self._resume_at = inf
        if now < self._heard + self._silence:
            return False
        self._heard = now
        self._window.lose_requests()
        return True

    def next(self, now: float, *, busy: bool) -> Pull | None:
        """Return the request to send now, if any; it counts as sent.

        Args:
            now: the time.
            busy: see `Window.wanted`.
        """
        window = self._window
        if self._resume_at != inf or (self._one_by_one and window.requested):
            return None
        count = window.wanted(busy=busy and not self._one_by_one)
        if not count:
            return None
        if not window.requested:
            self._heard = now
        pull = Pull(1, 0) if self._one_by_one else Pull(count, self._limit)
        window.request(pull.batch)
        return pull

    def unsent(self, pull: Pull) -> None:
        """Take back a request that could not be sent."""
        self._window.end_request(pull.batch)

    def heard(self, now: float) -> None:
        """Note that the broker showed a sign of life."""
        self._heard = now

    def delivered(self, delivery: Delivery) -> None:
        """Note the size of a delivery that was asked for alone."""
        if self._one_by_one and len(delivery.data) < self._limit // 2:
            self._one_by_one = False

    def ended(self, end: Ended) -> None:
        """Note that the broker ended a request."""
        self._window.end_request(end.left)
        if not end.too_large:
            return
        if end.bytes_left >= self._limit:
            self._one_by_one = True
        else:
            self._limit = min(2 * self._limit, LARGEST_LIMIT)

    def stalled(self) -> None:
        """Note that the client does not read what it is sent."""
        self._limit = SMALLEST_LIMIT

    def refused(self, now: float) -> None:
        """Note that the broker takes no request now."""
        self._window.lose_requests()
        self._resume_at = now + PAUSE
