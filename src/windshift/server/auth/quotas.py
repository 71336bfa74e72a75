"""How much one principal may have at the broker, and how much it may ask of this server at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Final, TypeAlias

from windshift.server.auth.ledger import FILLED_AT, LEFT, Ledger, Row, Tally
from windshift.server.auth.policy import Principal
from windshift.server.auth.subjects import SubjectPatterns, tokens
from windshift.server.domain.errors import QuotaExceeded

GiveBack: TypeAlias = Callable[[], None]
"""Gives back what was taken, since nothing came of it."""

MAX_STREAMS: Final = "max_streams"
MAX_RPS: Final = "max_rps"

PHRASES: Final[Mapping[str, str]] = {
    "streams": "streams",
    "memory_streams": "streams in memory",
    "stores": "stores",
    "consumers": "consumers with a name",
    "ephemeral_consumers": "ephemeral consumers",
    "reserved_bytes": "bytes set aside on disk for its streams",
    "memory_bytes": "bytes of its streams in memory",
    "stored_bytes": "bytes stored on disk",
    "sources": "sources of one stream",
    "all_sources": "sources of all its streams",
    "replicas": "replicas of one stream",
    "subjects": "subjects or filters of one stream or consumer",
    "deduplication_seconds": "seconds of deduplication_window of one stream",
    "calls": "calls at once, by weight",
    "connections": "connections at once",
    "replays": "replays of one consumer per minute",
    "dead_letters": "dead letters of one consumer per minute",
    "dead_letter_bytes": "bytes of dead letters of one consumer per minute",
    MAX_STREAMS: "open streams at once",
    MAX_RPS: "calls per second",
}
"""What a quota is about, as its errors say it."""
ALL_QUOTAS: Final = tuple(PHRASES)
"""The names of all quotas."""

_PASSING: Final = frozenset(
    {"calls", "connections", "replays", "dead_letters", "dead_letter_bytes", MAX_STREAMS, MAX_RPS}
)
_OF_ONE: Final = frozenset({"sources", "replicas", "subjects", "deduplication_seconds"})


def exceeded(
    principal: str, quota: str, limit: float, used: int | None = None, phrase: str = ""
) -> QuotaExceeded:
    """Say that a principal has reached a quota, and what to do.

    `used` is what is counted already, where that is more than the limit tells; `phrase` is what it is about,
    where that is not what the quota says.
    """
    number = f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"
    has = "" if used is None else f" and has {used:,}"
    remedy = "wait" if quota in _PASSING else "ask for fewer" if quota in _OF_ONE else "delete some"
    where = quota if quota in (MAX_STREAMS, MAX_RPS) else f"quotas.{quota} of it or of one of its roles"
    what = f"{principal!r} may have no more than {number} {phrase or PHRASES[quota]}{has}"
    return QuotaExceeded(quota, limit, what, used, hint=f"{remedy}, or have {where} raised in the rules")


def _little_room(principal: str, part: int, period: float) -> QuotaExceeded:
    """Say that a principal has taken its part of the room that is left for dead letters."""
    what = "of the room for dead letters more than half is used"
    when = "a day" if period == DAY else f"{period / 60:g} minutes"
    what += f", and {principal!r} may take no more than {part:,} bytes of the rest in {when}"
    remedy = "wait, or have dead letters replayed or purged"
    where = "quotas.dead_letter_bytes of it or of one of its roles"
    return QuotaExceeded(
        "dead_letter_bytes", part, what, hint=f'{remedy}, or {where} set to "off" in the rules'
    )


def nothing_taken() -> None:
    """Give nothing back: nothing was taken."""


class FullStreams:
    """Streams that take nothing more, because their owners have as many bytes as they may have."""

    def __init__(self) -> None:
        self._patterns = SubjectPatterns()
        self._reasons: list[tuple[str, str, int, int]] = []

    def add(self, subjects: Iterable[str], owner: str, quota: str, limit: int, used: int) -> None:
        """Add the subjects of a stream."""
        for subject in subjects:
            self._patterns.add(tokens(subject), len(self._reasons))
        self._reasons.append((owner, quota, limit, used))

    def check(self, subject: str) -> None:
        """Raise `QuotaExceeded` when one of them would take this subject."""
        number = self._patterns.covering(tokens(subject))
        if number is not None:
            raise exceeded(*self._reasons[number])


_MINUTE: Final = 60.0
_MOST_BUCKETS: Final = 1_000
"""Buckets of one principal. With more of them, those that nobody asks are dropped."""


ALL_CONSUMERS: Final = "", ""
"""In place of a stream and a consumer: all consumers of a principal together."""
OF_ALL_CONSUMERS: Final = 4
"""How many times the quota of one consumer they have, whatever their names."""

DAY: Final = 86_400.0
PARTS: Final = 30
"""Of the room that is left for the dead letters of all, a principal gets one part in so many a day: dead
letters are kept for as many days."""
CLAIMS: Final = 600.0
"""Seconds in which it gets as much for claims, which are kept for little longer."""


class Bucket:
    """Counts what happens per time: it fills evenly, and what happens is taken from it.

    Who was quiet finds it full. More may be taken than it has, and then nothing until that has come in.

    Args:
        now: a time in seconds.
        level: what is left, and when it was filled last, where workers share that; both 0: it is full.

    Attributes:
        asked_at: when it was taken out last, of many.
    """

    __slots__ = ("_level", "asked_at")

    def __init__(self, now: float, level: Row | None = None) -> None:
        self.asked_at = now
        self._level = [0.0, 0.0] if level is None else level
        if not self._level[FILLED_AT]:
            self._level[LEFT], self._level[FILLED_AT] = inf, now

    def has_some(self, rate: float, size: float, now: float) -> bool:
        """Tell whether there is one or more; otherwise like `left`."""
        return self.left(rate, size, now) >= 1

    def left(self, rate: float, size: float, now: float) -> float:
        """Return how much there is, at so much per second, when it holds `size`; below 0: too much was taken.

        `now` is a time in seconds; it may be before others that were told.
        """
        level = self._level
        filled_at = level[FILLED_AT]
        now = max(now, filled_at)
        left = min(size, level[LEFT] + (now - filled_at) * rate)
        level[LEFT], level[FILLED_AT] = left, now
        return left

    def pause(self, rate: float, size: float, now: float) -> float:
        """Return after how many seconds there is one, if nobody takes it; otherwise like `has_some`."""
        return 0.0 if self.has_some(rate, size, now) else (1 - self._level[LEFT]) / rate

    def is_old(self, now: float) -> bool:
        """Tell whether nobody has asked for a minute: one that held a minute's worth is full again."""
        return now - self.asked_at > _MINUTE

    def take(self, amount: float) -> None:
        """Take something, after `has_some` was asked; less than 0 gives it back."""
        self._level[LEFT] -= amount


class _Room:
    """Counts what one principal took of the room for dead letters: in bytes, and in parts of what was left.

    Whichever is less counts. What was taken once is little of a part that has grown since, and must not
    become many days' worth because others have filled the room. Its levels are like that of a `Bucket`.
    """

    __slots__ = ("_bytes", "_parts")

    def __init__(self, now: float, bytes_level: Row | None, parts_level: Row | None) -> None:
        self._bytes = Bucket(now, bytes_level)
        self._parts = Bucket(now, parts_level)

    def take(self, size: int, part: int, period: float, now: float) -> GiveBack | None:
        """Take bytes, and return what gives them back; None: nothing is left of a part.

        That comes in anew per period of so many seconds. Whatever was taken, there is something again after
        `PARTS` periods: what was left then has expired.
        """
        in_bytes, in_parts = self._bytes.left(part / period, 0, now), self._parts.left(1 / period, 0, now)
        if part + max(in_bytes, part * in_parts) < 1:
            return None
        parts = min(size / part, PARTS + in_parts)
        self._bytes.take(size)
        self._parts.take(parts)

        def give_back() -> None:
            self._bytes.take(-size)
            self._parts.take(-parts)

        return give_back


class Usage:
    """What one principal asks of this server. It outlives a change of the rules, and follows them.

    Calls are counted by a bucket that holds one second's worth (one call at least), what consumers do by
    those that hold a minute's worth.

    Attributes:
        connections: those over which it called last.
        streams: calls that stream which it has open.
        weight: what its calls that are under way weigh together.
        calls: how many it has made here, those that were refused included.
        delivered: how many events its consume calls here were handed.

    Args:
        now: a time in seconds.
        ledger: where the workers of this server count together; None = this process is alone.
    """

    def __init__(self, now: float, principal: str = "", ledger: Ledger | None = None) -> None:
        self.connections = Tally(ledger, principal, "connections")
        self.streams = Tally(ledger, principal, "streams")
        self.weight = Tally(ledger, principal, "weight")
        self._principal = principal
        self._ledger = ledger
        self._calls = Bucket(now, None if ledger is None else ledger.level(principal, "calls"))
        self._buckets: dict[tuple[str, str, str], Bucket] = {}
        self._rooms: dict[float, _Room] = {}
        self.calls = self.delivered = 0

    def begin_call(self, principal: Principal, now: float) -> None:
        """Count a call that began at a time in seconds; raise `QuotaExceeded` if it is one too many.

        It may have begun before others that were counted.
        """
        rate = principal.max_rps
        if rate is not None:
            if not self._calls.has_some(rate, max(rate, 1.0), now):
                raise exceeded(principal.name, MAX_RPS, rate)
            self._calls.take(1)

    def pause(self, principal: Principal, now: float) -> float:
        """Return after how many seconds a call could begin."""
        rate = principal.max_rps
        return 0.0 if rate is None else self._calls.pause(rate, max(rate, 1.0), now)

    def count_calls(self, principal: Principal, number: int) -> None:
        """Count what is as much as so many calls, after `begin_call`; it may be more than there is."""
        if principal.max_rps is not None:  # else nothing would come in again
            self._calls.take(number)
        self.calls += number

    def require(self, principal: Principal, quota: str, stream: str, consumer: str, now: float) -> None:
        """Raise `QuotaExceeded` when a consumer has done too much in the minute before `now`, in seconds."""
        limit: int | None = getattr(principal.quotas, quota)
        if limit is None:
            self._buckets.pop((quota, stream, consumer), None)  # nothing would come in again
            return
        phrase = ""
        if (stream, consumer) == ALL_CONSUMERS:
            limit *= OF_ALL_CONSUMERS
            phrase = PHRASES[quota].replace("one consumer", "all its consumers")
            phrase += f" ({OF_ALL_CONSUMERS} times quotas.{quota})"
        bucket = self._bucket(quota, stream, consumer, now)
        if not bucket.has_some(limit / _MINUTE, limit, now):
            raise exceeded(principal.name, quota, limit, phrase=phrase)

    def spend(self, quota: str, stream: str, consumer: str, amount: int = 1) -> None:
        """Count what a consumer has done, if `require` counts it."""
        bucket = self._buckets.get((quota, stream, consumer))
        if bucket is not None:
            bucket.take(amount)

    def _bucket(self, quota: str, stream: str, consumer: str, now: float) -> Bucket:
        key = quota, stream, consumer
        bucket = self._buckets.get(key)
        ledger = self._ledger
        if bucket is None or (ledger is not None and bucket.is_old(now)):  # then its level may be another's
            if len(self._buckets) >= _MOST_BUCKETS:
                self._buckets = {key: each for key, each in self._buckets.items() if not each.is_old(now)}
            level = None if ledger is None else ledger.level_of_consumer(now, self._principal, *key)
            bucket = self._buckets[key] = Bucket(now, level)
        bucket.asked_at = now
        return bucket

    def take_room(
        self, principal: Principal, size: int, left: int, now: float, period: float = DAY
    ) -> GiveBack:
        """Count the bytes of a dead letter where so many are `left` for those of all; 0 only asks.

        A principal may take one part in `PARTS` of these per period of so many seconds, at once if it took
        nothing for as long. It is a part of what is left, so whoever takes all it may leaves something to the
        others. Who may leave any number of bytes takes what it wants. `now` is in seconds. Return what gives
        them back. Raise `QuotaExceeded` when it has taken that much already; this was not counted.
        """
        if principal.quotas.dead_letter_bytes is None:
            return nothing_taken
        part = max(1, left // PARTS)
        give_back = self._room(period, now).take(size, part, period, now)
        if give_back is None:
            raise _little_room(principal.name, part, period)
        return give_back

    def _room(self, period: float, now: float) -> _Room:
        room = self._rooms.get(period)
        if room is None:
            levels = [
                None if self._ledger is None else self._ledger.level(self._principal, f"{what} {period:g}")
                for what in ("room", "parts")
            ]
            room = self._rooms[period] = _Room(now, *levels)
        return room

    def begin_work(self, principal: Principal, weight: int) -> None:
        """Count the weight of a call; `end_work` must follow. A call that is the only one is never too heavy.

        Raise `QuotaExceeded` when it is too much, and was not counted.
        """
        limit = principal.quotas.calls
        if limit is not None and weight:
            total = self.weight.total
            if total and total + weight > limit:
                raise exceeded(principal.name, "calls", limit)
        self.weight.add(weight)

    def end_work(self, weight: int) -> None:
        """Count the weight of a call no more."""
        self.weight.add(-weight)

    def open_connection(self, principal: Principal) -> None:
        """Count a connection as its; `close_connection` must follow.

        Raise `QuotaExceeded` when it is one too many, and was not counted.
        """
        limit = principal.quotas.connections
        if limit is not None and self.connections.total >= limit:
            raise exceeded(principal.name, "connections", limit)
        self.connections.add(1)

    def close_connection(self) -> None:
        """Count a connection no more."""
        self.connections.add(-1)

    def open_stream(self, principal: Principal) -> None:
        """Count a stream as open; `close_stream` must follow.

        Raise `QuotaExceeded` when it is one too many, and was not counted.
        """
        limit = principal.max_streams
        if limit is not None and self.streams.total >= limit:
            raise exceeded(principal.name, MAX_STREAMS, limit)
        self.streams.add(1)

    def close_stream(self) -> None:
        """Count an open stream no more."""
        self.streams.add(-1)
