"""What a server and its workers tell each other, over a pair of connected sockets that nobody else has."""

from __future__ import annotations

import asyncio
import pickle
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count
from typing import Any

from windshift.nats import ServerAddress
from windshift.server.config.tree import ServerConfig
from windshift.server.process.readiness import Readiness
from windshift.server.telemetry.registry import Readings

_LENGTH = 4
"""Bytes before a message, which say how long it is."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is to serve: the first message that it gets.

    Attributes:
        number: the worker's, from 1.
        config: of this process: its share of what is for all.
        servers: the NATS servers.
        storage: bytes that the broker may store; None = unknown.
        ledger: descriptor of the memory in which workers count together, which they inherit.
    """

    number: int
    config: ServerConfig
    servers: tuple[ServerAddress, ...]
    storage: int | None
    ledger: int


class Order(Enum):
    """What a worker is to do."""

    RELOAD = auto()
    COLLECT = auto()
    """Send `Collected`."""
    STOP = auto()
    """Drain, and end."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Whether a worker is to refuse writes: the arguments of `App.refuse_writes`."""

    why: str
    trouble: Readiness | None


@dataclass(frozen=True, slots=True)
class Question:
    """What a worker asks the others, by way of the process that has started them.

    Attributes:
        id: comes back with the answer.
        method: name of a method.
        request: in Protobuf's encoding.
    """

    id: int
    method: str
    request: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The answers to a question: of a worker its own, and to the one that asked those of all others.

    Attributes:
        id: the question's.
        answers: in Protobuf's encoding; None of a worker that did not answer.
    """

    id: int
    answers: list[bytes | None]


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker cannot start, and why, for the operator."""

    text: str


@dataclass(frozen=True, slots=True)
class Serving:
    """The worker serves, and whether it should get calls; None: it is about to end.

    Sent whenever that changes, and once a second.
    """

    readiness: Readiness | None


@dataclass(frozen=True, slots=True)
class Collected:
    """The readings of the worker."""

    readings: Readings


@dataclass(frozen=True, slots=True)
class Drained:
    """The worker is about to end, and whether all of its calls did before."""

    wholly: bool


class Channel:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ids = count()
        self._asked: dict[int, asyncio.Future[list[bytes | None]]] = {}

    @classmethod
    async def of(cls, end: socket.socket) -> Channel:
        """Take over one end of the pair."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, message: object) -> None:
        """Send a message, soon. It is lost if the other end is gone."""
        if self._writer.is_closing():  # uvloop would raise
            return
        body = pickle.dumps(message)
        self._writer.write(len(body).to_bytes(_LENGTH, "big") + body)

    async def messages(self) -> AsyncIterator[Any]:
        """Return messages as they come, until the other end is gone; answers go to who waits in `ask`."""
        try:
            while True:
                length = int.from_bytes(await self._reader.readexactly(_LENGTH), "big")
                message = pickle.loads(await self._reader.readexactly(length))  # noqa: S301 - see above
                if not isinstance(message, Answer):
                    yield message
                elif (asked := self._asked.pop(message.id, None)) is not None:  # else nobody waits any more
                    asked.set_result(message.answers)
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def ask(self, method: str, request: bytes, timeout: float) -> list[bytes | None]:
        """Ask the other end, and return the answers; one of None when they have not come in time.

        Somebody must read `messages` meanwhile.
        """
        question = Question(next(self._ids), method, request)
        answer = self._asked[question.id] = asyncio.get_running_loop().create_future()
        self.send(question)
        try:
            await asyncio.wait((answer,), timeout=timeout)
            return answer.result() if answer.done() else [None]
        finally:
            self._asked.pop(question.id, None)

    async def aclose(self) -> None:
        """Send what waits, and close."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            pass
