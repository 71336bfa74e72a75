"""What static tokens look like, and which of a principal's one is."""

from __future__ import annotations

import hashlib
import re

import pytest

from windshift.server.auth.policy import StaticToken
from windshift.server.auth.tokens import make_token, matching_token, principal_of, token_digest

SECRET = "A" * 43


def test_a_token_names_its_principal_and_has_43_random_characters() -> None:
    """A token is `ws_`, the name, `_` and a secret of 43 characters of base64url."""
    token = make_token("billing")
    assert re.fullmatch(r"ws_billing_[A-Za-z0-9_-]{43}", token)
    assert token != make_token("billing")


@pytest.mark.parametrize("name", ["a", "a_b", "_", "ws_", "-", "a-b_c-", "x" * 64])
def test_a_token_gives_its_principal_back(name: str) -> None:
    """Whatever the name contains, and whatever the secret, it is found again."""
    for _ in range(50):
        assert principal_of(make_token(name)) == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a.b", "ä", "a\n", "a/b"])
def test_names_that_a_token_cannot_hold_are_refused(name: str) -> None:
    """A token is made only for a name of 1 to 64 letters, digits, `_` and `-`."""
    with pytest.raises(ValueError):
        make_token(name)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "ws_",
        f"ws_{SECRET}",
        f"ws__{SECRET}",
        f"ws_a_{SECRET[1:]}",
        f"ws_a_{SECRET}\n",
        f"\nws_a_{SECRET}",
        f"WS_a_{SECRET}",
        f"ws_a.b_{SECRET}",
        f"ws_a_{SECRET[1:]}=",
        f"ws_a_{SECRET[1:]}.",
        f"ws_{'x' * 65}_{SECRET}",
        f"ws_\u0430dmin_{SECRET}",  # a Cyrillic a
    ],
)
def test_what_does_not_look_like_a_token_names_nobody(token: str) -> None:
    """A prefix, a name, `_` and exactly 43 characters: anything else is no token."""
    assert principal_of(token) is None


def test_the_digest_is_sha256_of_the_whole_token() -> None:
    """What is stored is what `sha256sum` gives for the token."""
    assert token_digest(f"ws_a_{SECRET}") == hashlib.sha256(f"ws_a_{SECRET}".encode()).digest()


def test_the_matching_token_is_found_wherever_it_stands() -> None:
    """Each of several tokens is found by its digest, and only by the whole of it."""
    tokens = [StaticToken(token_digest(f"ws_a_{letter * 43}")) for letter in "abc"]
    for token in tokens:
        assert matching_token(tokens, token.digest) is token
    assert matching_token(tokens, token_digest("ws_a_" + "d" * 43)) is None
    assert matching_token(tokens, tokens[0].digest[:31]) is None
    assert matching_token([], tokens[0].digest) is None
