"""The bytes of messages that the broker may send at once, to all who pull in a process. No I/O, no clock.

A pull request stays with the broker until there is something to deliver, and then all may be answered at
once: one large event for thousands of consumers. nats-server closes a connection with 64 MiB unread, so all
requests together ask for less than that, however many calls there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from windshift.nats.budget import MIB, Budget, Share
from windshift.server.broker.asking import asking

FREE: Final = 10 * MIB
"""Bytes that are asked for without looking at who asks."""

SHARED: Final = 20 * MIB
"""Bytes that are shared evenly beyond that: between askers, and between the calls of each."""

MOST: Final = FREE + SHARED + 4 * MIB
"""Bytes beyond which more is asked for only on behalf of those who have little: calls that began when there
were fewer may have more than their part."""

LEAST: Final = 512
"""Bytes of a request that is made all the same. It tells that there is something, if nothing else."""

WHOLE: Final = 12 * MIB
"""Bytes of events that are asked for alone, because they are larger than what a request may bring."""


class PullRoom:
    """Says how much each call that pulls may ask for.

    Args:
        largest: tells how many bytes an event may have.
        part: only one part in so many of these bounds: the rest of what is tolerated is for others.

    Attributes:
        used: bytes that the broker may send by the requests that it has.
        free: bytes that are asked for without looking at who asks.
        whole: for events that are asked for alone.
    """

    def __init__(self, largest: Callable[[], int] = lambda: MIB, part: int = 1) -> None:
        self._largest = largest
        self._shared, self._most = SHARED // part, MOST // part
        self.free = FREE // part
        self._calls: dict[str, int] = {}
        self._used: dict[str, int] = {}
        self.used = 0
        self.whole = Budget(WHOLE // part, asker=asking.get)

    @property
    def largest(self) -> int:
        """The bytes to take of `whole` for one event."""
        return self._largest()

    def part(self) -> Part:
        """Return the part of a call on whose behalf the running task asks."""
        return Part(self, asking.get())

    def attach(self, asker: str) -> None:
        """Count one call more."""
        self._calls[asker] = self._calls.get(asker, 0) + 1
        self._used.setdefault(asker, 0)

    def detach(self, asker: str) -> None:
        """Count one call less."""
        self._calls[asker] -= 1
        if not self._calls[asker]:
            del self._calls[asker], self._used[asker]

    def add(self, asker: str, size: int) -> None:
        """Count bytes as asked for."""
        self.used += size
        self._used[asker] += size

    def quota(self, asker: str) -> int:
        """Return the bytes that one call may have asked for when there is not enough for all."""
        return self._shared // (len(self._calls) * self._calls[asker])

    def is_scarce(self, asker: str, size: int) -> bool:
        """Whether more would be too much, for one who has a good part of what is his already."""
        return (
            self.used + size > self._most and self._used[asker] + size > self._shared // len(self._calls) // 4
        )


class Part:
    """What one call has asked for.

    Attributes:
        asked: bytes that may still come, or have come and are not taken yet where that may take long.
        whole: a share of what is asked for alone, if the call has one.
    """

    __slots__ = ("_asker", "_is_counted", "_room", "asked", "whole")

    def __init__(self, room: PullRoom, asker: str) -> None:
        self._room = room
        self._asker = asker
        self._is_counted = False
        self.asked = 0
        self.whole: Share | None = None

    def ask(self, wanted: int) -> int:
        """Return how many of the wanted bytes may be asked for now; they count as asked for. 0 is none."""
        room, asker = self._room, self._asker
        if not self._is_counted:
            self._is_counted = True
            room.attach(asker)
        if room.used + wanted > room.free:
            granted = min(wanted, room.quota(asker) - self.asked)
            if room.is_scarce(asker, granted):
                granted = 0
            if self.asked and granted < wanted // 4:
                return 0
            wanted = max(granted, LEAST)
        room.add(asker, wanted)
        self.asked += wanted
        return wanted

    def came(self, size: int) -> None:
        """Note that some of it came, or will not come any more."""
        size = min(size, self.asked)
        if size:
            self.asked -= size
            self._room.add(self._asker, -size)

    def takes_whole(self) -> bool:
        """Take a share of what is asked for alone, if there is one now."""
        if self.whole is None:
            self.whole = self._room.whole.take_now(self._room.largest)
        return self.whole is not None

    def end_whole(self) -> None:
        """Give the share of what is asked for alone back."""
        if self.whole is not None:
            self.whole.give_back()
            self.whole = None

    def clear(self) -> None:
        """Note that nothing more comes of what was asked for."""
        self.came(self.asked)
        self.end_whole()

    def leave(self) -> None:
        """Count the call no more."""
        self.clear()
        if self._is_counted:
            self._is_counted = False
            self._room.detach(self._asker)
