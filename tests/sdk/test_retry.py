"""Which calls are made again, without a socket: the table of `windshift.sdk.retry`."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo

from windshift.rpc import RpcError, StatusCode
from windshift.sdk import errors
from windshift.sdk.retry import Known, Repeat, decide, known


def failure(code: StatusCode, reason: str = "", *, sent: bool = True, **metadata: str) -> RpcError:
    """Make an error as it comes from a call."""
    details = [ErrorInfo(reason=reason, domain="windshift", metadata=metadata)] if reason else []
    received = RpcError(code, f"text; {metadata['hint']}" if "hint" in metadata else "text")
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        received.details += (packed,)
    return received if sent else received.unsent()


UNSEEN = failure(StatusCode.UNAVAILABLE, sent=False)
REASONED = failure(StatusCode.UNAVAILABLE, "BROKER_UNAVAILABLE")
BUSY = failure(StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_IN_FLIGHT")
RATE = failure(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", quota="max_rps", limit="5")
LOST = failure(StatusCode.UNAVAILABLE)
LATE = failure(StatusCode.DEADLINE_EXCEEDED)
WAITED = failure(StatusCode.DEADLINE_EXCEEDED, sent=False)
UNKNOWN = failure(StatusCode.DEADLINE_EXCEEDED, "OUTCOME_UNKNOWN")
BROKEN = failure(StatusCode.INTERNAL)
FAILED = failure(StatusCode.INTERNAL, "INTERNAL")
REFUSED = failure(StatusCode.ABORTED, "WRONG_LAST_ID", expected="1", actual="3")
QUOTA = failure(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", quota="streams", limit="5")
FULL = failure(StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL")
DENIED = failure(StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
EXPIRED = failure(StatusCode.UNAUTHENTICATED)
MISSING = failure(StatusCode.NOT_FOUND, "STREAM_NOT_FOUND", name="a")


@pytest.mark.parametrize("error", [UNSEEN, REASONED, BUSY, RATE])
@pytest.mark.parametrize("repeat", Repeat)
def test_what_did_not_happen_is_repeated(error: RpcError, repeat: Repeat) -> None:
    """Every operation is repeated when certainly nothing happened."""
    assert known(error) is Known.NOTHING_HAPPENED
    assert isinstance(decide(repeat, error, 1, 5.0, doubt=False), float)


@pytest.mark.parametrize("error", [LOST, LATE, UNKNOWN])
def test_doubt_is_repeated_where_twice_is_once(error: RpcError) -> None:
    """In doubt reads and idempotent writes are repeated; other writes end with `OutcomeUnknown`."""
    assert isinstance(decide(Repeat.READ, error, 1, 5.0, doubt=False), float)
    assert isinstance(decide(Repeat.SAME, error, 1, 5.0, doubt=False), float)
    end = decide(Repeat.ONCE, error, 1, 5.0, doubt=False)
    assert isinstance(end, errors.OutcomeUnknown)


@pytest.mark.parametrize("repeat", Repeat)
@pytest.mark.parametrize("error", [REFUSED, QUOTA])
def test_refusals_are_final(error: RpcError, repeat: Repeat) -> None:
    """What the server refused is not asked again."""
    assert isinstance(decide(repeat, error, 1, 5.0, doubt=False), errors.WindshiftError)


@pytest.mark.parametrize(
    ("repeat", "error", "kind"),
    [
        (Repeat.SAME, FULL, errors.OutcomeUnknown),
        (Repeat.SAME, DENIED, errors.OutcomeUnknown),
        (Repeat.SAME, EXPIRED, errors.OutcomeUnknown),
        (Repeat.READ, FULL, errors.StorageFull),
        (Repeat.SAME, REFUSED, errors.WrongLastId),
        (Repeat.SAME, MISSING, errors.StreamNotFound),
    ],
)
def test_a_refusal_for_want_of_room_or_rights_leaves_doubt(
    repeat: Repeat, error: RpcError, kind: type[Exception]
) -> None:
    """It says nothing of an earlier attempt that may have been done."""
    end = decide(repeat, error, 2, 5.0, doubt=True)
    assert type(end) is kind


@pytest.mark.parametrize("error", [BROKEN, FAILED])
def test_a_call_that_broke_is_in_doubt_and_final(error: RpcError) -> None:
    """INTERNAL, of whomever, is not repeated; a write may have happened."""
    for repeat, kind in ((Repeat.READ, errors.WindshiftError), (Repeat.SAME, errors.OutcomeUnknown)):
        end = decide(repeat, error, 1, 5.0, doubt=False)
        assert type(end) is kind


@pytest.mark.parametrize(
    ("repeat", "error", "doubt", "kind"),
    [
        (Repeat.READ, LATE, False, errors.DeadlineExceeded),
        (Repeat.SAME, LATE, False, errors.OutcomeUnknown),
        (Repeat.SAME, UNSEEN, False, errors.Unreachable),
        (Repeat.SAME, UNSEEN, True, errors.OutcomeUnknown),
        (Repeat.READ, UNSEEN, True, errors.Unreachable),
        (Repeat.ONCE, WAITED, False, errors.Unreachable),
        (Repeat.SAME, WAITED, True, errors.OutcomeUnknown),
        (Repeat.ONCE, REASONED, False, errors.BrokerUnavailable),
    ],
)
def test_at_the_deadline_doubt_of_any_attempt_counts(
    repeat: Repeat, error: RpcError, doubt: bool, kind: type[Exception]
) -> None:
    """When time is over, a write that may have happened in any attempt is `OutcomeUnknown`."""
    end = decide(repeat, error, 3, 0.0, doubt=doubt)
    assert type(end) is kind


def test_pauses_grow_to_two_seconds() -> None:
    """Attempts are 25 to 50 ms apart at first, and never more than two seconds."""
    delays = [decide(Repeat.READ, UNSEEN, attempt, 1e9, doubt=False) for attempt in range(1, 40)]
    assert all(isinstance(delay, float) and 0.025 <= delay <= 2.0 for delay in delays)
    first, last = delays[0], delays[-1]
    assert isinstance(first, float)
    assert isinstance(last, float)
    assert first <= 0.05
    assert last >= 1.0


def test_errors_tell_what_the_server_told() -> None:
    """Attributes come from the server's metadata; an unknown reason falls to the class of its code."""
    error = errors.from_rpc(REFUSED)
    assert isinstance(error, errors.WrongLastId)
    assert (error.expected, error.actual, error.reason) == (1, 3, "WRONG_LAST_ID")
    quota = errors.from_rpc(QUOTA)
    assert isinstance(quota, errors.QuotaExceeded)
    assert (quota.quota, quota.limit) == ("streams", 5.0)
    missing = errors.from_rpc(failure(StatusCode.NOT_FOUND, "STREAM_NOT_FOUND", name="a", hint="ensure it"))
    assert (missing.message, missing.hint, missing.metadata) == ("text", "ensure it", {"name": "a"})
    assert str(missing) == "text; ensure it (STREAM_NOT_FOUND)"
    newer = errors.from_rpc(failure(StatusCode.NOT_FOUND, "COMET_NOT_FOUND", name="halley"))
    assert type(newer) is errors.NotFound
    assert newer.name == "halley"
