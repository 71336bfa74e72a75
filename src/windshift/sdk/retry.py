"""Whether a call that failed is made again: a decision without I/O.

What matters is what is known of the failed attempt, and what the operation makes of being done twice.
"""

from __future__ import annotations

import random
from enum import Enum, auto

from windshift.rpc import RpcError, StatusCode

from .errors import Denied, Exhausted, OutcomeUnknown, WindshiftError, from_rpc, reason_of

_INITIAL, _MAXIMUM = 0.05, 2.0  # seconds
_JITTER = 0.5
_NOT_TAKEN = frozenset({"TOO_MANY_IN_FLIGHT"})
_SILENT = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED})
_BROKEN = frozenset({StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.CANCELLED, StatusCode.DATA_LOSS})


class Repeat(Enum):
    """What an operation makes of being done twice."""

    READ = auto()
    """It changes nothing."""
    SAME = auto()
    """It writes, but twice is the same as once: a publish with a key, an ensure, a delete by id."""
    ONCE = auto()
    """Twice could differ from once: it is repeated only when certainly nothing happened."""


class Known(Enum):
    """What is known of a failed attempt."""

    NOTHING_HAPPENED = auto()
    IN_DOUBT = auto()
    BROKEN = auto()
    """The call, or the server, failed on the way: in doubt, and not worth another attempt."""
    REFUSED = auto()


def known(error: RpcError) -> Known:
    """Say what is known of an attempt that ended with `error`."""
    reason, metadata = reason_of(error)
    if reason == "OUTCOME_UNKNOWN":
        return Known.IN_DOUBT
    if reason in _NOT_TAKEN or (reason == "QUOTA_EXCEEDED" and metadata.get("quota") == "max_rps"):
        return Known.NOTHING_HAPPENED
    if error.code is StatusCode.UNAVAILABLE and (reason or not error.sent):
        return Known.NOTHING_HAPPENED
    if error.code in _SILENT:
        return Known.IN_DOUBT if error.sent else Known.NOTHING_HAPPENED
    return Known.BROKEN if error.code in _BROKEN else Known.REFUSED


def in_doubt(error: RpcError) -> bool:
    """Say whether an attempt that ended with `error` may have been done."""
    return known(error) in (Known.IN_DOUBT, Known.BROKEN)


def decide(
    repeat: Repeat, failure: RpcError, attempt: int, left: float, *, doubt: bool
) -> float | WindshiftError:
    """Return after how many seconds a call that failed is made again, or what it ends with.

    It was the attempt of this number, from 1; `left` seconds are left for all. With `doubt` an earlier one
    may have been done.
    """
    what = known(failure)
    repeated = what is Known.NOTHING_HAPPENED or (what is Known.IN_DOUBT and repeat is not Repeat.ONCE)
    delay = _delay(attempt)
    if repeated and delay < left:
        return delay
    error = from_rpc(failure)
    silent = repeated or isinstance(error, (Exhausted, Denied))  # says nothing of what was done before
    if repeat is not Repeat.READ and (in_doubt(failure) or (doubt and silent)):
        return outcome_unknown(error)
    return error


def _delay(attempt: int) -> float:
    longest = min(_MAXIMUM, _INITIAL * 2.0 ** min(attempt - 1, 10))
    return longest * (1 - _JITTER * random.random())


def outcome_unknown(error: WindshiftError) -> OutcomeUnknown:
    """Return what is raised in place of an error that says that nothing happened, where that is not known.

    What that says to do is not for who does not know what happened.
    """
    message = f"the write may have been stored or not: {error.message}"
    return OutcomeUnknown(message, reason=error.reason, metadata=error.metadata, code=error.code)
