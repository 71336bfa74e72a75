"""Dead letters: list, summarize, watch, replay and purge what consumers gave up on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict, TypeVar, Unpack

from google.protobuf.message import Message

from windshift.protos import deadletters

from .calling import Caller, pages
from .events import Event
from .payloads import type_name
from .retry import Repeat
from .times import moment, timestamp

Cause = Literal["max_attempts", "rejected"]
By = Literal["stream", "consumer", "cause", "error_type", "type", "subject", "reason"]
"""What dead letters of one group have in common; `reason` is its first line."""

R = TypeVar("R", bound=Message)
_Type: TypeAlias = "type | str"

_IDS_PER_CALL = 1000
_LISTS = frozenset({"causes", "error_types", "subjects", "event_ids"})


class DeadLetterFilter(TypedDict, total=False):
    """Which dead letters. What is left out does not restrict; all that is given must hold.

    Attributes:
        stream: stream of the event.
        consumer: who gave up; needs `stream`.
        causes: any of these.
        type: of the payload: its class, or the full name of a message.
        since: given up on at this time or later.
        until: given up on before this time.
        error_types: any of these, in full; at most 100.
        text: this is in the reason, the error type or the subject, in upper or lower case; at most 256
            characters.
        subjects: the event's subject matches one of these; `*` stands for one token, `>` at the end for the
            rest. At most 100.
        event_ids: any of these events; at most 1,000.
    """

    stream: str
    consumer: str
    causes: Sequence[Cause]
    type: _Type
    since: datetime | None
    until: datetime | None
    error_types: Sequence[str]
    text: str
    subjects: Sequence[str]
    event_ids: Sequence[int]


class DeadLetter(NamedTuple):
    """An event that a consumer gave up on.

    Attributes:
        id: names it, also after a replay that failed.
        stream: stream of the event.
        consumer: who gave up.
        event: the event; its `attempt` is the last one.
        other_headers: headers that other programs gave the event.
        attempts: how often it was delivered since the last replay.
        first_delivery: the first of these deliveries, as far as is known.
        last_delivery: the last of them.
        time: when the consumer gave up.
        cause: why.
        reason: what the last subscriber that rejected it said.
        error_type: the kind of failure, in its words.
        replay_count: replays that failed.
        replaying: whether a replay is under way.
        position: for `watch`, to go on behind it; empty elsewhere.
    """

    id: str
    stream: str
    consumer: str
    event: Event[Any]
    other_headers: Mapping[str, str]
    attempts: int
    first_delivery: datetime
    last_delivery: datetime
    time: datetime
    cause: Cause
    reason: str
    error_type: str
    replay_count: int
    replaying: bool
    position: str = ""


@dataclass(slots=True)
class Replayed:
    """What a replay did.

    Attributes:
        replayed: dead letters whose event is delivered again now.
        already_replaying: those that were being replayed.
        without_consumer: those whose consumer or stream is gone.
        missing_ids: ids that name no dead letter any more.
    """

    replayed: int = 0
    already_replaying: int = 0
    without_consumer: int = 0
    missing_ids: list[str] = field(default_factory=list)


@dataclass(slots=True)
class CancelledReplays:
    """What cancelling replays did.

    Attributes:
        cancelled: replays that nobody is delivered any more.
        delivering: those that a subscriber has, or had until its server died; they go on.
        missing_ids: ids that name no dead letter with a replay.
    """

    cancelled: int = 0
    delivering: int = 0
    missing_ids: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Purged:
    """What a purge did.

    Attributes:
        purged: dead letters that were removed.
        missing_ids: ids that name no dead letter any more.
    """

    purged: int = 0
    missing_ids: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DeadLetterGroup:
    """Dead letters that are alike.

    Attributes:
        keys: what they have in common, by what was asked for; empty where they have none.
        count: how many they are.
        first: when the first of them was written.
        last: when the last of them was written.
        sample_id: the id of one of them.
    """

    keys: Mapping[By, str]
    count: int
    first: datetime
    last: datetime
    sample_id: str


class DeadLetterSummary(NamedTuple):
    """Dead letters by groups.

    Attributes:
        groups: the largest groups, the largest first.
        total: dead letters in all groups.
        truncated: whether there are older ones that were not looked at.
    """

    groups: Sequence[DeadLetterGroup]
    total: int
    truncated: bool


class DeadLetters:
    """The dead letters of a server.

    Most methods take a filter, by keywords: see `DeadLetterFilter`. An empty list in it is a `ValueError`.

    The server knows neither namespaces nor the types inside of JSON. Lists and watches leave out what is not
    meant; to count, replay or purge by a type inside of JSON is a `ValueError`, and a client with a namespace
    needs `stream` or `ids` for it.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def list(
        self, *, newest_first: bool = False, **which: Unpack[DeadLetterFilter]
    ) -> AsyncIterator[DeadLetter]:
        """List dead letters, page by page, in the order in which they were written.

        Args:
            newest_first: in the reverse of it.
            **which: the filter.
        """
        selection = _Selection(self._caller, which)
        request = deadletters.ListRequest(filter=selection.filter, newest_first=newest_first)
        found = pages(self._caller, request, deadletters.ListResponse, lambda page: page.dead_letters)
        async for letter in found:
            if selection.has(letter):
                yield _letter(letter, self._caller, selection.kind)

    async def count(self, **which: Unpack[DeadLetterFilter]) -> int | None:
        """Count dead letters; None where that would take the server long.

        Beyond 5,000 dead letters of a stream and its consumer, any other filter does; and that of a stream
        does beyond 250,000 dead letters of all streams.
        """
        selection = _Selection(self._caller, which).of_the_server()
        request = deadletters.ListRequest(filter=selection, page_size=1, without_data=True)
        response = await self._caller.call(request, deadletters.ListResponse, Repeat.READ)
        return response.total if response.HasField("total") else None

    async def summarize(
        self, *by: By, limit: int = 0, **which: Unpack[DeadLetterFilter]
    ) -> DeadLetterSummary:
        """Group the newest 50,000 dead letters of a stream and consumer by what they have in common.

        Args:
            *by: one or more; those of one group have all of these in common.
            limit: most groups, up to 500; 0 = 50.
            **which: the filter.
        """
        request = deadletters.SummarizeRequest(
            filter=_Selection(self._caller, which).of_the_server(),
            by=[f"BY_{each.upper()}" for each in by],
            limit=limit,
        )
        response = await self._caller.call(request, deadletters.SummarizeResponse, Repeat.READ)
        groups = [
            DeadLetterGroup(
                {key: self._bare(key, reported) for key, reported in zip(by, group.keys, strict=True)},
                group.count,
                moment(group.first),
                moment(group.last),
                group.sample_id,
            )
            for group in response.groups
        ]
        return DeadLetterSummary(groups, response.total, response.truncated)

    def _bare(self, key: By, reported: str) -> str:
        """Return what a group has in common in the client's own words."""
        if key == "stream":
            return self._caller.names.bare_name(reported)
        if key == "subject":
            return self._caller.names.bare_subject(reported)
        return reported.lower() if key == "cause" else reported

    async def get(self, id: str) -> DeadLetter:  # noqa: A002 -- the field's name
        """Read one dead letter.

        Raises:
            DeadLetterNotFound: it was replayed, purged, or has expired.
        """
        request = deadletters.GetRequest(id=id)
        response = await self._caller.call(request, deadletters.GetResponse, Repeat.READ)
        return _letter(response.dead_letter, self._caller)

    async def watch(
        self, *, position: str = "", existing: bool = False, **which: Unpack[DeadLetterFilter]
    ) -> AsyncIterator[DeadLetter]:
        """Yield dead letters as they are written, until the loop is left.

        A watch that breaks goes on behind the last letter. If it breaks before the first one, and neither
        `position` nor `existing` was given, letters written meanwhile are missed.

        Args:
            position: `position` of the last letter that was seen, to go on behind it.
            existing: without a position, begin with the letters that there are.
            **which: the filter.

        Raises:
            WindshiftError: it broke in a way that another attempt would not mend.
        """
        selection = _Selection(self._caller, which)
        request = deadletters.WatchRequest(filter=selection.filter, position=position, existing=existing)
        async with aclosing(self._caller.watch(request, deadletters.WatchResponse)) as responses:
            async for response in responses:
                request.position = response.position
                if selection.has(response.dead_letter):
                    yield _letter(response.dead_letter, self._caller, selection.kind, response.position)

    async def replay(
        self,
        *,
        ids: Sequence[str] | None = None,
        everything: bool = False,
        rate: int = 0,
        dry_run: bool = False,
        progress: Callable[[Replayed], object] | None = None,
        **which: Unpack[DeadLetterFilter],
    ) -> Replayed:
        """Deliver the events of dead letters again, to the consumers that gave up on them, and only to these.

        Args:
            ids: these dead letters.
            everything: or all.
            rate: at most so many per second; 0 = 100.
            dry_run: only count.
            progress: is told what was done so far, again and again.
            **which: or those that the filter lets through.

        Raises:
            ValueError: neither ids nor a filter nor `everything` was given.
        """
        total = Replayed()
        selection = _Selection(self._caller, which)
        for request in selection.requests(deadletters.ReplayRequest, ids, everything=everything):
            request.rate, request.dry_run = rate, dry_run
            async for page in self._pages(request, deadletters.ReplayResponse):
                total.replayed += page.replayed
                total.already_replaying += page.already_replaying
                total.without_consumer += page.without_consumer
                total.missing_ids += page.missing_ids
                if progress is not None:
                    progress(total)
        return total

    async def cancel_replay(
        self,
        *,
        ids: Sequence[str] | None = None,
        everything: bool = False,
        **which: Unpack[DeadLetterFilter],
    ) -> CancelledReplays:
        """End replays that no subscriber has yet; see `replay` for the arguments. The dead letters stay.

        What is cancelled is not delivered any more. A `replay` that is under way begins others; cancel it
        first.
        """
        total = CancelledReplays()
        selection = _Selection(self._caller, which)
        for request in selection.requests(deadletters.CancelReplayRequest, ids, everything=everything):
            async for page in self._pages(request, deadletters.CancelReplayResponse):
                total.cancelled += page.cancelled
                total.delivering += page.delivering
                total.missing_ids += page.missing_ids
        return total

    async def purge(
        self,
        *,
        ids: Sequence[str] | None = None,
        everything: bool = False,
        dry_run: bool = False,
        progress: Callable[[Purged], object] | None = None,
        **which: Unpack[DeadLetterFilter],
    ) -> Purged:
        """Remove dead letters for good; see `replay` for the arguments."""
        total = Purged()
        selection = _Selection(self._caller, which)
        for request in selection.requests(deadletters.PurgeRequest, ids, everything=everything):
            request.dry_run = dry_run
            async for page in self._pages(request, deadletters.PurgeResponse):
                total.purged += page.purged
                total.missing_ids += page.missing_ids
                if progress is not None:
                    progress(total)
        return total

    def _pages(self, request: Message, response: type[Message]) -> AsyncIterator[Any]:
        return pages(self._caller, request, response, lambda page: [page], Repeat.SAME)


class _Selection:
    """A filter of the client, and what it is at the server.

    Attributes:
        filter: as the server takes it; it lets through all of a type that it does not know.
        kind: the class to decode payloads to, if one was given.
    """

    def __init__(self, caller: Caller, which: DeadLetterFilter) -> None:
        if unknown := which.keys() - DeadLetterFilter.__optional_keys__:
            raise TypeError(f"a filter has no {min(unknown)!r}")
        for name in _LISTS & which.keys():
            _require_list(name, which.get(name))
        kind, since, until = which.get("type", ""), which.get("since"), which.get("until")
        self._names = caller.names
        self.kind = None if isinstance(kind, str) else kind
        self._type_name = kind if isinstance(kind, str) else caller.payloads.name(kind)
        self.filter = deadletters.Filter(
            stream=self._names.name(which.get("stream", "")),
            consumer=which.get("consumer", ""),
            causes=[f"CAUSE_{cause.upper()}" for cause in which.get("causes", ())],
            type=self._type_name.partition("/")[0],
            since=None if since is None else timestamp(since),
            until=None if until is None else timestamp(until),
            error_types=which.get("error_types", ()),
            text=which.get("text", ""),
            subjects=self._names.subjects(which.get("subjects", ())),
            event_ids=which.get("event_ids", ()),
        )

    def has(self, letter: deadletters.DeadLetter) -> bool:
        """Check what the server does not know: the namespace, and a type inside of JSON."""
        is_of_type = "/" not in self._type_name or type_name(letter.event.data) == self._type_name
        return is_of_type and self._names.owns(letter.stream)

    def of_the_server(self) -> deadletters.Filter:
        """Return the filter, if the server lets through exactly what the client means.

        Raises:
            ValueError: it does not.
        """
        if "/" in self._type_name:
            raise ValueError(
                "the server does not know the types inside of JSON: list the dead letters, and give their ids"
            )
        if self._names.namespace and not self.filter.stream:
            raise ValueError("a client with a namespace must say which stream")
        return self.filter

    def requests(self, kind: type[R], ids: Sequence[str] | None, *, everything: bool) -> list[R]:
        """Return the requests that name these ids, or have the filter.

        Raises:
            ValueError: not exactly one of ids, filter and `everything` was given.
        """
        is_set = self.filter.ByteSize() > 0
        if ids is not None:
            if is_set or everything:
                raise ValueError("give ids or a filter, not both")
            return [kind(ids=ids[at : at + _IDS_PER_CALL]) for at in range(0, len(ids), _IDS_PER_CALL)]
        if not is_set and not everything:
            raise ValueError("give ids, a filter, or everything=True")
        return [kind(filter=self.of_the_server())]


def _require_list(name: str, values: object) -> None:
    """Refuse what would let everything through, or single letters, in place of what was meant."""
    if isinstance(values, str):
        raise TypeError(f"{name} is a list, not a text")
    if not values:
        raise ValueError(f"{name} is empty; leave it out to have all")


def _letter(
    proto: deadletters.DeadLetter, caller: Caller, kind: type | None = None, position: str = ""
) -> DeadLetter:
    rejected = proto.cause == deadletters.CAUSE_REJECTED
    return DeadLetter(
        id=proto.id,
        stream=caller.names.bare_name(proto.stream),
        consumer=proto.consumer,
        event=Event(proto.event, caller.names, caller.payloads, kind),
        other_headers=dict(proto.other_headers),
        attempts=proto.attempts,
        first_delivery=moment(proto.first_delivery),
        last_delivery=moment(proto.last_delivery),
        time=moment(proto.time),
        cause="rejected" if rejected else "max_attempts",
        reason=proto.reason,
        error_type=proto.error_type,
        replay_count=proto.replay_count,
        replaying=proto.replaying,
        position=position,
    )
