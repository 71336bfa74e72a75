"""Positions in a stream, from which consumers, mirrors and readers begin."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from windshift.protos import events

from .times import moment, timestamp


class Position(NamedTuple):
    """A position; use `START`, `END`, `at(time)` or `from_id(id)`.

    Attributes:
        end: behind the last event.
        time: at the first event of this time or later.
        id: at the event with this id, or the first one after it.
    """

    end: bool = False
    time: datetime | None = None
    id: int | None = None

    def proto(self) -> events.StreamPointer:
        """Return it for the wire."""
        if self.time is not None:
            return events.StreamPointer(time=timestamp(self.time))
        if self.id is not None:
            return events.StreamPointer(offset=self.id)
        return events.StreamPointer(end=True) if self.end else events.StreamPointer(start=True)


START = Position()
"""The first event that the stream holds."""
END = Position(end=True)
"""Behind the last event: only what is stored from now on."""


def at(time: datetime) -> Position:
    """Return the position of the first event that was stored at this time or later."""
    return Position(time=time)


def from_id(id: int) -> Position:  # noqa: A002 -- the field's name
    """Return the position of the event with this id, or of the first one after it."""
    return Position(id=id)


def read_position(proto: events.StreamPointer) -> Position:
    """Read a position from the wire."""
    match proto.WhichOneof("pointer"):
        case "time":
            return Position(time=moment(proto.time))
        case "offset":
            return Position(id=proto.offset)
        case "end":
            return END
        case _:
            return START
