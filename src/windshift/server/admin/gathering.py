"""Questions that all servers on the same broker answer, each for itself.

A server tells the others every few seconds that it is there (``_WS.here.<id>``), so that one that does not
answer can be named, and at which inbox: while nobody listens there, it has no connection to NATS. When it has
a connection again it asks the others to tell the same at once: it may have forgotten them. A question
is a core NATS message, ``_WS.ask.<what>``, whose reply subject is an inbox; an answer is one or more JSON
objects, the last of which says so. Whoever may publish in the account may answer: what is gathered is for
people to look at, and decides nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from windshift.nats import Connection, Message, NotConnected
from windshift.nats.headers import NO_RESPONDERS
from windshift.nats.jetstream.api import JsonObject
from windshift.server.domain.pages import LARGEST

log = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT: Final = 0.5
"""Seconds that a server has for its answer."""
_INTERVAL: Final = 5.0
"""Seconds between two words of a server that it is there."""
_FORGOTTEN: Final = 16.0
"""Seconds of silence after which a server counts as gone."""
_MOST: Final = 10_000
"""Servers that are remembered."""
_IN_ONE: Final = 32 * 1024
"""Bytes of one message of an answer, but for its last entry: it is read in one turn of the event loop."""
_AT_ONCE: Final = 64
"""Entries that are made in one turn of the event loop."""
_MOST_ANSWERS: Final = 1_000
"""Questions that are answered at the same time."""

_AND_YOU: Final = b"?"
"""The word of a server that is connected again: the others tell it that they are there."""

Answer: TypeAlias = Callable[[JsonObject], Iterable[JsonObject | None]]


class Gathered(NamedTuple):
    """What servers answered.

    Attributes:
        entries: by the server's id.
        missing: ids of servers that were there a moment ago, and did not answer.
    """

    entries: Mapping[str, list[JsonObject]]
    missing: list[str]


class _Heard(NamedTuple):
    """When a server said last that it is there, and at which inbox."""

    at: float
    inbox: bytes


class Gathering:
    """Asks all servers, this one included, and answers for this one.

    Attributes:
        id: this server's; another one at each start.
    """

    def __init__(self, connection: Connection) -> None:
        self.id = secrets.token_hex(8)
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._answers: dict[str, Answer] = {}
        self._inbox = connection.inbox()
        self._heard: dict[str, _Heard] = {}
        self._answering: dict[bytes, asyncio.Task[None]] = {}  # by where the answer goes
        self._unsure_until = -math.inf
        """Until when other servers may be there that were not heard since the reconnect."""

    def answer(self, what: str, answer: Answer) -> None:
        """Answer a question from now on; `answer` gets it and returns the entries of this server.

        With many of them others run in between; None is no entry, but a moment for that.
        """
        self._answers[what] = answer

    async def run(self) -> None:
        """Hear the others, and tell them that this one is there, until cancelled."""
        self._connection.subscribe(b"_WS.here.*", self._on_here)
        self._connection.subscribe(b"_WS.ask.*", self._on_question)
        self._connection.subscribe(self._inbox, self._on_probe)
        self._connection.on_connected.append(self._on_connected)
        try:
            while True:
                self._be_here()
                await asyncio.sleep(_INTERVAL)
        finally:
            self._connection.on_connected.remove(self._on_connected)
            self._publish(f"_WS.here.{self.id}", b"-")

    async def ask(self, what: str, question: JsonObject) -> Gathered:
        """Ask all servers. Without a connection only this one answers."""
        waiting = _Waiting(self._others())
        inbox = self._connection.subscribe_once(waiting.on_message)
        try:
            if inbox is not None:
                self._publish(f"_WS.ask.{what}", json.dumps(question).encode(), inbox.subject)
                await waiting.all_answered(are_known=self._loop.time() >= self._unsure_until)
        finally:
            if inbox is not None:
                inbox.unsubscribe()
        entries = {self.id: await _all(self._answers[what](question))} | waiting.whole
        return Gathered(entries, sorted(self._others() - entries.keys()))

    def rank(self) -> int:
        """Return how many of the other servers have a lower id."""
        return sum(other < self.id for other in self._others())

    async def gone(self, servers: Iterable[str]) -> set[str]:
        """Return which servers have no connection to NATS at the moment: they were killed, or lost it.

        It takes up to `TIMEOUT` where one of them has a connection and does not answer.
        """
        known = {server: self._heard[server].inbox for server in servers if server in self._heard}
        gone = await asyncio.gather(*map(self._has_no_listener, known.values()))
        return {server for server, is_gone in zip(known, gone, strict=True) if is_gone}

    async def _has_no_listener(self, inbox: bytes) -> bool:
        answer: asyncio.Future[Message] = self._loop.create_future()

        def take(message: Message) -> None:
            if not answer.done():
                answer.set_result(message)

        reply = self._connection.subscribe_once(take) if inbox else None
        if reply is None:
            return False
        try:
            self._publish(inbox.decode(), b"", reply.subject)
            async with asyncio.timeout(TIMEOUT):
                return (await answer).headers.startswith(NO_RESPONDERS)
        except TimeoutError:
            return False
        finally:
            reply.unsubscribe()

    def _others(self) -> set[str]:
        now = self._loop.time()
        self._heard = {server: heard for server, heard in self._heard.items() if now - heard.at < _FORGOTTEN}
        return set(self._heard)

    def _on_connected(self) -> None:
        self._unsure_until = self._loop.time() + _INTERVAL
        self._be_here(_AND_YOU)

    def _be_here(self, word: bytes = b"+") -> None:
        self._publish(f"_WS.here.{self.id}", word, self._inbox)

    def _on_probe(self, message: Message) -> None:
        if message.reply:
            self._publish(message.reply.decode(), b"")

    def _on_here(self, message: Message) -> None:
        id = message.subject.decode(errors="replace").rpartition(".")[2]  # noqa: A001
        if id == self.id:
            return
        if message.body == b"-":
            self._heard.pop(id, None)
        elif len(self._heard) < _MOST:
            if id not in self._heard or message.body == _AND_YOU:  # it may know nobody
                self._be_here()
            self._heard[id] = _Heard(self._loop.time(), message.reply)

    def _on_question(self, message: Message) -> None:
        answer = self._answers.get(message.subject.decode(errors="replace").rpartition(".")[2])
        question = _read(message.body)
        if answer is None or question is None or not message.reply:
            return
        reply = message.reply
        if reply in self._answering or len(self._answering) >= _MOST_ANSWERS:
            return
        self._answering[reply] = self._loop.create_task(self._answer(answer, question, reply))
        self._answering[reply].add_done_callback(lambda _: self._answering.pop(reply))

    async def _answer(self, answer: Answer, question: JsonObject, reply: bytes) -> None:
        try:
            entries = await _all(map(_write, answer(question)))
        except Exception:
            log.exception("a question of another server could not be answered")
            return
        for part in _parts(self.id, entries):
            self._publish(reply.decode(), part)

    def _publish(self, subject: str, body: bytes, reply: bytes = b"") -> None:
        try:
            self._connection.publish(subject.encode(), body, reply=reply)
        except NotConnected:
            pass


class _Waiting:
    """What has come in answer to one question.

    Attributes:
        whole: the entries of servers that have answered wholly.
    """

    def __init__(self, expected: set[str]) -> None:
        self.whole: dict[str, list[JsonObject]] = {}
        self._parts: dict[str, list[JsonObject]] = {}
        self._expected = expected
        self._news = asyncio.Event()

    async def all_answered(self, *, are_known: bool) -> None:
        """Wait until every server that is expected has answered, or their time is over.

        Where not all `are_known`, wait as long.
        """
        try:
            async with asyncio.timeout(TIMEOUT):
                while not (are_known and self._expected <= self.whole.keys()):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass

    def on_message(self, message: Message) -> None:
        part = _read(message.body)
        if part is None or not isinstance(part.get("id"), str) or not isinstance(part.get("entries"), list):
            return  # nobody listens to the question, or somebody else answered
        if part["id"] in self.whole:
            return  # while it moves to another server of NATS, a question may reach it twice
        parts = self._parts.setdefault(part["id"], [])
        parts += [each for each in part["entries"] if isinstance(each, dict)]
        if part.get("last"):
            self.whole[part["id"]] = parts
            self._news.set()


async def _all(entries: Iterable[T | None]) -> list[T]:
    """Return the entries of an answer, and let others run in between: thousands take a while."""
    found: list[T] = []
    for number, entry in enumerate(entries, start=1):
        if entry is not None:
            found.append(entry)
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return found


def read_fields(entry: JsonObject, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Read the texts and numbers that a server says; what is odd, or of another version, is left out."""
    known = {name: entry[name] for name, value in defaults.items() if type(entry.get(name)) is type(value)}
    return {name: value for name, value in known.items() if isinstance(value, str) or 0 <= value <= LARGEST}


def _write(entry: JsonObject | None) -> str | None:
    return None if entry is None else json.dumps(entry)


def _parts(id: str, entries: Iterable[str]) -> Iterator[bytes]:  # noqa: A002
    """Write an answer as messages that the broker takes."""
    some: list[str] = []
    size = 0
    for entry in entries:
        if size >= _IN_ONE:
            yield _part(id, some, last=False)
            some, size = [], 0
        some.append(entry)
        size += len(entry)
    yield _part(id, some, last=True)


def _part(id: str, entries: Iterable[str], *, last: bool) -> bytes:  # noqa: A002
    return f'{{"id": "{id}", "entries": [{", ".join(entries)}], "last": {json.dumps(last)}}}'.encode()


def _read(body: bytes) -> dict[str, Any] | None:
    try:
        read = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None
