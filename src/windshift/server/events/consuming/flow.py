"""The deliveries that a call holds, and when to pull how many more. No I/O, no clock.

One rule applies to everything here: what was pulled and has not arrived, plus what arrived and is not
settled, never exceeds the window. So the broker can never deliver more than the client agreed to hold. (A
window that was made smaller has the size that it had for what was pulled before.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field
from math import inf
from typing import NamedTuple, TypeAlias

from windshift.nats.budget import Share
from windshift.nats.jetstream.pulling import PullEnded
from windshift.server.broker.room import Part, PullRoom
from windshift.server.events.dead_letters.model import DeadLetterId
from windshift.server.events.deliveries import Delivery, pending_after
from windshift.server.events.model import StreamSeq
from windshift.server.telemetry.tracer import Span

# --- What is in flight ------------------------------------------------------------------------------------

MARGIN = 0.05
"""Seconds by which a delivery ends here before the broker's own timer does, which started a little
earlier."""

MARGIN_SHARE = 0.1
"""Of a short processing timeout no more than this share is given away as the margin."""


class Replay(NamedTuple):
    """One replay of a dead letter.

    Attributes:
        id: the dead letter.
        number: which replay of it, from 1 up.
        position: where the dead letter lay that was delivered.
    """

    id: DeadLetterId
    number: int
    position: int


@dataclass(slots=True, eq=False)
class InFlight:
    """One delivery that the call holds.

    Attributes:
        reply: where its acknowledgements go.
        attempt: delivery attempt, from 1.
        deadline: when the broker may hand the event to somebody else, by the clock of `now`.
        since: when it arrived, by the same clock.
        earliest: when the broker sent it, at the earliest.
        sure_until: until when no other delivery of the event can exist: an end that the broker has confirmed
            before is the only one.
        checked: when it was last known that nobody had claimed the end of the event.
        claimant: by which this delivery's claim of the end is known; empty before the first.
        replay: which replay of a dead letter this delivery belongs to, if it does.
        span: what is recorded of the delivery, if anything is.
        stored_ns: when the stream stored the event, in nanoseconds since 1970.
        settling: whether a settlement (ack or reject) is under way.
        unanswered: messages about this delivery that the broker has not answered.
    """

    reply: bytes
    attempt: int
    deadline: float
    since: float
    checked: float
    replay: Replay | None
    earliest: float = -inf
    sure_until: float = -inf
    claimant: bytes = b""
    settling: bool = False
    unanswered: int = 0
    span: Span | None = None
    stored_ns: int = 0

    def is_valid(self, now: float) -> bool:
        """Whether its time is not over, or an answer of the broker is still to decide that."""
        return self.deadline > now or self.unanswered > 0


OnExpired: TypeAlias = Callable[[StreamSeq, InFlight], None]


def _ignore(seq: StreamSeq, held: InFlight) -> None:
    """Do nothing about a delivery whose time is over."""


@dataclass(slots=True, eq=False)
class Window:
    """The table of deliveries held, and the arithmetic of pull requests.

    `timeout` are the seconds in which the broker wants each delivery settled or prolonged.

    Attributes:
        size: how many deliveries may be unsettled at once, and are pulled for.
        largest: the largest size so far.
        held: the deliveries that are held, by event.
        requested: deliveries that the broker may still send by the pull requests that it has.
        waiting: deliveries that arrived, and that it is not decided yet whether the client will hold.
        lifetime: seconds for which a delivery is held.
        due: no delivery times out before this moment; perhaps none does then.
    """

    size: int
    timeout: InitVar[float]
    _on_expired: OnExpired = _ignore
    """Called with each delivery that is let go because its time is over."""
    largest: int = 0
    held: dict[StreamSeq, InFlight] = field(default_factory=dict)
    requested: int = 0
    waiting: int = 0
    lifetime: float = 0.0
    due: float = inf
    _is_ordered: bool = True
    """Whether the table is in the order of the deadlines."""

    def __post_init__(self, timeout: float) -> None:
        self.largest = self.size
        self.set_timeout(timeout)

    def set_timeout(self, timeout: float) -> None:
        """Change the timeout of deliveries that are held or prolonged from now on."""
        lifetime = timeout - min(MARGIN, timeout * MARGIN_SHARE)
        if lifetime < self.lifetime and self.held:
            self._is_ordered = False
        self.lifetime = lifetime

    def resize(self, size: int) -> bool:
        """Change the size; return whether more is on its way than it has room for.

        What is on its way counts as an attempt already, so there still is room for that.
        """
        self.size = size
        self.largest = max(self.largest, size)
        return bool(self.requested) and len(self.held) + self.waiting + self.requested > size

    def __len__(self) -> int:
        return len(self.held)

    def get(self, seq: StreamSeq) -> InFlight | None:
        """Return the latest delivery of an event that is held, if any."""
        return self.held.get(seq)

    def wanted(self, limit: int, *, busy: bool) -> int:
        """Return how many deliveries to ask for now, 0 for none.

        A request is worth its cost when a quarter of what may be asked for is free. A smaller one goes out
        only when the broker has no other, and not while the client is `busy` settling: then more room is
        about to come. `limit` bounds what may have been asked for.
        """
        free = min(self.size - len(self.held) - self.waiting, limit) - self.requested
        if free >= max(1, min(self.size, limit) // 4) or (free > 0 and not self.requested and not busy):
            return free
        return 0

    def forget_requested(self, count: int) -> None:
        """Forget `count` deliveries that were asked for: they have come, or a pull request ended before."""
        self.requested = max(0, self.requested - count)

    def lose_requests(self) -> None:
        """Forget every pull request: the broker has none of them any more."""
        self.requested = 0

    @property
    def has_room(self) -> bool:
        """Whether the client wants one more delivery now."""
        return len(self.held) < self.size

    @property
    def can_hold(self) -> bool:
        """Whether the client may hold one more delivery that is here already."""
        return len(self.held) < self.largest

    def admit(
        self, seq: StreamSeq, reply: bytes, attempt: int, now: float, replay: Replay | None = None
    ) -> InFlight | None:
        """Hold a delivery that arrived at `now`; None when there is no room.

        A later delivery of an event takes the place of an earlier one.
        """
        earlier = self.held.pop(seq, None)
        if earlier is not None:
            self._on_expired(seq, earlier)
        elif len(self.held) >= self.largest:
            return None
        deadline = now + self.lifetime
        held = self.held[seq] = InFlight(reply, attempt, deadline, now, now, replay)
        if deadline < self.due:  # noqa: PLR1730 - calls cost on the hot path
            self.due = deadline
        return held

    def remove(self, seq: StreamSeq, held: InFlight) -> None:
        """Let a delivery go, unless a later one of the same event took its place."""
        if self.held.get(seq) is held:
            del self.held[seq]

    def drop(self, seq: StreamSeq, held: InFlight) -> None:
        """Let a delivery go whose time is over."""
        if self.held.get(seq) is held:
            del self.held[seq]
            self._on_expired(seq, held)

    def prolong(self, seq: StreamSeq, held: InFlight, since: float) -> None:
        """Restart the timeout of a delivery that the broker prolonged at `since` or later."""
        held.deadline = max(held.deadline, since + self.lifetime)
        if self.held.get(seq) is held:  # to the end: the table stays in the order of the deadlines
            del self.held[seq]
            self.held[seq] = held
            self.due = min(self.due, held.deadline)

    def forget(self) -> None:
        """Let everything go but replays, which are not the consumer's."""
        self.held = {seq: held for seq, held in self.held.items() if held.replay is not None}
        self._is_ordered = self._is_ordered or not self.held

    def expire(self, now: float) -> None:
        """Let go what timed out. What waits for an answer of the broker stays: the answer decides."""
        expired: list[tuple[StreamSeq, InFlight]] = []
        self.due = inf
        for seq, held in self.held.items():
            if held.deadline > now:
                self.due = min(self.due, held.deadline)
                if self._is_ordered:
                    break
            elif not held.unanswered:
                expired.append((seq, held))
        for seq, held in expired:
            del self.held[seq]
            self._on_expired(seq, held)
        self._is_ordered = self._is_ordered or not self.held

    def clear(self) -> list[tuple[StreamSeq, InFlight]]:
        """Empty the table for good, and return what was in it. Nobody is told of anything any more."""
        released = list(self.held.items())
        self._on_expired = _ignore  # whoever is told of it holds this: a cycle
        self.held.clear()
        self.requested = 0
        self.due = inf
        return released


# --- Asking for more --------------------------------------------------------------------------------------

SMALLEST_LIMIT = 16 * 1024
"""Bytes that a request to the broker may bring for a client of which nothing is known, or that does not
read."""

LARGEST_LIMIT = 256 * 1024
"""Bytes that a request may bring at most."""

LEAST_LIMIT = 64 * 1024
"""Bytes that every consumer has to let a request bring."""

BUFFERED = 2 * 1024 * 1024
"""Bytes that the buffers on the way to a client seldom exceed: what it holds beyond them it has read."""

SLACK = 5 / 4
"""By how much more a request is limited in bytes than it should bring. See `PullPacer`."""

OVERHEAD = 160
"""Bytes of headers that an event usually has."""

USUAL_SIZE = 256.0
"""Bytes that a delivery is thought to have before there was one."""

STUCK = 0.25
"""Seconds after which a request is made anew when the broker has more and yet sends nothing."""

FRUITLESS = 8
"""Requests in a row that may end without a delivery before the next one waits a little, and then longer."""

SOON = 1.0
"""Seconds within which a request that ended without a delivery counts as one of those."""

PAUSE = 1.0
"""Seconds before asking again when the broker refused to be asked."""


class Pull(NamedTuple):
    """A pull request: at most `batch` deliveries of at most `max_bytes` together (0 = no limit).

    With `no_wait` it is over at once when there is none.
    """

    batch: int
    max_bytes: int
    no_wait: bool = False


@dataclass(slots=True, eq=False)
class PullPacer:
    """Decides on pull requests.

    Requests are limited in bytes too, so that a window of large events does not pile up here for a client
    that does not read: little at first, more for one that read as much, and never more than this call's part
    of the room. What it settled it has read. That it was sent something shows nothing before it holds more
    than the buffers on the way take (`BUFFERED`). An event that is larger than the limit is asked for alone
    and without one, when there is room; such a request does not wait at the broker.

    So many deliveries are asked for as should stay below the limit by the size of those before, and the limit
    itself, with some slack, is told the broker as well. It should seldom come to that: when a delivery fills
    a request to the last byte, nats-server (2.15) ends it without a word, and takes the rest of it as
    delivered. Such a request, like one that got lost, is made anew when nothing comes though there is more.

    Attributes:
        wants_room: whether the call waits for room for an event that is asked for alone.
        last_heard: when the broker showed a sign of life last, or was first asked to; infinite = never.
    """

    _window: Window
    _silence: float
    """Seconds without a word of the broker after which its requests count as lost, and the consumer as
    possibly gone."""
    room: InitVar[PullRoom | None] = None
    _largest: int = LARGEST_LIMIT
    """Bytes that a request may bring at most."""
    wants_room: bool = False
    last_heard: float = inf
    _part: Part = field(init=False)
    _granted: int = 0
    _fruitless: int = 0
    _asked_at: float = 0.0
    _limit: int = SMALLEST_LIMIT
    _one_by_one: bool = False
    _size: float = USUAL_SIZE
    _handed: int = 0
    """Deliveries, without those that raised the limit."""
    _last: bytes = b""
    _stuck_at: float = inf
    _resume_at: float = inf
    """When a pause ends; infinite = there is none."""

    def __post_init__(self, room: PullRoom | None) -> None:
        self._part = (room or PullRoom()).part()

    @property
    def due(self) -> float:
        """When `tick` has something to do, or earlier."""
        return min(self.last_heard + self._silence, self._resume_at, self._stuck_at)

    def tick(self, now: float) -> bool:
        """Let time pass; return whether the broker was silent for too long.

        Requests that it had are lost then: it should have shown a sign of life. If there were none, it had no
        cause to; whether there still is a consumer is another question, to be asked in either case.
        """
        if self._resume_at <= now:
            self._resume_at = inf
        if now < self.last_heard + self._silence:
            return False
        self.last_heard = now
        self.lose()
        return True

    @property
    def _count(self) -> int:
        """How many deliveries a request brings by its limit, at least one."""
        return max(1, int(self._limit / self._size))

    @property
    def _unread(self) -> int:
        """How many deliveries the client may hold without having read them."""
        return min(len(self._window), int(BUFFERED / self._size))

    def bytes_of(self, count: int) -> float:
        """Return how many bytes so many deliveries have, by the size of those before."""
        return self._size * count

    def stuck(self, now: float) -> bool:
        """Whether the broker should have sent something, so that its requests are to be made anew."""
        if now < self._stuck_at:
            return False
        self._stuck_at = inf
        return self._window.requested > 0 and pending_after(self._last) > 0

    def next(self, now: float, *, busy: bool) -> Pull | None:
        """Return the request to send now, if any; it counts as sent. `busy` is as in `Window.wanted`."""
        window, part = self._window, self._part
        if not window.requested:
            part.came(part.asked)
        if self._resume_at != inf or self.wants_room or (self._one_by_one and window.requested):
            return None
        count = window.wanted(self._count, busy=busy and not self._one_by_one)
        if not count:
            return None
        pull = self._alone() if self._one_by_one else self._limited(count)
        if pull is None:
            return None
        if not window.requested:
            self.last_heard = self._asked_at = now
        window.requested += pull.batch
        return pull

    def _limited(self, count: int) -> Pull | None:
        wanted = int(self._limit * SLACK) - 1
        granted = self._granted = self._part.ask(wanted)
        if granted < wanted:
            if not granted:
                return None
            count = max(1, min(count, int(granted / SLACK / self._size)))
        return Pull(count, granted)

    def _alone(self) -> Pull | None:
        if self._part.takes_whole():
            return Pull(1, 0, no_wait=True)
        self.wants_room = True
        return None

    def take_room(self, share: Share) -> None:
        """Take the room that was waited for."""
        self.wants_room = False
        self._part.whole = share

    def pause(self) -> None:
        """Let others have the room that came and is not used now."""
        if not self._window.requested:
            self._part.end_whole()

    def unsent(self, pull: Pull) -> None:
        """Take back a request that could not be sent."""
        self._window.forget_requested(pull.batch)
        if pull.no_wait:
            self._part.end_whole()
        else:
            self._part.came(pull.max_bytes)

    def lose(self) -> None:
        """Forget every request: the broker has none of them any more."""
        self._window.lose_requests()
        self._part.clear()

    def leave(self) -> None:
        """Ask for nothing any more."""
        self._part.leave()

    def heard(self, now: float) -> None:
        """Note that the broker showed a sign of life."""
        self.last_heard = now

    def arrived(self, arrived: Sequence[Delivery], now: float) -> None:
        """Note what the broker sent, one or more."""
        self.last_heard = now
        last = arrived[-1]
        data = sum(len(delivery.data) for delivery in arrived) / len(arrived)
        size = data + OVERHEAD + len(last.subject) + len(last.reply)
        self._size = max(size, 0.75 * self._size + 0.25 * size)
        self._last = last.reply
        self._stuck_at = now + STUCK
        self._fruitless = 0
        if self._part.whole is not None:
            self._part.end_whole()
            self._one_by_one = pending_after(self._last) > 0
        else:
            self._part.came(int(size * len(arrived)))

    def delivered(self, deliveries: Sequence[Delivery]) -> None:
        """Note that deliveries were handed to the client; all but the last of them it has read."""
        self._handed += len(deliveries)
        while self._handed - self._unread >= (enough := self._count):
            self._handed -= enough
            self._limit = min(2 * self._limit, self._largest)
        if self._one_by_one and any(len(delivery.data) < self._limit // 2 for delivery in deliveries):
            self._one_by_one = False

    def ended(self, end: PullEnded) -> None:
        """Note that the broker ended a request. If it does so at once, again and again, ask it less often."""
        self._window.forget_requested(end.left)
        self.fruitless()
        if self._part.whole is not None:
            self._part.end_whole()
            self._one_by_one = False
        else:
            self._part.came(end.bytes_left)
            if end.too_large and end.bytes_left >= min(self._limit, self._granted):
                self._one_by_one = True

    def fruitless(self) -> None:
        """Note that a request ended without a delivery, at the time of the last sign of life."""
        self._fruitless = self._fruitless + 1 if self.last_heard - self._asked_at < SOON else 0
        if self._fruitless > FRUITLESS:
            self._resume_at = self.last_heard + min(0.001 * 2 ** (self._fruitless - FRUITLESS), PAUSE)

    def stalled(self) -> None:
        """Note that the client does not read what it is sent."""
        self._limit = SMALLEST_LIMIT
        self._handed = 0

    def refused(self, now: float) -> None:
        """Note that the broker takes no request now."""
        self.lose()
        self._resume_at = now + PAUSE
