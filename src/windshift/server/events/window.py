"""The deliveries that a call holds, and how many more it may ask for. No I/O, no clock.

One rule stands over everything here: what was asked of the broker and has not come yet, plus what came and
is not settled, never exceeds the size of the window. So the broker can never hand over more than the client
agreed to hold.
"""

from __future__ import annotations

from math import inf

from windshift.server.nats.deliveries import StreamSeq
from windshift.server.telemetry.tracer import Span

MARGIN = 0.05
"""Seconds by which a delivery ends here before the broker's own timer does, which started a little
earlier."""

MARGIN_SHARE = 0.1
"""Of a short processing timeout no more than this share is given away as the margin."""


class Held:
    """One delivery that the subscription holds.

    Attributes:
        reply: where its acknowledgements go.
        attempt: the how-manieth delivery of the event this is.
        deadline: when the broker may hand the event to somebody else, by the clock of `now`.
        span: what is recorded of the delivery, if anything is.
        settling: whether a settlement (ack or reject) is on its way to the broker.
        unanswered: messages about this delivery that the broker has not answered.
    """

    __slots__ = ("attempt", "deadline", "reply", "settling", "span", "unanswered")

    def __init__(self, reply: str, attempt: int, deadline: float) -> None:
        self.reply = reply
        self.attempt = attempt
        self.deadline = deadline
        self.settling = False
        self.unanswered = 0
        self.span: Span | None = None


class Window:
    """The table of deliveries held, and the arithmetic of pull requests.

    Args:
        size: how many deliveries may be unsettled at once.
        timeout: seconds in which the broker wants each one settled or prolonged.

    Attributes:
        expired: how many deliveries were neither settled nor prolonged in time.
        requested: deliveries that the broker may still send by the pull requests that it has.
        due: no delivery times out before this moment (there may be none that does then).
    """

    __slots__ = ("_held", "_lifetime", "due", "expired", "requested", "size")

    def __init__(self, size: int, timeout: float) -> None:
        self.size = size
        self.requested = self.expired = 0
        self.due = inf
        self._held: dict[StreamSeq, Held] = {}
        self._lifetime = timeout - min(MARGIN, timeout * MARGIN_SHARE)

    def __len__(self) -> int:
        return len(self._held)

    def get(self, seq: StreamSeq) -> Held | None:
        """Return the latest delivery of an event that is held, if any."""
        return self._held.get(seq)

    # -- pulling -------------------------------------------------------------------------------------

    def wanted(self, *, busy: bool) -> int:
        """Return how many deliveries to ask for now, 0 for none.

        A request is worth its cost when a quarter of the window is free. A smaller one goes out only when the
        broker has no other, and not while the client is `busy` settling: then more room is about to come.
        """
        free = self.size - len(self._held) - self.requested
        if free >= max(1, self.size // 4) or (free > 0 and not self.requested and not busy):
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

    def admit(self, seq: StreamSeq, reply: str, attempt: int, now: float) -> Held | None:
        """Hold a delivery that arrived; None when there is no room, so that it must go back.

        A later delivery of an event takes the place of an earlier one.
        """
        if self.requested:
            self.requested -= 1
        earlier = self._held.pop(seq, None)
        if earlier is not None:
            self.expired += 1
        elif len(self._held) >= self.size:
            return None
        held = self._held[seq] = Held(reply, attempt, now + self._lifetime)
        self.due = min(self.due, held.deadline)
        return held

    def remove(self, seq: StreamSeq, held: Held) -> None:
        """Let a delivery go, unless a later one of the same event took its place."""
        if self._held.get(seq) is held:
            del self._held[seq]

    def drop(self, seq: StreamSeq, held: Held) -> None:
        """Let a delivery go whose time is over."""
        self.expired += self._held.get(seq) is held
        self.remove(seq, held)

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
        expired: list[StreamSeq] = []
        self.due = inf
        for seq, held in self._held.items():
            if held.deadline > now:
                self.due = held.deadline
                break
            if not held.unanswered:
                expired.append(seq)
        for seq in expired:
            del self._held[seq]
        self.expired += len(expired)

    def clear(self) -> list[Held]:
        """Empty the table and return what was in it."""
        released = list(self._held.values())
        self._held.clear()
        self.requested = 0
        self.due = inf
        return released
