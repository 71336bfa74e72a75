"""Tokens, by which a client goes on with deliveries of an earlier call. No I/O.

A token says which delivery it is and under which nats-server it was made, and is authenticated by the
consumer's key (`token_key`), so its tokens end with it.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct
from time import time_ns
from typing import Final, NamedTuple

from windshift.nats.jetstream.pulling import split_ack_subject
from windshift.server.domain.errors import InvalidField
from windshift.server.events.model import ConsumerKey, StreamSeq

_MAC_SIZE: Final = 16
_FACTS: Final = Struct(">Q4s")  # when it was made, in nanoseconds since 1970, and under which nats-server
_SHORTEST: Final = _MAC_SIZE + _FACTS.size + 1
_LONGEST: Final = 1024


class Resumed(NamedTuple):
    """A delivery that a client goes on with.

    Attributes:
        seq: the event.
        attempt: which attempt it is.
        reply: the subject that takes its acknowledgements.
        made_ns: when the client was handed it, in nanoseconds since 1970, by the clock of that server.
        is_same_broker: whether the process is known to be the same that the server which wrote the token was
            connected to: that has forgotten nothing.
    """

    seq: StreamSeq
    attempt: int
    reply: bytes
    made_ns: int
    is_same_broker: bool


def check_token(field: str, token: bytes) -> None:
    """Raise `InvalidField` if no server can have written this token."""
    if not _SHORTEST <= len(token) <= _LONGEST:
        raise InvalidField(field, "contains an invalid token; pass `Event.token` unchanged")


class Tokens:
    """Writes and reads the tokens of one principal for one consumer.

    The consumer's key is not empty; `principal` is, where there are no rules. `broker` names the nats-server
    process that this server is connected to.
    """

    __slots__ = ("_broker", "_key", "_prefix", "_principal", "_unix_ns")

    def __init__(
        self,
        consumer: ConsumerKey,
        key: bytes,
        principal: str,
        broker: str,
        unix_ns: Callable[[], int] = time_ns,
    ) -> None:
        self._prefix = "$JS.ACK.{}.{}.".format(*consumer).encode()
        self._principal = principal.encode()
        self._unix_ns = unix_ns
        self.use(key)
        self.connected(broker)

    def use(self, key: bytes) -> None:
        """Use this key from now on; an empty one changes nothing."""
        if key:
            self._key = blake2b(self._principal, key=key, digest_size=32).digest()

    def connected(self, broker: str) -> None:
        """Note to which nats-server process this server is connected now."""
        self._broker = blake2b(broker.encode(), digest_size=4).digest()

    def write(self, reply: bytes) -> bytes:
        """Write the token of a delivery, by its reply subject."""
        text = _FACTS.pack(self._unix_ns(), self._broker) + reply.removeprefix(self._prefix)
        return self._mac(text) + text

    def read(self, token: bytes) -> Resumed | None:
        """Read a token; None if it was not written for this principal and this consumer, as it is now."""
        text = token[_MAC_SIZE:]
        if not compare_digest(self._mac(text), token[:_MAC_SIZE]):
            return None
        made_ns, broker = _FACTS.unpack_from(text)
        reply = text[_FACTS.size :]
        if not reply.startswith(b"$"):
            reply = self._prefix + reply
        attempt, seq, *_ = split_ack_subject(reply)
        return Resumed(StreamSeq(int(seq)), int(attempt), reply, made_ns, broker == self._broker)

    def _mac(self, text: bytes) -> bytes:
        return blake2b(text, key=self._key, digest_size=_MAC_SIZE).digest()
