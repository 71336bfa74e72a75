"""Deliveries of one JetStream consumer: pull requests out, messages and statuses in.

The protocol is that of nats-server's ``consumer.go`` and ADR-13/ADR-37. A request for `batch` messages is
published to ``$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>`` with an inbox as its reply. Messages arrive
there under their own subject, each with a reply subject that takes its acknowledgements and says which
delivery of which message it is. What arrives without a reply subject is a status: a heartbeat, or word that a
request has ended and with how much left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, NewType

from nats.aio.msg import Msg

from windshift.server.nats.connection import Connection, NotConnected
from windshift.server.nats.headers import DATA_TYPE, MESSAGE_ID, PUBLISHED_TIME, TRACE_PARENT, TRACE_STATE
from windshift.server.nats.inbox import Inbox
from windshift.server.nats.timestamps import NANOSECONDS, Time, from_unix_ns, parse_rfc3339
from windshift.server.nats.violations import Hook

StreamSeq = NewType("StreamSeq", int)
"""A message's number in its stream: the id of an event. Not the consumer's own count of deliveries."""

ACK: Final = b"+ACK"
PROGRESS: Final = b"+WPI"
TERMINATE: Final = b"+TERM"
NAK: Final = b"-NAK"


def nak(delay_ns: int) -> bytes:
    """Return the negative acknowledgement that has a message delivered again after a delay; 0 = at once."""
    return NAK if delay_ns <= 0 else b'-NAK {"delay": %d}' % delay_ns


# --- What arrives -----------------------------------------------------------------------------------------


class Delivery(NamedTuple):
    """One attempt to hand over an event.

    Attributes:
        id: the event's sequence in its stream.
        subject: the event's subject.
        type_name: full Protobuf name of the data, empty when the publisher named none.
        data: the serialized data.
        time: when it was published; the broker's time when the publisher named none.
        idempotency_key: the publisher's, if any.
        trace_parent: W3C trace context, if any.
        trace_state: W3C trace context, if any.
        attempt: 1 for the first delivery.
        reply: the subject that takes this delivery's acknowledgements.
    """

    id: StreamSeq
    subject: str
    type_name: str
    data: bytes
    time: Time
    idempotency_key: str | None
    trace_parent: str | None
    trace_state: str | None
    attempt: int
    reply: str


class Ended(NamedTuple):
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
    """What the broker says of all pull requests of an inbox together."""

    ALIVE = "heartbeat"
    LOST = "the requests are void, pull again"
    REFUSED = "the broker does not take such a request now"
    UNHEARD = "nobody takes requests: the consumer is gone, or has no leader now"
    DELETED = "the consumer was deleted"
    FORBIDDEN = "the broker lets this server make no such request"


Arrival = Delivery | Ended | Notice

_NO_HEADERS: Mapping[str, str] = {}


def read_delivery(message: Msg) -> Delivery:
    """Read a message that JetStream delivered. Headers of other programs, or none, are fine.

    Raises:
        ValueError: its reply subject is none of JetStream's.
    """
    reply = message.reply
    tokens = reply.split(".")
    count = len(tokens)
    # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>, or with
    # <domain>.<account> after $JS.ACK and a token at the end, now and possibly more later (ADR-15).
    if count == 9:
        attempt, sequence, stored_at = tokens[4], tokens[5], tokens[7]
    elif count >= 11:
        attempt, sequence, stored_at = tokens[6], tokens[7], tokens[9]
    else:
        raise ValueError("no acknowledgement subject of JetStream")
    headers = message.headers or _NO_HEADERS
    published = headers.get(PUBLISHED_TIME)
    time = None if published is None else parse_rfc3339(published)
    return Delivery(
        StreamSeq(int(sequence)),
        message.subject,
        headers.get(DATA_TYPE, ""),
        message.data,
        from_unix_ns(int(stored_at)) if time is None else time,
        headers.get(MESSAGE_ID),
        headers.get(TRACE_PARENT),
        headers.get(TRACE_STATE),
        int(attempt),
        reply,
    )


def stored_at(reply: str) -> int:
    """Say when the stream stored a delivered message, in nanoseconds since 1970, by the delivery's reply."""
    tokens = reply.split(".")
    return int(tokens[7] if len(tokens) == 9 else tokens[9])


def pending_after(reply: str) -> int:
    """Say how many messages the consumer had yet to hand over when it sent this delivery."""
    tokens = reply.split(".")
    return int(tokens[8] if len(tokens) == 9 else tokens[10])


def read_status(headers: Mapping[str, str]) -> Ended | Notice:
    """Read a status. What is not known counts as the end of all requests: pulling again is always right."""
    status = headers.get("Status", "")
    if status == "100":
        return Notice.ALIVE
    if status == "503":
        return Notice.UNHEARD
    left = headers.get("Nats-Pending-Messages", "")
    description = headers.get("Description", "")
    if left.isdigit():
        bytes_left = headers.get("Nats-Pending-Bytes", "")
        too_large = description.startswith("Message Size Exceeds MaxBytes")
        return Ended(int(left), int(bytes_left) if bytes_left.isdigit() else 0, too_large)
    if status == "409" and description.startswith("Consumer Deleted"):
        return Notice.DELETED
    if status == "409" and description.startswith("Leadership Change"):
        return Notice.LOST
    return Notice.LOST if status == "408" else Notice.REFUSED


# --- Pulling ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PullOptions:
    """Timers of pulling.

    Attributes:
        expires: seconds after which the broker ends a pull request.
        heartbeat: seconds of silence after which the broker shows that it still has one; at most half of
            `expires`.
        drain_timeout: seconds to wait for what is on its way when an inbox is closed.
    """

    expires: float = 30.0
    heartbeat: float = 5.0
    drain_timeout: float = 1.0

    @property
    def silence(self) -> float:
        """Seconds without a word after which the requests count as lost: the broker drops some silently."""
        return 2 * self.heartbeat


class Deliveries:
    """The inbox and the pull requests of one subscription.

    Each `open` takes a fresh inbox: a request that the broker may still have from before can deliver
    nothing any more, so that nobody needs to count it.

    Args:
        connection: the connection to NATS.
        stream: the stream's name.
        consumer: the consumer's name.
        options: timers.
        receive: called with everything that arrives, in order. It must neither block nor raise.
    """

    __slots__ = ("_connection", "_inbox", "_options", "_receive", "_stop_watching", "_subject", "_tail")

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        options: PullOptions,
        receive: Callable[[Arrival], None],
    ) -> None:
        self._connection = connection
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._options = options
        self._receive = receive
        self._inbox: Inbox | None = None
        self._stop_watching: Hook | None = None
        expires, heartbeat = int(options.expires * NANOSECONDS), int(options.heartbeat * NANOSECONDS)
        self._tail = f',"expires":{expires},"idle_heartbeat":{heartbeat}}}'

    async def open(self) -> bool:
        """Drop the inbox there is and open another one; False when there is no connection now."""
        await self.forget()
        inbox = Inbox(self._connection, self._on_message)
        opened = await inbox.open()
        if opened:
            self._inbox = inbox
            self._stop_watching = self._connection.violations.watch(self._subject, self._on_forbidden)
        return opened

    def pull(self, batch: int, max_bytes: int = 0) -> bool:
        """Ask for `batch` messages; False when there is no connection or inbox: then nothing was sent.

        Args:
            batch: at least 1.
            max_bytes: bytes that they may have together, headers and subjects included; 0 = no limit.
        """
        if self._inbox is None:
            return False
        limit = f',"max_bytes":{max_bytes}' if max_bytes else ""
        request = f'{{"batch":{batch}{limit}{self._tail}'
        try:
            self._connection.publish(self._subject, request.encode(), reply=self._inbox.subject)
        except NotConnected:
            return False
        return True

    def hand_back(self, reply: str, delay_ns: int = 0) -> None:
        """Have a delivery given to somebody else, at once or after a delay.

        Without a connection that happens after its timeout.
        """
        self.tell(reply, nak(delay_ns))

    def tell(self, reply: str, acknowledgement: bytes) -> None:
        """Send an acknowledgement of a delivery, and do not ask whether it arrived."""
        try:
            self._connection.publish(reply, acknowledgement)
        except NotConnected:
            pass

    async def forget(self) -> None:
        """Close the inbox, and drop what is on its way."""
        inbox = self._take_inbox()
        if inbox is not None:
            await inbox.detach()

    async def close(self) -> None:
        """Close the inbox, and return when what was on its way has been received."""
        inbox = self._take_inbox()
        if inbox is not None:
            await inbox.drain(self._options.drain_timeout)

    def _take_inbox(self) -> Inbox | None:
        inbox, self._inbox = self._inbox, None
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None
        return inbox

    def _on_forbidden(self) -> None:
        self._receive(Notice.FORBIDDEN)

    def _on_message(self, message: Msg) -> None:
        if message.reply:
            self._receive(read_delivery(message))
        else:
            self._receive(read_status(message.headers or _NO_HEADERS))
