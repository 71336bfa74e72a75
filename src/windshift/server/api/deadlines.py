"""The deadline of a call: its own, or a default."""

from __future__ import annotations

from typing import Final

from windshift.rpc import ServerCall

LONGEST: Final = 3600.0
"""The longest deadline of a call, in seconds."""

DEFAULT: Final = 15.0
"""The default deadline of a call, in seconds: even without one, a client learns that the broker is away."""

_MARGIN: Final = 0.1
_ROUNDED_UP: Final = 0.01
"""The share by which a client's library may round a timeout up: grpcio sends 10.1 seconds for 10."""
_LARGEST_SHARE: Final = 0.1


def answer_by(call: ServerCall, *, streams: bool = False) -> float:
    """Return the loop time by which a call should be answered: one that streams, for the last time.

    It is a little before the client's deadline, so that the client learns why its call failed before its own
    timer expires. A call that streams may last as long as its client lets it.
    """
    if call.deadline is None:
        return call.started + DEFAULT
    allowed = min(call.deadline - call.started, LONGEST)
    margin = min(_MARGIN + allowed * _ROUNDED_UP, allowed * _LARGEST_SHARE)
    return (call.deadline if streams else call.started + allowed) - margin
