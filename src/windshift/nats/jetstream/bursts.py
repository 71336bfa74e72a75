"""Messages that are sent together, and what the server answers to each of them.

A burst costs one entry in a table, one future and one write, however many messages it has: that is where the
speed of many publishes comes from. Replies come to an inbox of their own, under ``<burst>.<place>``.

A batch of fast ingest (ADR-50) is a burst that the server answers as a whole: with how many of its messages,
from the first one on, are stored.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

from windshift.nats.connection import Connection
from windshift.nats.errors import MessageTooLarge, NatsError, Unavailable
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.acks import PubAck, Stored, plain_acks
from windshift.nats.protocol import Message
from windshift.nats.requests import NoReply, reply_of

log = logging.getLogger(__name__)

Answer: TypeAlias = bytes | PubAck | NoReply | NatsError
"""The body of a reply, what one for several messages says of this one, or why there is none."""
_FLOW: Final = 500
"""Messages after which the server says how far it has stored a batch; it takes no larger number."""

_MOST_DIGITS: Final = 3
_PLACES: Final = [b"%d" % place for place in range(10**_MOST_DIGITS)]


Sendable: TypeAlias = tuple[bytes, bytes, bytes, *tuple[Any, ...]]
"""What is sent begins with its subject, its payload, and its headers: a block, see `windshift.nats.headers`,
and never empty."""


def _places(count: int) -> Sequence[bytes]:
    return _PLACES[:count] if count <= len(_PLACES) else [b"%d" % place for place in range(count)]


class Burst:
    """Messages that were sent together.

    Attributes:
        token: what the subjects of its replies have in common.
        subjects: where each of them went.
        answers: the answer to each; None = not yet.
        done: is done when every message has its answer, or none is waited for any more.
    """

    __slots__ = ("_left", "_stored", "answers", "done", "subjects", "token")

    def __init__(self, token: bytes, subjects: Sequence[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self.token = token
        self.subjects = subjects
        self.answers: list[Answer | None] = [None] * len(subjects)
        self.done: asyncio.Future[None] = loop.create_future()
        self._left = len(subjects)
        self._stored: Stored | None = None

    def take(self, suffix: bytes, reply: bytes | NoReply) -> None:
        """Take a reply, by the end of its subject."""
        try:
            self.answer(int(suffix), reply)
        except (ValueError, IndexError):
            log.warning("a message was answered that was not sent")

    def answer(self, place: int, answer: Answer) -> None:
        """Take the answer to one message; only the first one counts."""
        if self.answers[place] is None:
            self.answers[place] = answer
            self._count(1)

    def take_run(self, place: bytes, suffixes: Sequence[bytes], bodies: Sequence[bytes]) -> int:
        """Take several replies at once, of which the first one is to the message at `place`.

        Return how many were taken: those to messages that follow each other, or none.
        """
        if len(place) > _MOST_DIGITS or not place.isdigit():
            return 0
        start, head = int(place), self.token + b"."
        known = _PLACES[start : min(start + len(suffixes), len(self.answers))]
        count, stop = len(known), start + len(known)
        if (
            suffixes[:count] != [head + each for each in known]
            or self.answers[start:stop].count(None) < count
        ):
            return 0
        self.answers[start:stop] = bodies[:count]
        self._count(count)
        return count

    def _count(self, answered: int) -> None:
        self._left -= answered
        if not self._left and not self.done.done():
            self.done.set_result(None)

    def stored(self) -> Stored | None:
        """Return what all answers say if they are `plain_acks`. They are read once."""
        if self._stored is None and not self._left:
            self._stored = plain_acks(self.answers)
        return self._stored

    def missing(self) -> list[int]:
        """Return the places of the messages that have no answer yet."""
        return [place for place, answer in enumerate(self.answers) if answer is None]

    def give_up(self, answer: Answer) -> None:
        """Give this answer to every message that has none."""
        for place in self.missing():
            self.answer(place, answer)


class FastBatch(Burst):
    """A batch of fast ingest. It ends before the first message that the server does not store.

    What is refused as it is checked ends the batch (``err``, ``gap``), and then the server says how many it
    has stored. It refuses single messages too: those that come when there is no such batch, and those that
    it could not write, after which the batch goes on.

    Args:
        token: what the subjects of its replies have in common, and the name of the batch.
        stream: the stream that stores them.
    """

    __slots__ = ("_ack", "_number", "_places")

    def __init__(
        self, token: bytes, subjects: Sequence[bytes], loop: asyncio.AbstractEventLoop, stream: str
    ) -> None:
        super().__init__(token, subjects, loop)
        self._ack = PubAck(stream, 0)
        self._places: list[int] = []
        self._number = 0  # of those that are stored

    def frames(self, messages: Sequence[Sendable], reply: bytes, limit: int) -> list[bytes]:
        """Return what is to be written. Messages of more than `limit` bytes are answered, and left out."""
        frames: list[bytes] = []
        number = 0
        for place, message in enumerate(messages):
            subject, body, headers = message[:3]
            size = len(headers)
            whole = size + len(body)
            if whole > limit:
                self.answer(place, MessageTooLarge(limit))
                continue
            self._places.append(place)
            number += 1
            operation = _APPEND if frames else _START
            frames.append(
                b"HPUB %b %b.%d.fail.%d.%d.$FI %d %d\r\n%b%b\r\n"
                % (subject, reply, _FLOW, number, operation, size, whole, headers, body)
            )
        if frames:
            subject = self.subjects[self._places[0]]
            end = subject, reply, _FLOW, number + 1, _END
            frames.append(b"PUB %b %b.%d.fail.%d.%d.$FI 0\r\n\r\n" % end)
        return frames

    def take(self, suffix: bytes, reply: bytes | NoReply) -> None:
        """Take a reply, to one message or about several."""
        number = int(suffix.split(b".")[2])
        try:
            answer = json.loads(reply) if isinstance(reply, bytes) else {}
            kind, count = answer.get("type"), answer.get("count")
            if kind == "ack":
                self._store(int(answer["seq"]))
            elif kind is not None:
                pass  # it ends, and the server will say how many are stored
            elif count is not None:
                self._store(int(count))
                self.give_up(NoReply.NOT_TAKEN)
            elif number > len(self._places):
                self.give_up(NoReply.TIMED_OUT)  # nobody knows of the batch any more
            elif isinstance(reply, NoReply) or answer.get("error", {}).get("err_code") in codes.NO_FAST_BATCH:
                self.answer(self._places[number - 1], NoReply.NOT_TAKEN)
            else:
                self.answer(self._places[number - 1], reply)
        except (ValueError, TypeError, AttributeError, KeyError):
            log.warning("a batch was answered by something other than a stream")

    def _store(self, count: int) -> None:
        """Note that so many messages, from the first one on, are stored."""
        for place in self._places[self._number : count]:
            self.answer(place, self._ack)
        self._number = max(self._number, count)


_START, _APPEND, _END = 0, 1, 3


class Bursts:
    """Sends bursts and collects their answers. Must be created in a running event loop.

    Attributes:
        behind: what was under way when the connection moved to another server: what is sent by the new wire
            may be stored before it. Emptied by `catch_up`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        inbox = connection.inbox()
        self._prefix: Final = inbox + b"."
        self._name: Final = inbox.rpartition(b".")[2]
        self._prefix_length = len(self._prefix)
        self._last_token = 0
        self._waiting: dict[bytes, Burst] = {}
        self.behind: set[asyncio.Future[None]] = set()
        self._behind_until = 0.0
        connection.on_lost.append(self._fail_all)
        connection.on_replaced.append(self._leave_behind)
        connection.violations.on_publish.append(self._fail_first)
        connection.subscribe(self._prefix + b">", self._on_message, self._on_run, is_vital=True)

    def send(self, messages: Sequence[Sendable]) -> Burst:
        """Send messages, at least one, in their order, in one write; `forget` must follow.

        Those that are larger than the server takes now are answered at once. Raise `NotConnected` if nothing
        was sent.
        """
        token = self._next_token()
        subjects, bodies, blocks = islice(zip(*messages, strict=True), 3)
        burst = Burst(token, subjects, self._loop)
        limit, reply = self._connection.max_payload, self._prefix + token
        frames: list[bytes] = []
        # Most have the subject, the headers and the sizes of the one before
        head = tail = last_subject = last_block = b""
        length = whole = 0
        for place, subject, body, block in zip(_places(len(messages)), subjects, bodies, blocks, strict=True):
            if block is not last_block:
                last_block = block
                if len(block) != length:
                    length, whole = len(block), 0
            size = length + len(body)
            if size != whole:
                if size > limit:
                    burst.answer(int(place), MessageTooLarge(limit))
                    continue
                whole, tail = size, b" %d %d\r\n" % (length, size)
            if subject is not last_subject:
                last_subject, head = subject, b"HPUB %b %b." % (subject, reply)
            frames += (head, place, tail, block, body, b"\r\n")
        self._write(burst, frames)
        return burst

    def ingest(self, messages: Sequence[Sendable], stream: str) -> Burst:
        """Do the same as one batch of fast ingest, which the stream has to allow (nats-server 2.14).

        An older server would store them one by one, and a message without anything behind them.
        """
        token = b"%b-%b" % (self._name, self._next_token())  # it names the batch, for all publishers
        batch = FastBatch(token, [message[0] for message in messages], self._loop, stream)
        self._write(batch, batch.frames(messages, self._prefix + token, self._connection.max_payload))
        return batch

    def _next_token(self) -> bytes:
        self._last_token += 1
        return b"%d" % self._last_token

    def _write(self, burst: Burst, frames: Sequence[bytes]) -> None:
        self._connection.write(b"".join(frames))
        self._waiting[burst.token] = burst

    def forget(self, burst: Burst) -> bool:
        """Take no more answers to a burst. Return whether they were waited for."""
        burst.done.cancel()  # whoever catches up waits no longer for it
        return self._waiting.pop(burst.token, None) is not None

    async def catch_up(self, deadline: float) -> None:
        """Wait until what is `behind` has its answers, or for as long as the wire that brings them lingers.

        Raise `Unavailable` at `deadline`.
        """
        behind, until = self.behind, self._behind_until
        _, missing = await asyncio.wait(behind, timeout=min(until, deadline) - self._loop.time())
        if missing and deadline < until:
            raise Unavailable
        if behind is self.behind:
            self.behind = set()

    def _on_message(self, message: Message) -> None:
        self._take(message.subject[self._prefix_length :], reply_of(message))

    def _on_run(self, suffixes: Sequence[bytes], bodies: Sequence[bytes]) -> None:
        while suffixes:
            token, _, place = suffixes[0].partition(b".")
            burst = self._waiting.get(token)
            taken = 0 if burst is None else burst.take_run(place, suffixes, bodies)
            if not taken:
                for suffix, body in zip(suffixes, bodies, strict=True):
                    self._take(suffix, body)
                return
            suffixes, bodies = suffixes[taken:], bodies[taken:]

    def _take(self, suffix: bytes, reply: bytes | NoReply) -> None:
        token, _, place = suffix.partition(b".")
        burst = self._waiting.get(token)
        if burst is not None:
            burst.take(place, reply)

    def _leave_behind(self) -> None:
        self.behind = {burst.done for burst in self._waiting.values() if not burst.done.done()}
        self._behind_until = self._loop.time() + self._connection.linger

    def _fail_all(self) -> None:
        for burst in list(self._waiting.values()):
            burst.give_up(NoReply.DISCONNECTED)

    def _fail_first(self, subject: bytes) -> None:
        """Fail the first message to this subject: the server reports violations in order."""
        for burst in self._waiting.values():
            for place in burst.missing():
                if burst.subjects[place] == subject:
                    burst.answer(place, NoReply.FORBIDDEN)
                    return
