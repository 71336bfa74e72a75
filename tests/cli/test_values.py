"""What people type and read: durations, sizes, times; widths; payloads that nobody can decode; hints."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import nan
from pathlib import Path
from time import tzset
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

import windshift as ws
from windshift.cli.options import Options
from windshift.cli.output import as_json, clip, columns, plain, width
from windshift.cli.payloads import Payloads, undecoded
from windshift.cli.session import Session, failure_of, status_of
from windshift.cli.values import (
    parse_duration,
    parse_size,
    parse_time,
    show_age,
    show_clock,
    show_duration,
    show_size,
    show_time,
)
from windshift.protos import events, payload, test
from windshift.server.auth.quotas import _PASSING, ALL_QUOTAS

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def packed(sent: Any) -> AnyMessage:
    """Return a message as a payload."""
    result = AnyMessage()
    result.Pack(sent)
    return result


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("30s", 30, "30s"),
        ("1h30m", 5400, "1h30m"),
        ("7d", 604_800, "7d"),
        ("2w", 1_209_600, "14d"),
        ("200ms", 0.2, "200ms"),
        ("1.5", 1.5, "1.5s"),
        ("0", 0, "0s"),
    ],
)
def test_durations(text: str, seconds: float, shown: str) -> None:
    """Durations are read in every unit, and shown in the same."""
    assert parse_duration(text) == pytest.approx(seconds)
    assert show_duration(parse_duration(text)) == shown


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 s", "1y", "1h30", "٣s", "1.2.3"])
def test_no_durations(text: str) -> None:
    """What is not a duration is refused."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size", "shown"),
    [
        ("1000", 1000, "1.0K"),
        ("999", 999, "999"),
        ("64K", 65_536, "64K"),
        ("1.5MiB", 1_572_864, "1.5M"),
        ("2g", 2**31, "2.0G"),
    ],
)
def test_sizes(text: str, size: int, shown: str) -> None:
    """Sizes are powers of 1024."""
    assert parse_size(text) == size
    assert show_size(size) == shown


def test_times() -> None:
    """A time is one with an offset, one of this machine, or how long ago it was."""
    assert parse_time("2026-11-28T12:00Z") == NOW
    assert timedelta(minutes=59) < datetime.now(UTC) - parse_time("1h") < timedelta(minutes=61)
    assert parse_time("2026-11-28T12:00").tzinfo is UTC
    for text in ("", "yesterday", "2026-13-01", "99999999w"):
        with pytest.raises(ValueError, match="is not a time"):
            parse_time(text)
    assert [show_age(NOW - timedelta(seconds=each), NOW) for each in (0, 61, 7200, 200_000, -5)] == [
        "0s",
        "1m",
        "2h",
        "2d",
        "0s",
    ]


def test_times_ahead() -> None:
    """Where only a time to come makes sense, a duration counts from now, and what is over is refused."""
    assert timedelta(minutes=59) < parse_time("1h", ahead=True) - datetime.now(UTC) < timedelta(minutes=61)
    assert parse_time("2100-01-01T00:00Z", ahead=True) == datetime(2100, 1, 1, tzinfo=UTC)
    for text in ("2020-01-01T00:00Z", "0s"):
        with pytest.raises(ValueError, match="is in the past"):
            parse_time(text, ahead=True)
    with pytest.raises(ValueError, match=r"is not a time, such as 1h \(from now\)"):
        parse_time("tomorrow", ahead=True)


@pytest.mark.parametrize(
    ("zone", "time", "shown"),
    [
        ("UTC+3", datetime(2026, 11, 28, 14, 0, 1, tzinfo=UTC), "2026-11-28 11:00:01"),
        ("UTC+3", datetime(1, 1, 1, 2, tzinfo=UTC), "1-01-01 02:00:00"),
        ("UTC-3", datetime(9999, 12, 31, 23, tzinfo=UTC), "9999-12-31 23:00:00"),
    ],
)
def test_times_are_shown(zone: str, time: datetime, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine's clock; the first and last hours that there are, in UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        tzset()
        try:
            assert show_time(time).lstrip("0") == shown
            assert show_clock(time, NOW - timedelta(days=7)).lstrip("0") == shown
        finally:
            patch.undo()
            tzset()


def test_widths() -> None:
    """Wide characters take two cells, marks none; a text is clipped between characters."""
    assert [width(text) for text in ("ab", "漢字", "e\u0301", "🙂")] == [2, 4, 1, 2]
    assert clip("漢字漢字", 5) == "漢字…"
    assert clip("漢字", 4) == "漢字"


def test_columns() -> None:
    """Columns are aligned, by cells; the widest is clipped where a line would be too long."""
    rows = [("a", "1", "x" * 40), ("漢字", "100", "y\n\x1b[31m")]
    assert columns(("N", "COUNT", "TEXT"), rows, right=[1], limit=30) == [
        "N     COUNT  TEXT",
        "a         1  xxxxxxxxxxxxxxxx…",
        "漢字    100  y\\n\\x1b[31m",
    ]


def test_no_text_moves_the_cursor() -> None:
    """Control characters are shown, not sent."""
    assert plain("a\x1b]0;x\x07\x9b31m\u202e") == "a\\x1b]0;x\\x07\\x9b31m\\u202e"
    assert as_json("\u202egnp\u2069") == '"\\u202egnp\\u2069"'
    assert as_json("a\x1b\x7f\x9bü") == '"a\\u001b\\u007f\\u009bü"'


def test_payloads_that_nobody_can_decode() -> None:
    """Fields of unknown types are shown by their numbers; what is no message, in base64."""
    inner = test.StringValue(value="order 7").SerializeToString()
    outer = (
        test.StringValue(value="").SerializeToString()
        + b"\x12"
        + bytes([len(inner)])
        + inner
        + b"\x18\x07\x18\x08"
    )
    assert undecoded(outer) == {"2": {"1": "order 7"}, "3": [7, 8]}
    group = b"\x0b\x10\x07\x10\x08\x18\x09\x0c"
    assert undecoded(group + group) == {"1": [{"2": [7, 8], "3": 9}] * 2}
    assert undecoded(b"\xff\xff\xff") == "////"
    assert undecoded(b"") == {}
    deep = b""
    for _ in range(40):
        deep = b"\x0a" + bytes([len(deep)]) + deep
    assert isinstance(undecoded(deep), dict)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (test.StringValue(value="hi"), {"type": "windshift.test.v1.StringValue", "data": {"value": "hi"}}),
        (
            payload.Json(type="shop.Order", value=b'{"cents":9007199254740993}'),
            {"type": "windshift.payload.v1.Json/shop.Order", "data": {"cents": 9007199254740993}},
        ),
        (
            payload.Json(value=b"{"),
            {"type": "windshift.payload.v1.Json", "data": {"2": "{"}, "undecoded": True},
        ),
        (Struct(fields={}), {"type": "google.protobuf.Struct", "data": {}}),
        (
            AnyMessage(type_url="x/no.Such", value=b"\x08\x07"),
            {"type": "google.protobuf.Any", "data": {"1": "x/no.Such", "2": {"1": 7}}, "undecoded": True},
        ),
        (
            events.Headers(timestamp=Timestamp(seconds=10**12)),
            {"type": "windshift.events.v1alpha1.Headers", "data": {"1": {"1": 10**12}}, "undecoded": True},
        ),
    ],
)
def test_payloads(sent: Any, shown: Any) -> None:
    """A payload is shown as JSON by its type, also where that fails."""
    assert Payloads().show(packed(sent)) == shown


@pytest.mark.parametrize("times", [1, 1000])
def test_payloads_that_json_cannot_hold(times: int) -> None:
    """A number that is none, or what is too deep, is shown by field numbers wherever it is."""
    sent: Any = Struct(fields={"price": Value(number_value=nan)})
    for _ in range(times):
        sent = events.Event(data=packed(sent))
    assert Payloads().show(packed(sent))["undecoded"]


@pytest.mark.parametrize("kind", [ws.PermissionDenied, ws.Unauthenticated, ws.ForbiddenByBroker])
def test_whatever_is_not_allowed_has_its_exit_code(kind: type[ws.WindshiftError]) -> None:
    """Whether the server's rules or the broker's forbid it."""
    assert status_of(kind("no")) == 6


@pytest.mark.parametrize(("quota", "passes"), [(name, name in _PASSING) for name in ALL_QUOTAS])
def test_a_quota_that_passes_is_to_be_waited_for(quota: str, passes: bool) -> None:
    """Where the server says to wait, the library says retryable, and the exit code is that of such errors."""
    refused = ws.QuotaExceeded("no", metadata={"quota": quota})
    assert (refused.retryable, status_of(refused)) == ((True, 5) if passes else (False, 1))


@pytest.mark.parametrize(
    ("error", "token", "hint"),
    [
        (ws.Unauthenticated, False, "a token is needed: --token-file"),
        (ws.Unauthenticated, True, "the server does not take this token"),
        (ws.PermissionDenied, True, "by a role in its authorization file"),
        (ws.Unreachable, False, "`windshift doctor`"),
    ],
)
async def test_hints(
    error: type[ws.WindshiftError], token: bool, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server or the library says is followed by what to do about it on the line."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "token"
    file.write_text("secret")
    session = Session(Options(address="127.0.0.1:1", token_file=file if token else None))
    assert hint in (await failure_of(session, error("no"))).hint
