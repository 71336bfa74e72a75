"""The audit log: one record for each denied call, and for each that manages something or reads events.

Records are written whatever LOG_LEVEL says, by the logger `windshift.audit`; `event` distinguishes them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from windshift.server.auth.authenticate import Identity
from windshift.server.auth.quotas import ALL_QUOTAS
from windshift.server.domain.errors import PermissionDenied, QuotaExceeded, Unauthenticated
from windshift.server.telemetry.log_throttle import LogThrottle

AUDIT: Final = "windshift.audit"
"""The name of the logger."""

Denial: TypeAlias = Unauthenticated | PermissionDenied | QuotaExceeded

_log = logging.getLogger(AUDIT)
_log.setLevel(logging.INFO)

_INTERVAL: Final = 10.0
_MOST_DENIED: Final = {Unauthenticated.reason: 300, PermissionDenied.reason: 300, QuotaExceeded.reason: 1}
"""Records of denied calls of one principal in that time, by reason: they must fill no disk.

Of calls without valid credentials: of those that have none, of those that name nobody, and of those that name
one principal or issuer.
"""
_MOST_MANAGED: Final = 300
"""The same of calls that managed something, and of those that read events."""
_MOST_FAILED: Final = 30
"""The same of those that failed, and of what streams copy for a principal that may not."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who called what, as far as that is known.

    Attributes:
        method: the path of the call.
        identity: None = nobody was asked, or nobody is known.
    """

    method: str
    peer: str
    identity: Identity | None = None

    @property
    def name(self) -> str:
        """The name of the principal; empty when nobody is known."""
        return "" if self.identity is None else self.identity.principal.name

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
        exceeded: those among them that were too much, by quota.
    """

    def __init__(self) -> None:
        self.denials = dict.fromkeys(_MOST_DENIED, 0)
        self.exceeded = dict.fromkeys(ALL_QUOTAS, 0)
        self._throttles: dict[tuple[str, str], LogThrottle] = {}
        """By what happened, and to whom: the rules bound how many there are."""

    def denied(self, caller: Caller, error: Denial, now: float) -> None:
        """Record a call that was denied, or ended because it would be now. `now` is the loop's time."""
        self.denials[error.reason] += 1
        what, about = error.reason, error.about if isinstance(error, Unauthenticated) else ""
        if isinstance(error, QuotaExceeded):
            what = error.quota
            self.exceeded[what] += 1
        throttle = self._throttle(what, caller.name or about, _MOST_DENIED[error.reason])
        if not throttle.passes(now):
            return  # they come by the thousand
        text = error.why if isinstance(error, Unauthenticated) else error.message
        fields = {"event": "denied", "reason": error.reason} | caller.fields() | _details(error)
        _log.warning("denied: %s", text, extra=fields | throttle.more())

    def managed(self, caller: Caller, resource: str, code: str, now: float) -> None:
        """Record a call that manages something, and the status code that it ended with at `now`."""
        what, most = ("managed", _MOST_MANAGED) if code == "OK" else ("failed", _MOST_FAILED)
        throttle = self._throttle(what, caller.name, most)
        if throttle.passes(now):
            fields = {"event": "managed", "resource": resource, "code": code} | caller.fields()
            _log.info("managed: %s", caller.method.rpartition("/")[2], extra=fields | throttle.more())

    def read(self, caller: Caller, resource: str, now: float) -> None:
        """Record a call that begins to read events without a consumer."""
        throttle = self._throttle("read", caller.name, _MOST_MANAGED)
        if throttle.passes(now):
            fields = {"event": "read", "resource": resource} | caller.fields()
            _log.info("read: %s", caller.method.rpartition("/")[2], extra=fields | throttle.more())

    def copying(self, stream: str, error: PermissionDenied, now: float) -> None:
        """Record that a stream copies what the principal that had it do so may not copy any more."""
        throttle = self._throttle("copying", error.principal, _MOST_FAILED)
        if throttle.passes(now):
            fields = {"event": "copying", "principal": error.principal, "stream": stream} | _details(error)
            text = "copying: stream %r goes on, though %s"
            _log.warning(text, stream, error.message, extra=fields | throttle.more())

    def _throttle(self, what: str, whom: str, most: int) -> LogThrottle:
        """Return what counts records of one kind: who makes many of them hides none of other kinds."""
        throttle = self._throttles.get((what, whom))
        if throttle is None:
            throttle = self._throttles[what, whom] = LogThrottle(_INTERVAL, most)
        return throttle


def _details(error: Denial) -> dict[str, Any]:
    match error:
        case Unauthenticated():
            return {"why": error.why}
        case PermissionDenied():
            return {"verb": error.verb, "resource": error.resource, "rule": error.rule}
        case QuotaExceeded():
            return {"quota": error.quota, "limit": error.limit}
