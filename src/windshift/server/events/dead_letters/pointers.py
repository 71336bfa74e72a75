"""Pointers: how an outstanding replay is stored in the stream ``WS_REPLAYS``.

A pointer is the only message of its subject, which ends with the id of the dead letter. Its body is the
number of the replay; its headers say how often it was delivered, and until when it is leased. Pointers of
earlier versions have only the first header, and count as not delivered. A replay that was cancelled has the
number 0, which is past for every dead letter, until its pointer is deleted: nobody delivers it any more.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from windshift.nats.headers import HeaderLines
from windshift.nats.jetstream.api import StoredMessage
from windshift.server.events.dead_letters.model import DeadLetterId, id_pattern
from windshift.server.events.model import ConsumerKey

SUBJECTS: Final = "_WS.replay."
WRITER: Final = b"WS-Writer"
"""Which call wrote this: how a repeated write recognizes its own pointer."""
_ATTEMPTS: Final = b"WS-Attempts"
"""How often the replay was delivered so far."""
_HELD: Final = b"WS-Held"
"""For how many nanoseconds from when this was stored nobody else may deliver it."""


CANCELLED: Final = 0
"""The number of a replay that was cancelled."""
RETURNED: Final = "-returned"
"""Ends the writer of a pointer that nobody holds: it is as it was when a delivery was given back."""


class Pointer(NamedTuple):
    """An outstanding replay, as it was read.

    Attributes:
        id: the dead letter.
        number: which replay of it this is, from 1 up; `CANCELLED` if it is over.
        attempts: how often it was delivered so far.
        position: where the pointer lies in the stream. Whoever writes it anew moves it.
        free_at_ns: when it may be delivered, in nanoseconds since 1970 by the broker's clock.
        is_leased: whether somebody has a lease of it, until then.
    """

    id: DeadLetterId
    number: int
    attempts: int
    position: int
    free_at_ns: int
    is_leased: bool


def pointer_subject(id: DeadLetterId) -> str:  # noqa: A002 - as the field of the API is called
    """Return the subject of a pointer."""
    return f"{SUBJECTS}{id}"


def pointer_pattern(consumer: ConsumerKey) -> str:
    """Return the NATS pattern of the pointers of a consumer."""
    return SUBJECTS + id_pattern(*consumer)


def pointer_headers(writer: str, attempts: int, held_ns: int) -> HeaderLines:
    """Return the headers of a pointer that is delivered the `attempts`-th time."""
    return (WRITER, writer.encode()), (_ATTEMPTS, b"%d" % attempts), (_HELD, b"%d" % held_ns)


def read_pointer(stored: StoredMessage) -> Pointer:
    """Read a pointer; raise `ValueError` for what Windshift did not write."""
    number, attempts = int(stored.body), int(read_header(stored, _ATTEMPTS) or 0)
    is_returned = read_header(stored, WRITER).endswith(RETURNED)
    return Pointer(
        DeadLetterId.parse(stored.subject.removeprefix(SUBJECTS)),
        number,
        attempts,
        stored.sequence,
        stored.unix_ns + int(read_header(stored, _HELD) or 0),
        number != CANCELLED and attempts > 0 and not is_returned,
    )


def read_header(stored: StoredMessage, name: bytes) -> str:
    """Read a header; empty when it is not there."""
    return next((value.decode("latin-1") for key, value in stored.headers if key == name), "")
