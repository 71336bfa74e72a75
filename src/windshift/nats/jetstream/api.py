"""JetStream's API: JSON requests and replies, repeated during elections and reconnects.

Subjects and bodies are those of nats-server's ``jetstream_api.go`` (2.15). Configurations remain JSON
objects: classes would drop fields that they do not know, and an update would reset what another program had
set.
"""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeAlias

from windshift.nats import headers as h
from windshift.nats.connection import Connection
from windshift.nats.errors import (
    Busy,
    Forbidden,
    JetStreamError,
    MessageTooLarge,
    NoDirectGet,
    NotConnected,
    OutcomeUnknown,
    StorageFull,
    Unanswered,
    Unavailable,
)
from windshift.nats.jetstream import codes
from windshift.nats.protocol import Message
from windshift.nats.requests import Budget, NoReply, Requests, Share
from windshift.nats.retry import retry
from windshift.nats.times import NANOSECONDS, Time, parse_rfc3339

JsonObject: TypeAlias = dict[str, Any]

API_PREFIX: Final = "$JS.API."
_CHANGES: Final = (
    "STREAM.CREATE",
    "STREAM.UPDATE",
    "STREAM.DELETE",
    "CONSUMER.CREATE",
    "CONSUMER.DELETE",
    "CONSUMER.RESET",
)
_SUBJECTS_AT_ONCE: Final = 1_000
"""Subjects processed in one turn of the event loop."""
_MOST_SUBJECTS: Final = 100_000
"""Subjects in one answer of a server."""
_LONGEST_SUBJECT: Final = 640
"""Bytes of one subject."""
_PUNCTUATION: Final = 16
"""Bytes beside each subject in an answer."""
_NAMES: Final = 320 * 1024
"""Bytes of a page of names: 1,024 of at most 255 characters."""
_LISTS: Final = ("STREAM.LIST", "CONSUMER.LIST")
_LIST: Final = 24 * 1024 * 1024
"""Bytes of a page of a list: 256 configurations, of which a few may be as large as there can be; or 100,000
subjects.
"""
_ACCOUNT: Final = 64 * 1024
"""Bytes of what is told of an account."""
_HEAD: Final = 16 * 1024
"""Bytes of an answer beside its variable part."""


def to_json(value: Mapping[str, Any]) -> bytes:
    """Encode the body of a request."""
    return json.dumps(value, separators=(",", ":")).encode()


def read_answer(body: bytes) -> JsonObject:
    """Parse an answer of JetStream's API.

    Raise `JetStreamError` for an error, `ValueError` if it is not such an answer.
    """
    try:
        answer: JsonObject = json.loads(body)
        error = answer.get("error")
        if error is None:
            return answer
        refusal = JetStreamError(
            int(error.get("err_code", 0)),
            int(error.get("code", 0)),
            str(error.get("description", "")),
            str(answer.get("stream", "")),
        )
    except (AttributeError, TypeError, OverflowError, RecursionError):
        raise ValueError("not an answer of JetStream") from None
    raise refusal


_LARGE: Final = 64 * 1024
"""Bytes of an answer, or of base64, that are read at once: more takes long enough to hinder others."""
_DATA: Final = b'"data":"'
_DECODED: Final = ""
"""The key, which no answer has, of a message's data that was decoded."""


async def read_message(body: bytes) -> JsonObject:
    """Read an answer with a message. Let others run in between where its data is long; see `data_of`."""
    start = body.find(_DATA) + len(_DATA)
    end = body.find(b'"', start)
    if len(body) < _LARGE or start < len(_DATA) or end < 0 or b"\\" in body[start:end]:
        return read_answer(body)
    answer = read_answer(body[:start] + body[end:])
    parts = []
    for begin in range(start, end, _LARGE):
        parts.append(b64decode(body[begin : min(begin + _LARGE, end)]))
        await asyncio.sleep(0)
    answer[_DECODED] = b"".join(parts)
    return answer


def data_of(answer: JsonObject) -> bytes:
    """Return the data of the message in an answer."""
    decoded: bytes | None = answer.get(_DECODED)
    return b64decode(answer["message"].get("data", "")) if decoded is None else decoded


_SERVER_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")
_Read: TypeAlias = Callable[[bytes], JsonObject | Awaitable[JsonObject]]

_TOTAL: Final = re.compile(rb'"total":(\d+)')
_SUBJECTS: Final = b'"subjects":{'
_SUBJECT_COUNT: Final = re.compile(rb'"((?:[^"\\]|\\.)*)":\d+([,}])')
_UNREAD: Final = ""
"""The key, which no answer has, of the subjects in an answer that were not read yet."""


def leave_subjects(body: bytes) -> JsonObject:
    """Read an answer with subjects, but not these: they may be many megabytes. See `subject_pages`."""
    start = body.find(_SUBJECTS)
    if start < 0:
        return read_answer(body)
    total = _TOTAL.search(body, 0, start)
    return {"total": 0 if total is None else int(total[1]), _UNREAD: (body, start + len(_SUBJECTS))}


def subject_pages(answer: JsonObject) -> Iterator[list[str]]:
    """Yield the subjects in an answer, as many as one turn of the event loop may be busy with.

    Raise `JetStreamError` when there is something else.
    """
    body, position = answer.get(_UNREAD, (b"}", 0))
    page: list[str] = []
    while body[position : position + 1] != b"}":
        item = _SUBJECT_COUNT.match(body, position)
        if item is None:
            raise JetStreamError(0, 500, "something other than JetStream answered")
        subject = item[1]
        page.append(json.loads(b'"%b"' % subject) if b"\\" in subject else subject.decode(errors="replace"))
        position = item.end() - (item[2] == b"}")
        if len(page) == _SUBJECTS_AT_ONCE:
            yield page
            page = []
    if page:
        yield page


class StoredMessage(NamedTuple):
    """A message exactly as a stream holds it."""

    subject: str
    sequence: int
    headers: h.HeaderLines
    body: bytes
    time: Time
    """When it was stored."""

    @property
    def unix_ns(self) -> int:
        """When it was stored, in nanoseconds since 1970."""
        return self.time.unix_ns


_NO_TIME: Final = Time(0, 0)


class Batch(NamedTuple):
    """Messages in the order of their sequences."""

    messages: list[StoredMessage]
    left: int
    """How many more messages match."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream's configuration, the last sequence it ever gave (0: none; kept by a purge), and its bytes."""

    config: JsonObject
    last_sequence: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """A consumer's configuration and progress.

    Attributes:
        config: as the server stores it.
        created: its creation time, as the server writes it; another after a deletion and recreation.
        pending: messages not delivered yet.
        unsettled: delivered messages that are not settled, including those that wait for another attempt.
        settled_to: every message up to this sequence of the stream is settled.
        delivered_to: no message after this sequence of the stream was delivered.
        is_replicated: whether other servers have what it knows.
    """

    config: JsonObject
    created: str
    pending: int
    unsettled: int
    settled_to: int
    delivered_to: int
    is_replicated: bool = False


def consumer_state(info: JsonObject) -> ConsumerState:
    """Parse the answer to ``CONSUMER.INFO``."""
    return ConsumerState(
        info["config"],
        info["created"],
        info["num_pending"],
        info["num_ack_pending"],
        info["ack_floor"]["stream_seq"],
        info["delivered"]["stream_seq"],
        bool(info.get("cluster", {}).get("replicas")),
    )


_FOLLOWED_FOR: Final = 10 * NANOSECONDS
"""Nanoseconds after which the server removes a consumer that nobody asks any more."""


def following_config(name: str, filters: tuple[str, ...]) -> JsonObject:
    """Return the configuration of a consumer to follow a stream with, but for where it begins.

    It is an "ordered consumer" (ADR-17): in memory, and nothing is acknowledged. Whoever loses it, or a
    message, makes another one.
    """
    return {
        "name": name,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": _FOLLOWED_FOR,
        "filter_subjects": list(filters),
    }


class Page(NamedTuple):
    """Part of a list, and the length of the whole."""

    items: list[JsonObject]
    total: int


class _Unbounded:
    """No budget."""

    async def take(self, size: int, deadline: float) -> Share:
        return self

    def give_back(self) -> None:
        pass

    def leave(self) -> None:
        pass


def _answer_of(attempts: set[asyncio.Task[JsonObject]]) -> JsonObject | OutcomeUnknown | None:
    """Return the answer to one of several attempts that are over; else that one is in doubt, if so.

    Raise what the server refused.
    """
    unknown: OutcomeUnknown | None = None
    for attempt, error in [(each, each.exception()) for each in attempts]:
        if error is None:
            return attempt.result()
        if isinstance(error, OutcomeUnknown):
            unknown = error
        elif isinstance(error, Forbidden) or not isinstance(error, Unavailable):
            raise error
    return unknown


class JetStream:
    """A client of JetStream's API.

    Deadlines are in loop time. All methods raise `JetStreamError` for a permanent error, `Unavailable` if
    nothing was done, and those that change something `OutcomeUnknown` if it may have been done.

    Answers may be large, so they should have a budget and a connection of their own.

    Attributes:
        connection: for all requests.
        changes: how many streams and consumers were created, changed or deleted through this; a cached list
            of them is stale when it changes.
    """

    def __init__(
        self,
        connection: Connection,
        requests: Requests,
        attempt_timeout: timedelta = timedelta(seconds=3),
        budget: Budget | None = None,
    ) -> None:
        self.connection = connection
        self._budget = budget or _Unbounded()
        self._requests = requests
        self._attempt_timeout = attempt_timeout.total_seconds()
        self.changes = 0
        self.refusal = ""
        """Why nothing can be stored now, set by whoever watches the server's disk; empty = it can. Meanwhile,
        methods that store something raise `StorageFull`."""
        self.is_absent = False
        """Whether the server is known to have no JetStream, set by whoever looks. Meanwhile a request that
        nobody answers is not repeated as in an election, but raises `JetStreamError`."""

    def refuse_if_full(self) -> None:
        """Raise `StorageFull` while nothing can be stored."""
        if self.refusal:
            raise StorageFull(self.refusal)

    # --- Asking -------------------------------------------------------------------------------------------

    async def call(
        self,
        operation: str,
        request: Mapping[str, Any] | None,
        deadline: float,
        *,
        repeatable: bool = True,
        size: int | None = None,
        read: _Read = read_answer,
        send_by: float | None = None,
    ) -> JsonObject:
        """Call an operation, such as ``STREAM.INFO.ORDERS``.

        Args:
            operation: its subject after ``$JS.API.``.
            request: the body.
            deadline: when to give up.
            repeatable: whether a second request is harmless (all reads; creating with the same
                configuration). Otherwise it is not sent again once it may have arrived.
            size: the most bytes of the answer; None = those of the largest configuration and what the server
                has to say of it, or of a list.
            read: reads the answer, see `read_answer`.
            send_by: until when it is sent; None = `deadline`.
        """
        subject = (API_PREFIX + operation).encode()
        body = b"" if request is None else to_json(request)
        if size is None:
            size = self._size(operation, request)
        send_by = deadline if send_by is None else send_by
        async for attempt in retry(send_by):
            await self.connection.wait_ready(send_by)
            try:
                share = await self._budget.take(size, send_by)
            except Busy:
                if attempt == 1:
                    raise
                break  # that nobody answered before says more
            answer = await self._attempt(share, subject, body, deadline, read, repeatable=repeatable)
            if answer is not None:
                return answer
        raise Unanswered

    def _size(self, operation: str, request: Mapping[str, Any] | None) -> int:
        """Return the default bound on the bytes of an answer."""
        if operation.startswith(_LISTS) or (request is not None and "subjects_filter" in request):
            return _LIST
        return 2 * self.connection.max_payload

    async def _attempt(
        self, share: Share, subject: bytes, body: bytes, deadline: float, read: _Read, *, repeatable: bool
    ) -> JsonObject | None:
        """Send one request; `None` = try again."""
        # A request to a leader that is gone is never answered; repeatable ones are sent again.
        until = min(deadline, self._requests.loop.time() + self._attempt_timeout) if repeatable else deadline
        try:
            outcome = await self._requests.request_within(share, subject, body, until)
        except NotConnected:
            return None
        except MessageTooLarge:
            raise JetStreamError(0, 400, "it is larger than a message may be; ask for less at once") from None
        if isinstance(outcome, bytes):
            try:
                answer = read(outcome)
                return answer if isinstance(answer, dict) else await answer
            except JetStreamError as error:
                if error.err_code in codes.TEMPORARY:
                    return None
                raise
            except ValueError:
                raise JetStreamError(0, 500, "something other than JetStream answered") from None
            finally:  # only now: replies that wait to be read are in memory as well
                share.give_back()
        if outcome is NoReply.FORBIDDEN:
            raise Forbidden(subject.decode())
        if outcome is NoReply.NO_RESPONDERS and self.is_absent:
            raise JetStreamError(codes.JETSTREAM_NOT_ENABLED, 503, "JetStream not enabled")
        if outcome is not NoReply.NO_RESPONDERS and not repeatable:
            raise OutcomeUnknown
        return None

    async def storage_limit(self, replicas: int, deadline: float) -> int | None:
        """Return the bytes that all streams with so many replicas may have on disk in this account.

        None = as many as the servers have room for, or this user is not told.
        """
        try:
            info = await self.call("INFO", None, deadline, size=_ACCOUNT)
        except (JetStreamError, Unavailable):
            return None
        tier = (info.get("tiers") or {}).get(f"R{replicas}")
        limit = int(((tier or info).get("limits") or {}).get("max_storage", -1))
        if limit < 0:
            return None
        return limit if tier else limit // replicas  # without tiers each replica counts

    async def change(self, operation: str, request: Mapping[str, Any] | None, deadline: float) -> JsonObject:
        """Call an idempotent change until it is answered, or `deadline`.

        A cluster leaves some of many concurrent changes to one thing unanswered; they are sent again. Others
        only take long, so the answer to any attempt counts.
        """
        attempts: set[asyncio.Task[JsonObject]] = set()
        unknown: OutcomeUnknown | None = None
        try:
            async for _ in retry(deadline):
                send_by = min(deadline, self._requests.loop.time() + self._attempt_timeout)
                change = self._change_once(operation, request, send_by, deadline)
                attempts.add(self._requests.loop.create_task(change))
                done, attempts = await asyncio.wait(
                    attempts, timeout=self._attempt_timeout, return_when=asyncio.FIRST_COMPLETED
                )
                answer = _answer_of(done)
                if isinstance(answer, dict):
                    return answer
                unknown = unknown or answer
            done, attempts = await asyncio.wait(attempts) if attempts else (set(), attempts)
            answer = _answer_of(done)  # they ended at the deadline
        finally:
            for attempt in attempts:
                attempt.cancel()
        if isinstance(answer, dict):
            return answer
        raise unknown or answer or Unavailable

    async def _change_once(
        self, operation: str, request: Mapping[str, Any] | None, send_by: float, deadline: float
    ) -> JsonObject:
        size = _HEAD + (0 if request is None else 6 * len(to_json(request)))  # told back, and escaped by Go
        answer = await self.call(operation, request, deadline, repeatable=False, size=size, send_by=send_by)
        self.changes += operation.startswith(_CHANGES)
        return answer

    async def pages(self, operation: str, key: str, deadline: float, offset: int = 0) -> AsyncIterator[Page]:
        """Request a list page by page; others run in between.

        Elements that are added or removed meanwhile may be missed, or appear twice.
        """
        total = offset + 1
        while offset < total:
            answer = await self.call(operation, {"offset": offset}, deadline)
            items = list(answer.get(key) or ())
            total = int(answer.get("total") or 0)
            if not items:
                return
            offset += len(items)
            await asyncio.sleep(0)  # it was just parsed, which takes some ms; to work on it takes as long
            yield Page(items, total)
            await asyncio.sleep(0)

    async def listed(self, operation: str, key: str, deadline: float) -> AsyncIterator[JsonObject]:
        """Request all elements of a list, as `pages` does."""
        async for page in self.pages(operation, key, deadline):
            for element in page.items:
                yield element

    # --- Streams ------------------------------------------------------------------------------------------

    def is_older_than(self, version: tuple[int, int]) -> bool:
        """Whether the server in use is older than that, as far as its version is known."""
        server = self.connection.server
        known = None if server is None else _SERVER_VERSION.match(server[1].version)
        return known is not None and (int(known[1]), int(known[2])) < version

    async def stream_names(self, subject: str, deadline: float) -> list[str]:
        """List the streams that take messages of this subject."""
        answer = await self.call("STREAM.NAMES", {"subject": subject}, deadline, size=_NAMES)
        return list(answer.get("streams") or ())

    async def stream_info(self, stream: str, deadline: float) -> JsonObject:
        """Return JetStream's description of a stream."""
        return await self.call(f"STREAM.INFO.{stream}", None, deadline)

    async def find_stream(self, name: str, deadline: float) -> StreamState | None:
        """Look a stream up; `None` if there is none."""
        try:
            info = await self.stream_info(name, deadline)
        except JetStreamError as error:
            if error.err_code == codes.STREAM_NOT_FOUND:
                return None
            raise
        return StreamState(info["config"], info["state"]["last_seq"], info["state"]["bytes"])

    async def create_stream(self, config: JsonObject, deadline: float) -> None:
        """Create a stream; also succeeds if it exists with this configuration. May raise `StorageFull`."""
        self.refuse_if_full()
        await self.change(f"STREAM.CREATE.{config['name']}", config, deadline)

    async def update_stream(self, config: JsonObject, deadline: float) -> None:
        """Replace the configuration of an existing stream."""
        await self.change(f"STREAM.UPDATE.{config['name']}", config, deadline)

    async def subjects(self, stream: str, pattern: str, deadline: float) -> AsyncIterator[list[str]]:
        """Yield the matching subjects that have messages, some at a time, from the stream's leader.

        An answer has at most 100,000 of them; others run in between. Subjects added or removed between
        answers may be missed.
        """
        state = (await self.stream_info(stream, deadline))["state"]
        offset, total = 0, int(state["messages"])
        most = min(total, _MOST_SUBJECTS)
        size = _HEAD + min(int(state["bytes"]), most * _LONGEST_SUBJECT) + most * _PUNCTUATION
        while offset < total:
            query = {"subjects_filter": pattern, "offset": offset}
            answer = await self.call(f"STREAM.INFO.{stream}", query, deadline, size=size, read=leave_subjects)
            before = offset
            for page in subject_pages(answer):
                offset += len(page)
                yield page
                await asyncio.sleep(0)
            if offset == before:
                return
            total = int(answer.get("total") or 0)

    # --- Messages -----------------------------------------------------------------------------------------

    async def message(self, stream: str, query: Mapping[str, Any], deadline: float) -> StoredMessage | None:
        """Read one stored message from the stream's leader, which has the latest writes; `None` = none."""
        try:
            size, operation = self._message_size, f"STREAM.MSG.GET.{stream}"
            answer = await self.call(operation, query, deadline, size=size, read=read_message)
        except JetStreamError as error:
            if error.err_code == codes.MESSAGE_NOT_FOUND:
                return None
            raise
        message = answer["message"]
        return StoredMessage(
            message["subject"],
            message["seq"],
            h.split(b64decode(message.get("hdrs", ""))),
            data_of(answer),
            parse_rfc3339(message["time"]) or _NO_TIME,
        )

    async def batch(self, stream: str, query: Mapping[str, Any], deadline: float) -> Batch:
        """Read many stored messages with one request (ADR-31).

        Any replica answers, with what it has: the latest writes may be missing. `query` has ``next_by_subj``,
        ``batch``, and where to begin: ``seq`` or ``start_time``; with ``max_bytes`` it ends after the message
        that reaches it. May also raise `NoDirectGet`.
        """
        subject, body = f"{API_PREFIX}DIRECT.GET.{stream}".encode(), to_json(query)
        async for _ in retry(deadline):
            await self.connection.wait_ready(deadline)
            size = _batch_size(query, self.connection.max_payload)
            share = await self._budget.take(size, deadline)
            batch = await _BatchRequest(self.connection).ask(subject, body, deadline, share)
            if batch is not None:
                return batch
        raise Unanswered

    async def delete_message(self, stream: str, sequence: int, deadline: float) -> bool:
        """Remove one message, without erasing its bytes; false if it is gone."""
        try:
            await self.change(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True}, deadline)
        except JetStreamError as error:
            is_gone = error.err_code in codes.MESSAGE_GONE
            if error.err_code == codes.MESSAGE_DELETE_FAILED:
                is_gone = await self.message(stream, {"seq": sequence}, deadline) is None
            if not is_gone:
                raise
            return False
        return True

    @property
    def _message_size(self) -> int:
        """The most bytes of an answer with one message, which is base64 in JSON."""
        return self.connection.max_payload * 4 // 3 + _HEAD

    # --- Consumers ----------------------------------------------------------------------------------------

    async def consumer_info(self, stream: str, name: str, deadline: float) -> JsonObject | None:
        """Return JetStream's description of a consumer; `None` if there is none."""
        try:
            return await self.call(f"CONSUMER.INFO.{stream}.{name}", None, deadline)
        except JetStreamError as error:
            if error.err_code == codes.CONSUMER_NOT_FOUND:
                return None
            raise

    async def consumer(self, stream: str, name: str, deadline: float) -> ConsumerState | None:
        """Look up a consumer; `None` if there is none."""
        info = await self.consumer_info(stream, name, deadline)
        return None if info is None else consumer_state(info)

    async def create_consumer(self, stream: str, name: str, config: JsonObject, deadline: float) -> None:
        """Create a consumer; also succeeds if it exists with the same configuration."""
        await self._tell("create", stream, name, config, deadline)

    async def update_consumer(
        self, stream: str, name: str, config: JsonObject, deadline: float, *, once: bool = False
    ) -> None:
        """Replace the configuration of an existing consumer; the server keeps its position.

        With `once` it is asked once, for some seconds: a configuration that was read a while ago may be
        another one by now.
        """
        await self._tell("update", stream, name, config, deadline, once=once)

    async def delete_consumer(self, stream: str, name: str, deadline: float) -> bool:
        """Delete a consumer; false if there is none."""
        if await self.consumer(stream, name, deadline) is None:
            return False
        try:
            await self.change(f"CONSUMER.DELETE.{stream}.{name}", None, deadline)
        except JetStreamError as error:
            if error.err_code != codes.CONSUMER_NOT_FOUND:
                raise
            # An earlier request was not answered, or somebody else deleted it.
        return True

    async def _tell(
        self, action: str, stream: str, name: str, config: JsonObject, deadline: float, *, once: bool = False
    ) -> None:
        # No filter in the subject of the request: then the server would refuse more than one.
        request = {"stream_name": stream, "config": config, "action": action}
        operation = f"CONSUMER.CREATE.{stream}.{name}"
        if once:
            until = min(deadline, self._requests.loop.time() + self._attempt_timeout)
            await self._change_once(operation, request, until, until)
        else:
            await self.change(operation, request, deadline)


# --- Many messages at once --------------------------------------------------------------------------------

_SILENCE: Final = 3.0
"""Seconds of silence after which the answering replica counts as dead."""

_READ_AT_ONCE: Final = 16
"""Messages that are read in one turn of the event loop."""

_SEQUENCE: Final = b"Nats-Sequence"
_SUBJECT: Final = b"Nats-Subject"
_TIME: Final = b"Nats-Time-Stamp"
_PENDING: Final = b"Nats-Num-Pending"
_OURS: Final = frozenset(
    {_SEQUENCE, _SUBJECT, _TIME, _PENDING, b"Nats-Stream", b"Nats-Last-Sequence", b"Nats-UpTo-Sequence"}
)
"""Headers that the server adds to a message."""


_ADDED: Final = 1024
"""The most bytes of such headers, and of the rest of a frame."""


def _batch_size(query: Mapping[str, Any], max_payload: int) -> int:
    """Return a bound on the bytes of the answer to a query for many messages."""
    count, max_bytes = int(query.get("batch", 1)), int(query.get("max_bytes", 0))
    data = count * max_payload
    return (min(data, max_bytes + max_payload) if max_bytes else data) + count * _ADDED


class _BatchRequest:
    """One request for many messages. They arrive one by one and end with a status: 204, or 404 for none."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages: list[Message] = []
        self._end: Message | None = None
        self._news = asyncio.Event()
        self._forbidden = self._lost = False

    async def ask(self, subject: bytes, body: bytes, deadline: float, share: Share) -> Batch | None:
        """Send the request once, and give the share back at its end; `None` = try again."""
        inbox = self._connection.subscribe_once(self._on_message)
        if inbox is None:
            share.give_back()
            return None
        self._connection.on_lost.append(self._on_lost)
        stop_watching = self._connection.violations.watch(subject, self._on_forbidden)
        try:
            self._connection.publish(subject, body, reply=inbox.subject)
            return await self._answer(subject, deadline)
        except NotConnected:
            return None
        finally:
            stop_watching()
            self._connection.on_lost.remove(self._on_lost)
            inbox.unsubscribe()
            if self._end is not None:
                share.give_back()
            else:
                inbox.passed().add_done_callback(lambda _: share.give_back())

    async def _answer(self, subject: bytes, deadline: float) -> Batch | None:
        while self._end is None:
            self._news.clear()
            try:
                async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + _SILENCE)):
                    await self._news.wait()
            except TimeoutError:
                return None
            if self._forbidden:
                raise Forbidden(subject.decode())
            if self._lost:
                return None
        return await self._batch(self._end)

    async def _batch(self, end: Message) -> Batch:
        """Read what has come, and let others run in between: hundreds of messages take a while."""
        status = h.status(end.headers)
        match status:
            case h.Status(204):
                messages: list[StoredMessage] = []
                for message in self._messages:
                    messages.append(_stored(message))
                    if len(messages) % _READ_AT_ONCE == 0:
                        await asyncio.sleep(0)
                return Batch(messages, int(h.get(end.headers, _PENDING) or 0))
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
            self._messages.append(message)
        self._news.set()


def _stored(message: Message) -> StoredMessage:
    lines = h.split(message.headers)
    told = dict(lines)
    own = tuple(line for line in lines if line[0] not in _OURS)
    time = parse_rfc3339(told.get(_TIME, b"").decode(errors="replace"))
    subject = told[_SUBJECT].decode(errors="replace")
    return StoredMessage(subject, int(told[_SEQUENCE]), own, message.body, time or _NO_TIME)
