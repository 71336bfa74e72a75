"""The errors of this library. Each says whether the request was carried out, was not, or may have been."""

from __future__ import annotations

from dataclasses import dataclass, field


class NatsError(Exception):
    """Base of all errors here. No text contains a credential, a path or text of another library.

    Attributes:
        err_code: JetStream's error code, see `windshift.nats.jetstream.codes`; 0 = none.
        description: the server's text. It may name subjects and streams: not for clients.
    """

    err_code = 0
    description = ""


@dataclass(eq=False, repr=False)
class ConnectFailed(NatsError):
    """No connection to a server, or to any of them.

    Attributes:
        text: why, for operators.
        final: whether retrying is useless.
    """

    text: str
    final: bool = field(default=False, kw_only=True)


class NotConnected(NatsError):
    """There is no connection, or too many unsent bytes; nothing was sent."""


class MessageTooLarge(NatsError):
    """A message with its headers is larger than `limit` bytes; nothing was stored."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"larger than {limit} bytes")
        self.limit = limit


class Unavailable(NatsError):
    """No connection, no leader or no reply in time; nothing was done."""


class Unanswered(Unavailable):
    """Nobody answered in time though there is a connection; nothing was done.

    What was asked has no leader at the moment, or the server hangs.
    """


class Busy(Unavailable):
    """More is asked of the server already than may be on its way at once; nothing was asked."""


@dataclass(eq=False, repr=False)
class Forbidden(Unavailable):
    """This user lacks the permission; nothing was done.

    Attributes:
        subject: what it may not publish to; empty = not known.
    """

    subject: str = ""


@dataclass(eq=False, repr=False)
class OutcomeUnknown(NatsError):
    """No reply in time: the request may have been carried out or not.

    Attributes:
        text: why, if known; otherwise empty.
    """

    text: str = ""


class TooManyInFlight(NatsError):
    """A write did not get a slot in time; nothing was sent."""


@dataclass(eq=False, repr=False)
class StorageFull(NatsError):
    """What the server stores on takes nothing now; nothing was stored.

    Attributes:
        text: why, fit for anybody's eyes.
    """

    text: str


@dataclass(eq=False, repr=False)
class NoStream(NatsError):
    """No stream has this subject; nothing was stored."""

    subject: str


@dataclass(eq=False, repr=False)
class _OfBucket(NatsError):
    bucket: str


class NoBucket(_OfBucket):
    """No key-value bucket has this name."""


class NoTtl(_OfBucket):
    """The bucket's messages cannot expire by themselves: it was made without that."""


class NoBatches(_OfBucket):
    """The bucket takes no messages that are stored all or none: it was made without that."""


class Superseded(NatsError):
    """The key has another last sequence than the write expected; nothing was stored."""


class NoDirectGet(NatsError):
    """Nobody answers direct gets: the stream is missing, unavailable, or does not allow them."""


class JetStreamError(NatsError):
    """JetStream answered with an error.

    Attributes:
        code: like an HTTP status.
        stream: which stream refused a message; empty elsewhere.
        in_doubt: whether an earlier attempt of the same write may be stored nevertheless.
    """

    def __init__(self, err_code: int, code: int, description: str, stream: str = "") -> None:
        super().__init__(f"{err_code} {description}")
        self.err_code = err_code
        self.code = code
        self.description = description
        self.stream = stream
        self.in_doubt = False
