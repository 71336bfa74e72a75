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


def pointer(position: Position) -> events.StreamPointer:
    """Return a position for the wire.

    Raises:
        TypeError: not a position.
    """
    if not isinstance(position, Position):
        raise TypeError(f"a position is ws.START, ws.END, ws.at(time) or ws.from_id(id), not {position!r}")
    if position.time is not None:
        return events.StreamPointer(time=timestamp(position.time))
    if position.id is not None:
        return events.StreamPointer(offset=position.id)
    return events.StreamPointer(end=True) if position.end else events.StreamPointer(start=True)


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
