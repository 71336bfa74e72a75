"""The queue of replays: events to be redelivered to the consumer that gave up on them, and to no other.

An outstanding replay is a *pointer*: a message in the stream ``WS_REPLAYS`` whose subject ends with the id of
the dead letter and whose body is the number of the replay. The stream is a work queue with one JetStream
consumer for each consumer that has replays; an acknowledged pointer is gone.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import timedelta
from hashlib import sha256
from typing import Final

from windshift.nats import NatsError, retry
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import JetStream, JsonObject
from windshift.nats.jetstream.writes import Writes
from windshift.nats.times import NANOSECONDS, nanoseconds
from windshift.server.domain.broker_errors import domain_error
from windshift.server.domain.errors import BrokerUnavailable, OutcomeUnknown
from windshift.server.events.consumers import KEPT_UNUSED, MAX_ACK_PENDING, MAX_WAITING
from windshift.server.events.dead_letters.model import DeadLetterId, id_pattern
from windshift.server.events.deliveries import Delivery
from windshift.server.events.managed_stream import Conflict, ManagedStream
from windshift.server.events.notes import REPLAY, Notes

STREAM: Final = "WS_REPLAYS"

_SUBJECTS: Final = "_WS.replay."
_WRITER: Final = b"WS-Writer"
"""Which call wrote this: how a repeated write recognizes its own pointer."""

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


class ReplayQueue:
    """The outstanding replays of one account. Deadlines are in the loop's time.

    Every method raises `BrokerUnavailable` when the broker does not answer in time; those that write also
    raise `OutcomeUnknown` when it may have received the request.
    """

    def __init__(self, api: JetStream, writes: Writes, notes: Notes, default_replicas: int) -> None:
        self._api = api
        self._stream = ManagedStream(api, writes, _CONFIG, _NEEDED, default_replicas)
        self._notes = notes

    async def add(self, id: DeadLetterId, replay_count: int, deadline: float) -> bool:  # noqa: A002
        """Have an event redelivered; false when a replay is already outstanding. May raise `StreamFull`.

        Safe to call concurrently: there is one pointer, and one caller adds it.
        """
        try:
            return await self._add(f"{_SUBJECTS}{id}", b"%d" % replay_count, deadline)
        finally:  # even if nothing is new: the earlier notification may have been lost
            self._notes.send(REPLAY, id.stream, id.consumer)

    async def _add(self, subject: str, body: bytes, deadline: float) -> bool:
        writer = (_WRITER, secrets.token_hex(8).encode())
        async for _ in retry(deadline):
            try:
                await self._stream.put(subject, body, (writer,), deadline, expected=0)
            except Conflict as conflict:
                try:
                    found = await self._stream.last(subject, deadline)
                except BrokerUnavailable:
                    raise OutcomeUnknown from None
                if found is not None:
                    return writer in found.headers
                if conflict.is_certain:  # there was one, settled by now
                    return False
            else:
                return True
        raise BrokerUnavailable

    async def outstanding(self, stream: str, consumer: str, deadline: float) -> frozenset[DeadLetterId]:
        """Return the outstanding replays of a consumer, a stream, or all."""
        subjects = self._stream.subjects(_SUBJECTS + id_pattern(stream, consumer), deadline)
        return frozenset([DeadLetterId.parse(subject.removeprefix(_SUBJECTS)) async for subject in subjects])

    async def outstanding_among(
        self, ids: Iterable[DeadLetterId], deadline: float
    ) -> frozenset[DeadLetterId]:
        """Return the outstanding replays of some dead letters, perhaps with others: one request at most."""
        consumers = {(each.stream, each.consumer) for each in ids}
        if not consumers:
            return frozenset()
        streams = {stream for stream, _ in consumers}
        stream = streams.pop() if len(streams) == 1 else ""
        consumer = consumers.pop()[1] if len(consumers) == 1 else ""
        return await self.outstanding(stream, consumer, deadline)

    async def ensure_consumer(self, stream: str, consumer: str, ack_wait: timedelta, deadline: float) -> str:
        """Ensure the JetStream consumer that delivers a consumer's pointers, and return its name.

        Its timeout becomes `ack_wait`. Safe to call concurrently.
        """
        config = _consumer_config(stream, consumer, ack_wait)
        async for _ in retry(deadline):
            try:
                await self._create_or_update(config, deadline)
            except NatsError as refusal:
                if refusal.err_code not in _OVERTAKEN:
                    raise domain_error(refusal, stream=STREAM) from refusal
                if refusal.err_code == codes.STREAM_NOT_FOUND:
                    await self._stream.ensure(None, deadline)
            else:
                return str(config["name"])
        raise BrokerUnavailable

    async def _create_or_update(self, config: JsonObject, deadline: float) -> None:
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
            # The account allows fewer.
            without = {key: value for key, value in config.items() if key != "max_ack_pending"}
            await self._api.create_consumer(STREAM, name, without, deadline)


def replayed_to(filter_subject: str) -> str:
    """Return whose pointers match a filter subject, as ``<stream>.<consumer>``."""
    return filter_subject.removeprefix(_SUBJECTS).removesuffix(".>")


def read_pointer(delivery: Delivery) -> tuple[DeadLetterId, int]:
    """Return which dead letter a pointer names, and the number of the replay; raise `ValueError`."""
    if not delivery.subject.startswith(_SUBJECTS):
        raise ValueError("not a replay")
    return DeadLetterId.parse(delivery.subject.removeprefix(_SUBJECTS)), int(delivery.data)


def _consumer_config(stream: str, consumer: str, ack_wait: timedelta) -> JsonObject:
    # Joined, both names may exceed the length of a name. A digest is unique.
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
        "filter_subject": _SUBJECTS + id_pattern(stream, consumer),
    }
