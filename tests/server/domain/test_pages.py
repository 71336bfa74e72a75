"""Page tokens: what was written is read again, with the same request only."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windshift.server.domain.errors import InvalidField
from windshift.server.domain.pages import read_token, write_token

REQUEST = ("List", "orders", ("a", 1, None))


@given(after=st.integers(0, 2**63 - 1), name=st.text(max_size=255))
def test_tokens(after: int, name: str) -> None:
    """A token is read as the position that was written."""
    token = write_token([after, name], *REQUEST)
    assert read_token("page_token", token, (int, str), *REQUEST) == [after, name]
    assert token.isascii()


def test_the_beginning() -> None:
    """No token is the beginning."""
    assert read_token("page_token", "", (int,), *REQUEST) is None


@pytest.mark.parametrize(
    "other", [(), ("Purge", *REQUEST[1:]), (*REQUEST, ""), ("List", "orders", ("a", 1, 0))]
)
def test_a_token_of_another_request(other: tuple[object, ...]) -> None:
    """It is refused, whatever the requests differ in."""
    with pytest.raises(InvalidField, match="another request"):
        read_token("page_token", write_token([7], *REQUEST), (int,), *other)


@pytest.mark.parametrize(
    "position", [[], [7], [7, 7], ["a"], [True, "a"], [7.0, "a"], [-1, "a"], [2**63, "a"], None, {}]
)
def test_made_up_tokens(position: Any) -> None:
    """A token that has something other than positions of this list is refused, with the right ending too."""
    made_up = [*position, ending_of(REQUEST)] if isinstance(position, list) else position
    with pytest.raises(InvalidField, match="no token of a page"):
        read_token(
            "page_token", urlsafe_b64encode(json.dumps(made_up).encode()).decode(), (int, str), *REQUEST
        )


def ending_of(request: tuple[object, ...]) -> str:
    """Return what a token ends with."""
    ending: str = json.loads(urlsafe_b64decode(write_token([], *request)))[-1]
    return ending


@given(token=st.text(min_size=1))
def test_nonsense_for_a_token(token: str) -> None:
    """Any text at all is refused with the name of the field."""
    with pytest.raises(InvalidField) as caught:
        read_token("page_token", token, (int,), *REQUEST)
    assert caught.value.field == "page_token"
