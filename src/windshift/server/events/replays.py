"""Replays: events that are to be delivered again, to the consumer that gave up on them and to no other.

A replay that is outstanding is a pointer: a message of the stream ``WS_REPLAYS`` whose subject ends in the id
of the dead letter, and whose body says which replay it is.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from windshift.server.events.dead_letters import LetterId, read_id
from windshift.server.nats.connection import Connection
from windshift.server.nats.consumers import ConsumerApi
from windshift.server.nats.deliveries import Delivery
from windshift.server.nats.jetstream import JetStreamApi
from windshift.server.nats.notes import Notes
from windshift.server.nats.writes import Writes

STREAM: Final = "WS_REPLAYS"
_PREFIX: Final = "_WS.replay."


class Replays:
    """The outstanding replays of one account. Deadlines are in the loop's time."""

    def __init__(
        self,
        connection: Connection,
        api: JetStreamApi,
        writes: Writes,
        consumers: ConsumerApi,
        notes: Notes,
        default_replicas: int,
    ) -> None:
        self._connection = connection
        self._api = api
        self._writes = writes
        self._consumers = consumers
        self._notes = notes
        self._default_replicas = default_replicas

    async def replay(self, id: LetterId, replay_count: int, deadline: float) -> bool:  # noqa: A002
        """Have an event delivered again; false when that is outstanding already."""
        raise NotImplementedError

    async def outstanding(self, stream: str, consumer: str, deadline: float) -> frozenset[LetterId]:
        """Say which replays of a consumer, of a stream, or of all are outstanding."""
        raise NotImplementedError

    async def consumer(self, stream: str, consumer: str, ack_wait: timedelta, deadline: float) -> str:
        """Ensure the JetStream consumer of `STREAM` by which this consumer gets its pointers."""
        raise NotImplementedError


def read_pointer(delivery: Delivery) -> tuple[LetterId, int]:
    """Return which dead letter a pointer names, and which replay of it this is; raise `ValueError`."""
    if not delivery.subject.startswith(_PREFIX):
        raise ValueError("no replay")
    return read_id(delivery.subject.removeprefix(_PREFIX)), int(delivery.data)
