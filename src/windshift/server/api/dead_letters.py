"""``DeadLettersService``: each method converts the request, calls the domain and converts the result."""

from __future__ import annotations

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift.nats.times import Time, from_unix_ns
from windshift.rpc import ServerCall
from windshift.server.api.call_stream import CallStream
from windshift.server.api.callers import admission_of
from windshift.server.api.consume import write_event
from windshift.server.api.deadlines import answer_by
from windshift.server.api.fields import number, unix_ns
from windshift.server.domain import names
from windshift.server.domain.errors import InvalidField
from windshift.server.events.dead_letters.admin import (
    DeadLetterAdmin,
    ReplayOptions,
    ReplayResult,
    read_page_token,
    write_page_token,
)
from windshift.server.events.dead_letters.model import Cause, DeadLetter, DeadLetterFilter, DeadLetterId
from windshift.server.events.dead_letters.store import DeadLetterStore
from windshift.server.events.dead_letters.watch import Watch, WatchOptions, read_position, write_position
from windshift.server.events.notes import Notes

DEAD_LETTERS = pb.DESCRIPTOR.services_by_name["DeadLettersService"]

MOST_IDS: Final = 1_000
"""Ids in one request. A message has room for ten thousands, and reading them takes a while."""
_LARGEST_PAGE = 500
_PAGE = 50
_FASTEST = 10_000
_RATE = 100
_LARGEST_LIMIT = 100_000
_LIMIT = 1_000
_MOST_CAUSES = 100

_CAUSES: Final[dict[int, Cause | None]] = {
    pb.CAUSE_UNSPECIFIED: None,
    pb.CAUSE_MAX_ATTEMPTS: Cause.MAX_ATTEMPTS,
    pb.CAUSE_REJECTED: Cause.REJECTED,
}
_NUMBERS: Final = {cause: number for number, cause in _CAUSES.items()}


class DeadLettersService:
    """Lists, gets, replays, purges and watches dead letters.

    Args:
        admin: does everything but watch.
        store: the dead letters.
        notes: notifications between servers.
        watch_options: timers of watches.
    """

    def __init__(
        self, admin: DeadLetterAdmin, store: DeadLetterStore, notes: Notes, watch_options: WatchOptions
    ) -> None:
        self._admin = admin
        self._store = store
        self._notes = notes
        self._watch_options = watch_options

    def drain(self) -> None:
        """End long calls soon."""
        self._admin.drain()

    async def list(self, request: pb.ListRequest, call: ServerCall) -> pb.ListResponse:
        """List dead letters."""
        which = read_filter(request.filter)
        size = number("page_size", request.page_size, _LARGEST_PAGE) or _PAGE
        begin = read_page_token("page_token", which, request.page_token)
        page = await self._admin.list(which, begin, size, answer_by(call), with_data=not request.without_data)
        return pb.ListResponse(
            dead_letters=[_message(each, replaying=each.id in page.replaying) for each in page.dead_letters],
            next_page_token=write_page_token(which, page.next),
        )

    async def get(self, request: pb.GetRequest, call: ServerCall) -> pb.GetResponse:
        """Get one dead letter."""
        dead_letter, replaying = await self._admin.get(read_id(request), answer_by(call))
        return pb.GetResponse(dead_letter=_message(dead_letter, replaying=replaying))

    async def replay(self, request: pb.ReplayRequest, call: ServerCall) -> pb.ReplayResponse:
        """Replay dead letters."""
        ids, which = read_ids_or_filter(request)
        admission = admission_of(call)
        options = ReplayOptions(
            number("rate", request.rate, _FASTEST) or _RATE,
            request.dry_run,
            number("limit", request.limit, _LARGEST_LIMIT) or _LIMIT,
            None if admission is None else admission.replay,
        )
        if which is None:
            if request.limit:
                raise InvalidField("limit", "is only allowed with a filter; ids say how many")
            return _replay_response(await self._admin.replay(ids, options, answer_by(call)), "")
        begin = read_page_token("page_token", which, request.page_token)
        result = await self._admin.replay_matching(which, options, begin, answer_by(call))
        return _replay_response(result, write_page_token(which, result.next))

    async def purge(self, request: pb.PurgeRequest, call: ServerCall) -> pb.PurgeResponse:
        """Remove dead letters for good."""
        ids, which = read_ids_or_filter(request)
        if which is None:
            result = await self._admin.purge(ids, answer_by(call), dry_run=request.dry_run)
            return pb.PurgeResponse(purged=result.purged, missing_ids=map(str, result.missing))
        begin = read_page_token("page_token", which, request.page_token)
        result = await self._admin.purge_matching(which, begin, answer_by(call), dry_run=request.dry_run)
        return pb.PurgeResponse(purged=result.purged, next_page_token=write_page_token(which, result.next))

    async def watch(self, request: pb.WatchRequest, call: ServerCall) -> None:
        """Send dead letters as they are written, until a drain."""
        which = read_filter(request.filter)
        begin = read_position("position", request.position) if request.position else None
        watch = Watch(
            self._store,
            self._notes,
            which,
            CallWatcher(call),
            self._watch_options,
            with_data=not request.without_data,
        )
        await watch.run(begin, existing=request.existing)


class CallWatcher(CallStream):
    """The client's end of a watch, as the domain sees it."""

    __slots__ = ()

    def send(self, dead_letter: DeadLetter) -> None:
        """Send a dead letter."""
        message, position = _message(dead_letter, replaying=False), write_position(dead_letter)
        self._call.send(pb.WatchResponse(dead_letter=message, position=position))


# --- Responses --------------------------------------------------------------------------------------------


def _replay_response(result: ReplayResult, token: str) -> pb.ReplayResponse:
    return pb.ReplayResponse(
        replayed=result.replayed,
        already_replaying=result.already,
        missing_ids=map(str, result.missing),
        without_consumer=result.without_consumer,
        next_page_token=token,
    )


def _message(dead_letter: DeadLetter, *, replaying: bool) -> pb.DeadLetter:
    """Convert a dead letter."""
    failure = dead_letter.failure
    message = pb.DeadLetter(
        id=str(failure.id),
        stream=failure.id.stream,
        consumer=failure.id.consumer,
        attempts=failure.attempts,
        time=_timestamp(dead_letter.time),
        cause=_NUMBERS[failure.cause],  # type: ignore[arg-type] # the stubs want the enum's own type
        reason=failure.reason,
        error_type=failure.error_type,
        replay_count=failure.replay_count,
        replaying=replaying,
        data_size=dead_letter.data_size,
        other_headers=dead_letter.other_headers,
    )
    if failure.first_delivery_ns:
        message.first_delivery.CopyFrom(_timestamp(from_unix_ns(failure.first_delivery_ns)))
    if failure.last_delivery_ns:
        message.last_delivery.CopyFrom(_timestamp(from_unix_ns(failure.last_delivery_ns)))
    write_event(message.event, dead_letter.delivery(failure.attempts))
    return message


def _timestamp(time: Time) -> Timestamp:
    return Timestamp(seconds=time.seconds, nanos=time.nanos)


# --- Requests ---------------------------------------------------------------------------------------------


def read_ids_or_filter(
    request: pb.ReplayRequest | pb.PurgeRequest,
) -> tuple[list[DeadLetterId], DeadLetterFilter | None]:
    """Convert the ids or the filter; raise `InvalidField`."""
    if not request.HasField("filter"):
        if not request.ids:
            raise InvalidField("ids", "set either ids or filter; an empty filter means all")
        if request.page_token:
            raise InvalidField("page_token", "is only allowed with a filter")
        return _ids(request), None
    if request.ids:
        raise InvalidField("filter", "must not be set together with ids")
    return [], read_filter(request.filter)


def read_id(request: pb.GetRequest) -> DeadLetterId:
    """Convert the id; raise `InvalidField`."""
    return _id("id", request.id)


def _ids(request: pb.ReplayRequest | pb.PurgeRequest) -> list[DeadLetterId]:
    if len(request.ids) > MOST_IDS:
        raise InvalidField("ids", f"must have at most {MOST_IDS} elements")
    return [_id(f"ids[{position}]", text) for position, text in enumerate(request.ids)]


def _id(field: str, text: str) -> DeadLetterId:
    try:
        dead_letter_id = DeadLetterId.parse(text)
    except ValueError:
        raise InvalidField(field, "is not the id of a dead letter; use one from List") from None
    names.stream_name(field, dead_letter_id.stream)
    names.consumer_name(field, dead_letter_id.consumer)
    number(field, max(dead_letter_id.seq, dead_letter_id.stored_ns))
    return dead_letter_id


def read_filter(filter_: pb.Filter) -> DeadLetterFilter:
    """Convert a filter; raise `InvalidField`."""
    if filter_.stream:
        names.stream_name("filter.stream", filter_.stream)
    if filter_.consumer:
        names.consumer_name("filter.consumer", filter_.consumer)
        if not filter_.stream:
            raise InvalidField(
                "filter.consumer", "needs filter.stream: names of consumers are the stream's own"
            )
    if filter_.type and names.type_name("filter.type", filter_.type) != filter_.type:
        raise InvalidField("filter.type", "must be the type name alone, without the prefix of a type URL")
    return DeadLetterFilter(
        filter_.stream,
        filter_.consumer,
        _causes(filter_),
        filter_.type,
        unix_ns("filter.since", filter_.since) if filter_.HasField("since") else None,
        unix_ns("filter.until", filter_.until) if filter_.HasField("until") else None,
    )


def _causes(filter_: pb.Filter) -> frozenset[Cause]:
    if len(filter_.causes) > _MOST_CAUSES:
        raise InvalidField("filter.causes", f"must have at most {_MOST_CAUSES} elements")
    for position, cause in enumerate(filter_.causes):
        if cause not in _CAUSES:
            raise InvalidField(f"filter.causes[{position}]", f"{cause} is not a known value")
    return frozenset(filter(None, (_CAUSES[cause] for cause in filter_.causes)))
