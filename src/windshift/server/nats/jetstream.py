"""JetStream's API on the wire: requests and answers in JSON, its error codes, its answer to a publish.

Numbers and texts are those of nats-server 2.15 (``server/errors.json``).
"""

from __future__ import annotations

import json
import random
import re
from asyncio import get_running_loop, sleep
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeAlias

from windshift.server.errors import (
    BrokerUnavailable,
    ConsumerNotFound,
    ForbiddenByBroker,
    MirrorChange,
    OutcomeUnknown,
    ReplicasUnavailable,
    StreamFull,
    StreamNotFound,
    SubjectsOverlap,
    UnsupportedCombination,
    WindshiftError,
)
from windshift.server.nats.connection import Connection, NotConnected
from windshift.server.nats.replies import NoReply, Replies

JsonObject: TypeAlias = dict[str, Any]

API_PREFIX: Final = "$JS.API."

STREAM_NOT_FOUND: Final = 10059
CONSUMER_NOT_FOUND: Final = 10014
MESSAGE_NOT_FOUND: Final = 10037
NAME_IN_USE: Final = 10058
WRONG_LAST_SEQUENCE: Final = 10071
WRONG_LAST_SEQUENCE_UNTOLD: Final = 10164
"""The same, from a cluster that had another write to the subject under way: the actual sequence is not told.
"""
DUPLICATE_IN_PROCESS: Final = 10158
MESSAGE_TOO_LARGE: Final = 10054
HEADER_TOO_LARGE: Final = 10097
INVALID_CONFIG: Final = 10052
STORE_FAILED: Final = 10077
SEALED: Final = 10109

TEMPORARY: Final = frozenset({10004, 10007, 10008, 10009, 10118, 10163, 10167, 10194})
"""No leader, an election, a stream that is being moved: the same request may succeed in a moment."""
OUT_OF_SPACE: Final = frozenset({10002, 10023, 10028, 10047})
"""The account or the server has no room left for what was asked."""


class RefusedByBroker(Exception):
    """JetStream answered with an error.

    Not for clients: map it, with `domain_error` where nothing better is known.
    """

    def __init__(self, err_code: int, code: int, description: str, stream: str = "") -> None:
        super().__init__(f"{err_code} {description}")
        self.err_code = err_code
        self.code = code
        self.description = description
        self.stream = stream
        """Which stream refused a message."""
        self.in_doubt = False
        """Whether an earlier attempt of the same write may be stored all the same."""

    @property
    def is_full(self) -> bool:
        """Whether the stream has no room for the message."""
        if self.err_code == STORE_FAILED:  # of a limit that is reached, or of a broken disk
            return _LIMIT_REACHED.search(self.description) is not None
        return self.err_code == SEALED

    @property
    def is_broken_disk(self) -> bool:
        """Whether the broker could not make the files of a stream or a consumer. Only its text says that."""
        return self.err_code in _CREATE_FAILED and "creating store" in self.description


_LIMIT_REACHED: Final = re.compile("maximum .* exceeded")
_CREATE_FAILED: Final = frozenset({10012, 10049, 10104})


class PubAck(NamedTuple):
    """JetStream's word that a message is stored. There is one per publish, so it is a tuple."""

    stream: str
    sequence: int
    duplicate: bool = False


class StoredMessage(NamedTuple):
    """A message as a stream holds it."""

    subject: str
    sequence: int
    headers: Mapping[str, str]
    body: bytes
    time: str
    """When it was stored: RFC 3339 in UTC."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Growing, jittered pauses between attempts; none is longer than `longest`."""

    shortest: timedelta = timedelta(milliseconds=50)
    longest: timedelta = timedelta(milliseconds=500)

    def pauses(self) -> Iterator[float]:
        """Yield seconds, each between half and the whole of a value that doubles."""
        pause, longest = self.shortest.total_seconds(), self.longest.total_seconds()
        while True:
            yield pause * (0.5 + random.random() / 2)
            pause = min(2 * pause, longest)


async def pause_within(pauses: Iterator[float], deadline: float) -> bool:
    """Sleep before another attempt; False, at once, when there would be no time left for one."""
    left = deadline - get_running_loop().time()
    if left < _SHORTEST_ATTEMPT:
        return False
    await sleep(min(next(pauses), left / 2))
    return True


_SHORTEST_ATTEMPT = 0.02  # seconds
_PLAIN_ACK = re.compile(rb'\{"stream":"([^"\\]+)", ?"seq":(\d+)\}')


def read_pub_ack(body: bytes) -> PubAck:
    """Read the answer to a publish.

    Raise `RefusedByBroker` for an error, `ValueError` for what is no such answer.
    """
    plain = _PLAIN_ACK.fullmatch(body)
    if plain is not None:
        return PubAck(plain[1].decode(), int(plain[2]))
    answer = read_answer(body)
    try:
        return PubAck(str(answer["stream"]), int(answer["seq"]), bool(answer.get("duplicate", False)))
    except (KeyError, TypeError):
        raise ValueError("not an answer to a publish") from None


def read_answer(body: bytes) -> JsonObject:
    """Read an answer of JetStream's API.

    Raise `RefusedByBroker` for an error, `ValueError` for what is no JSON object.
    """
    answer = json.loads(body)
    if not isinstance(answer, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a broken value, as json.loads sees it
    error = answer.get("error")
    if error is not None:
        raise RefusedByBroker(
            int(error.get("err_code", 0)),
            int(error.get("code", 0)),
            str(error.get("description", "")),
            str(answer.get("stream", "")),
        )
    return answer


def read_stored(message: JsonObject) -> StoredMessage:
    """Read the ``message`` of an answer to ``STREAM.MSG.GET``."""
    return StoredMessage(
        message["subject"],
        message["seq"],
        read_headers(b64decode(message.get("hdrs", ""))),
        b64decode(message.get("data", "")),
        message["time"],
    )


def read_headers(block: bytes) -> dict[str, str]:
    """Read a header block as it lies in a stream: a version line, then ``Name: value`` lines."""
    headers = {}
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.strip().decode("ascii", "replace")] = value.strip().decode("utf-8", "replace")
    return headers


class JetStreamApi:
    """Asks JetStream's API, with patience for elections and lost connections until the caller's deadline."""

    def __init__(
        self,
        connection: Connection,
        replies: Replies,
        backoff: Backoff | None = None,
        attempt_timeout: timedelta = timedelta(seconds=3),
    ) -> None:
        self._connection = connection
        self._replies = replies
        self._backoff = backoff or Backoff()
        self._attempt_timeout = attempt_timeout.total_seconds()

    async def call(
        self,
        operation: str,
        request: Mapping[str, Any] | None,
        deadline: float,
        *,
        repeatable: bool = True,
    ) -> JsonObject:
        """Ask for an operation, such as ``STREAM.INFO.ORDERS``, until `deadline` (loop time) at most.

        `repeatable` says that asking twice does no harm (all reads; creating with the same configuration).
        Otherwise the request is not sent again once it may have arrived. Raise `RefusedByBroker` for an error
        that another attempt would meet too; `BrokerUnavailable` when nothing was done; `OutcomeUnknown` when
        something that is not repeatable may have been.
        """
        body = b"" if request is None else json.dumps(request, separators=(",", ":")).encode()
        pauses = self._backoff.pauses()
        while True:
            answer = await self._attempt(operation, body, deadline, repeatable=repeatable)
            if answer is not None:
                return answer
            if not await pause_within(pauses, deadline):
                raise BrokerUnavailable

    async def _attempt(
        self, operation: str, body: bytes, deadline: float, *, repeatable: bool
    ) -> JsonObject | None:
        """Ask once; `None` means that asking again is right."""
        await self._connection.wait_connected(deadline)
        if len(body) > self._connection.max_payload:  # sent anyway, it would cost us the connection
            raise RefusedByBroker(0, 400, "it is larger than a message may be; ask for less at once")
        # A request to a leader that is no more is never answered: what is repeatable is asked again.
        until = min(deadline, get_running_loop().time() + self._attempt_timeout) if repeatable else deadline
        try:
            outcome = await self._replies.request(API_PREFIX + operation, body, None, until)
        except NotConnected:
            return None
        if isinstance(outcome, bytes):
            try:
                return read_answer(outcome)
            except RefusedByBroker as refusal:
                if refusal.err_code in TEMPORARY:
                    return None
                raise
        if outcome is NoReply.FORBIDDEN:
            raise ForbiddenByBroker
        if outcome is not NoReply.NO_RESPONDERS and not repeatable:
            raise OutcomeUnknown
        return None

    async def change(self, operation: str, request: Mapping[str, Any] | None, deadline: float) -> JsonObject:
        """Ask for a change that may be made twice without harm, until it is answered or `deadline`.

        When many changes are made to one thing at once, a cluster leaves some unanswered: they are asked for
        again. Raise `RefusedByBroker`; `BrokerUnavailable` when nothing was done; `OutcomeUnknown` when it
        may have been.
        """
        now = get_running_loop().time
        unknown: OutcomeUnknown | None = None
        while True:
            until = min(deadline, now() + self._attempt_timeout)
            try:
                return await self.call(operation, request, until, repeatable=False)
            except OutcomeUnknown as error:
                if now() >= deadline:
                    raise
                unknown = error
            except BrokerUnavailable as error:
                if until >= deadline or isinstance(error, ForbiddenByBroker):
                    raise unknown or error from None

    async def stream_names(self, subject: str, deadline: float) -> list[str]:
        """List the streams that take messages of this subject."""
        answer = await self.call("STREAM.NAMES", {"subject": subject}, deadline)
        return list(answer.get("streams") or ())

    async def stream_info(self, stream: str, deadline: float) -> JsonObject:
        """Give a stream's configuration and state, as JetStream words them."""
        return await self.call(f"STREAM.INFO.{stream}", None, deadline)

    async def message(self, stream: str, query: Mapping[str, Any], deadline: float) -> StoredMessage | None:
        """Read one stored message, the latest write included; `None` if there is none."""
        message = await self.raw_message(stream, query, deadline)
        return None if message is None else read_stored(message)

    async def raw_message(self, stream: str, query: Mapping[str, Any], deadline: float) -> JsonObject | None:
        """Do what `message` does, and give the message as JetStream words it.

        The stream's leader is asked. A direct get is answered by any replica, with what it has.
        """
        try:
            answer = await self.call(f"STREAM.MSG.GET.{stream}", query, deadline)
        except RefusedByBroker as refusal:
            if refusal.err_code == MESSAGE_NOT_FOUND:
                return None
            raise
        message: JsonObject = answer["message"]
        return message


def domain_error(refusal: RefusedByBroker, *, stream: str = "", consumer: str = "") -> Exception:
    """Say in the domain's terms what a refusal means; return the refusal itself if nothing is known.

    What one operation knows better (the size limit of a stream, the revision of a key) it maps itself, first.
    """
    if refusal.err_code in TEMPORARY:
        return BrokerUnavailable()
    if refusal.err_code in OUT_OF_SPACE:
        return StreamFull("the broker has no room left; give it more, or remove events")
    if refusal.is_broken_disk:
        return BrokerUnavailable(_CANNOT_STORE)
    make = _DOMAIN_ERRORS.get(refusal.err_code)
    return refusal if make is None else make(stream, consumer)


_CANNOT_STORE = "the broker cannot store anything now; try again"
_NO_JETSTREAM = "the broker keeps nothing for this server; enable JetStream for its account, then try again"
_NO_REPLICAS = "the broker has not enough servers for this many replicas; ask for fewer"
_FILTERS_OVERLAP = "subjects of the same source or consumer must not overlap"
_MIRROR_FIXED = "a mirror cannot become anything else, nor change what it mirrors; make another stream"

_DOMAIN_ERRORS: Final[Mapping[int, Callable[[str, str], WindshiftError]]] = {
    STREAM_NOT_FOUND: lambda stream, _: StreamNotFound(stream),
    CONSUMER_NOT_FOUND: lambda _, consumer: ConsumerNotFound(consumer),
    STORE_FAILED: lambda *_: BrokerUnavailable(_CANNOT_STORE),
    10039: lambda *_: BrokerUnavailable(_NO_JETSTREAM),
    10076: lambda *_: BrokerUnavailable(_NO_JETSTREAM),
    10149: lambda _, consumer: ConsumerNotFound(consumer),
    10065: lambda *_: SubjectsOverlap("another stream takes some of these subjects already"),
    10005: lambda *_: ReplicasUnavailable(_NO_REPLICAS),
    10074: lambda *_: ReplicasUnavailable(_NO_REPLICAS),
    10055: lambda *_: MirrorChange(_MIRROR_FIXED),
    10138: lambda *_: UnsupportedCombination(_FILTERS_OVERLAP),
    10147: lambda *_: UnsupportedCombination(_FILTERS_OVERLAP),
    10152: lambda *_: UnsupportedCombination(_FILTERS_OVERLAP),
}
