"""What a consume call needs of its client and of the rules, and how long anybody may take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from windshift.nats.jetstream.pulling import PullOptions
from windshift.server.domain.errors import WindshiftError
from windshift.server.events.consuming.commands import Command
from windshift.server.events.consuming.settlement import Confirmation
from windshift.server.events.deliveries import Delivery

STALLED = 16 * 1024
"""Bytes that wait for the client to read before no more deliveries are handed to it."""

FLOODED = 256 * 1024
"""Bytes that wait for the client to read before no more commands are read from it. It leaves room for the
confirmations of a whole window: a client that settles all of it before it reads again must not be left
hanging."""


class Client(Protocol):
    """The client's end of a consume call. All sending queues and never blocks."""

    @property
    def queued(self) -> int:
        """Bytes that were sent and that the client has not read."""
        ...

    async def ready(self) -> None:
        """Wait until `queued` is `STALLED` or less. One task at a time."""
        ...

    async def receive(self) -> Iterator[Command] | None:
        """Return what the client sent, None after its last message.

        Iterating may raise what is wrong with a command.
        """
        ...

    def subscribed(self, processing_timeout: timedelta) -> None:
        """Tell the client that it is attached."""
        ...

    def deliver(self, delivery: Delivery) -> None:
        """Hand over a delivery."""
        ...

    def confirm(self, confirmation: Confirmation) -> None:
        """Answer a command."""
        ...


class Gate(Protocol):
    """What a client may consume. Each method raises `PermissionDenied` when that is too much."""

    def use_consumer(self, stream: str, consumer: str) -> None:
        """See whether the client may attach to consumers of this name, whatever they choose."""
        ...

    def consume(self, stream: str, consumer: str, *, durable: bool, subjects: set[str]) -> None:
        """See whether the client may have all that a consumer chooses; `durable` says that it has a name."""
        ...

    def receive(self, stream: str, consumer: str, subject: str, *, durable: bool) -> None:
        """See whether the client may have an event, after `consume` has let it through."""
        ...

    def bury(self, stream: str, now: float) -> None:
        """Count a dead letter of the consumer before it is written; raise `QuotaExceeded` instead."""
        ...

    def buried(self, stream: str, size: int) -> None:
        """Count the bytes of a dead letter that was written."""
        ...

    def reject(self, stream: str, consumer: str, owner: str) -> None:
        """See whether the client may reject events for good of a consumer that a principal owns."""
        ...

    def follow(self, check: Callable[[], None], end: Callable[[WindshiftError], None]) -> None:
        """Call `check` whenever the answer may have become another, and `end` with what it raises.

        `end` may be called for other reasons as well: the client is known no longer.
        """
        ...


@dataclass(frozen=True, slots=True)
class ConsumeOptions:
    """Timers of a consume call.

    Attributes:
        subscribe_timeout: how long the client may take to send its first message.
        lookup_timeout: how long the broker may take to find the consumer.
        confirm_timeout: how long it may take to answer an acknowledgement.
        stall_timeout: how long a client may leave unread what it was sent before the broker is asked no more
            on its behalf.
        ephemeral_kept: how long an ephemeral consumer is kept after its last subscriber left.
        pull: timers of the pull requests.
    """

    subscribe_timeout: timedelta = timedelta(seconds=10)
    lookup_timeout: timedelta = timedelta(seconds=5)
    confirm_timeout: timedelta = timedelta(seconds=5)
    stall_timeout: timedelta = timedelta(seconds=1)
    ephemeral_kept: timedelta = timedelta(seconds=60)
    pull: PullOptions = field(default_factory=PullOptions)
