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

from windshift.nats import NatsError, retry
from windshift.nats.jetstream import (
    JetStream,
    JsonObject,
    StoredMessage,
    Writes,
    codes,
)
from windshift.nats.times import NANOSECONDS, nanoseconds
from windshift.server.broker_errors import domain_error
from windshift.server.errors import BrokerUnavailable, OutcomeUnknown
from windshift.server.events.consumers import KEPT_UNUSED, MAX_ACK_PENDING, MAX_WAITING
from windshift.server.events.dead_letters.letters import LetterId, id_text, read_id
from windshift.server.events.dead_letters.own_streams import Conflict, OwnStream
from windshift.server.events.dead_letters.pages import ids_of
from windshift.server.events.deliveries import Delivery
from windshift.server.events.notes import REPLAY, Notes

STREAM: Final = "WS_REPLAYS"

_SUBJECTS: Final = "_WS.replay."
_WRITER: Final = b"WS-Writer"
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

_OVERTAKEN: Final = codes.CONSUMER_OVERTAKEN | {codes.STREAM_NOT_FOUND}


class Replays:
    """The outstanding replays of one account. Deadlines are in the loop's time.

    Every method raises `BrokerUnavailable` when the broker does not answer in time, and those that write
    `OutcomeUnknown` when it may have heard.
    """

    def __init__(
        self,
        api: JetStream,
        writes: Writes,
        notes: Notes,
        default_replicas: int,
    ) -> None:
        self._api = api
        self._stream = OwnStream(api, writes, _CONFIG, _NEEDED, default_replicas)
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
        writer = (_WRITER, secrets.token_hex(8).encode())
        async for _ in retry(deadline):
            try:
                await self._stream.put(subject, body, (writer,), deadline, expected=0)
            except Conflict as conflict:
                try:
                    found = await self._last(subject, deadline)
                except BrokerUnavailable:
                    raise OutcomeUnknown from None
                if found is not None:
                    return writer in found.headers
                if conflict.is_certain:  # there was one: it is settled by now
                    return False
            else:
                return True
        raise BrokerUnavailable

    async def _last(self, subject: str, deadline: float) -> StoredMessage | None:
        try:
            return await self._api.message(STREAM, {"last_by_subj": subject}, deadline)
        except NatsError as refusal:
            if refusal.err_code == codes.STREAM_NOT_FOUND:
                return None
            raise domain_error(refusal) from refusal

    async def outstanding(self, stream: str, consumer: str, deadline: float) -> frozenset[LetterId]:
        """Say which replays of a consumer, of a stream, or of all are outstanding."""
        found: set[LetterId] = set()
        try:
            async for some in self._api.subjects(STREAM, _SUBJECTS + ids_of(stream, consumer), deadline):
                found.update(read_id(subject.removeprefix(_SUBJECTS)) for subject in some)
        except NatsError as refusal:
            if refusal.err_code != codes.STREAM_NOT_FOUND:
                raise domain_error(refusal) from refusal
        return frozenset(found)

    async def consumer(self, stream: str, consumer: str, ack_wait: timedelta, deadline: float) -> str:
        """Ensure the JetStream consumer of `STREAM` by which this consumer gets its pointers; name it.

        Its timeout becomes `ack_wait`. Any number of callers may do this at once.
        """
        config = _consumer_config(stream, consumer, ack_wait)
        async for _ in retry(deadline):
            try:
                await self._ensure_consumer(config, deadline)
            except NatsError as refusal:
                if refusal.err_code not in _OVERTAKEN:
                    raise domain_error(refusal, stream=STREAM) from refusal
                if refusal.err_code == codes.STREAM_NOT_FOUND:
                    await self._stream.ensure(None, deadline)
            else:
                return str(config["name"])
        raise BrokerUnavailable

    async def _ensure_consumer(self, config: JsonObject, deadline: float) -> None:
        name = config["name"]
        stored = await self._api.consumer(STREAM, name, deadline)
        if stored is not None:
            wanted = stored.config | {"ack_wait": config["ack_wait"]}
            if wanted != stored.config:
                await self._api.update_consumer(STREAM, name, wanted, deadline)
            return
        try:
            await self._api.create_consumer(STREAM, name, config, deadline)
        except NatsError as refusal:
            if refusal.err_code != codes.MAX_ACK_PENDING_EXCESS:
                raise
            # The account allows fewer, as with other consumers.
            without = {key: value for key, value in config.items() if key != "max_ack_pending"}
            await self._api.create_consumer(STREAM, name, without, deadline)


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
