"""The calls that consume, on all servers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Final, NamedTuple, Protocol

from windshift.nats.jetstream.api import JsonObject
from windshift.server.admin.gathering import Gathering, read_fields
from windshift.server.admin.look import SharedLook
from windshift.server.background.batches import spread
from windshift.server.background.pacing import pause
from windshift.server.events.model import ConsumerKey, StreamSeq

_LONGEST: Final = 1.0
"""Seconds that counts are good for at most."""
_MOST_CALLS: Final = 1_000_000
"""Calls that one server may have at one consumer: more is odd."""


class SubscriptionView(NamedTuple):
    """A call that consumes.

    Attributes:
        peer: the client's address.
        principal: who it is; empty where there are no rules.
        user_agent: what the client calls itself.
        since_ns: when it subscribed, in nanoseconds since 1970.
        size: how many events it may hold.
        unsettled: how many it holds.
        delivered: events that were delivered on it.
        acked: those of them that it acknowledged.
        rejected: those of them that it rejected.
        server: id of the server that has it.
    """

    stream: str = ""
    consumer: str = ""
    peer: str = ""
    principal: str = ""
    user_agent: str = ""
    since_ns: int = 0
    size: int = 0
    unsettled: int = 0
    delivered: int = 0
    acked: int = 0
    rejected: int = 0
    server: str = ""


class Holder(NamedTuple):
    """A call that holds an event, described as in a `SubscriptionView`.

    Attributes:
        attempt: which attempt this is, from 1.
        until_ns: until when it may settle it, in nanoseconds since 1970.
    """

    stream: str = ""
    consumer: str = ""
    peer: str = ""
    principal: str = ""
    attempt: int = 0
    until_ns: int = 0
    server: str = ""


class OpenCall(Protocol):
    """A call that consumes, or is about to."""

    @property
    def consumer(self) -> ConsumerKey | None:
        """What it consumes from; None while it is not attached."""

    def view(self) -> SubscriptionView | None:
        """Describe it; None while it is not attached."""

    def holder(self, seq: StreamSeq) -> Holder | None:
        """Say how it holds an event; None if it does not."""


class Subscriptions:
    """The calls that consume: keeps those of this server, and asks the others for theirs."""

    def __init__(self, gathering: Gathering) -> None:
        self._gathering = gathering
        self._open: dict[OpenCall, None] = {}  # by age
        self._counts = SharedLook(self._count, _LONGEST)
        gathering.answer("subscriptions", self._own)

    def add(self, call: OpenCall) -> None:
        """Show a call from now on."""
        self._open[call] = None

    def remove(self, call: OpenCall) -> None:
        """Show it no more."""
        del self._open[call]

    def holders(self, stream: str, seq: StreamSeq) -> Iterator[Holder]:
        """Yield the calls of this server that hold an event of a stream."""
        for call in tuple(self._open):
            holder = call.holder(seq)
            if holder is not None and holder.stream == stream:
                yield holder

    async def all(self, stream: str, consumer: str) -> tuple[list[SubscriptionView], list[str]]:
        """Return the calls of a consumer, a stream or all, and the ids of servers that did not answer.

        An empty `stream` or `consumer` is any. By stream, consumer and age.
        """
        question = {"stream": stream, "consumer": consumer}
        gathered = await self._gathering.ask("subscriptions", question)
        found: list[SubscriptionView] = []
        for server, entries in gathered.entries.items():
            found += await spread(partial(_read, server=server), entries)
        found.sort(key=lambda each: (each.stream, each.consumer, each.since_ns))
        return found, gathered.missing

    async def counts(self) -> Counter[ConsumerKey]:
        """Count the calls of each consumer; all who ask within a moment share what is found."""
        return await self._counts.get(None)

    async def _count(self, _: float) -> Counter[ConsumerKey]:
        gathered = await self._gathering.ask(
            "subscriptions", {"stream": "", "consumer": "", "only_counts": True}
        )
        counts = Counter[ConsumerKey]()
        for entry in chain.from_iterable(gathered.entries.values()):
            view, calls = _read(entry, ""), entry.get("calls", 1)
            if isinstance(calls, int) and 0 < calls <= _MOST_CALLS:
                counts[ConsumerKey(view.stream, view.consumer)] += calls
            await pause()
        return counts

    def _own(self, question: JsonObject) -> Iterator[JsonObject | None]:
        stream, consumer = question.get("stream"), question.get("consumer")
        counts = Counter[ConsumerKey]()
        for call in tuple(self._open):
            key = call.consumer
            if key is None or stream not in ("", key.stream) or consumer not in ("", key.name):
                yield None
            elif question.get("only_counts"):
                counts[key] += 1
                yield None
            else:
                view = call.view()
                yield None if view is None else view._asdict()
        for key, calls in counts.items():
            yield {"stream": key.stream, "consumer": key.name, "calls": calls}


def _read(entry: JsonObject, server: str) -> SubscriptionView:
    return SubscriptionView(**read_fields(entry, SubscriptionView._field_defaults))._replace(server=server)
