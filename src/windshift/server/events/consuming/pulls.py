"""When to ask the broker for deliveries, and for how many. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from windshift.nats.jetstream import Ended
from windshift.server.events.consuming.window import Window
from windshift.server.events.deliveries import Delivery, pending_after

SMALLEST_LIMIT = 16 * 1024
"""Bytes that a request to the broker may bring for a client of which nothing is known, or that does not
read."""

LARGEST_LIMIT = 64 * 1024

SLACK = 5 / 4
"""By how much more a request is limited in bytes than it should bring. See `Pulls`."""

OVERHEAD = 160
"""Bytes of headers that an event usually has."""

USUAL_SIZE = 256
"""Bytes that a delivery is thought to have before there was one."""

STUCK = 0.25
"""Seconds after which a request is made anew when the broker has more and yet sends nothing."""

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

    So many deliveries are asked for as should stay below the limit by the size of those before, and the limit
    itself, with some slack, is told the broker as well. It should seldom come to that: when a delivery fills
    a request to the last byte, nats-server (2.15) ends it without a word, and takes the rest of it as
    delivered. Such a request, like one that got lost, is made anew when nothing comes though there is more.

    Args:
        window: how many deliveries there is room for.
        silence: seconds without a word of the broker after which its requests count as lost, and the consumer
            as possibly gone.
    """

    __slots__ = (
        "_heard",
        "_last",
        "_limit",
        "_one_by_one",
        "_resume_at",
        "_silence",
        "_size",
        "_stuck_at",
        "_taken",
        "_window",
    )

    def __init__(self, window: Window, silence: float) -> None:
        self._window = window
        self._silence = silence
        self._limit = SMALLEST_LIMIT
        self._one_by_one = False
        self._size = float(USUAL_SIZE)
        self._taken = 0.0
        self._last = b""
        self._stuck_at = inf
        self._heard = inf  # nothing was asked yet
        self._resume_at = inf  # not paused

    @property
    def due(self) -> float:
        """When `tick` has something to do, or earlier."""
        return min(self._heard + self._silence, self._resume_at, self._stuck_at)

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

    def stuck(self, now: float) -> bool:
        """Whether the broker should have sent something, so that its requests are to be made anew."""
        if now < self._stuck_at:
            return False
        self._stuck_at = inf
        return self._window.requested > 0 and pending_after(self._last) > 0

    def next(self, now: float, *, busy: bool) -> Pull | None:
        """Return the request to send now, if any; it counts as sent.

        Args:
            now: the time.
            busy: see `Window.wanted`.
        """
        window = self._window
        if self._resume_at != inf or (self._one_by_one and window.requested):
            return None
        most = max(1, int(self._limit / self._size))
        count = window.wanted(most, busy=busy and not self._one_by_one)
        if not count:
            return None
        if not window.requested:
            self._heard = now
        pull = Pull(1, 0) if self._one_by_one else Pull(count, int(self._limit * SLACK) - 1)
        window.request(pull.batch)
        return pull

    def unsent(self, pull: Pull) -> None:
        """Take back a request that could not be sent."""
        self._window.end_request(pull.batch)

    def heard(self, now: float) -> None:
        """Note that the broker showed a sign of life."""
        self._heard = now

    def arrived(self, arrived: Sequence[Delivery], now: float) -> None:
        """Note what the broker sent, one or more."""
        self._heard = now
        last = arrived[-1]
        data = sum(len(delivery.data) for delivery in arrived) / len(arrived)
        size = data + OVERHEAD + len(last.subject) + len(last.reply)
        self._size = max(size, 0.75 * self._size + 0.25 * size)
        self._last = last.reply
        self._stuck_at = now + STUCK

    def delivered(self, delivery: Delivery) -> None:
        """Note that a delivery was handed to the client, which reads."""
        self._taken += self._size
        if self._taken >= self._limit:
            self._taken = 0.0
            self._limit = min(2 * self._limit, LARGEST_LIMIT)
        if self._one_by_one and len(delivery.data) < self._limit // 2:
            self._one_by_one = False

    def ended(self, end: Ended) -> None:
        """Note that the broker ended a request."""
        self._window.end_request(end.left)
        if end.too_large and end.bytes_left >= self._limit:
            self._one_by_one = True

    def stalled(self) -> None:
        """Note that the client does not read what it is sent."""
        self._limit = SMALLEST_LIMIT
        self._taken = 0.0

    def refused(self, now: float) -> None:
        """Note that the broker takes no request now."""
        self._window.lose_requests()
        self._resume_at = now + PAUSE
