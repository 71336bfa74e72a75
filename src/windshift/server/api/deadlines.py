"""When a call must be answered."""

from __future__ import annotations

from typing import Final

from windshift.rpc import ServerCall

LONGEST: Final = 3600.0
"""Seconds that a call may take whatever its client says."""

UNSAID: Final = 15.0
"""Seconds that a call may take whose client says nothing. It is told that the broker is away, and not left
hanging."""

_MARGIN: Final = 0.1
_MARGIN_SHARE: Final = 0.1


def answer_by(call: ServerCall) -> float:
    """Return the loop time by which a unary call should have an answer, whatever it is.

    That is a little before the client's deadline: a client that was told why nothing came of its call knows
    more than one whose own timer ran out.
    """
    if call.deadline is None:
        return call.started + UNSAID
    allowed = min(call.deadline - call.started, LONGEST)
    return call.started + allowed - min(_MARGIN, allowed * _MARGIN_SHARE)
