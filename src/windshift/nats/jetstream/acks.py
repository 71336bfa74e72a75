"""JetStream's acknowledgements of publishes: what it stored.

Those that consumers send of deliveries are in `pulling`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Final, NamedTuple, cast

from windshift.nats.jetstream.api import read_answer


class PubAck(NamedTuple):
    """JetStream's acknowledgement of a stored message. One per publish, so it is a tuple."""

    stream: str
    sequence: int
    """0 where it is not told: of messages that came in a batch of fast ingest."""
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """The acknowledgements of several messages that one stream stored, and had not stored before.

    Attributes:
        stream: its name.
        sequences: those of the messages, in their order.
    """

    stream: str
    sequences: list[int]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, place: int) -> PubAck:
        return PubAck(self.stream, self.sequences[place])

    def __iter__(self) -> Iterator[PubAck]:
        return map(_new_ack, zip(repeat(self.stream), self.sequences, repeat(False)))


_new: Final = tuple.__new__  # as a named tuple's own __new__ does, in less than half of the time
_new_ack: Final = partial(_new, PubAck)
match_plain: Final = re.compile(rb'\{"stream":"([A-Za-z0-9_-]{1,255})","seq":([0-9]{1,20})\}').fullmatch
"""Finds the stream and the sequence in nats-server's answer to a publish that it stored, and had not stored
before; None for any other answer."""


def plain_ack(body: bytes) -> PubAck | None:
    """Read such an answer."""
    plain = match_plain(body)
    return None if plain is None else _new(PubAck, (plain[1].decode(), int(plain[2]), False))


def plain_acks(answers: Sequence[object]) -> Stored | None:
    """Do what `plain_ack` does for several answers of one stream; None if one of them is anything else."""
    first = plain_ack(answers[0]) if answers and isinstance(answers[0], bytes) else None
    if first is None:
        return None
    start = b'{"stream":"%b","seq":' % first.stream.encode()
    try:
        lines = b"\n".join(cast("Sequence[bytes]", answers))
    except TypeError:  # one of them is not
        return None
    numbers = lines[len(start) : -1].split(b"}\n" + start)
    if len(numbers) != len(answers) or not all(map(bytes.isdigit, numbers)) or lines[-1:] != b"}":
        return None
    return Stored(first.stream, list(map(int, numbers)))


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
