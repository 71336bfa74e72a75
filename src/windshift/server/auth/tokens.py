"""Static tokens: how one is made, what is stored of it, and how one that comes in is told from others.

A token is ``ws_<principal>_<secret>``. The secret has 256 random bits, so that one round of SHA-256 hides it
as well as it can be hidden; a slow hash would only cost time on each call.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from windshift.server.auth.policy import StaticToken

PREFIX: Final = "ws_"
SECRET_BYTES: Final = 32
SECRET_LENGTH: Final = 43
"""Characters that base64url without padding makes of 32 bytes."""
EXPIRED: Final = "the token has expired; get a new one"
"""What a client is told that comes with an old token, of whatever kind."""

_PRINCIPAL: Final = re.compile("[A-Za-z0-9_-]{1,64}")
_TOKEN: Final = re.compile(rf"{PREFIX}([A-Za-z0-9_-]{{1,64}})_[A-Za-z0-9_-]{{{SECRET_LENGTH}}}")


def make_token(principal: str) -> str:
    """Return a new token for a principal. Raise `ValueError` if its name is not one that tokens can hold."""
    if _PRINCIPAL.fullmatch(principal) is None:
        raise ValueError("the name of a principal has 1 to 64 letters, digits, _ or -")
    return f"{PREFIX}{principal}_{secrets.token_urlsafe(SECRET_BYTES)}"


def token_digest(token: str) -> bytes:
    """Return what is stored of a token: SHA-256 of all of it, 32 bytes."""
    return sha256(token.encode()).digest()


def principal_of(token: str) -> str | None:
    """Return the name in a token, whosever it is; None for what no token looks like.

    Names and secrets may both contain ``_``: what tells them apart is the fixed length of the secret. The
    name of a token that nobody has may contain anything, somebody's secret included, and belongs in no log.
    """
    match = _TOKEN.fullmatch(token)
    return None if match is None else match[1]


def matching_token(tokens: Iterable[StaticToken], digest: bytes) -> StaticToken | None:
    """Return the one of `tokens` that has this digest, expired or not.

    All of them are compared, each in constant time, so that the time taken says nothing.
    """
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found
