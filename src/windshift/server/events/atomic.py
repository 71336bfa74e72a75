"""Publishing several events all or none, on JetStream's atomic batches (ADR-50)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from windshift.nats import JetStreamError, MessageTooLarge, NatsError, retry
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.acks import PubAck, Stored
from windshift.nats.jetstream.api import JetStream
from windshift.nats.jetstream.writes import Part, Write, Writes, together
from windshift.server.background.batches import for_each
from windshift.server.domain.broker_errors import domain_error
from windshift.server.domain.errors import (
    BrokerUnavailable,
    DuplicateEvent,
    EventTooLarge,
    InvalidField,
    NotAllowedByStream,
    NotSupportedByBroker,
    OutcomeUnknown,
    UnsupportedCombination,
    WindshiftError,
    WrongLastId,
    at_index,
)
from windshift.server.events import headers
from windshift.server.events.model import PublishRequest, Results
from windshift.server.events.publish import MAX_SEQUENCE, Publisher, id_of_duplicate, message_id, write_of
from windshift.server.events.targets import Target, Targets

OLDEST_BROKER: Final = (2, 12)
"""The version of nats-server from which on it has atomic batches. Older ones ignore their headers."""
SETTING: Final = "atomic_batches"
"""The field by which a stream allows them."""

_RECALLED_AT_ONCE: Final = 64
_CONFLICTS: Final = (codes.WRONG_LAST_SEQUENCE, codes.WRONG_LAST_SEQUENCE_UNTOLD)


class _Batch(NamedTuple):
    """Events that are stored all or none.

    Attributes:
        requests: the events.
        parts: their messages, without what makes a batch of them.
        before: the last id that the stream must have before them; None = any.
        write: all messages as one write.
    """

    requests: Sequence[PublishRequest]
    parts: Sequence[Part]
    before: int | None
    write: Write


class AtomicPublisher:
    """Stores several events all or none."""

    def __init__(self, publisher: Publisher, api: JetStream, writes: Writes, targets: Targets) -> None:
        self._publisher = publisher
        self._api = api
        self._writes = writes
        self._targets = targets

    async def publish(self, requests: Sequence[PublishRequest], deadline: float) -> Results:
        """Store events, or find that all of them were stored before, by their keys.

        Raise the errors of a publish; where it is known which event is the reason, its place is `index` in
        the error's metadata. Without a key for each of them they are not sent again once they may have
        reached the broker.
        """
        if len(requests) == 1:  # on one replica the broker writes a batch to a file of its own first
            return await self._publish_one(requests[0], deadline)
        try:
            return await self._publish(requests, deadline)
        except BaseException as error:
            self.failed(len(requests), error)
            raise

    def failed(self, events: int, error: BaseException) -> None:
        """Count so many events that ended with an error, which one of them was the reason for."""
        for _ in range(events):
            self._publisher.failed(error)

    async def _publish_one(self, request: PublishRequest, deadline: float) -> Results:
        try:
            seq, duplicate = await self._publisher.publish(request, deadline)
        except InvalidField as error:
            raise at_index(error, 0) from error
        except WindshiftError as error:
            at_index(error, 0)
            raise  # as its own cause it would wait for the garbage collector, with all that it holds
        return Results(0, [seq], [0] if duplicate else [], {})

    async def _publish(self, requests: Sequence[PublishRequest], deadline: float) -> Results:
        before = _last_id_before(requests)
        _refuse_repeated_keys(requests)
        parts = list(_parts(requests, before, deadline))
        has_keys = all(request.idempotency_key for request in requests)
        write = together(parts, deadline, repeatable=has_keys)._replace(asker=requests[0].asker)
        target = await self._target(requests, write, deadline)
        batch = _Batch(requests, parts, before, write)
        in_doubt = False
        async for _ in retry(deadline):
            try:
                ack = await self._writes.write(write)
            except JetStreamError as refusal:
                refusal.in_doubt = in_doubt = in_doubt or refusal.in_doubt
                found = await self._refused(batch, refusal)
                if found is not None:
                    return found
            except NatsError as error:
                if in_doubt:  # that nothing was stored is said of this attempt
                    raise OutcomeUnknown from error
                if isinstance(error, MessageTooLarge):
                    raise at_index(EventTooLarge(error.limit), _largest(parts)) from error
                raise domain_error(error) from error
            else:
                first = ack.sequence - len(requests) + 1
                stored = Stored(target.stream, list(range(first, ack.sequence + 1)))
                return self._publisher.results(0, requests, stored, {})
        raise OutcomeUnknown if in_doubt else BrokerUnavailable

    async def _target(self, requests: Sequence[PublishRequest], write: Write, deadline: float) -> Target:
        """Return the one stream of all events, which stores them all or none.

        What is remembered of it may be old: nothing is refused before it was looked up again.
        """
        if self._api.is_older_than(OLDEST_BROKER):
            raise NotSupportedByBroker("storing several events all or none", "2.12")
        first = requests[0].subject
        target = await self._targets.of(first, deadline)
        try:
            _refuse_unfit(requests, write, target)
        except WindshiftError:
            self._targets.forget(first)
            target = await self._targets.of(first, deadline)
            _refuse_unfit(requests, write, target)
        return target

    async def _refused(self, batch: _Batch, refusal: JetStreamError) -> Results | None:
        """Raise what a refusal means, or return what was stored before; None = try again."""
        first, code = batch.requests[0], refusal.err_code
        try:
            if code in _CONFLICTS or code == codes.DUPLICATE_IN_BATCH:
                return await self._conflict(batch, refusal)
            if code == codes.BATCHES_NOT_ENABLED:
                self._targets.forget(first.subject)
                raise _not_allowed(first.subject)
            error = await self._publisher.refusal_error(refusal, first.caller, batch.write.deadline)
            raise at_index(error, _largest(batch.parts)) if isinstance(error, EventTooLarge) else error
        except (WindshiftError, NatsError) as error:
            if refusal.in_doubt:
                raise OutcomeUnknown from error
            raise domain_error(error) if isinstance(error, NatsError) else error from refusal

    async def _conflict(self, batch: _Batch, refusal: JetStreamError) -> Results | None:
        """Do the same for a refusal because of what is stored already: a key, or another last id.

        A stream with one replica checks the id before the keys, so the repeat of a batch that was stored may
        be refused for either.
        """
        requests = batch.requests
        known = await self._recall(batch)
        found = [ack for ack in known if ack is not None]
        if len(found) == len(requests) and _follow_each_other(found):
            return self._publisher.results(0, requests, found, {})
        for place, ack in enumerate(known):
            if ack is not None:
                raise at_index(DuplicateEvent(id_of_duplicate(requests[place], ack)), place)
        if batch.before is not None:
            await self._check_last_id(batch, batch.before, refusal)
        # a key that the broker has forgotten meanwhile, or its message was on its way; or another write was
        # under way when this one was refused, and came to nothing
        return None

    async def _check_last_id(self, batch: _Batch, before: int, refusal: JetStreamError) -> None:
        requests = batch.requests
        actual = codes.actual_last_sequence(refusal)
        if actual is None:
            actual = await self._publisher.last_sequence(refusal.stream, batch.write.deadline)
        if actual == before:
            return
        place = next(at for at, request in enumerate(requests) if request.expected_last_id is not None)
        caller = requests[place].caller
        sees = caller is None or caller.sees(refusal.stream)
        raise at_index(WrongLastId(before + place, actual + place if sees else None), place)

    async def _recall(self, batch: _Batch) -> list[PubAck | None]:
        """Return what the broker has stored with the keys of these events."""
        asked = [
            (request, batch.write._replace(subject=part.subject))
            for request, part in zip(batch.requests, batch.parts, strict=True)
        ]
        return await for_each(asked, self._recall_one, at_once=_RECALLED_AT_ONCE)

    async def _recall_one(self, asked: tuple[PublishRequest, Write]) -> PubAck | None:
        request, write = asked
        return await self._publisher.recall(message_id(request), write) if request.idempotency_key else None


def _parts(requests: Sequence[PublishRequest], before: int | None, deadline: float) -> Iterator[Part]:
    """Yield the messages. The broker takes an expectation about the stream on the first one only."""
    now = headers.now()
    for place, request in enumerate(requests):
        expected = before if place == 0 else None
        try:
            write = write_of(request._replace(expected_last_id=expected), deadline, now)
        except InvalidField as error:
            raise at_index(error, place) from error
        yield Part(write.subject, write.body, write.headers)


def _last_id_before(requests: Sequence[PublishRequest]) -> int | None:
    """Return the last id that the stream must have before the batch; None = any.

    Each event expects the ids of those before it.
    """
    before: int | None = None
    for place, request in enumerate(requests):
        expected = request.expected_last_id
        if expected is None:
            continue
        if expected > MAX_SEQUENCE:
            raise _invalid(place, "expected_last_id", f"must be at most {MAX_SEQUENCE}")
        if expected < place:
            raise _invalid(place, "expected_last_id", f"must be at least {place}: the events before have ids")
        if before is not None and before != expected - place:
            raise _invalid(place, "expected_last_id", "contradicts that of an event before it")
        before = expected - place
    return before


def _refuse_unfit(requests: Sequence[PublishRequest], write: Write, target: Target) -> None:
    """Raise why the stream of the first event cannot store all of them, or none."""
    first = requests[0].subject
    for place, request in enumerate(requests):
        if not target.subjects.takes(request.subject):
            other = UnsupportedCombination(
                f"subject {request.subject!r} is not of the stream that takes {first!r}; events that are "
                "stored all or none must be of one stream"
            )
            raise at_index(other, place)
    if not target.atomic_batches:
        raise _not_allowed(first)
    _refuse_too_large(write, target.largest)


def _not_allowed(subject: str) -> NotAllowedByStream:
    return NotAllowedByStream(
        f"the stream of subject {subject!r} does not allow that",
        {"subject": subject, "setting": SETTING},
        hint=f"ensure it with {SETTING}",
    )


def _refuse_too_large(write: Write, limit: int | None) -> None:
    """Raise what the broker does not tell of events before the last one: it just does not have them then."""
    if limit is not None:
        last = Part(write.subject, write.body, write.headers)
        for place, part in enumerate([*write.before, last]):
            if len(part.headers) + len(part.body) > limit:
                raise at_index(EventTooLarge(limit), place)


def _refuse_repeated_keys(requests: Sequence[PublishRequest]) -> None:
    seen = set[str]()
    for place, request in enumerate(requests):
        key = request.idempotency_key
        if key in seen:
            raise _invalid(place, "idempotency_key", "is that of an event before it")
        if key:
            seen.add(key)


def _invalid(place: int, field: str, description: str) -> WindshiftError:
    return at_index(InvalidField(field, description), place)


def _largest(parts: Sequence[Part]) -> int:
    """Return the place of the largest message: if one is too large, that one is."""
    return max(range(len(parts)), key=lambda place: len(parts[place].headers) + len(parts[place].body))


def _follow_each_other(acks: Sequence[PubAck]) -> bool:
    first = acks[0].sequence
    return all(ack.sequence == first + place for place, ack in enumerate(acks))
