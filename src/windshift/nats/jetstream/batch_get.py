"""Many stored messages with one request (ADR-31, nats-server 2.11 and later).

The request is answered by any replica of the stream, with what that one has: the latest writes may be
missing. Messages arrive one by one and end with a status: 204 after the last one, 404 when there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from windshift.nats import headers as h
from windshift.nats.connection import Connection
from windshift.nats.errors import Forbidden, JetStreamError, NoDirectGet, NotConnected, Unavailable
from windshift.nats.jetstream.api import API_PREFIX, StoredMessage, to_json
from windshift.nats.protocol import Message
from windshift.nats.retry import retry
from windshift.nats.times import Time, parse_rfc3339

_PATIENCE: Final = 3.0
"""Seconds of silence after which the replica that was asked counts as dead."""

_SEQUENCE: Final = b"Nats-Sequence"
_SUBJECT: Final = b"Nats-Subject"
_TIME: Final = b"Nats-Time-Stamp"
_PENDING: Final = b"Nats-Num-Pending"
_OURS: Final = frozenset(
    {_SEQUENCE, _SUBJECT, _TIME, _PENDING, b"Nats-Stream", b"Nats-Last-Sequence", b"Nats-UpTo-Sequence"}
)
"""Headers that the server puts on a message to say what it is."""


class Batch(NamedTuple):
    """Messages in the order of their sequences."""

    messages: list[StoredMessage]
    left: int
    """How many more match after the last of these."""


async def batch_get(connection: Connection, stream: str, query: Mapping[str, Any], deadline: float) -> Batch:
    """Read messages.

    `query` has ``next_by_subj``, ``batch``, and where to begin: ``seq`` or ``start_time``; with ``max_bytes``
    it ends after the message that reaches it. Raise `NoDirectGet`, `JetStreamError` or `Unavailable`;
    `deadline` is a loop time.
    """
    subject, body = f"{API_PREFIX}DIRECT.GET.{stream}".encode(), to_json(query)
    async for _ in retry(deadline):
        await connection.wait_ready(deadline)
        batch = await _Request(connection).ask(subject, body, deadline)
        if batch is not None:
            return batch
    raise Unavailable


class _Request:
    """One request, and what arrives in answer to it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages: list[StoredMessage] = []
        self._end: Message | None = None
        self._news = asyncio.Event()
        self._forbidden = self._lost = False

    async def ask(self, subject: bytes, body: bytes, deadline: float) -> Batch | None:
        """Ask once; `None` means that asking again is right."""
        inbox = self._connection.subscribe_once(self._on_message)
        if inbox is None:
            return None
        self._connection.on_lost.append(self._on_lost)
        stop_watching = self._connection.violations.watch(subject, self._on_forbidden)
        try:
            self._connection.publish(subject, body, reply=inbox.subject)
            return await self._answer(deadline)
        except NotConnected:
            return None
        finally:
            stop_watching()
            self._connection.on_lost.remove(self._on_lost)
            inbox.unsubscribe()

    async def _answer(self, deadline: float) -> Batch | None:
        while self._end is None:
            self._news.clear()
            try:
                async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + _PATIENCE)):
                    await self._news.wait()
            except TimeoutError:
                return None
            if self._forbidden:
                raise Forbidden
            if self._lost:
                return None
        return self._batch(self._end)

    def _batch(self, end: Message) -> Batch:
        status = h.status(end.headers)
        match status:
            case h.Status(204):
                return Batch(self._messages, int(h.get(end.headers, _PENDING) or 0))
            case h.Status(404):
                return Batch([], 0)
            case h.Status(503) | None:
                raise NoDirectGet
            case _:
                raise JetStreamError(0, status.code, status.description)

    def _on_forbidden(self) -> None:
        self._forbidden = True
        self._news.set()

    def _on_lost(self) -> None:
        self._lost = True
        self._news.set()

    def _on_message(self, message: Message) -> None:
        if h.status(message.headers) is not None:
            self._end = message
        elif h.get(message.headers, _SEQUENCE) is not None:
            self._messages.append(_stored(message))
        self._news.set()


def _stored(message: Message) -> StoredMessage:
    lines = h.split(message.headers)
    told = dict(lines)
    own = tuple(line for line in lines if line[0] not in _OURS)
    time = parse_rfc3339(told.get(_TIME, b"").decode(errors="replace"))
    subject = told[_SUBJECT].decode(errors="replace")
    return StoredMessage(subject, int(told[_SEQUENCE]), own, message.body, time or Time(0, 0))
