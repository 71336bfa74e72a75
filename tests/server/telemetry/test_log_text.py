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


TOKEN = "ws_ann-1_" + "x-_9" * 10 + "abc"
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJjaSJ9"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"no method /a?token={TOKEN}", "no method /a?token=(a token)"),
        (f"'{TOKEN}x', {TOKEN}", "'(a token)', (a token)"),
        (f"xff{TOKEN}", "xff(a token)"),
        (f"Bearer {JWT}.c2ln.", "Bearer (a token)."),
        (f"{JWT}.", "(a token)"),
        ("stream 'ws_orders_of_the_whole_world' and eyJ.eyJ", None),
    ],
)
def test_tokens(text: str, expected: str | None) -> None:
    """Tokens that somebody put where they do not belong are left out; what only begins like one is not."""
    assert harmless(text) == (expected or text)


@pytest.mark.parametrize(
    "text",
    [
        "a" * MEGABYTE + "@",
        "a@" * MEGABYTE,
        "@" * MEGABYTE,
        "a@ " * MEGABYTE,
        "ws_" * MEGABYTE,
        "ws_ " * MEGABYTE,
        "eyJ" * MEGABYTE,
        "eyJabcdefgh." * MEGABYTE,
    ],
)
def test_long_texts(text: str) -> None:
    """A text that a client made long is cut in a time that grows with its length, and not with the square."""
    assert len(harmless(text)) < LONGEST_TEXT + 50  # it would take hours
