"""The calls that consume, on all servers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from windshift.nats.jetstream.api import JsonObject
from windshift.server.admin.gathering import Gathering
from windshift.server.events.model import ConsumerKey, StreamSeq


class SubscriptionView(NamedTuple):
    """A call that consumes.

    Attributes:
        stream: the stream.
        consumer: the consumer.
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


class HolderView(NamedTuple):
    """A call that holds an event.

    Attributes:
        consumer: the consumer.
        peer: the client's address.
        principal: who it is; empty where there are no rules.
        attempt: which attempt this is, from 1.
        until_ns: until when it may settle it, in nanoseconds since 1970.
    """

    consumer: ConsumerKey
    peer: str
    principal: str
    attempt: int
    until_ns: int


class OpenCall(Protocol):
    """A call that consumes, or is about to."""

    def view(self) -> SubscriptionView | None:
        """Describe it; None while it is not attached."""
        ...

    def holder(self, seq: StreamSeq) -> HolderView | None:
        """Say how it holds an event; None if it does not."""
        ...


class Subscriptions:
    """The calls that consume: keeps those of this server, and asks the others for theirs."""

    def __init__(self, gathering: Gathering) -> None:
        self._gathering = gathering
        self._open: dict[OpenCall, None] = {}  # by age
        gathering.answer("subscriptions", self._own)

    def add(self, call: OpenCall) -> None:
        """Show a call from now on."""
        self._open[call] = None

    def remove(self, call: OpenCall) -> None:
        """Show it no more."""
        del self._open[call]

    def holders(self, stream: str, seq: StreamSeq) -> Iterator[HolderView]:
        """Yield the calls of this server that hold an event of a stream."""
        for call in self._open:
            holder = call.holder(seq)
            if holder is not None and holder.consumer.stream == stream:
                yield holder

    async def all(self, stream: str, consumer: str) -> tuple[list[SubscriptionView], list[str]]:
        """Return the calls of a consumer, a stream or all, and the ids of servers that did not answer.

        An empty `stream` or `consumer` is any. By stream, consumer and age.
        """
        question = {"stream": stream, "consumer": consumer}
        gathered = await self._gathering.ask("subscriptions", question)
        found = [_read(entry, server) for server, entries in gathered.entries.items() for entry in entries]
        found.sort(key=lambda each: (each.stream, each.consumer, each.since_ns))
        return found, gathered.missing

    async def counts(self, stream: str) -> Counter[ConsumerKey]:
        """Count the calls of each consumer of a stream, or of all when it is empty."""
        found, _ = await self.all(stream, "")
        return Counter(ConsumerKey(each.stream, each.consumer) for each in found)

    def _own(self, question: JsonObject) -> Iterator[JsonObject]:
        stream, consumer = question.get("stream"), question.get("consumer")
        for call in self._open:
            view = call.view()
            if view is not None and stream in ("", view.stream) and consumer in ("", view.consumer):
                yield view._asdict()


def _read(entry: JsonObject, server: str) -> SubscriptionView:
    """Read what a server says of a call; what is odd, or of another version, is left out."""
    known = {
        name: entry[name]
        for name, default in SubscriptionView._field_defaults.items()
        if type(entry.get(name)) is type(default)
    }
    return SubscriptionView(**known)._replace(server=server)
