"""``DeadLettersService``: each method converts the request, calls the domain and converts the result."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift.rpc import ServerCall
from windshift.server.api.call_stream import CallStream
from windshift.server.api.callers import admission_of
from windshift.server.api.consume import write_event
from windshift.server.api.deadlines import answer_by
from windshift.server.api.fields import elements, few, known, members, number, page_size, unix_ns, wire_time
from windshift.server.api.streams import check_scope
from windshift.server.background.batches import spread
from windshift.server.domain import names
from windshift.server.domain.errors import InvalidField
from windshift.server.domain.pages import read_token, write_token
from windshift.server.events.dead_letters.admin import START, Cursor, DeadLetterAdmin, ReplayOptions
from windshift.server.events.dead_letters.model import (
    By,
    Cause,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterId,
    Group,
)
from windshift.server.events.dead_letters.store import DeadLetterStore
from windshift.server.events.dead_letters.watch import Watch, read_position, write_position
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
_MOST_VALUES = 100
_LONGEST_TEXT = 256
_LARGEST_SUMMARY = 500
_GROUPS = 50

_CAUSES: Final[dict[int, Cause | None]] = {0: None, **members(Cause, pb.Cause)}
_BY: Final = members(By, pb.SummarizeRequest.By)


@dataclass(frozen=True, slots=True)
class DeadLettersService:
    """Lists, gets, summarizes, replays, purges and watches dead letters, and cancels replays."""

    _admin: DeadLetterAdmin
    _store: DeadLetterStore
    _notes: Notes

    def drain(self) -> None:
        """End long calls soon."""
        self._admin.drain()

    async def list(self, request: pb.ListRequest, call: ServerCall) -> pb.ListResponse:
        """List dead letters."""
        which = read_filter(request.filter)
        size = page_size(request.page_size, _LARGEST_PAGE, _PAGE)
        bound = ("List", request.newest_first, which.identity)
        page = await self._admin.list(
            which,
            _read_cursor(request.page_token, *bound),
            size,
            answer_by(call),
            with_data=not request.without_data,
            newest_first=request.newest_first,
        )
        response = pb.ListResponse(next_page_token=_write_cursor(page.next, *bound), total=page.total)

        def add(each: DeadLetter) -> None:
            response.dead_letters.append(_message(each, replaying=each.id in page.replaying))

        await spread(add, page.dead_letters)
        return response

    async def summarize(self, request: pb.SummarizeRequest, call: ServerCall) -> pb.SummarizeResponse:
        """Group dead letters, and count them."""
        which, by = read_filter(request.filter), _by(request)
        limit = number("limit", request.limit, _LARGEST_SUMMARY) or _GROUPS
        summary = await self._admin.summarize(which, by, answer_by(call))
        return pb.SummarizeResponse(
            groups=[_group(*group) for group in summary.largest(limit)],
            total=summary.total,
            truncated=summary.is_truncated,
        )

    async def get(self, request: pb.GetRequest, call: ServerCall) -> pb.GetResponse:
        """Get one dead letter."""
        dead_letter, replaying = await self._admin.get(read_id(request), answer_by(call))
        return pb.GetResponse(dead_letter=_message(dead_letter, replaying=replaying))

    async def replay(self, request: pb.ReplayRequest, call: ServerCall) -> pb.ReplayResponse:
        """Replay dead letters."""
        ids, which = await _read_ids_or_filter(request)
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
            result, token = await self._admin.replay(ids, options, answer_by(call)), ""
        else:
            begin = _read_cursor(request.page_token, "Replay", which.identity)
            result = await self._admin.replay_matching(which, options, begin, answer_by(call))
            token = _write_cursor(result.next, "Replay", which.identity)
        return pb.ReplayResponse(
            replayed=result.replayed,
            already_replaying=result.already,
            missing_ids=map(str, result.missing),
            without_consumer=result.without_consumer,
            next_page_token=token,
        )

    async def cancel_replay(
        self, request: pb.CancelReplayRequest, call: ServerCall
    ) -> pb.CancelReplayResponse:
        """Cancel replays."""
        ids, which = await _read_ids_or_filter(request)
        token = ""
        if which is None:
            result = await self._admin.cancel(ids, answer_by(call))
        else:
            begin = _read_cursor(request.page_token, "CancelReplay", which.identity)
            result = await self._admin.cancel_matching(which, begin, answer_by(call))
            token = _write_cursor(result.next, "CancelReplay", which.identity)
        return pb.CancelReplayResponse(
            cancelled=result.cancelled,
            delivering=result.delivering,
            missing_ids=await spread(str, result.missing),
            next_page_token=token,
        )

    async def purge(self, request: pb.PurgeRequest, call: ServerCall) -> pb.PurgeResponse:
        """Remove dead letters for good."""
        ids, which = await _read_ids_or_filter(request)
        if which is None:
            result = await self._admin.purge(ids, answer_by(call), dry_run=request.dry_run)
            missing = await spread(str, result.missing)
            return pb.PurgeResponse(purged=result.purged, missing_ids=missing)
        begin = _read_cursor(request.page_token, "Purge", which.identity)
        result = await self._admin.purge_matching(which, begin, answer_by(call), dry_run=request.dry_run)
        token = _write_cursor(result.next, "Purge", which.identity)
        return pb.PurgeResponse(purged=result.purged, next_page_token=token)

    async def watch(self, request: pb.WatchRequest, call: ServerCall) -> None:
        """Send dead letters as they are written, until a drain."""
        which = read_filter(request.filter)
        begin = read_position("position", request.position) if request.position else None
        client, with_data = CallWatcher(call), not request.without_data
        watch = Watch(self._store, self._notes, which, client, with_data=with_data)
        await watch.run(begin, existing=request.existing)


class CallWatcher(CallStream):
    """The client's end of a watch, as the domain sees it."""

    __slots__ = ()

    def send(self, dead_letter: DeadLetter) -> None:
        """Send a dead letter."""
        message, position = _message(dead_letter, replaying=False), write_position(dead_letter)
        self._call.send(pb.WatchResponse(dead_letter=message, position=position))


# --- Responses --------------------------------------------------------------------------------------------


def _group(keys: tuple[str, ...], group: Group) -> pb.SummarizeResponse.Group:
    return pb.SummarizeResponse.Group(
        keys=keys,
        count=group.count,
        first=wire_time(group.first),
        last=wire_time(group.last),
        sample_id=str(group.sample),
    )


def _message(dead_letter: DeadLetter, *, replaying: bool) -> pb.DeadLetter:
    failure = dead_letter.failure
    message = pb.DeadLetter(
        id=str(failure.id),
        stream=failure.id.stream,
        consumer=failure.id.consumer,
        attempts=failure.attempts,
        time=wire_time(dead_letter.time),
        cause=f"CAUSE_{failure.cause.name}",
        reason=failure.reason,
        error_type=failure.error_type,
        replay_count=failure.replay_count,
        replaying=replaying,
        data_size=dead_letter.data_size,
        other_headers=dead_letter.other_headers,
    )
    if failure.first_delivery_ns:
        message.first_delivery.FromNanoseconds(failure.first_delivery_ns)
    if failure.last_delivery_ns:
        message.last_delivery.FromNanoseconds(failure.last_delivery_ns)
    write_event(message.event, dead_letter.delivery(failure.attempts))
    return message


# --- Page tokens ------------------------------------------------------------------------------------------


def _read_cursor(token: str, method: str, *request: object) -> Cursor:
    """Read where a call goes on; raise `InvalidField`."""
    position = read_token("page_token", token, (int, int), method, *request)
    return START if position is None else Cursor(*position)


def _write_cursor(cursor: Cursor, method: str, *request: object) -> str:
    return "" if cursor == START else write_token(cursor, method, *request)


# --- Requests ---------------------------------------------------------------------------------------------


_ByIdsOrFilter: TypeAlias = pb.ReplayRequest | pb.PurgeRequest | pb.CancelReplayRequest


async def _read_ids_or_filter(
    request: _ByIdsOrFilter,
) -> tuple[list[DeadLetterId], DeadLetterFilter | None]:
    """Convert the ids or the filter, and let others run in between; raise `InvalidField`."""
    which = _read_filter_if_any(request)
    return await spread(_id_at, enumerate(request.ids)), which


def check_ids_or_filter(request: _ByIdsOrFilter) -> None:
    """Raise `InvalidField` if the ids or the filter are malformed."""
    _read_filter_if_any(request)
    for each in enumerate(request.ids):
        _id_at(each)


def _read_filter_if_any(request: _ByIdsOrFilter) -> DeadLetterFilter | None:
    """Convert the filter; None where there are ids. Raise `InvalidField` unless there is one of both."""
    if not request.HasField("filter"):
        if not request.ids:
            raise InvalidField("ids", "set either ids or filter; an empty filter means all")
        if request.page_token:
            raise InvalidField("page_token", "is only allowed with a filter")
        few("ids", request.ids, MOST_IDS)
        return None
    if request.ids:
        raise InvalidField("filter", "must not be set together with ids")
    return read_filter(request.filter)


def read_id(request: pb.GetRequest) -> DeadLetterId:
    """Convert the id; raise `InvalidField`."""
    return _id("id", request.id)


def _id_at(each: tuple[int, str]) -> DeadLetterId:
    return _id(f"ids[{each[0]}]", each[1])


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
    check_scope("filter.", filter_.stream, filter_.consumer)
    if filter_.type and names.type_name("filter.type", filter_.type) != filter_.type:
        raise InvalidField("filter.type", "must be the type name alone, without the prefix of a type URL")
    causes = elements("filter.causes", filter_.causes, _MOST_VALUES, partial(known, values=_CAUSES))
    elements("filter.subjects", filter_.subjects, _MOST_VALUES, names.filter_subject)
    return DeadLetterFilter(
        filter_.stream,
        filter_.consumer,
        frozenset(filter(None, causes)),
        filter_.type,
        unix_ns("filter.since", filter_.since) if filter_.HasField("since") else None,
        unix_ns("filter.until", filter_.until) if filter_.HasField("until") else None,
        frozenset(few("filter.error_types", filter_.error_types, _MOST_VALUES)),
        _text(filter_.text),
        tuple(sorted(set(filter_.subjects))),
        frozenset(few("filter.event_ids", filter_.event_ids, MOST_IDS)),
    )


def _text(text: str) -> str:
    if len(text) > _LONGEST_TEXT:
        raise InvalidField("filter.text", f"must have at most {_LONGEST_TEXT} characters")
    return text.lower()


def _by(request: pb.SummarizeRequest) -> list[By]:
    by = elements("by", request.by, _MOST_VALUES, partial(known, values=_BY))
    if not by:
        raise InvalidField("by", "must not be empty")
    if len(set(by)) < len(by):
        raise InvalidField("by", "must have each value once only")
    return by
