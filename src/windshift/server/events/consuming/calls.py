"""The consume calls of this process, by consumer, and what they are told of it and of the connection.

Calls of one consumer share its configuration: it may be some kilobytes, and there may be thousands of calls.

Before the broker moves a consumer to another event, no call may hold an event of it, and no message about one
may be on its way: the broker would take it for one about the new delivery of the event, which looks the same.
So all calls drop what they hold, and are asked whether all that they had sent is answered. They go on when
they see that the consumer is in another run, or when nobody has moved it for `STILL` seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Final, NamedTuple, Protocol

from windshift.nats import Connection
from windshift.server.events.consuming.consumer_state import ConsumerSnapshot
from windshift.server.events.deliveries import DeliveryName
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.notes import CONSUMER, ELECTED, REPLAY, Notes
from windshift.server.events.runs import Run

STILL: Final = 10.0
"""Seconds for which calls wait for a move, and for which it may take."""


class Call(Protocol):
    """A consume call. Nothing that it is told may block or raise."""

    def hold_still(self, run: Run, until: float) -> None:
        """Drop what the client holds, and take nothing before the consumer is in this run."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether something that was sent to the broker is not answered."""
        ...

    def noted(self, kind: str) -> None:
        """Take a note about the consumer: `CONSUMER`, `ELECTED` or `REPLAY`."""
        ...

    def lost(self) -> None:
        """Note that the connection ended."""
        ...

    def connected(self, *, is_same: bool) -> None:
        """Note that there is another connection, and whether it is to the nats-server process of before."""
        ...

    def replaced(self) -> None:
        """Note that another connection took over from one that still works."""
        ...

    @property
    def run_name(self) -> str:
        """Name of the run of the consumer that the call is in."""
        ...

    def taken(self, number: int, deliveries: Iterable[DeliveryName]) -> list[StreamSeq]:
        """Let deliveries go that the call of this number takes over, and return the events for which not."""
        ...

    def objected(self, number: int, seqs: Iterable[StreamSeq]) -> None:
        """Let deliveries go that the call of this number was not to have."""
        ...


@dataclass(slots=True)
class _Attached:
    """The calls of one consumer, and the consumer as it was seen last."""

    found: ConsumerSnapshot
    calls: set[Call] = field(default_factory=set)


class _Move(NamedTuple):
    """Somebody is about to begin this run of a consumer; until then its calls hold still."""

    run: Run
    until: float


class Calls:
    """The consume calls of this process."""

    def __init__(self) -> None:
        self._attached: dict[ConsumerKey, _Attached] = {}
        self._moves: dict[ConsumerKey, _Move] = {}
        self._server = ""  # the nats-server process that the connection is to, or was last

    def follow(self, connection: Connection, notes: Notes) -> None:
        """Tell calls of notes, and of what happens to the connection, from now on."""
        for kind in (CONSUMER, ELECTED, REPLAY):
            notes.read(kind, partial(self._noted, kind))
        self._server = connection.server_id
        connection.on_lost.append(self._lost)
        connection.on_connected.append(partial(self._connected, connection))
        connection.on_replaced.append(partial(self._replaced, connection))

    def attach(self, consumer: ConsumerKey, call: Call, found: ConsumerSnapshot) -> None:
        """Count a call of a consumer that was just found, and tell it of a move that has begun."""
        self._attached.setdefault(consumer, _Attached(found)).calls.add(call)
        move = self._moves.get(consumer)
        if move is not None and move.until > _now():
            call.hold_still(*move)

    def detach(self, consumer: ConsumerKey, call: Call) -> None:
        """Count it no more."""
        attached = self._attached[consumer]
        attached.calls.discard(call)
        if not attached.calls:
            del self._attached[consumer]

    def of(self, consumer: ConsumerKey) -> list[Call]:
        """Return the calls of a consumer."""
        attached = self._attached.get(consumer)
        return [] if attached is None else list(attached.calls)

    def share(self, consumer: ConsumerKey, found: ConsumerSnapshot) -> ConsumerSnapshot:
        """Return a consumer as it was found; where its configuration is that of other calls, with theirs."""
        attached = self._attached.get(consumer)
        if attached is None:
            return found
        known = attached.found
        if known.info.config != found.info.config:
            attached.found = found
            return found
        return replace(known, info=replace(found.info, config=known.info.config))

    def hold_still(self, consumer: ConsumerKey, run: Run) -> int:
        """Have the calls of a consumer hold still until it is in this run; return how many are still busy.

        Safe to repeat.
        """
        now = _now()
        move = self._moves.get(consumer)
        if move is None or move.run != run:
            self._moves = {key: move for key, move in self._moves.items() if move.until > now}
            move = self._moves[consumer] = _Move(run, now + STILL)
        calls = self.of(consumer)
        for call in calls:
            call.hold_still(*move)
        return sum(call.is_busy for call in calls)

    def _noted(self, kind: str, stream: str, consumer: str, _: bytes) -> None:
        for call in self.of(ConsumerKey(stream, consumer)):
            call.noted(kind)

    def _all(self) -> list[Call]:
        return list(chain.from_iterable(each.calls for each in self._attached.values()))

    def _lost(self) -> None:
        for call in self._all():
            call.lost()

    def _connected(self, connection: Connection) -> None:
        before, self._server = self._server, connection.server_id
        for call in self._all():
            call.connected(is_same=self._server == before)

    def _replaced(self, connection: Connection) -> None:
        self._server = connection.server_id
        for call in self._all():
            call.replaced()


def _now() -> float:
    return asyncio.get_running_loop().time()
