"""JetStream's API: JSON requests and replies, repeated during elections and reconnects.

Subjects and bodies are those of nats-server's ``jetstream_api.go`` (2.15). Configurations remain JSON
objects: classes would drop fields that they do not know, and an update would reset what another program had
set.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from abc import ABC, abstractmethod
from binascii import a2b_base64
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from math import inf
from typing import Any, Final, NamedTuple, TypeAlias

import pybase64

from windshift.nats import headers as h
from windshift.nats.budget import Budget, Share
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
from windshift.nats.requests import NoReply, Outcome, Requests
from windshift.nats.retry import retry
from windshift.nats.times import NANOSECONDS, Time, parse_rfc3339

JsonObject: TypeAlias = dict[str, Any]


def metadata_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metadata in a configuration, which may have none."""
    return config.get("metadata") or {}


def with_metadata(config: JsonObject, key: str, value: str) -> JsonObject:
    """Return a configuration with an entry of metadata beside those that it has."""
    return config | {"metadata": {**metadata_of(config), key: value}}


API_PREFIX: Final = "$JS.API."
_CHANGES: Final = (
    "STREAM.CREATE",
    "STREAM.UPDATE",
    "STREAM.DELETE",
    "CONSUMER.CREATE",
    "CONSUMER.DELETE",
    "CONSUMER.RESET",
)
_NO_STREAM: Final = frozenset({codes.STREAM_NOT_FOUND})
_SUBJECTS_AT_ONCE: Final = 1_000
"""Subjects processed in one turn of the event loop."""
_MOST_SUBJECTS: Final = 100_000
"""Subjects in one answer of a server."""
LONGEST_SUBJECT: Final = 640
"""Bytes of one subject."""
_LONGEST_SORT: Final = 60.0
"""Seconds for which the answer with them may be awaited."""
_PUNCTUATION: Final = 16
"""Bytes beside each subject in an answer."""
_NAMES: Final = 320 * 1024
"""Bytes of a page of names: 1,024 of at most 255 characters."""
_LISTS: Final = ("STREAM.LIST", "CONSUMER.LIST")
_LIST: Final = 24 * 1024 * 1024
"""Bytes of a page of a list: 256 configurations, of which a few may be as large as there can be; or 100,000
subjects.
"""
_LISTING: Final = 6.0
"""Seconds for which a page of a list may be awaited: a cluster gives leaders 4 seconds to answer, and goes on
without those that do not.
"""
_ACCOUNT: Final = 64 * 1024
"""Bytes of what is told of an account."""
_HEAD: Final = 16 * 1024
"""Bytes of an answer beside its variable part."""


_quoted: Final = json.encoder.encode_basestring_ascii
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_DECODER: Final = json.JSONDecoder()


def to_json(value: Mapping[str, Any]) -> bytes:
    """Encode the body of a request."""
    return _encode(value).encode()


def read_answer(body: bytes) -> JsonObject:
    """Parse an answer of JetStream's API.

    Raise `JetStreamError` for an error, `ValueError` if it is not such an answer.
    """
    try:
        text = body.decode()
        answer: JsonObject
        answer, end = _DECODER.raw_decode(text)  # `decode` costs half as much again
        if end < len(text) and not text[end:].isspace():
            raise ValueError("more than an answer")
        error = answer.get("error")
        if error is None:
            return answer
        raise JetStreamError(
            int(error.get("err_code", 0)),
            int(error.get("code", 0)),
            str(error.get("description", "")),
            str(answer.get("stream", "")),
        )
    except (AttributeError, TypeError, OverflowError, RecursionError):
        raise ValueError("not an answer of JetStream") from None


_LARGE: Final = 64 * 1024
"""Bytes of an answer from which on it is read piece by piece, or its data apart from the rest."""
_DATA: Final = b'"data":"'
_DECODED: Final = ""
"""The key, which no answer has, of a message's data that was decoded."""


def read_message(body: bytes) -> JsonObject:
    """Read an answer with a message; see `data_of`."""
    if len(body) < _LARGE:
        return read_answer(body)
    start = body.find(_DATA) + len(_DATA)
    end = body.find(b'"', start)
    if start < len(_DATA) or end < 0 or body.find(b"\\", start, end) >= 0:
        return read_answer(body)
    answer = read_answer(body[:start] + body[end:])
    answer[_DECODED] = pybase64.b64decode(memoryview(body)[start:end], validate=True)
    return answer


def data_of(answer: JsonObject) -> bytes:
    """Return the data of the message in an answer."""
    decoded: bytes | None = answer.get(_DECODED)
    return a2b_base64(answer["message"].get("data", "")) if decoded is None else decoded


_ELEMENTS_AT_ONCE: Final = 16
"""Elements of a list that are read in one turn of the event loop."""


async def read_list(body: bytes, key: str) -> JsonObject:
    """Read an answer with a list of objects under a key. Let others run in between where it is long."""
    head, opening, listed = body.partition(f'"{key}":['.encode())
    if len(body) < _LARGE or not opening:
        return read_answer(body)
    elements: list[JsonObject] = []
    text, position = listed.decode(), 0
    try:
        while not text.startswith("]", position):
            element, position = _DECODER.raw_decode(text, position)
            elements.append(element)
            position += text.startswith(",", position)
            if len(elements) % _ELEMENTS_AT_ONCE == 0:
                await asyncio.sleep(0)
    except ValueError:  # no list as JetStream writes it
        return read_answer(body)
    answer = read_answer(head + opening + text[position:].encode())
    answer[key] = elements
    return answer


_SERVER_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")
_Read: TypeAlias = Callable[[bytes], JsonObject | Awaitable[JsonObject]]

_TOTAL: Final = re.compile(rb'"total":(\d+)')
_SUBJECTS: Final = b'"subjects":{'
_SUBJECT_COUNT: Final = re.compile(rb'"((?:[^"\\]|\\.)*)":(\d+)([,}])')
_UNREAD: Final = ""
"""The key, which no answer has, of the subjects in an answer that were not read yet."""


def leave_subjects(body: bytes) -> JsonObject:
    """Read an answer with subjects, but not these: they may be many megabytes. See `subject_pages`."""
    start = body.find(_SUBJECTS)
    if start < 0:
        return read_answer(body)
    total = _TOTAL.search(body, 0, start)
    return {"total": 0 if total is None else int(total[1]), _UNREAD: (body, start + len(_SUBJECTS))}


def subject_pages(answer: JsonObject) -> Iterator[list[tuple[str, int]]]:
    """Yield the subjects in an answer, each with its number of messages, some at a time.

    They are as many as one turn of the event loop may be busy with.
    Raise `JetStreamError` when there is something else.
    """
    body, position = answer.get(_UNREAD, (b"}", 0))
    page: list[tuple[str, int]] = []
    while body[position : position + 1] != b"}":
        item = _SUBJECT_COUNT.match(body, position)
        if item is None:
            raise JetStreamError(0, 500, "something other than JetStream answered")
        text = item[1]
        subject = json.loads(b'"%b"' % text) if b"\\" in text else text.decode(errors="replace")
        page.append((subject, int(item[2])))
        position = item.end() - (item[3] == b"}")
        if len(page) == _SUBJECTS_AT_ONCE:
            yield page
            page = []
    if page:
        yield page


Query: TypeAlias = Mapping[str, Any] | bytes
"""Which message is meant; bytes = encoded as JSON already, see `last_by_subject`."""


def last_by_subject(subject: str) -> bytes:
    """Return the query for the last message of a subject, which costs a tenth of what `to_json` does."""
    return f'{{"last_by_subj":{_quoted(subject)}}}'.encode()


class StoredMessage(NamedTuple):
    """A message exactly as a stream holds it."""

    subject: str
    sequence: int
    block: bytes
    """Its headers, see `windshift.nats.headers`; may be empty."""
    body: bytes
    time: Time
    """When it was stored."""

    @property
    def headers(self) -> h.HeaderLines:
        """The lines of its headers."""
        return h.split(self.block)

    @property
    def unix_ns(self) -> int:
        """When it was stored, in nanoseconds since 1970."""
        return self.time.unix_ns


_new: Final = tuple.__new__  # as a named tuple's own __new__ does, in less than half of the time
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
    message, makes another one. It has no replicas, unless the stream removes what its consumers have: there
    the server wants as many.
    """
    return {
        "name": name,
        "ack_policy": "none",
        "mem_storage": True,
        "inactive_threshold": _FOLLOWED_FOR,
        "filter_subjects": list(filters),
    }


class Page(NamedTuple):
    """Part of a list.

    Attributes:
        items: the elements.
        total: the length of the whole list.
        missing: names of elements beside these that belong here: no server of a cluster answered for them.
    """

    items: list[JsonObject]
    total: int
    missing: frozenset[str] = frozenset()


def _name_of(element: JsonObject) -> str:
    """Return the name of an element of a list; consumers whose servers are known to be offline have none."""
    return str(element["name"] if "name" in element else element["config"]["name"])


@dataclass(slots=True)
class _Attempts:
    """Requests for the same change, of which only some may be answered.

    Attributes:
        open: those that are under way, the oldest first.
        in_doubt: whether one that is over may have been carried out.
    """

    open: list[asyncio.Task[JsonObject]] = field(default_factory=list)
    in_doubt: bool = False

    async def answer(self, timeout: float | None) -> JsonObject | None:
        """Wait for one of them to be over, or without a timeout for all; return an answer, None = none yet.

        Raise what the server refused, if none has an answer.
        """
        if self.open:
            until = asyncio.ALL_COMPLETED if timeout is None else asyncio.FIRST_COMPLETED
            await asyncio.wait(self.open, timeout=timeout, return_when=until)
        over = [each for each in self.open if each.done()]
        self.open = [each for each in self.open if not each.done()]
        outcomes = [(each, each.exception()) for each in over]
        for each, error in outcomes:
            if error is None:
                return each.result()
        errors = [error for _, error in outcomes if error is not None]
        self.in_doubt |= any(isinstance(error, OutcomeUnknown) for error in errors)
        for error in errors:
            if isinstance(error, Forbidden) or not isinstance(error, OutcomeUnknown | Unavailable):
                try:
                    raise error
                finally:
                    del over, outcomes, errors, error, each  # its traceback holds this frame: cycles
        return None


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
        requests: Requests,
        attempt_timeout: timedelta = timedelta(seconds=3),
        budget: Budget | None = None,
    ) -> None:
        self.connection = requests.connection
        self.budget = budget or Budget(sys.maxsize)
        self.requests = requests
        self.attempt_timeout = attempt_timeout.total_seconds()
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
        request: Mapping[str, Any] | bytes | None,
        deadline: float,
        *,
        repeatable: bool = True,
        size: int | None = None,
        read: _Read = read_answer,
        send_by: float | None = None,
        first: int = 1,
    ) -> JsonObject:
        """Call an operation, such as ``STREAM.INFO.ORDERS``.

        Args:
            operation: its subject after ``$JS.API.``.
            request: the body; bytes = it is encoded already.
            deadline: when to give up.
            repeatable: whether a second request is harmless (all reads; creating with the same
                configuration). Otherwise it is not sent again once it may have arrived.
            size: the most bytes of the answer; None = those of the largest configuration and what the server
                has to say of it, or of a list.
            read: reads the answer, see `read_answer`.
            send_by: until when it is sent; None = `deadline`.
            first: the number of the first attempt; before any but 1 there is a pause.
        """
        subject = (API_PREFIX + operation).encode()
        body = request if isinstance(request, bytes) else b"" if request is None else to_json(request)
        lists_subjects = isinstance(request, Mapping) and "subjects_filter" in request
        is_list = operation.startswith(_LISTS)
        if size is None:
            size = _LIST if is_list or lists_subjects else 2 * self.connection.max_payload
        send_by = deadline if send_by is None else send_by
        # A request to a leader that is gone is never answered; repeatable ones are sent again.
        timeout = inf if not repeatable else _LISTING if is_list else self.attempt_timeout
        async for attempt in retry(send_by, first=first):
            await self.connection.wait_ready(send_by)
            try:
                share = await self.budget.take(size, send_by)
            except Busy:
                if attempt == 1:
                    raise
                break  # that nobody answered before says more
            until = min(deadline, self.requests.loop.time() + timeout)
            answer = await self._attempt(share, subject, body, until, read, repeatable=repeatable)
            if answer is not None:
                return answer
            if lists_subjects and self.requests.loop.time() >= until:
                timeout = min(2 * timeout, _LONGEST_SORT)  # all that match are sorted, for each answer
        raise Unanswered

    async def _attempt(
        self, share: Share, subject: bytes, body: bytes, until: float, read: _Read, *, repeatable: bool
    ) -> JsonObject | None:
        """Send one request; `None` = try again."""
        # A change may take long; meanwhile its caller's reads, one at a time or not, need not wait for it.
        leaving = None if repeatable else self.requests.loop.call_later(self.attempt_timeout, share.leave)
        try:
            outcome = await self.requests.request_within(share, subject, body, until)
        except NotConnected:
            return None
        except MessageTooLarge:
            raise JetStreamError(0, 400, "it is larger than a message may be; ask for less at once") from None
        finally:
            if leaving is not None:
                leaving.cancel()
        return await self._answer(share, subject, outcome, read, repeatable=repeatable)

    async def _answer(
        self, share: Share, subject: bytes, outcome: Outcome, read: _Read, *, repeatable: bool
    ) -> JsonObject | None:
        """Read what came of a request; `None` = try again."""
        if isinstance(outcome, bytes):
            share.arrived(len(outcome))
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

    async def change(
        self,
        operation: str,
        request: Mapping[str, Any] | None,
        deadline: float,
        *,
        hidden: bool = False,
        gone: frozenset[int] = frozenset(),
    ) -> JsonObject:
        """Call an idempotent change until it is answered, or `deadline`.

        A cluster leaves some of many concurrent changes to one thing unanswered; they are sent again. Others
        only take long, so the answer to any attempt counts. A `hidden` one changes nothing that lists show.
        The errors `gone` say that what is to be deleted is not there: while another attempt is in doubt, that
        one may have done it, or be about to, and nothing is returned.
        """
        loop, attempts = self.requests.loop, _Attempts()
        try:
            async for _ in retry(deadline):
                send_by = min(deadline, loop.time() + self.attempt_timeout)
                change = self._change_once(operation, request, send_by, deadline, hidden=hidden)
                attempts.open.append(loop.create_task(change))
                if (answer := await attempts.answer(self.attempt_timeout)) is not None:
                    return answer
            if (answer := await attempts.answer(None)) is not None:  # they end at the deadline
                return answer
        except JetStreamError as error:
            if error.err_code in gone and (attempts.in_doubt or attempts.open):
                self._count_change(operation, hidden=hidden)
                return {}
            raise
        finally:
            for attempt in attempts.open:
                attempt.cancel()
        raise OutcomeUnknown if attempts.in_doubt else Unavailable

    async def _change_once(
        self,
        operation: str,
        request: Mapping[str, Any] | None,
        send_by: float,
        deadline: float,
        *,
        hidden: bool = False,
    ) -> JsonObject:
        size = _HEAD + (0 if request is None else 6 * len(to_json(request)))  # told back, and escaped by Go
        answer = await self.call(operation, request, deadline, repeatable=False, size=size, send_by=send_by)
        self._count_change(operation, hidden=hidden)
        return answer

    def _count_change(self, operation: str, *, hidden: bool) -> None:
        self.changes += not hidden and operation.startswith(_CHANGES)

    async def pages(self, operation: str, key: str, deadline: float, offset: int = 0) -> AsyncIterator[Page]:
        """Request a list page by page; others run in between.

        Elements that are added or removed meanwhile may be missed, or appear twice. Of those whose leaders do
        not answer only the names are told, see `Page`: what a server lists of them itself has no state.
        """
        total = offset + 1
        while offset < total:
            answer = await self.call(
                operation, {"offset": offset}, deadline, read=partial(read_list, key=key)
            )
            items = list(answer.get(key) or ())
            missing = frozenset(answer.get("missing") or ())
            if missing:
                items = [each for each in items if _name_of(each) not in {"", *missing}]
            total = int(answer.get("total") or 0)
            if not items and not missing:
                return
            offset += len(items) + len(missing)
            await asyncio.sleep(0)
            yield Page(items, total, missing)
            await asyncio.sleep(0)

    async def listed(self, operation: str, key: str, deadline: float) -> AsyncIterator[JsonObject]:
        """Request all elements of a list, as `pages` does, but for those whose leaders do not answer."""
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
        info = await _unless(codes.STREAM_NOT_FOUND, self.stream_info(name, deadline))
        if info is None:
            return None
        return StreamState(info["config"], info["state"]["last_seq"], info["state"]["bytes"])

    async def create_stream(self, config: JsonObject, deadline: float) -> None:
        """Create a stream; also succeeds if it exists with this configuration. May raise `StorageFull`."""
        self.refuse_if_full()
        await self.change(f"STREAM.CREATE.{config['name']}", config, deadline)

    async def update_stream(self, config: JsonObject, deadline: float) -> None:
        """Replace the configuration of an existing stream."""
        await self.change(f"STREAM.UPDATE.{config['name']}", config, deadline)

    async def delete_stream(self, name: str, deadline: float) -> None:
        """Delete a stream with all that is in it."""
        await self.change(f"STREAM.DELETE.{name}", None, deadline, gone=_NO_STREAM)

    async def purge_stream(self, name: str, request: Mapping[str, Any], deadline: float) -> int:
        """Remove messages, and return how many.

        `request` is that of ``STREAM.PURGE``. Without ``seq`` it is sent once: a second time it would remove
        what was stored in between.
        """
        operation = f"STREAM.PURGE.{name}"
        if "seq" in request:
            answer = await self.change(operation, request, deadline)
        else:
            answer = await self._change_once(operation, request, deadline, deadline)
        return int(answer["purged"])

    async def subjects(
        self, stream: str, pattern: str, deadline: float, longest: int = LONGEST_SUBJECT
    ) -> AsyncIterator[list[str]]:
        """Yield the matching subjects that have messages, some at a time, from the stream's leader.

        An answer has at most 100,000 of them; others run in between. Subjects added or removed between
        answers may be missed. None may have more than `longest` bytes: as much of the budget is taken.
        """
        state = (await self.stream_info(stream, deadline))["state"]
        offset, total = 0, int(state["messages"])
        most = min(total, _MOST_SUBJECTS)
        size = _HEAD + min(int(state["bytes"]), most * longest) + most * _PUNCTUATION
        while offset < total:
            query = {"subjects_filter": pattern, "offset": offset}
            answer = await self.call(f"STREAM.INFO.{stream}", query, deadline, size=size, read=leave_subjects)
            before = offset
            for page in subject_pages(answer):
                offset += len(page)
                yield [subject for subject, _ in page]
                await asyncio.sleep(0)
            if offset == before:
                return
            total = int(answer.get("total") or 0)

    # --- Messages -----------------------------------------------------------------------------------------

    async def message(
        self, stream: str, query: Query, deadline: float, *, first: int = 1
    ) -> StoredMessage | None:
        """Read one stored message from the stream's leader, which has the latest writes; `None` = none.

        `first` is the number of the first attempt, see `call`.
        """
        operation, size = f"{_MESSAGE}.{stream}", self.message_size
        asking = self.call(operation, query, deadline, size=size, read=read_message, first=first)
        answer = await _unless(codes.MESSAGE_NOT_FOUND, asking)
        return None if answer is None else message_of(answer)

    async def finish_message(
        self, stream: str, query: Query, deadline: float, share: Share, outcome: Outcome
    ) -> StoredMessage | None:
        """Do what `message` does after its first request, which had a share, had this outcome."""
        subject = message_subject(stream)
        try:
            answer = await self._answer(share, subject, outcome, read_message, repeatable=True)
        except JetStreamError as error:
            if error.err_code == codes.MESSAGE_NOT_FOUND:
                return None
            raise
        if answer is None:
            return await self.message(stream, query, deadline, first=2)
        return message_of(answer)

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
            share = await self.budget.take(size, deadline)
            batch = await _BatchRequest(self.connection).ask(subject, body, deadline, share)
            if batch is not None:
                return batch
        raise Unanswered

    async def delete_message(
        self,
        stream: str,
        sequence: int,
        deadline: float,
        *,
        erase: bool = False,
        missing: frozenset[int] = codes.MESSAGE_GONE,
    ) -> bool:
        """Remove one message; false if it is gone, which the errors `missing` say.

        With `erase` its bytes are written over.
        """
        request = {"seq": sequence, "no_erase": not erase}
        operation, gone = f"STREAM.MSG.DELETE.{stream}", missing | {codes.MESSAGE_DELETE_FAILED}
        try:
            answer = await self.change(operation, request, deadline, gone=gone)
        except JetStreamError as error:
            is_gone = error.err_code in missing
            if error.err_code == codes.MESSAGE_DELETE_FAILED:
                is_gone = await self.message(stream, {"seq": sequence}, deadline) is None
            if not is_gone:
                raise
            return False
        if not answer:
            await self._require_gone(stream, sequence, deadline)
        return True

    async def _require_gone(self, stream: str, sequence: int, deadline: float) -> None:
        """Raise `OutcomeUnknown` unless a message is gone, of which one attempt to delete it says so."""
        try:
            is_there = await self.message(stream, {"seq": sequence}, deadline) is not None
        except Unavailable:
            raise OutcomeUnknown from None
        if is_there:
            raise OutcomeUnknown

    @property
    def message_size(self) -> int:
        """The most bytes of an answer with one message, which is base64 in JSON."""
        return self.connection.max_payload * 4 // 3 + _HEAD

    # --- Consumers ----------------------------------------------------------------------------------------

    async def consumer_info(self, stream: str, name: str, deadline: float) -> JsonObject | None:
        """Return JetStream's description of a consumer; `None` if there is none."""
        asking = self.call(f"CONSUMER.INFO.{stream}.{name}", None, deadline)
        return await _unless(codes.CONSUMER_NOT_FOUND, asking)

    async def consumer(self, stream: str, name: str, deadline: float) -> ConsumerState | None:
        """Look up a consumer; `None` if there is none."""
        info = await self.consumer_info(stream, name, deadline)
        return None if info is None else consumer_state(info)

    async def create_consumer(self, stream: str, name: str, config: JsonObject, deadline: float) -> None:
        """Create a consumer; also succeeds if it exists with the same configuration."""
        await self.change(*_consumer_request("create", stream, name, config), deadline)

    async def create_hidden_consumer(self, stream: str, config: JsonObject, deadline: float) -> int:
        """Create a consumer that lists do not show; return how many messages it has before it."""
        request = _consumer_request("create", stream, config["name"], config)
        return int((await self.change(*request, deadline, hidden=True))["num_pending"])

    async def update_consumer(self, stream: str, name: str, config: JsonObject, deadline: float) -> None:
        """Replace the configuration of an existing consumer; the server keeps its position.

        It is asked once, for some seconds: a configuration that was read a while ago may be another one by
        now. Raise `OutcomeUnknown` if it does not answer.
        """
        until = min(deadline, self.requests.loop.time() + self.attempt_timeout)
        await self._change_once(*_consumer_request("update", stream, name, config), until, until)

    async def delete_consumer(self, stream: str, name: str, deadline: float) -> bool:
        """Delete a consumer; false if there is none."""
        if await self.consumer_info(stream, name, deadline) is None:
            return False
        deleting = self.change(f"CONSUMER.DELETE.{stream}.{name}", None, deadline)
        await _unless(codes.CONSUMER_NOT_FOUND, deleting)  # it is gone by an earlier request, or another's
        return True


async def _unless(missing: int, asking: Awaitable[JsonObject]) -> JsonObject | None:
    """Return an answer; `None` for the error that says that there is no such thing."""
    try:
        return await asking
    except JetStreamError as error:
        if error.err_code == missing:
            return None
        raise


def _consumer_request(action: str, stream: str, name: str, config: JsonObject) -> tuple[str, JsonObject]:
    # No filter in the subject of the request: then the server would refuse more than one.
    return f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": config, "action": action}


# --- One message ------------------------------------------------------------------------------------------

_MESSAGE: Final = "STREAM.MSG.GET"


def message_subject(stream: str) -> bytes:
    """Return the subject of requests for a stored message."""
    return f"{API_PREFIX}{_MESSAGE}.{stream}".encode()


def message_of(answer: JsonObject) -> StoredMessage:
    """Return the message in an answer."""
    message = answer["message"]
    headers = message.get("hdrs")
    return _new(
        StoredMessage,
        (
            message["subject"],
            message["seq"],
            a2b_base64(headers) if headers else b"",
            data_of(answer),
            parse_rfc3339(message["time"]) or _NO_TIME,
        ),
    )


@dataclass(slots=True, eq=False)
class Reading(ABC):
    """A request for one stored message that takes no task, as long as one answer settles it.

    What it comes to is said once: by `take`, or by `go_on`. The query is as for `JetStream.message`, the
    deadline in loop time; the asker is for whom it is made.
    """

    _api: JetStream
    _stream: str
    _query: Query
    _deadline: float
    _asker: str
    _token: bytes = b""
    _share: Share | None = None
    _stop_waiting: Callable[[], None] | None = None

    @abstractmethod
    def take(self, message: StoredMessage) -> None:
        """Take the message."""

    @abstractmethod
    def go_on(self, reading: Callable[[], Awaitable[StoredMessage | None]]) -> None:
        """Have a task do the rest of what `JetStream.message` does: await what this returns."""

    def begin(self) -> bool:
        """Send the request, now or when it has its share; False = it cannot be begun without a task.

        Until it has come to something, `abandon` ends it.
        """
        api, asker = self._api, self._asker
        if not api.connection.is_ready:
            return False
        share = api.budget.take_now(api.message_size, asker)
        if share is not None:
            self._send(share)
            return True
        try:
            self._stop_waiting = api.budget.wait(api.message_size, self._deadline, asker, self._end_waiting)
        except Busy:
            return False
        return True

    def _end_waiting(self, share: Share | Unavailable) -> None:
        self._stop_waiting = None
        if isinstance(share, Unavailable):
            self.go_on(lambda: _raise(share))
        else:
            self._send(share)

    def _send(self, share: Share) -> None:
        api, self._share = self._api, share
        until = min(self._deadline, api.requests.loop.time() + api.attempt_timeout)
        body = self._query if isinstance(self._query, bytes) else to_json(self._query)
        try:
            self._token = api.requests.send(message_subject(self._stream), body, b"", self.answered, until)
        except NotConnected:
            share.give_back()
            self.go_on(lambda: api.message(self._stream, self._query, self._deadline))

    def answered(self, outcome: Outcome) -> None:
        """Take what came of the request."""
        api, share = self._api, self._share
        if share is None:
            return  # cannot be: it was sent with one
        if not isinstance(outcome, bytes):
            is_late = outcome is NoReply.TIMED_OUT
            api.requests.release(share, self._token, message_subject(self._stream), is_late=is_late)
            self._share = None
        elif len(outcome) < _LARGE:
            try:
                message = message_of(read_answer(outcome))
            except (JetStreamError, ValueError, LookupError, TypeError):
                pass  # the task finds the same, and there it is told
            else:
                share.arrived(len(outcome))
                share.give_back()
                self.take(message)
                return
        self.go_on(lambda: api.finish_message(self._stream, self._query, self._deadline, share, outcome))

    def abandon(self) -> None:
        """Let go of it."""
        if self._stop_waiting is not None:
            self._stop_waiting()
        elif self._share is not None:
            is_late = self._api.requests.forget(self._token)
            self._api.requests.release(
                self._share, self._token, message_subject(self._stream), is_late=is_late
            )


async def _raise(error: Exception) -> Any:
    raise error


# --- Many messages at once --------------------------------------------------------------------------------

_SILENCE: Final = 3.0
"""Seconds without a message, looked at as often, after which the answering replica counts as dead."""

_READ_AT_ONCE: Final = 16
"""Messages that are read in one turn of the event loop."""

_SEQUENCE: Final = b"Nats-Sequence"
_HAS_SEQUENCE: Final = b"\r\nNats-Sequence:"
_SUBJECT: Final = b"Nats-Subject"
_TIME: Final = b"Nats-Time-Stamp"
_PENDING: Final = b"Nats-Num-Pending"
_ADDED_LINES: Final = re.compile(
    rb"Nats-Stream: [^\r\n]+\r\n"
    rb"Nats-Subject: ([^\r\n]+)\r\n"
    rb"Nats-Sequence: ([0-9]{1,20})\r\n"
    rb"Nats-Time-Stamp: ([^\r\n]+)\r\n"
    rb"(?:Nats-(?:Num-Pending|Last-Sequence|UpTo-Sequence): [0-9]+\r\n)*"
    rb"\r\n"
)
"""What a server adds at the end. Where this does not fit, the lines are read one by one."""
_OURS: Final = re.compile(
    rb"\r\nNats-(?:Stream|Subject|Sequence|Time-Stamp|Num-Pending|Last-Sequence|UpTo-Sequence):[^\r\n]*"
)
"""Lines that the server adds to the headers of a message."""


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
        self._over = asyncio.Event()
        self._forbidden = False

    async def ask(self, subject: bytes, body: bytes, deadline: float, share: Share) -> Batch | None:
        """Send the request once, and give the share back at its end; `None` = try again."""
        inbox = self._connection.subscribe_once(self._on_message)
        if inbox is None:
            share.give_back()
            return None
        self._connection.on_lost.append(self._over.set)
        stop_watching = self._connection.violations.watch(subject, self._on_forbidden)
        try:
            self._connection.publish(subject, body, reply=inbox.subject)
            return await self._answer(subject, deadline)
        except NotConnected:
            return None
        finally:
            stop_watching()
            self._connection.on_lost.remove(self._over.set)
            inbox.unsubscribe()
            if self._end is not None:
                share.arrived(sum([len(message.body) for message in self._messages]))
                share.give_back()
            else:
                inbox.passed().add_done_callback(lambda _: share.give_back())

    async def _answer(self, subject: bytes, deadline: float) -> Batch | None:
        loop, before = asyncio.get_running_loop(), -1
        while not self._over.is_set():  # it is not woken by each message: that costs as much as to read some
            came = len(self._messages)
            if came == before or loop.time() >= deadline:
                return None
            before = came
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(deadline, loop.time() + _SILENCE)):
                    await self._over.wait()
        if self._forbidden:
            raise Forbidden(subject.decode())
        return None if self._end is None else await self._batch(self._end)

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
        self._over.set()

    def _on_message(self, message: Message) -> None:
        headers = message.headers
        if not headers.startswith(h.BEGIN) and h.status(headers) is not None:
            self._end = message
            self._over.set()
        elif _HAS_SEQUENCE in headers:
            self._messages.append(message)


def _stored(message: Message) -> StoredMessage:
    block = message.headers
    added = max(block.rfind(b"\r\nNats-Stream: ") + len(h.END), 0)
    found = _ADDED_LINES.fullmatch(block, added)
    if found is not None:
        block = block[:added] + h.END
        subject, sequence, time = found.groups()
    else:
        headers = dict(h.split(block))
        subject, sequence, time = headers[_SUBJECT], headers[_SEQUENCE], headers.get(_TIME, b"")
    return StoredMessage(
        subject.decode(errors="replace"),
        int(sequence),
        _OURS.sub(b"", block),
        message.body,
        parse_rfc3339(time.decode(errors="replace")) or _NO_TIME,
    )
