"""JetStream's acknowledgements of stored messages."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from windshift.nats.jetstream.api import read_answer


class PubAck(NamedTuple):
    """JetStream's acknowledgement of a stored message. One per publish, so it is a tuple."""

    stream: str
    sequence: int
    """0 where it is not told: of messages that came in a batch of fast ingest."""
    duplicate: bool = False


_new: Final = tuple.__new__  # as a named tuple's own __new__ does, in less than half of the time
_LONGEST_BEGINNING: Final = 300
_PLAIN_BEGINNING: Final = re.compile(rb'\{"stream":"([A-Za-z0-9_-]{1,255})')


@lru_cache(maxsize=1024)
def _plain_stream(beginning: bytes) -> str | None:
    plain = _PLAIN_BEGINNING.fullmatch(beginning)
    return None if plain is None else plain[1].decode()


def plain_ack(body: bytes) -> PubAck | None:
    """Parse the answer to a publish if it is what nats-server says of a message that it stored."""
    beginning, _, end = body.partition(b'","seq":')
    number = end.removesuffix(b"}")
    if number.isdigit() and number is not end and len(beginning) < _LONGEST_BEGINNING:
        stream = _plain_stream(beginning)
        if stream is not None:
            return _new(PubAck, (stream, int(number), False))
    return None


def read_pub_ack(body: bytes) -> PubAck:
    """Parse the answer to a publish.

    Raise `JetStreamError` for an error, `ValueError` if it is not such an answer.
    """
    plain = plain_ack(body)
    if plain is not None:
        return plain
    answer = read_answer(body)
    try:
        return PubAck(str(answer["stream"]), int(answer["seq"]), bool(answer.get("duplicate", False)))
    except (KeyError, TypeError, OverflowError):
        raise ValueError("not an answer to a publish") from None
