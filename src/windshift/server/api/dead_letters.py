"""``DeadLettersService``: each method reads the request, calls the domain and writes the response."""

from __future__ import annotations

from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift.rpc import ServerCall
from windshift.server import names
from windshift.server.api.deadlines import answer_by
from windshift.server.api.fields import number, unix_ns
from windshift.server.api.letters import CAUSES, letter_message
from windshift.server.errors import InvalidField
from windshift.server.events.dead_letters.letters import Cause, DeadLetter, LetterId, id_text, read_id
from windshift.server.events.dead_letters.listing import LetterPages
from windshift.server.events.dead_letters.page_tokens import read_token, write_token
from windshift.server.events.dead_letters.purging import Purging
from windshift.server.events.dead_letters.replaying import Replayed, Replaying, ReplayOrder
from windshift.server.events.dead_letters.store import DeadLetterStore, LetterFilter
from windshift.server.events.dead_letters.watching import Watch, WatchOptions, read_position, write_position
from windshift.server.events.notes import Notes

DEAD_LETTERS = pb.DESCRIPTOR.services_by_name["DeadLettersService"]

_LARGEST_PAGE = 500
_PAGE = 50
_MOST_IDS = 1_000
_FASTEST = 10_000
_RATE = 100
_LARGEST_LIMIT = 100_000
_LIMIT = 1_000
_MOST_CAUSES = 100


class DeadLettersService:
    """Dead letters: looked at, sent back, removed, watched.

    Args:
        store: the dead letters.
        pages: reads them.
        replaying: sends them back.
        purging: removes them.
        notes: what servers tell each other.
        watch_options: timers of watches.
    """

    def __init__(
        self,
        store: DeadLetterStore,
        pages: LetterPages,
        replaying: Replaying,
        purging: Purging,
        notes: Notes,
        watch_options: WatchOptions,
    ) -> None:
        self._store = store
        self._pages = pages
        self._replaying = replaying
        self._purging = purging
        self._notes = notes
        self._watch_options = watch_options

    def drain(self) -> None:
        """Have calls end soon that could go on for long."""
        self._replaying.drain()
        self._purging.drain()

    async def list(self, request: pb.ListRequest, call: ServerCall) -> pb.ListResponse:
        """List dead letters."""
        which = _filter(request.filter)
        size = number("page_size", request.page_size, _LARGEST_PAGE) or _PAGE
        begin = read_token("page_token", which, request.page_token)
        page = await self._pages.page(which, begin, size, answer_by(call), with_data=not request.without_data)
        letters = [letter_message(entry.letter, replaying=entry.replaying) for entry in page.entries]
        return pb.ListResponse(dead_letters=letters, next_page_token=write_token(which, page.next))

    async def get(self, request: pb.GetRequest, call: ServerCall) -> pb.GetResponse:
        """Get one."""
        entry = await self._pages.get(_id("id", request.id), answer_by(call))
        return pb.GetResponse(dead_letter=letter_message(entry.letter, replaying=entry.replaying))

    async def replay(self, request: pb.ReplayRequest, call: ServerCall) -> pb.ReplayResponse:
        """Have events delivered again."""
        ids, which = _ids_or_filter(request)
        order = ReplayOrder(
            number("rate", request.rate, _FASTEST) or _RATE,
            request.dry_run,
            number("limit", request.limit, _LARGEST_LIMIT) or _LIMIT,
        )
        if which is None:
            if request.limit:
                raise InvalidField("limit", "goes with a filter only; the ids say how many")
            done = await self._replaying.these(ids, order, answer_by(call))
            return _replay_response(done, "")
        begin = read_token("page_token", which, request.page_token)
        done = await self._replaying.matching(which, order, begin, answer_by(call))
        return _replay_response(done, write_token(which, done.next))

    async def purge(self, request: pb.PurgeRequest, call: ServerCall) -> pb.PurgeResponse:
        """Remove some for good."""
        ids, which = _ids_or_filter(request)
        if which is None:
            done = await self._purging.these(ids, answer_by(call), dry_run=request.dry_run)
            return pb.PurgeResponse(purged=done.purged, missing_ids=map(id_text, done.missing))
        begin = read_token("page_token", which, request.page_token)
        done = await self._purging.matching(which, begin, answer_by(call), dry_run=request.dry_run)
        return pb.PurgeResponse(purged=done.purged, next_page_token=write_token(which, done.next))

    async def watch(self, request: pb.WatchRequest, call: ServerCall) -> None:
        """Tell of dead letters as they are written. A drain of the server ends the call."""
        which = _filter(request.filter)
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


class CallWatcher:
    """The client's end of a watch, as the domain sees it."""

    __slots__ = ("_call",)

    def __init__(self, call: ServerCall) -> None:
        self._call = call

    @property
    def queued(self) -> int:
        """Bytes that were sent and that the client has not read."""
        return self._call.queued

    async def ready(self) -> None:
        """Wait until the client has read most of what it was sent."""
        await self._call.ready()

    def begin(self) -> None:
        """Send the headers: a client that has got them misses nothing."""
        self._call.begin_response()

    def tell(self, letter: DeadLetter) -> None:
        """Send a dead letter."""
        self._call.send(
            pb.WatchResponse(
                dead_letter=letter_message(letter, replaying=False), position=write_position(letter)
            )
        )


def _replay_response(done: Replayed, token: str) -> pb.ReplayResponse:
    return pb.ReplayResponse(
        replayed=done.replayed,
        already_replaying=done.already,
        missing_ids=map(id_text, done.missing),
        without_consumer=done.without_consumer,
        next_page_token=token,
    )


# --- Requests ---------------------------------------------------------------------------------------------


def _ids_or_filter(request: pb.ReplayRequest | pb.PurgeRequest) -> tuple[list[LetterId], LetterFilter | None]:
    """Read which dead letters are meant: by ids, or, when there is a filter, by that."""
    if not request.HasField("filter"):
        if not request.ids:
            raise InvalidField("ids", "set either ids or filter; an empty filter stands for all")
        if request.page_token:
            raise InvalidField("page_token", "goes with a filter only")
        return _ids(request), None
    if request.ids:
        raise InvalidField("filter", "must not be set beside ids")
    return [], _filter(request.filter)


def _ids(request: pb.ReplayRequest | pb.PurgeRequest) -> list[LetterId]:
    if len(request.ids) > _MOST_IDS:
        raise InvalidField("ids", f"must have at most {_MOST_IDS} elements")
    return [_id(f"ids[{position}]", text) for position, text in enumerate(request.ids)]


def _id(field: str, text: str) -> LetterId:
    try:
        letter_id = read_id(text)
    except ValueError:
        raise InvalidField(field, "is no id of a dead letter; pass on one that was listed") from None
    names.stream_name(field, letter_id.stream)
    names.consumer_name(field, letter_id.consumer)
    number(field, max(letter_id.seq, letter_id.stored_ns))
    return letter_id


def _filter(filter_: pb.Filter) -> LetterFilter:
    if filter_.stream:
        names.stream_name("filter.stream", filter_.stream)
    if filter_.consumer:
        names.consumer_name("filter.consumer", filter_.consumer)
        if not filter_.stream:
            raise InvalidField(
                "filter.consumer", "needs filter.stream: names of consumers are the stream's own"
            )
    if filter_.type and names.type_name("filter.type", filter_.type) != filter_.type:
        raise InvalidField("filter.type", "must be the name alone, without what a type URL has before it")
    return LetterFilter(
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
        if cause not in CAUSES:
            raise InvalidField(f"filter.causes[{position}]", f"{cause} is none of its values")
    return frozenset(filter(None, (CAUSES[cause] for cause in filter_.causes)))
