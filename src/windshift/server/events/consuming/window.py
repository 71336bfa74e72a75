"""The deliveries that a call holds, and how many more it may ask for. No I/O, no clock.

One rule stands over everything here: what was asked of the broker and has not come yet, plus what came and
is not settled, never exceeds the size of the window. So the broker can never hand over more than the client
agreed to hold.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple, TypeAlias

from windshift.server.events.dead_letters.letters import LetterId
from windshift.server.events.model import StreamSeq
from windshift.server.telemetry.tracer import Span

MARGIN = 0.05
"""Seconds by which a delivery ends here before the broker's own timer does, which started a little
earlier."""

MARGIN_SHARE = 0.1
"""Of a short processing timeout no more than this share is given away as the margin."""


class Replay(NamedTuple):
    """One replay of a dead letter: which one of it, from 1 up."""

    id: LetterId
    number: int


class Held:
    """One delivery that the subscription holds.

    Attributes:
        reply: where its acknowledgements go.
        attempt: the how-manieth delivery of the event this is.
        deadline: when the broker may hand the event to somebody else, by the clock of `now`.
        since: when it arrived, by the same clock.
        replay: which replay of a dead letter this delivery belongs to, if it does.
        span: what is recorded of the delivery, if anything is.
        settling: whether a settlement (ack or reject) is on its way to the broker.
        unanswered: messages about this delivery that the broker has not answered.
    """

    __slots__ = ("attempt", "deadline", "replay", "reply", "settling", "since", "span", "unanswered")

    def __init__(
        self, reply: bytes, attempt: int, deadline: float, since: float = 0.0, replay: Replay | None = None
    ) -> None:
        self.reply = reply
        self.attempt = attempt
        self.deadline = deadline
        self.since = since
        self.replay = replay
        self.settling = False
        self.unanswered = 0
        self.span: Span | None = None


OnExpired: TypeAlias = Callable[[StreamSeq, Held], None]


def _forget(seq: StreamSeq, held: Held) -> None:
    """Do nothing about a delivery whose time is over."""


class Window:
    """The table of deliveries held, and the arithmetic of pull requests.

    Args:
        size: how many deliveries may be unsettled at once.
        timeout: seconds in which the broker wants each one settled or prolonged.

    Attributes:
        expired: how many deliveries were neither settled nor prolonged in time.
        requested: deliveries that the broker may still send by the pull requests that it has.
        waiting: deliveries that arrived, and that it is not decided yet whether the client will hold.
        due: no delivery times out before this moment (there may be none that does then).
    """

    __slots__ = ("_held", "_lifetime", "_on_expired", "due", "expired", "requested", "size", "waiting")

    def __init__(self, size: int, timeout: float) -> None:
        self.size = size
        self.requested = self.waiting = self.expired = 0
        self.due = inf
        self._held: dict[StreamSeq, Held] = {}
        self._on_expired: OnExpired = _forget
        self.set_timeout(timeout)

    def set_timeout(self, timeout: float) -> None:
        """Change the timeout of deliveries that are held or prolonged from now on."""
        self._lifetime = timeout - min(MARGIN, timeout * MARGIN_SHARE)

    def tell_expired(self, on_expired: OnExpired) -> None:
        """Call this with each delivery that is let go because its time is over."""
        self._on_expired = on_expired

    def __len__(self) -> int:
        return len(self._held)

    def get(self, seq: StreamSeq) -> Held | None:
        """Return the latest delivery of an event that is held, if any."""
        return self._held.get(seq)

    # -- pulling -------------------------------------------------------------------------------------

    def wanted(self, most: int, *, busy: bool) -> int:
        """Return how many deliveries to ask for now, 0 for none.

        A request is worth its cost when a quarter of what may be asked for is free. A smaller one goes out
        only when the broker has no other, and not while the client is `busy` settling: then more room is
        about to come. `most` bounds what may have been asked for.
        """
        free = min(self.size - len(self._held) - self.waiting, most) - self.requested
        if free >= max(1, min(self.size, most) // 4) or (free > 0 and not self.requested and not busy):
            return free
        return 0

    def request(self, count: int) -> None:
        """Count a pull request for `count` deliveries that is about to be sent."""
        self.requested += count

    def end_request(self, count: int) -> None:
        """Forget `count` deliveries that a pull request had left when it ended."""
        self.requested = max(0, self.requested - count)

    def lose_requests(self) -> None:
        """Forget every pull request: the broker has none of them any more."""
        self.requested = 0

    # -- holding -------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether the client may hold one more delivery now."""
        return len(self._held) < self.size

    def arrive(self) -> None:
        """Count a delivery that the broker sent: it is one less that was asked for."""
        if self.requested:
            self.requested -= 1

    def admit(
        self, seq: StreamSeq, reply: bytes, attempt: int, now: float, replay: Replay | None = None
    ) -> Held | None:
        """Hold a delivery that arrived at `now`; None when there is no room.

        A later delivery of an event takes the place of an earlier one.
        """
        earlier = self._held.pop(seq, None)
        if earlier is not None:
            self._expire(seq, earlier)
        elif len(self._held) >= self.size:
            return None
        held = self._held[seq] = Held(reply, attempt, now + self._lifetime, now, replay)
        self.due = min(self.due, held.deadline)
        return held

    def remove(self, seq: StreamSeq, held: Held) -> None:
        """Let a delivery go, unless a later one of the same event took its place."""
        if self._held.get(seq) is held:
            del self._held[seq]

    def drop(self, seq: StreamSeq, held: Held) -> None:
        """Let a delivery go whose time is over."""
        if self._held.get(seq) is held:
            del self._held[seq]
            self._expire(seq, held)

    def _expire(self, seq: StreamSeq, held: Held) -> None:
        self.expired += 1
        self._on_expired(seq, held)

    def prolong(self, seq: StreamSeq, held: Held, since: float) -> None:
        """Restart the timeout of a delivery that the broker prolonged at `since` or later."""
        held.deadline = max(held.deadline, since + self._lifetime)
        if self._held.get(seq) is held:  # to the end: the table stays in the order of the deadlines
            del self._held[seq]
            self._held[seq] = held
            self.due = min(self.due, held.deadline)

    def holds(self, seq: StreamSeq, held: Held, now: float) -> bool:
        """Whether a delivery is still the client's to settle."""
        return self._held.get(seq) is held and (held.deadline > now or held.unanswered > 0)

    def expire(self, now: float) -> None:
        """Let go what timed out. What waits for an answer of the broker stays: the answer decides."""
        expired: list[tuple[StreamSeq, Held]] = []
        self.due = inf
        for seq, held in self._held.items():
            if held.deadline > now:
                self.due = held.deadline
                break
            if not held.unanswered:
                expired.append((seq, held))
        for seq, held in expired:
            del self._held[seq]
            self._expire(seq, held)

    def clear(self) -> list[tuple[StreamSeq, Held]]:
        """Empty the table and return what was in it."""
        released = list(self._held.items())
        self._held.clear()
        self.requested = 0
        self.due = inf
        return released
