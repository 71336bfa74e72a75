"""The audit log: one record for each call that was denied, and for each that manages something.

Its records are written whatever LOG_LEVEL says, by the logger `windshift.audit`; `event` tells them apart.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from windshift.server.auth.authenticate import Identity
from windshift.server.domain.errors import PermissionDenied, QuotaExceeded, Unauthenticated
from windshift.server.telemetry.log_throttle import LogThrottle

AUDIT: Final = "windshift.audit"
"""The name of the logger."""

_log = logging.getLogger(AUDIT)
_log.setLevel(logging.INFO)

_INTERVAL: Final = 10.0
_MOST: Final = 1000
"""Records of denied calls, of one principal or of all strangers, in that time: they must fill no disk."""
_MOST_OF_QUOTAS: Final = 1
"""The same where a quota was reached."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who called what, as far as that is known.

    Attributes:
        method: the path of the call.
        peer: the client's address.
        identity: None = nobody was asked, or nobody is known.
    """

    method: str
    peer: str
    identity: Identity | None = None

    def fields(self) -> dict[str, Any]:
        """Say it as fields of a record."""
        fields = {"method": self.method, "peer": self.peer}
        if self.identity is not None:
            fields["principal"] = self.identity.principal.name
            fields["credential"] = self.identity.credential
        return fields


class Audit:
    """Writes the audit log, and counts what was denied.

    Attributes:
        denials: calls that were denied, by reason.
    """

    def __init__(self) -> None:
        self.denials = {Unauthenticated.reason: 0, PermissionDenied.reason: 0, QuotaExceeded.reason: 0}
        self._throttles: dict[tuple[str, str], LogThrottle] = {}

    def denied(
        self, caller: Caller, error: Unauthenticated | PermissionDenied | QuotaExceeded, now: float
    ) -> None:
        """Record a call that was denied, or ended because it would be now. `now` is the loop's time."""
        self.denials[error.reason] += 1
        throttle = self._throttle(caller, error)
        if not throttle.passes(now):
            return  # they come by the thousand
        fields = {"event": "denied", "reason": error.reason} | caller.fields() | _details(error)
        if skipped := throttle.take_skipped():
            fields["more"] = skipped
        text = error.why if isinstance(error, Unauthenticated) else error.message
        _log.warning("denied: %s", text, extra=fields)

    def _throttle(
        self, caller: Caller, error: Unauthenticated | PermissionDenied | QuotaExceeded
    ) -> LogThrottle:
        """Return what counts such records: who makes many of them hides none of others."""
        key = error.reason, "" if caller.identity is None else caller.identity.principal.name
        throttle = self._throttles.get(key)
        if throttle is None:
            limit = _MOST_OF_QUOTAS if isinstance(error, QuotaExceeded) else _MOST
            throttle = self._throttles[key] = LogThrottle(_INTERVAL, limit)
        return throttle

    def managed(self, caller: Caller, resource: str, code: str) -> None:
        """Record a call that manages something, and the status code that it ended with."""
        more = {"event": "managed", "resource": resource, "code": code}
        _log.info("managed: %s", caller.method.rpartition("/")[2], extra=more | caller.fields())


def _details(error: Unauthenticated | PermissionDenied | QuotaExceeded) -> dict[str, Any]:
    match error:
        case Unauthenticated():
            return {"why": error.why}
        case PermissionDenied():
            return {"verb": error.verb, "resource": error.resource, "rule": error.rule}
        case QuotaExceeded():
            return {"quota": error.quota, "limit": error.limit}
