"""Start positions and times as JetStream writes them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from windshift.nats.times import nanoseconds
from windshift.server.events.positions import is_same_start, rfc3339, start_keys, without_start
from windshift.server.events.specs import AtEnd, AtId, AtStart, AtTime, StartPosition


@pytest.mark.parametrize(
    ("unix_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
        (-1, "1970-01-01T00:00:00.000000000Z"),
        (-62_135_596_800 * 10**9, "1970-01-01T00:00:00.000000000Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854775807Z"),
        (253_402_300_799 * 10**9, "2262-04-11T23:47:16.854775807Z"),
    ],
)
def test_times_stay_where_the_broker_compares_them_rightly(unix_ns: int, text: str) -> None:
    """A time is written to the nanosecond, and moved into the years 1970 to 2262."""
    assert rfc3339(unix_ns) == text


def test_durations_are_exact() -> None:
    """A duration of centuries loses nothing."""
    assert nanoseconds(timedelta(days=100_000, microseconds=1)) == 100_000 * 86_400 * 10**9 + 1_000


@pytest.mark.parametrize(
    ("start", "keys"),
    [
        (AtStart(), {}),
        (AtEnd(), {"opt_start_seq": 8}),
        (AtId(3), {"opt_start_seq": 3}),
        (AtTime(1_500_000_000), {"opt_start_time": "1970-01-01T00:00:01.500000000Z"}),
    ],
)
def test_start_keys(start: StartPosition, keys: dict[str, Any]) -> None:
    """The end is the id after the last one, also when events come later than the question."""
    assert start_keys(start, 7) == keys


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {"opt_start_seq": 1}, True),
        ({"opt_start_seq": 1}, {"opt_start_seq": 2}, False),
        ({"opt_start_time": "2024-01-01T00:00:00Z"}, {"opt_start_time": "2024-01-01T00:00:00.000Z"}, True),
        (
            {"opt_start_time": "2024-01-01T00:00:00.5Z"},
            {"opt_start_time": "2024-01-01T02:00:00.5+02:00"},
            True,
        ),
        ({"opt_start_time": "2024-01-01T00:00:00Z"}, {"opt_start_time": "2024-01-01T00:00:00.1Z"}, False),
        (
            {"opt_start_time": "2024-01-01T00:00:00.123456789Z"},
            {"opt_start_time": "2024-01-01T00:00:00.123456Z"},
            True,
        ),
        (
            {"opt_start_time": "2024-01-01T00:00:00.000002Z"},
            {"opt_start_time": "2024-01-01T00:00:00.000001Z"},
            False,
        ),
        ({"opt_start_time": "2024-01-01T00:00:00Z"}, {}, False),
    ],
)
def test_same_start(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    """Starts are compared by what they mean to a client, not by how they are written."""
    assert is_same_start(one, other) is same


def test_without_start() -> None:
    """Only what says where a source starts is taken away."""
    source = {"name": "A", "opt_start_seq": 4, "external": {"api": "x"}}
    assert without_start(source) == {"name": "A", "external": {"api": "x"}}
