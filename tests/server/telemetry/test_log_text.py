"""What log records say is harmless, and cheap to make so."""

from __future__ import annotations

import pytest

from windshift.server.telemetry.log_text import LONGEST_TEXT, harmless

MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nats://user:secret@host:4222", "nats://…@host:4222"),
        ("nats://user:p@ss@host", "nats://…@…@host"),
        ("to 'token@[::1]:4222' and a@b", "to '…@[::1]:4222' and …@b"),
        ("nobody@ nowhere", "nobody@ nowhere"),
    ],
)
def test_what_stands_before_a_host(text: str, expected: str) -> None:
    """Credentials of URLs are left out, wherever they stand."""
    assert harmless(text) == expected


@pytest.mark.parametrize("text", ["a" * MEGABYTE + "@", "a@" * MEGABYTE, "@" * MEGABYTE, "a@ " * MEGABYTE])
def test_long_texts(text: str) -> None:
    """A text that a client made long is cut in a time that grows with its length, and not with the square."""
    assert len(harmless(text)) < LONGEST_TEXT + 50  # it would take hours
