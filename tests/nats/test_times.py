"""Times and durations: what is read, what is not taken for a time, and what is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windshift.nats.times import Time, from_unix_ns, nanoseconds, parse_duration, parse_rfc3339

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds", "nanos"),
    [
        ("1970-01-01T00:00:00Z", 0, 0),
        ("1970-01-01T00:00:00.000000001Z", 0, 1),
        ("1969-12-31T23:59:59.5Z", -1, 500_000_000),
        ("2026-11-24T14:54:09.123456789Z", 1_795_532_049, 123_456_789),
        ("2026-11-24t14:54:09.1z", 1_795_532_049, 100_000_000),
        ("2026-11-24T16:54:09+02:00", 1_795_532_049, 0),
        ("2026-11-24T05:24:09.12-09:30", 1_795_532_049, 120_000_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
        ("9999-12-31T23:59:59.999999999Z", 253_402_300_799, 999_999_999),
    ],
)
def test_times_with_any_offset_and_up_to_nine_digits(text: str, seconds: int, nanos: int) -> None:
    """The time is UTC's, whatever the offset."""
    assert parse_rfc3339(text) == Time(seconds, nanos)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-24",
        "2026-11-24T14:54:09",
        "2026-11-24 14:54:09Z",
        "2026-11-24T14:54:09.Z",
        "2026-11-24T14:54:09,1Z",
        "2026-11-24T14:54:09.1234567890Z",
        "2026-11-24T14:54:60Z",
        "2026-02-30T00:00:00Z",
        "2026-11-24T14:54:09+24:00",
        "2026-11-24T14:54:09+0200",
        "2026-11-24T14:54:09Z ",
        "2026-11-24T14:54:09Z\n",
        "٢٠٢٦-11-24T14:54:09Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "0000-01-01T00:00:00Z",
    ],
)
def test_other_texts_are_no_time(text: str) -> None:
    """What is not RFC 3339, or beyond what Protobuf holds, is not read at all."""
    assert parse_rfc3339(text) is None


@given(
    seconds=st.integers(-62_135_500_000, 253_402_200_000),
    nanos=st.integers(0, 999_999_999),
    minutes=st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_any_time_is_read_as_it_was_written(seconds: int, nanos: int, minutes: int) -> None:
    """The offset changes the text, not the time."""
    local = (EPOCH + timedelta(seconds=seconds)).astimezone(timezone(timedelta(minutes=minutes)))
    text = local.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    sign, ahead = ("-", -minutes) if minutes < 0 else ("+", minutes)
    parsed = parse_rfc3339(f"{text}.{nanos:09d}{sign}{ahead // 60:02d}:{ahead % 60:02d}")
    assert parsed == Time(seconds, nanos)


def test_nanoseconds_before_1970_are_rounded_down() -> None:
    """The nanoseconds of a time are never negative, as Protobuf wants it."""
    assert from_unix_ns(-1) == Time(-1, 999_999_999)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("1m0s", 60),
        ("1h2m3.5s", 3723.5),
        ("+1.5h", 5400),
        (".5m", 30),
        ("2.s", 2),
        ("1500ms", 1.5),
        ("1us", 1e-6),
        ("1µs2μs3ns", 3.003e-6),
        ("2562047h47m16.854775807s", None),
    ],
)
def test_durations_of_go(text: str, seconds: float | None) -> None:
    """Every unit and any fraction is read, up to what fits into 64 bits of nanoseconds."""
    assert parse_duration(text) == (2**63 - 1 if seconds is None else round(seconds * 1e9))


@pytest.mark.parametrize(
    "text",
    ["", "60", "s", ".s", "-1s", "1 s", "1d", "1h30", "1.2.3s", "٣s", "never", "2562047h47m16.854775808s"],
)
def test_other_texts_are_no_duration(text: str) -> None:
    """What Go does not take for a duration is not read, nor what is negative."""
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (timedelta(), 0),
        (timedelta(seconds=1.5), 1_500_000_000),
        (timedelta(microseconds=1), 1_000),
        (timedelta(days=10_000, microseconds=1), 864_000_000_000_001_000),
    ],
)
def test_durations_are_whole_nanoseconds(duration: timedelta, expected: int) -> None:
    """No digit is lost, as it would be with floats."""
    assert nanoseconds(duration) == expected
