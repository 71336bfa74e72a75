"""Streams: make, list, describe, purge and delete them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Unpack

from windshift.protos import admin
from windshift.protos import events as protos
from windshift.rpc import StatusCode

from .calling import Caller, pages
from .events import Events
from .names import Names
from .retry import Repeat
from .specs import StreamFields, StreamSpec, read_stream_spec
from .times import moment, moment_of

if TYPE_CHECKING:  # loaded when it is used: a program that publishes, lists or tails needs no consumers
    from .consumers import Consumer, Consumers


class StreamInfo(NamedTuple):
    """A stream, and what it holds.

    Attributes:
        name: its name.
        spec: what would make it.
        created: when it was made.
        events: events held.
        bytes: bytes held.
        first_id: id of the first event held.
        last_id: the last id ever given; 0 = none.
        first_time: when the first event held was stored.
        last_time: when the last event was stored.
        subjects: number of subjects that it holds events of.
        consumers: number of its consumers.
        worst_lag: what its slowest consumer has yet to receive.
        dead_letters: dead letters of its consumers.
        proto: all that the server tells.
    """

    name: str
    spec: StreamSpec
    created: datetime
    events: int
    bytes: int
    first_id: int
    last_id: int
    first_time: datetime | None
    last_time: datetime | None
    subjects: int
    consumers: int
    worst_lag: int
    dead_letters: int
    proto: admin.StreamInfo


def _info(proto: admin.StreamInfo, names: Names) -> StreamInfo:
    return StreamInfo(
        name=names.bare_name(proto.spec.name),
        spec=read_stream_spec(proto.spec, names),
        created=moment(proto.created),
        events=proto.events,
        bytes=proto.bytes,
        first_id=proto.first_id,
        last_id=proto.last_id,
        first_time=moment_of(proto, "first_time"),
        last_time=moment_of(proto, "last_time"),
        subjects=proto.subjects,
        consumers=proto.consumers,
        worst_lag=proto.worst_lag,
        dead_letters=proto.dead_letters,
        proto=proto,
    )


class Stream:
    """A stream by its name; whether it exists shows at the first call.

    Attributes:
        name: its name.
        events: its events, to be read without a consumer.
    """

    def __init__(self, caller: Caller, name: str) -> None:
        self._caller = caller
        self.name = name
        self.events = Events(caller, name)

    @cached_property
    def consumers(self) -> Consumers:
        """Its consumers."""
        from .consumers import Consumers  # noqa: PLC0415 -- see above

        return Consumers(self._caller, self.name)

    def consumer(self, name: str) -> Consumer:
        """Return a consumer that exists already, without asking the server."""
        from .consumers import Consumer  # noqa: PLC0415 -- see above

        return Consumer(self._caller, self.name, name)

    async def info(self) -> StreamInfo:
        """Describe the stream, as its leader sees it now.

        Raises:
            StreamNotFound: it does not exist.
        """
        request = admin.GetStreamRequest(name=self._caller.names.name(self.name))
        response = await self._caller.call(request, admin.GetStreamResponse, Repeat.READ)
        return _info(response.stream, self._caller.names)

    async def subjects(self, filter: str = "") -> AsyncIterator[tuple[str, int]]:  # noqa: A002 -- the field's name
        """List the subjects that the stream holds events of, with how many of each."""
        names = self._caller.names
        request = admin.ListSubjectsRequest(stream=names.name(self.name), filter=names.subject(filter))
        found = pages(self._caller, request, admin.ListSubjectsResponse, lambda page: page.subjects)
        async for entry in found:
            yield names.bare_subject(entry.subject), entry.events

    async def purge(
        self,
        subject: str = "",
        *,
        up_to_id: int | None = None,
        keep: int | None = None,
        dry_run: bool = False,
    ) -> int:
        """Remove events for good, and return how many.

        Args:
            subject: only those whose subject matches; empty = all.
            up_to_id: only those up to this id.
            keep: all but so many of the newest.
            dry_run: only count them.

        Raises:
            OutcomeUnknown: they may be gone or not; without `up_to_id` a repeat could remove more.
        """
        names = self._caller.names
        request = admin.PurgeStreamRequest(
            stream=names.name(self.name),
            subject=names.subject(subject),
            up_to_id=up_to_id,
            keep=keep,
            dry_run=dry_run,
        )
        repeat = Repeat.READ if dry_run else Repeat.ONCE if up_to_id is None else Repeat.SAME
        response = await self._caller.call(request, admin.PurgeStreamResponse, repeat)
        return response.purged

    async def delete(self, *, expected_last_id: int | None = None) -> None:
        """Delete the stream with its events and consumers. Its dead letters stay.

        Args:
            expected_last_id: only if this is the last id ever given.

        Raises:
            StreamNotFound: it does not exist.
            WrongLastId: its last id is another.
        """
        request = admin.DeleteStreamRequest(
            name=self._caller.names.name(self.name), expected_last_id=expected_last_id
        )
        await self._caller.call(request, admin.DeleteStreamResponse, Repeat.SAME, gone=StatusCode.NOT_FOUND)

    def __repr__(self) -> str:
        return f"Stream({self.name!r})"


class Streams:
    """The streams of a server."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def ensure(
        self,
        name: str,
        spec: StreamSpec | None = None,
        **fields: Unpack[StreamFields],
    ) -> Stream:
        """Make a stream, or change it to this.

        What is left out becomes the default, on an old stream too; only `replicas`, `fast_ingest` and atomic
        batches stay as they are.

        Args:
            name: its name.
            spec: what it is to be.
            **fields: the same, or what differs from `spec`: the fields of a `StreamSpec`.

        Raises:
            SubjectsOverlap: another stream has one of the subjects.
            Refused: what cannot be changed; see `windshift.sdk.errors`.
        """
        spec = (spec or StreamSpec()).with_fields(fields)
        request = spec.proto(name, self._caller.names)
        await self._caller.call(request, protos.EnsureStreamResponse, Repeat.SAME)
        return Stream(self._caller, name)

    async def get(self, name: str) -> StreamInfo:
        """Describe a stream.

        Raises:
            StreamNotFound: it does not exist.
        """
        return await Stream(self._caller, name).info()

    async def list(self, find: str = "") -> AsyncIterator[StreamInfo]:
        """List the streams of the client's namespace, by name: those with `find` in it or in a subject."""
        names = self._caller.names
        request = admin.ListStreamsRequest(find=find)
        found = pages(self._caller, request, admin.ListStreamsResponse, lambda page: page.streams)
        async for stream in found:
            if names.owns(stream.spec.name):
                info = _info(stream, names)
                texts = (info.name, *info.spec.subjects)  # the server looked for it in the namespace, too
                if not names.namespace or any(find.lower() in text.lower() for text in texts):
                    yield info

    async def delete(self, name: str, *, expected_last_id: int | None = None) -> None:
        """Delete a stream; see `Stream.delete`."""
        await Stream(self._caller, name).delete(expected_last_id=expected_last_id)
