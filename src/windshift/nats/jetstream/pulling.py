"""Pulling messages from a JetStream consumer, and acknowledging them.

The protocol is that of nats-server's ``consumer.go`` and ADR-13/ADR-37. A request for `batch` messages is
published to ``$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>`` with an inbox as its reply subject. Messages
arrive there under their own subjects; the reply subject of each takes its acknowledgements and identifies the
delivery (`split_ack_subject`). A message without a reply subject is a status: a heartbeat, or the end of a
request with what it had left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from windshift.nats import headers as h
from windshift.nats.connection import Connection, Hook, Subscription
from windshift.nats.errors import NotConnected
from windshift.nats.protocol import Message, publish_frames
from windshift.nats.times import NANOSECONDS

# --- Settling ---------------------------------------------------------------------------------------------

ACK: Final = b"+ACK"
PROGRESS: Final = b"+WPI"
TERMINATE: Final = b"+TERM"
NAK: Final = b"-NAK"


def nak(delay_ns: int) -> bytes:
    """Return the negative acknowledgement that has a message delivered again after a delay; 0 = at once."""
    return NAK if delay_ns <= 0 else b'-NAK {"delay": %d}' % delay_ns


def delay_of(acknowledgement: bytes) -> int:
    """Return the delay of a negative acknowledgement that `nak` wrote, in nanoseconds."""
    return int(acknowledgement[len(NAK) + len(b' {"delay": ') : -1] or 0)


def split_ack_subject(reply: bytes) -> list[bytes]:
    """Return what the reply subject of a delivery says (ADR-15), as digits; raise `ValueError` of any other.

    That is: which delivery of the message this is, from 1 up; the message's sequence in the stream; the
    consumer's; when the stream stored it, in nanoseconds since 1970; how many messages the consumer had yet
    to hand over. They follow ``$JS.ACK.<stream>.<consumer>``. With ``<domain>.<account>`` after ``$JS.ACK``
    there is a token at the end, and possibly more later.
    """
    tokens = reply.split(b".")
    count = len(tokens)
    if count == 9:
        return tokens[4:]
    if count >= 11:
        return tokens[6:11]
    raise ValueError("not an acknowledgement subject of JetStream")


# --- What arrives beside messages -------------------------------------------------------------------------


class PullEnded(NamedTuple):
    """A pull request is over.

    Attributes:
        left: messages that it had left.
        bytes_left: bytes that it had left, where it was limited in bytes.
        too_large: whether it ended because the next message was larger than that.
    """

    left: int
    bytes_left: int
    too_large: bool


class Notice(Enum):
    """What the server says of all pull requests of an inbox together."""

    ALIVE = "heartbeat"
    LOST = "the requests are void, pull again"
    REFUSED = "the server does not take such a request now"
    UNHEARD = "nobody takes requests: the consumer is gone, or has no leader now"
    DELETED = "the consumer was deleted"
    FORBIDDEN = "the server lets this user make no such request"


Arrival: TypeAlias = Message | PullEnded | Notice


def read_status(headers: bytes) -> PullEnded | Notice:  # noqa: PLR0911 - a list of statuses
    """Read a status. What is not known counts as the end of all requests: pulling again is always right."""
    status = h.status(headers) or h.Status(0, "")
    if status.code == 100:
        return Notice.ALIVE
    if status.code == 503:
        return Notice.UNHEARD
    left, bytes_left = (h.get(headers, name) or b"" for name in _LEFT)
    if left.isdigit():
        too_large = status.description.startswith("Message Size Exceeds MaxBytes")
        return PullEnded(int(left), int(bytes_left) if bytes_left.isdigit() else 0, too_large)
    if status.code == 404:  # to a request for one that does not wait
        return PullEnded(1, 0, too_large=False)
    if status.code == 409 and status.description.startswith("Consumer Deleted"):
        return Notice.DELETED
    if status.code == 409 and status.description.startswith("Leadership Change"):
        return Notice.LOST
    return Notice.LOST if status.code == 408 else Notice.REFUSED


_LEFT: Final = (b"Nats-Pending-Messages", b"Nats-Pending-Bytes")


# --- Pulling ----------------------------------------------------------------------------------------------


_DRAIN_TIMEOUT: Final = 3.0
"""Seconds to wait for what is on its way when an inbox is closed: a broker that hangs for longer keeps those
messages until their time is over."""


@dataclass(frozen=True, slots=True)
class PullOptions:
    """Timers of pulling.

    Attributes:
        expires: seconds after which the server ends a pull request.
        heartbeat: seconds of silence after which the server shows that it still has one; at most half of
            `expires`.
    """

    expires: float = 30.0
    heartbeat: float = 5.0

    @property
    def silence(self) -> float:
        """Seconds without a word after which the requests count as lost: servers drop some silently."""
        return 2 * self.heartbeat


def next_subject(stream: str, consumer: str) -> str:
    """Return the subject of pull requests to a consumer."""
    return f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"


class Puller:
    """The inbox and the pull requests of one subscriber to a consumer.

    Each `open` takes a fresh inbox: a request that the server may still have from before can deliver nothing
    any more, so that nobody needs to count it.

    `receive` is called with everything that arrives, in order. It must neither block nor raise.
    """

    __slots__ = ("_connection", "_inbox", "_receive", "_stop_watching", "_subject", "_tail")

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        options: PullOptions,
        receive: Callable[[Arrival], None],
    ) -> None:
        self._connection = connection
        self._subject = next_subject(stream, consumer).encode()
        self._receive = receive
        self._inbox: Subscription | None = None
        self._stop_watching: Hook | None = None
        expires, heartbeat = int(options.expires * NANOSECONDS), int(options.heartbeat * NANOSECONDS)
        self._tail = b',"expires":%d,"idle_heartbeat":%d}' % (expires, heartbeat)

    def open(self) -> bool:
        """Drop the inbox there is and open another one; False when there is no connection now."""
        self.forget()
        self._inbox = self._connection.subscribe_once(self._on_message)
        if self._inbox is None:
            return False
        on_forbidden = partial(self._receive, Notice.FORBIDDEN)
        self._stop_watching = self._connection.violations.watch(self._subject, on_forbidden)
        return True

    def pull(self, batch: int, max_bytes: int = 0, no_wait: bool = False) -> bool:  # noqa: FBT001, FBT002 - see Pull
        """Ask for `batch` messages; False when there is no connection or inbox: then nothing was sent.

        Args:
            batch: at least 1.
            max_bytes: bytes that they may have together, headers and subjects included; 0 = no limit.
            no_wait: whether the request is over at once when there are none.
        """
        if self._inbox is None:
            return False
        limit = b',"max_bytes":%d' % max_bytes if max_bytes else b""
        request = b'{"batch":%d%b%b' % (batch, limit, b',"no_wait":true}' if no_wait else self._tail)
        try:
            self._connection.publish(self._subject, request, reply=self._inbox.subject)
        except NotConnected:
            return False
        return True

    def tell(self, reply: bytes, acknowledgement: bytes) -> None:
        """Send an acknowledgement of a delivery, and do not ask whether it arrived."""
        try:
            self._connection.publish(reply, acknowledgement)
        except NotConnected:
            pass

    def tell_all(self, replies: Iterable[bytes], acknowledgement: bytes) -> None:
        """Send an acknowledgement of each of several deliveries, at least one, in order.

        Raise `NotConnected` if none was sent.
        """
        self._connection.write(publish_frames(replies, acknowledgement))

    def forget(self) -> None:
        """Close the inbox, and drop what is on its way."""
        inbox = self._take_inbox()
        if inbox is not None:
            inbox.unsubscribe()

    async def close(self) -> None:
        """Close the inbox, and return when what was on its way has been received."""
        inbox = self._take_inbox()
        if inbox is not None:
            await inbox.drain(_DRAIN_TIMEOUT)

    def _take_inbox(self) -> Subscription | None:
        inbox, self._inbox = self._inbox, None
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None
        return inbox

    def _on_message(self, message: Message) -> None:
        self._receive(message if message.reply else read_status(message.headers))
