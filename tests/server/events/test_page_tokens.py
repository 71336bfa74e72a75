"""Tokens of pages: what was written is read, and nothing else is."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windshift.server.errors import InvalidField
from windshift.server.events.dead_letters.letters import Cause
from windshift.server.events.dead_letters.page_tokens import BEGINNING, Place, read_token, write_token
from windshift.server.events.dead_letters.store import LetterFilter

ALL = LetterFilter()
SOME = LetterFilter("s", "c", frozenset({Cause.REJECTED, Cause.MAX_ATTEMPTS}), "acme.v1.Order", 1, 2)


@given(after=st.integers(1, 2**63 - 1), upto=st.integers(0, 2**63 - 1))
def test_round_trip(after: int, upto: int) -> None:
    """A token leads back to its place."""
    token = write_token(SOME, Place(after, upto))
    assert read_token("page_token", SOME, token) == Place(after, upto)
    assert token.isascii()


def test_the_beginning() -> None:
    """It has no token, and no token is it."""
    assert write_token(SOME, BEGINNING) == ""
    assert read_token("page_token", SOME, "") == BEGINNING


@pytest.mark.parametrize(
    "other",
    [
        ALL,
        replace(SOME, stream="t"),
        replace(SOME, consumer="d"),
        replace(SOME, causes=frozenset({Cause.REJECTED})),
        replace(SOME, type_name="acme.v1.Other"),
        replace(SOME, since_ns=None),
        replace(SOME, until_ns=3),
    ],
)
def test_another_filter(other: LetterFilter) -> None:
    """A token of another filter is refused, whatever they differ in."""
    with pytest.raises(InvalidField, match="another filter"):
        read_token("page_token", other, write_token(SOME, Place(7)))


@pytest.mark.parametrize(
    "text", ["7", "7.0", "0.0.0123456789abcdef", "-1.0.0123456789abcdef", "a.b.c", "7.0.x"]
)
def test_made_up_tokens(text: str) -> None:
    """What was never written is refused."""
    with pytest.raises(InvalidField, match="no token"):
        read_token("page_token", ALL, urlsafe_b64encode(text.encode()).decode())


@given(token=st.text(min_size=1))
def test_nonsense(token: str) -> None:
    """Any text at all is refused with the name of the field."""
    with pytest.raises(InvalidField) as caught:
        read_token("page_token", ALL, token)
    assert caught.value.field == "page_token"
