"""Dead letters: list, watch, replay and purge what consumers gave up on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from windshift.protos import deadletters
from windshift.rpc import RpcError

from .calling import Caller, pages
from .events import Event
from .names import Names
from .payloads import type_name
from .retry import Repeat
from .times import moment, timestamp

Cause = Literal["max_attempts", "rejected"]

_SERVICE = "/windshift.deadletters.v1alpha1.DeadLettersService/"
_IDS_PER_CALL = 1000


@dataclass(frozen=True, slots=True)
class DeadLetter:
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
class Purged:
    """What a purge did.

    Attributes:
        purged: dead letters that were removed.
        missing_ids: ids that name no dead letter any more.
    """

    purged: int = 0
    missing_ids: list[str] = field(default_factory=list)


class DeadLetters:
    """The dead letters of a server.

    Most methods take a filter: the stream, its consumer, causes, the type of the payload, and times when the
    consumer gave up (from `since`, before `until`). What is left out does not restrict.

    A namespace cannot restrict by itself, so a client with one needs `stream` or `ids` for whatever changes
    something; lists and watches leave out other namespaces.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def list(
        self,
        *,
        stream: str = "",
        consumer: str = "",
        causes: Sequence[Cause] = (),
        type: type | str = "",  # noqa: A002 -- the field's name
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[DeadLetter]:
        """List dead letters, page by page."""
        names = self._caller.names
        name = self._type_name(type)
        which = _filter(names, stream, consumer, causes, name, since, until)
        request = deadletters.ListRequest(filter=which)
        method, kind = _SERVICE + "List", deadletters.ListResponse
        async for letter in pages(self._caller, method, request, kind, lambda page: page.dead_letters):
            if names.owns(letter.stream) and _matches(letter, name):
                yield _letter(letter, self._caller, _class(type))

    async def get(self, id: str) -> DeadLetter:  # noqa: A002 -- the field's name
        """Read one dead letter.

        Raises:
            DeadLetterNotFound: it was replayed, purged, or has expired.
        """
        request = deadletters.GetRequest(id=id)
        response = await self._caller.call(_SERVICE + "Get", request, deadletters.GetResponse, Repeat.READ)
        return _letter(response.dead_letter, self._caller)

    async def watch(
        self,
        *,
        position: str = "",
        existing: bool = False,
        stream: str = "",
        consumer: str = "",
        causes: Sequence[Cause] = (),
        type: type | str = "",  # noqa: A002 -- the field's name
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[DeadLetter]:
        """Yield dead letters as they are written, until the loop is left.

        A watch that breaks goes on behind the last letter. If it breaks before the first one, and neither
        `position` nor `existing` was given, letters written meanwhile are missed.

        Args:
            position: `position` of the last letter that was seen, to go on behind it.
            existing: without a position, begin with the letters that there are.
            stream: see the class for this and the other parts of the filter.
            consumer: see the class.
            causes: see the class.
            type: see the class.
            since: see the class.
            until: see the class.

        Raises:
            WindshiftError: it broke in a way that another attempt would not mend.
        """
        names = self._caller.names
        name = self._type_name(type)
        which = _filter(names, stream, consumer, causes, name, since, until)
        request = deadletters.WatchRequest(filter=which, position=position, existing=existing)
        attempt = 0
        while True:
            try:
                async with self._caller.stream(_SERVICE + "Watch", deadletters.WatchResponse) as call:
                    call.send(request)
                    call.close_send()
                    async for response in call:
                        attempt = 0
                        request.position = response.position
                        letter = response.dead_letter
                        if names.owns(letter.stream) and _matches(letter, name):
                            yield _letter(letter, self._caller, _class(type), response.position)
                    return
            except RpcError as error:
                attempt += 1
                await self._caller.reopen(error, attempt)

    async def replay(
        self,
        *,
        ids: Sequence[str] | None = None,
        stream: str = "",
        consumer: str = "",
        causes: Sequence[Cause] = (),
        type: type | str = "",  # noqa: A002 -- the field's name
        since: datetime | None = None,
        until: datetime | None = None,
        everything: bool = False,
        rate: int = 0,
        dry_run: bool = False,
    ) -> Replayed:
        """Deliver the events of dead letters again, to the consumers that gave up on them, and only to these.

        Args:
            ids: these dead letters.
            stream: or those that the filter lets through; see the class for this and the other parts of it.
            consumer: see the class.
            causes: see the class.
            type: see the class.
            since: see the class.
            until: see the class.
            everything: or all.
            rate: at most so many per second; 0 = 100.
            dry_run: only count.

        Raises:
            ValueError: neither ids nor a filter nor `everything` was given, or a type inside of JSON.
        """
        total = Replayed()
        name = _known_to_the_server(self._type_name(type))
        which = _filter(self._caller.names, stream, consumer, causes, name, since, until)
        for request in _requests(
            deadletters.ReplayRequest, ids, which, self._caller.names, everything=everything
        ):
            request.rate, request.dry_run = rate, dry_run
            async for page in self._pages("Replay", request, deadletters.ReplayResponse):
                total.replayed += page.replayed
                total.already_replaying += page.already_replaying
                total.without_consumer += page.without_consumer
                total.missing_ids += page.missing_ids
        return total

    async def purge(
        self,
        *,
        ids: Sequence[str] | None = None,
        stream: str = "",
        consumer: str = "",
        causes: Sequence[Cause] = (),
        type: type | str = "",  # noqa: A002 -- the field's name
        since: datetime | None = None,
        until: datetime | None = None,
        everything: bool = False,
        dry_run: bool = False,
    ) -> Purged:
        """Remove dead letters for good; see `replay` for the arguments."""
        total = Purged()
        name = _known_to_the_server(self._type_name(type))
        which = _filter(self._caller.names, stream, consumer, causes, name, since, until)
        for request in _requests(
            deadletters.PurgeRequest, ids, which, self._caller.names, everything=everything
        ):
            request.dry_run = dry_run
            async for page in self._pages("Purge", request, deadletters.PurgeResponse):
                total.purged += page.purged
                total.missing_ids += page.missing_ids
        return total

    def _type_name(self, kind: type | str) -> str:
        return kind if isinstance(kind, str) else self._caller.payloads.name(kind)

    async def _pages(self, method: str, request: Any, response: Any) -> AsyncIterator[Any]:
        while True:
            page = await self._caller.call(_SERVICE + method, request, response, Repeat.SAME)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


def _filter(
    names: Names,
    stream: str,
    consumer: str,
    causes: Sequence[Cause],
    type_name: str,
    since: datetime | None,
    until: datetime | None,
) -> deadletters.Filter:
    return deadletters.Filter(
        stream=names.name(stream),
        consumer=consumer,
        causes=[f"CAUSE_{cause.upper()}" for cause in causes],
        type=type_name.partition("/")[0],
        since=None if since is None else timestamp(since),
        until=None if until is None else timestamp(until),
    )


def _requests(
    kind: Any, ids: Sequence[str] | None, which: deadletters.Filter, names: Names, *, everything: bool
) -> list[Any]:
    if ids is not None:
        if which.ByteSize() or everything:
            raise ValueError("give ids or a filter, not both")
        return [kind(ids=ids[first : first + _IDS_PER_CALL]) for first in range(0, len(ids), _IDS_PER_CALL)]
    if not which.ByteSize() and not everything:
        raise ValueError("give ids, a filter, or everything=True")
    if names.namespace and not which.stream:
        raise ValueError("a client with a namespace must say which stream")
    return [kind(filter=which)]


def _known_to_the_server(name: str) -> str:
    if "/" in name:
        raise ValueError(
            "the server does not know the types inside of JSON: list the dead letters, and give their ids"
        )
    return name


def _matches(proto: deadletters.DeadLetter, name: str) -> bool:
    """Check a type inside of JSON, which the server does not know."""
    return "/" not in name or type_name(proto.event.data) == name


def _class(kind: type | str) -> type | None:
    return None if isinstance(kind, str) else kind


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
