"""The deadline of a call: its own, or a default."""

from __future__ import annotations

from typing import Final

from windshift.rpc import ServerCall

LONGEST: Final = 3600.0
"""Seconds that a call may take whatever its client says."""

UNSAID: Final = 15.0
"""Seconds that a call may take whose client says nothing. It is told that the broker is away, and not left
hanging."""

_MARGIN: Final = 0.1
_ROUNDED_UP: Final = 0.01
"""By how much of it a client's library may round a timeout up: grpcio, for one, sends 10.1 seconds for 10."""
_LARGEST_SHARE: Final = 0.1


def answer_by(call: ServerCall) -> float:
    """Return the loop time by which a unary call should have an answer, whatever it is.

    That is a little before the client's deadline: a client that was told why nothing came of its call knows
    more than one whose own timer ran out.
    """
    if call.deadline is None:
        return call.started + UNSAID
    allowed = min(call.deadline - call.started, LONGEST)
    margin = min(_MARGIN + allowed * _ROUNDED_UP, allowed * _LARGEST_SHARE)
    return call.started + allowed - margin
