"""The stream of dead letters: written exactly once, read, counted and removed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from windshift.server.events.dead_letters import Cause, DeadLetter, Failure, LetterId
from windshift.server.nats.connection import Connection
from windshift.server.nats.deliveries import StreamSeq
from windshift.server.nats.jetstream import JetStreamApi
from windshift.server.nats.replies import Replies
from windshift.server.nats.writes import Writes


class Written(Enum):
    """What became of a dead letter that was to be written."""

    WRITTEN = "it is stored, by this call"
    ALREADY = "it was stored before, or by another server"
    GONE = "there is no such event any more, nor a dead letter of it"


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters; what is left out does not restrict. Times are nanoseconds since 1970."""

    stream: str = ""
    consumer: str = ""
    causes: frozenset[Cause] = frozenset()
    type_name: str = ""
    since_ns: int | None = None
    until_ns: int | None = None


class Page(NamedTuple):
    """Some dead letters, in the order in which they were written."""

    letters: list[DeadLetter]
    next: int
    """The position to go on after; 0 = there are no more now."""


class DeadLetterStore:
    """All dead letters of one account. Deadlines are in the loop's time."""

    def __init__(
        self,
        connection: Connection,
        api: JetStreamApi,
        replies: Replies,
        writes: Writes,
        default_replicas: int,
    ) -> None:
        self._connection = connection
        self._api = api
        self._replies = replies
        self._writes = writes
        self._default_replicas = default_replicas

    async def ensure(self, replicas: int | None, deadline: float) -> None:
        """Create the stream, or raise the number of its replicas; leave what others set."""
        raise NotImplementedError

    async def write(self, failure: Failure, deadline: float) -> tuple[Written, DeadLetter | None]:
        """Keep an event that a consumer gave up on. Doing so again is harmless.

        Raise `StreamFull`, `BrokerUnavailable` or `OutcomeUnknown`.
        """
        raise NotImplementedError

    async def recall(self, stream: str, consumer: str, deadline: float) -> frozenset[tuple[StreamSeq, int]]:
        """Say which events of a consumer are dead letters, by id and time in nanoseconds since 1970."""
        raise NotImplementedError

    async def get(self, id: LetterId, deadline: float) -> DeadLetter | None:  # noqa: A002
        """Read a dead letter, the latest write included."""
        raise NotImplementedError

    async def delete(self, id: LetterId, deadline: float) -> bool:  # noqa: A002
        """Remove a dead letter; false when there was none."""
        raise NotImplementedError

    async def purge(self, stream: str, consumer: str, deadline: float) -> int:
        """Remove all of a consumer, of a stream, or all; return how many there were."""
        raise NotImplementedError

    async def page(
        self,
        which: LetterFilter,
        after: int,
        most: int,
        most_bytes: int,
        deadline: float,
        *,
        with_data: bool = True,
    ) -> Page:
        """Read dead letters after a position: at most `most`, with about `most_bytes` of data."""
        raise NotImplementedError

    async def count(self, stream: str, consumer: str, deadline: float) -> int:
        """Count the dead letters of a consumer, of a stream, or all."""
        raise NotImplementedError

    async def last_position(self, deadline: float) -> int:
        """Return the position of the last dead letter that was ever written."""
        raise NotImplementedError
