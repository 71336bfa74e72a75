"""The errors of this library. Each says whether the request was carried out, was not, or may have been."""

from __future__ import annotations


class NatsError(Exception):
    """Base of all errors here. No text holds a credential, a path or another library's words.

    Attributes:
        err_code: JetStream's number of what it refused, see `windshift.nats.jetstream.codes`; 0 = none.
    """

    err_code = 0


class ConnectFailed(NatsError):
    """A server, or all of them, could not be connected to.

    Attributes:
        text: why, fit for an operator's eyes.
        final: whether trying again will not help.
    """

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.final = final


class NotConnected(NatsError):
    """There is no connection now, or it takes no more at the moment; nothing was sent."""


class MessageTooLarge(NatsError):
    """A message with its headers is larger than `limit` bytes; nothing was stored."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"larger than {limit} bytes")
        self.limit = limit


class Unavailable(NatsError):
    """There was no connection, no leader or no answer in time; nothing was done."""


class Forbidden(Unavailable):
    """The server does not let this user do that; nothing was done."""


class OutcomeUnknown(NatsError):
    """Something was sent and not answered in time: it may have been done or not.

    Attributes:
        text: why, where that is known; otherwise empty.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.text = text


class TooManyInFlight(NatsError):
    """A write waited for its turn and did not get one; nothing was sent."""


class StorageFull(NatsError):
    """What the server stores on takes nothing now; nothing was stored.

    Attributes:
        text: why, fit for anybody's eyes.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class NoStream(NatsError):
    """No stream takes messages of this subject; nothing was stored."""

    def __init__(self, subject: str) -> None:
        super().__init__(subject)
        self.subject = subject


class NoBucket(NatsError):
    """No key-value bucket has this name."""

    def __init__(self, bucket: str) -> None:
        super().__init__(bucket)
        self.bucket = bucket


class Superseded(NatsError):
    """A write expected another last sequence of its key; nothing was stored."""


class NoDirectGet(NatsError):
    """Nobody answers direct gets: there is no such stream, or it does not allow them, or not now."""


class JetStreamError(NatsError):
    """JetStream answered with an error.

    Attributes:
        code: the kind, like an HTTP status.
        description: the server's text. It may name subjects and streams: not for everybody.
        stream: which stream refused a message; empty elsewhere.
        in_doubt: whether an earlier attempt of the same write may be stored all the same.
    """

    def __init__(self, err_code: int, code: int, description: str, stream: str = "") -> None:
        super().__init__(f"{err_code} {description}")
        self.err_code = err_code
        self.code = code
        self.description = description
        self.stream = stream
        self.in_doubt = False
