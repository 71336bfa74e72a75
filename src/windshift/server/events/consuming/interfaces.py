"""What a consume call is made with: its client, as the domain sees it, and its timers and limits in bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from windshift.nats.jetstream.pulling import PullOptions
from windshift.server.events.consuming.commands import Command, Subscribe
from windshift.server.events.consuming.pending_acks import Confirmation
from windshift.server.events.deliveries import Delivery

STALLED = 16 * 1024
"""Unread bytes above which the client gets no more deliveries."""

MOST_UNSENT = 64 * 1024
"""Bytes of deliveries that the client is still to be handed, above which no more are asked for."""

FLOODED = 256 * 1024
"""Unread bytes above which no more commands are read from the client. There is room for the confirmations of
a whole window: a client that settles all of it before it reads must not deadlock."""


class Client(Protocol):
    """The client's end of a consume call. Sending only queues, and never blocks."""

    @property
    def queued(self) -> int:
        """Sent bytes that the client has not read."""
        ...

    async def ready(self) -> None:
        """Wait until `queued` is `STALLED` or less. One task at a time."""
        ...

    async def receive(self) -> Iterator[Command] | None:
        """Return the client's commands; None after its last message.

        Iterating raises `InvalidField` for a malformed command.
        """
        ...

    def subscribed(
        self, subscribe: Subscribe, processing_timeout: timedelta, linger: timedelta | None
    ) -> None:
        """Tell the client that it is subscribed, and how long what it holds will linger; None: no tokens.

        Responses are as it asked for from now on.
        """
        ...

    def deliver(self, deliveries: Sequence[Delivery], tokens: Sequence[bytes] = ()) -> None:
        """Send deliveries, and the token of each by which another call may go on with it; none: no tokens."""
        ...

    def confirm(self, confirmations: Sequence[Confirmation]) -> None:
        """Send the confirmations of commands."""
        ...


@dataclass(frozen=True, slots=True)
class ConsumeOptions:
    """Timers of a consume call.

    Attributes:
        subscribe_timeout: how long the client may take to send its first message.
        lookup_timeout: how long the broker may take to find the consumer.
        confirm_timeout: how long the broker may take to answer an acknowledgement.
        stall_timeout: how long a client may not read before nothing more is pulled for it.
        ephemeral_kept: how long an ephemeral consumer is kept after its last subscriber left.
        pull: timers of the pull requests.
    """

    subscribe_timeout: timedelta = timedelta(seconds=10)
    lookup_timeout: timedelta = timedelta(seconds=5)
    confirm_timeout: timedelta = timedelta(seconds=5)
    stall_timeout: timedelta = timedelta(seconds=1)
    ephemeral_kept: timedelta = timedelta(seconds=60)
    pull: PullOptions = field(default_factory=PullOptions)
