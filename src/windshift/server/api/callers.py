"""Who calls, for handlers."""

from __future__ import annotations

from windshift.rpc import ServerCall
from windshift.server.auth.authenticate import Identity
from windshift.server.auth.policy import Principal


def caller_of(call: ServerCall) -> Principal | None:
    """Return who makes a call with a single response; None where there are no rules."""
    return call.state.principal if isinstance(call.state, Identity) else None
