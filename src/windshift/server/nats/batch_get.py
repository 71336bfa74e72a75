"""Many stored messages with one request (ADR-31, nats-server 2.11 and later).

The request is answered by any replica of the stream, with what that one has: the latest writes may be
missing. Messages arrive one by one and end with a status: 204 after the last one, 404 when there is none.
"""

from __future__ import annotations

import asyncio
import json
from asyncio import get_running_loop
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from nats.aio.msg import Msg

from windshift.server.errors import BrokerUnavailable, ForbiddenByBroker
from windshift.server.nats.connection import Connection, NotConnected
from windshift.server.nats.inbox import Inbox
from windshift.server.nats.jetstream import API_PREFIX, Backoff, RefusedByBroker, pause_within
from windshift.server.nats.replies import NO_RESPONDERS_STATUS
from windshift.server.nats.stored import Stored
from windshift.server.nats.timestamps import Time, parse_rfc3339

_PATIENCE: Final = 3.0
"""Seconds of silence after which the replica that was asked counts as dead."""

_OURS: Final = frozenset(
    {
        "Nats-Stream",
        "Nats-Subject",
        "Nats-Sequence",
        "Nats-Time-Stamp",
        "Nats-Num-Pending",
        "Nats-Last-Sequence",
        "Nats-UpTo-Sequence",
    }
)
"""Headers that the broker puts on a message to say what it is."""


class NoDirectGet(Exception):
    """Nobody answers such requests: there is no such stream, or it does not allow them, or not now."""


class Batch(NamedTuple):
    """Messages in the order of their sequences."""

    messages: list[Stored]
    left: int
    """How many more match after the last of these."""


async def batch_get(connection: Connection, stream: str, query: Mapping[str, Any], deadline: float) -> Batch:
    """Read messages. Their headers must be text: what is not is read with replacement characters.

    `query` has ``next_by_subj``, ``batch``, and where to begin: ``seq`` or ``start_time``; with ``max_bytes``
    it ends after the message that reaches it. Raise `NoDirectGet`, `RefusedByBroker` or `BrokerUnavailable`;
    `deadline` is a loop time.
    """
    body = json.dumps(query, separators=(",", ":")).encode()
    pauses = Backoff().pauses()
    while True:
        await connection.wait_connected(deadline)
        batch = await _Request(connection).ask(f"{API_PREFIX}DIRECT.GET.{stream}", body, deadline)
        if batch is not None:
            return batch
        if not await pause_within(pauses, deadline):
            raise BrokerUnavailable


class _Request:
    """One request, and what arrives in answer to it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages: list[Stored] = []
        self._end: Mapping[str, str] | None = None
        self._news = asyncio.Event()
        self._forbidden = False

    async def ask(self, subject: str, body: bytes, deadline: float) -> Batch | None:
        """Ask once; `None` means that asking again is right."""
        inbox = Inbox(self._connection, self._on_message)
        self._connection.on_lost.append(self._news.set)
        stop_watching = self._connection.violations.watch(subject, self._on_forbidden)
        try:
            if not await inbox.open():
                return None
            self._connection.publish(subject, body, reply=inbox.subject)
            return await self._answer(deadline)
        except NotConnected:
            return None
        finally:
            stop_watching()
            self._connection.on_lost.remove(self._news.set)
            await inbox.detach()

    async def _answer(self, deadline: float) -> Batch | None:
        while self._end is None:
            self._news.clear()
            try:
                async with asyncio.timeout_at(min(deadline, get_running_loop().time() + _PATIENCE)):
                    await self._news.wait()
            except TimeoutError:
                return None
            if self._forbidden:
                raise ForbiddenByBroker
            if not self._connection.connected:
                return None
        return self._batch(self._end)

    def _batch(self, end: Mapping[str, str]) -> Batch:
        status = end["Status"]
        if status == "204":
            return Batch(self._messages, int(end.get("Nats-Num-Pending", "0")))
        if status == "404":
            return Batch([], 0)
        if status == NO_RESPONDERS_STATUS:
            raise NoDirectGet
        raise RefusedByBroker(0, int(status), end.get("Description", ""))

    def _on_forbidden(self) -> None:
        self._forbidden = True
        self._news.set()

    def _on_message(self, message: Msg) -> None:
        headers = message.headers or {}
        if "Nats-Sequence" in headers:
            self._messages.append(_stored(headers, message.data))
        elif "Status" in headers:
            self._end = headers
        self._news.set()


def _stored(headers: Mapping[str, str], body: bytes) -> Stored:
    return Stored(
        headers["Nats-Subject"],
        int(headers["Nats-Sequence"]),
        tuple((name.encode(), value.encode()) for name, value in headers.items() if name not in _OURS),
        body,
        parse_rfc3339(headers.get("Nats-Time-Stamp", "")) or Time(0, 0),
    )
