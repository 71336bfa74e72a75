"""Messages that are sent together, and what the server answers to each of them.

A burst costs one entry in a table, one future and one write, however many messages it has: that is where the
speed of many publishes comes from. Replies come to an inbox of their own, under ``<burst>.<place>``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

from windshift.nats.connection import Connection
from windshift.nats.errors import MessageTooLarge, NatsError
from windshift.nats.headers import NO_RESPONDERS
from windshift.nats.protocol import Message
from windshift.nats.requests import NoReply

log = logging.getLogger(__name__)

Answer: TypeAlias = bytes | NoReply | NatsError
"""The body of a reply, or why there is none."""


class Sendable(Protocol):
    """What is sent: its headers are a block, see `windshift.nats.headers`, and never empty."""

    @property
    def subject(self) -> bytes:
        """Where to."""

    @property
    def body(self) -> bytes:
        """The payload."""

    @property
    def headers(self) -> bytes:
        """A block of headers."""


class Burst:
    """Messages that were sent together.

    Attributes:
        subjects: where each of them went.
        answers: the answer to each; None = not yet.
        done: is done when every message has its answer.
    """

    __slots__ = ("_left", "answers", "done", "subjects", "token")

    def __init__(self, token: bytes, subjects: list[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self.token = token
        self.subjects = subjects
        self.answers: list[Answer | None] = [None] * len(subjects)
        self.done: asyncio.Future[None] = loop.create_future()
        self._left = len(subjects)

    def answer(self, place: int, answer: Answer) -> None:
        """Take the answer to one message; only the first one counts."""
        if self.answers[place] is None:
            self.answers[place] = answer
            self._left -= 1
            if not self._left and not self.done.done():
                self.done.set_result(None)

    def missing(self) -> list[int]:
        """Return the places of the messages that have no answer yet."""
        return [place for place, answer in enumerate(self.answers) if answer is None]

    def give_up(self, answer: Answer) -> None:
        """Give this answer to every message that has none."""
        for place in self.missing():
            self.answer(place, answer)


class Bursts:
    """Sends bursts and collects their answers. Must be created in a running event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._prefix: Final = connection.inbox() + b"."
        self._prefix_length = len(self._prefix)
        self._last_token = 0
        self._waiting: dict[bytes, Burst] = {}
        connection.on_lost.append(self._fail_all)
        connection.violations.on_publish.append(self._fail_first)
        connection.subscribe(self._prefix + b">", self._on_message, is_vital=True)

    def send(self, messages: Sequence[Sendable]) -> Burst:
        """Send messages in their order, in one write; `forget` must follow.

        Those that are larger than the server takes now are answered at once. Raise `NotConnected` if nothing
        was sent.
        """
        self._last_token += 1
        token = b"%d" % self._last_token
        burst = Burst(token, [message.subject for message in messages], self._loop)
        limit, reply = self._connection.max_payload, self._prefix + token
        frames = []
        for place, message in enumerate(messages):
            subject, headers, body = message.subject, message.headers, message.body
            size = len(headers)
            whole = size + len(body)
            if whole > limit:
                burst.answer(place, MessageTooLarge(limit))
                continue
            frames.append(
                b"HPUB %b %b.%d %d %d\r\n%b%b\r\n" % (subject, reply, place, size, whole, headers, body)
            )
        self._connection.write(b"".join(frames))
        self._waiting[token] = burst
        return burst

    def forget(self, burst: Burst) -> bool:
        """Take no more answers to a burst. Return whether they were waited for."""
        return self._waiting.pop(burst.token, None) is not None

    def _on_message(self, message: Message) -> None:
        token, _, place = message.subject[self._prefix_length :].partition(b".")
        burst = self._waiting.get(token)
        if burst is not None:
            headers = message.headers
            nobody = headers and headers.startswith(NO_RESPONDERS)
            burst.answer(int(place), NoReply.NO_RESPONDERS if nobody else message.body)

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
