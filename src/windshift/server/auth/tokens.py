"""Static tokens: how one is made, what is stored of it, and how it is recognized.

A token is ``ws_<principal>_<secret>``. The secret has 256 random bits, so one round of SHA-256 protects it; a
slow hash would only cost time on each call.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from windshift.server.auth.policy import NAME, StaticToken

PREFIX: Final = "ws_"
SECRET_BYTES: Final = 32
SECRET_LENGTH: Final = 43
"""Characters of 32 bytes in base64url without padding."""
EXPIRED: Final = ("the token has expired", "get a new one")
"""What a client with an expired token of any kind is told, and what to do."""

_TOKEN: Final = re.compile(rf"{PREFIX}({NAME.pattern})_[A-Za-z0-9_-]{{{SECRET_LENGTH}}}")


def make_token(principal: str) -> str:
    """Return a new token for a principal. Raise `ValueError` if its name does not fit into a token."""
    if NAME.fullmatch(principal) is None:
        raise ValueError("the name of a principal has 1 to 64 letters, digits, _ or -")
    return f"{PREFIX}{principal}_{secrets.token_urlsafe(SECRET_BYTES)}"


def token_digest(token: str) -> bytes:
    """Return the SHA-256 of a token, 32 bytes, which is what is stored."""
    return sha256(token.encode()).digest()


def principal_of(token: str) -> str | None:
    """Return the name in a token, valid or not; None if it does not look like a token.

    Names and secrets may both contain ``_``; the fixed length of the secret separates them. The name in an
    invalid token may be anything, even somebody's secret: do not log it.
    """
    match = _TOKEN.fullmatch(token)
    return None if match is None else match[1]


def matching_token(tokens: Iterable[StaticToken], digest: bytes) -> StaticToken | None:
    """Return the token with this digest, expired or not.

    All are compared, each in constant time, so that timing reveals nothing.
    """
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found
