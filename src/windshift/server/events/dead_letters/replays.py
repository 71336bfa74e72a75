"""Replays: events that are to be delivered again, to the consumer that gave up on them and to no other.

A replay that is outstanding is a *pointer*: a message of the stream ``WS_REPLAYS`` whose subject ends in the
id of the dead letter and whose body says which replay of it this is. The stream is a work queue with a
JetStream consumer for each consumer that has replays; a pointer that is acknowledged is gone.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from hashlib import sha256
from typing import Final

from windshift.server.errors import BrokerUnavailable, OutcomeUnknown
from windshift.server.events.consumers import KEPT_UNUSED, MAX_ACK_PENDING, MAX_WAITING
from windshift.server.events.dead_letters.letters import LetterId, id_text, read_id
from windshift.server.events.dead_letters.own_streams import Conflict, OwnStream
from windshift.server.events.dead_letters.pages import ids_of
from windshift.server.nats.connection import Connection
from windshift.server.nats.consumers import ConsumerApi
from windshift.server.nats.deliveries import Delivery
from windshift.server.nats.jetstream import (
    STREAM_NOT_FOUND,
    Backoff,
    JetStreamApi,
    JsonObject,
    RefusedByBroker,
    domain_error,
    pause_within,
)
from windshift.server.nats.notes import REPLAY, Notes
from windshift.server.nats.stored import Stored, read_exactly, subjects
from windshift.server.nats.timestamps import NANOSECONDS, nanoseconds
from windshift.server.nats.writes import Writes

STREAM: Final = "WS_REPLAYS"

_SUBJECTS: Final = "_WS.replay."
_WRITER: Final = "WS-Writer"
"""Which call wrote this: by it a repeated write knows its own pointer."""

_CONFIG: Final[JsonObject] = {
    "name": STREAM,
    "description": "Events that consumers of Windshift are to be given again.",
    "subjects": [f"{_SUBJECTS}>"],
    "storage": "file",
    "retention": "workqueue",
    "max_msgs_per_subject": 1,
    "discard": "new",
    "max_age": 30 * 24 * 60 * 60 * NANOSECONDS,
}
_NEEDED: Final = ("subjects", "max_msgs_per_subject")

_OVERTAKEN: Final = frozenset({10013, 10148, 10149, STREAM_NOT_FOUND})
"""Another server made, changed or removed the consumer between our question and our order."""
_TOO_MANY_PENDING: Final = 10121


class Replays:
    """The outstanding replays of one account. Deadlines are in the loop's time.

    Every method raises `BrokerUnavailable` when the broker does not answer in time, and those that write
    `OutcomeUnknown` when it may have heard.
    """

    def __init__(
        self,
        connection: Connection,
        api: JetStreamApi,
        writes: Writes,
        consumers: ConsumerApi,
        notes: Notes,
        default_replicas: int,
    ) -> None:
        self._api = api
        self._stream = OwnStream(api, writes, _CONFIG, _NEEDED, default_replicas)
        self._consumers = consumers
        self._notes = notes

    async def replay(self, id: LetterId, replay_count: int, deadline: float) -> bool:  # noqa: A002
        """Have an event delivered again; false when that is outstanding already. Raise `StreamFull`, too.

        Any number of callers may do this at once: there is one pointer.
        """
        try:
            return await self._replay(_SUBJECTS + id_text(id), b"%d" % replay_count, deadline)
        finally:  # also where nothing is new: whom it concerns may have missed the note before
            self._notes.send(REPLAY, id.stream, id.consumer)

    async def _replay(self, subject: str, body: bytes, deadline: float) -> bool:
        headers = {_WRITER: secrets.token_hex(8)}
        pauses = Backoff().pauses()
        while True:
            try:
                await self._stream.put(subject, body, headers, deadline, expected=0)
            except Conflict as conflict:
                try:
                    found = await self._last(subject, deadline)
                except BrokerUnavailable:
                    raise OutcomeUnknown from None
                if found is not None:
                    return (_WRITER.encode(), headers[_WRITER].encode()) in found.headers
                if conflict.is_certain:  # there was one: it is settled by now
                    return False
            else:
                return True
            if not await pause_within(pauses, deadline):
                raise BrokerUnavailable

    async def _last(self, subject: str, deadline: float) -> Stored | None:
        try:
            return await read_exactly(self._api, STREAM, {"last_by_subj": subject}, deadline)
        except RefusedByBroker as refusal:
            if refusal.err_code == STREAM_NOT_FOUND:
                return None
            raise domain_error(refusal) from refusal

    async def outstanding(self, stream: str, consumer: str, deadline: float) -> frozenset[LetterId]:
        """Say which replays of a consumer, of a stream, or of all are outstanding."""
        found: set[LetterId] = set()
        try:
            async for some in subjects(self._api, STREAM, _SUBJECTS + ids_of(stream, consumer), deadline):
                found.update(read_id(subject.removeprefix(_SUBJECTS)) for subject in some)
        except RefusedByBroker as refusal:
            if refusal.err_code != STREAM_NOT_FOUND:
                raise domain_error(refusal) from refusal
        return frozenset(found)

    async def consumer(self, stream: str, consumer: str, ack_wait: timedelta, deadline: float) -> str:
        """Ensure the JetStream consumer of `STREAM` by which this consumer gets its pointers; name it.

        Its timeout becomes `ack_wait`. Any number of callers may do this at once.
        """
        config = _consumer_config(stream, consumer, ack_wait)
        pauses = Backoff().pauses()
        while True:
            try:
                await self._ensure_consumer(config, deadline)
            except RefusedByBroker as refusal:
                if refusal.err_code not in _OVERTAKEN:
                    raise domain_error(refusal, stream=STREAM) from refusal
                if refusal.err_code == STREAM_NOT_FOUND:
                    await self._stream.ensure(None, deadline)
            else:
                return str(config["name"])
            if not await pause_within(pauses, deadline):
                raise BrokerUnavailable

    async def _ensure_consumer(self, config: JsonObject, deadline: float) -> None:
        name = config["name"]
        stored = await self._consumers.find(STREAM, name, deadline)
        if stored is not None:
            wanted = stored | {"ack_wait": config["ack_wait"]}
            if wanted != stored:
                await self._consumers.update(STREAM, name, wanted, deadline)
            return
        try:
            await self._consumers.create(STREAM, name, config, deadline)
        except RefusedByBroker as refusal:
            if refusal.err_code != _TOO_MANY_PENDING:
                raise
            # The account allows fewer, as with other consumers.
            without = {key: value for key, value in config.items() if key != "max_ack_pending"}
            await self._consumers.create(STREAM, name, without, deadline)


def replayed_to(filter_subject: str) -> str:
    """Return whose pointers a JetStream consumer of `STREAM` gets, as ``<stream>.<consumer>``."""
    return filter_subject.removeprefix(_SUBJECTS).removesuffix(".>")


def read_pointer(delivery: Delivery) -> tuple[LetterId, int]:
    """Return which dead letter a pointer names, and which replay of it this is; raise `ValueError`."""
    if not delivery.subject.startswith(_SUBJECTS):
        raise ValueError("no replay")
    return read_id(delivery.subject.removeprefix(_SUBJECTS)), int(delivery.data)


def _consumer_config(stream: str, consumer: str, ack_wait: timedelta) -> JsonObject:
    # Both names together may be longer than a name; no two consumers share one of these.
    name = sha256(f"{stream}.{consumer}".encode()).hexdigest()[:40]
    return {
        "name": name,
        "durable_name": name,
        "description": f"Replays of consumer {consumer} of stream {stream}.",
        "ack_policy": "explicit",
        "ack_wait": nanoseconds(ack_wait),
        "max_deliver": -1,
        "max_ack_pending": MAX_ACK_PENDING,
        "max_waiting": MAX_WAITING,
        "inactive_threshold": nanoseconds(KEPT_UNUSED),
        "filter_subject": _SUBJECTS + ids_of(stream, consumer),
    }
