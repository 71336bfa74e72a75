"""JSON web tokens (RFC 7519): which claims one must have, and whether its issuer signed it.

Parsing comes first and is cheap: it determines the key from the claims, and rejects everything that no
signature could save. Nothing in a token says where keys are: `jku`, `jwk`, `x5u` and `x5c` are ignored, and
`kid` is only a lookup key.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from windshift.server.auth.jwks import MAX_KEY_ID
from windshift.server.auth.policy import ALGORITHMS, Issuer
from windshift.server.auth.strict_json import read_object
from windshift.server.auth.tokens import EXPIRED
from windshift.server.domain.errors import Unauthenticated

MAX_LENGTH: Final = 8192
"""Characters of a token."""

_FORM: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_SHOWN: Final = 128
"""Characters shown of a claim."""
_MANY: Final = 10**15
"""The most seconds that are shown: a token may have numbers with thousands of digits."""
_TYPES: Final = frozenset({"jwt", "at+jwt", "jose"})
"""Values of `typ` for tokens that say who calls: others are for other ends, such as logging out."""


@dataclass(frozen=True, slots=True)
class ReadToken:
    """A well-formed token, not yet verified.

    Attributes:
        issuer: its claimed issuer.
        algorithm: its signature's, one of the issuer's.
        key_id: the id of its key; None = none.
        subject: its `sub`.
        expires: Unix time in seconds at which it expires.
    """

    text: bytes
    issuer: Issuer
    algorithm: str
    key_id: str | None
    subject: str
    expires: int


def read_token(text: bytes, issuers: Mapping[str, Issuer], now: float) -> ReadToken:
    """Parse a token and check everything but its signature.

    The trusted issuers are by the `iss` of their tokens; `now` is a Unix time in seconds. Raise
    `Unauthenticated` when it is malformed, of another issuer, for another audience, or not valid now.
    """
    if len(text) > MAX_LENGTH:
        raise Unauthenticated(f"the JWT has more than {MAX_LENGTH} characters")
    parts = _FORM.fullmatch(text)
    if parts is None:
        raise Unauthenticated("the JWT must have three base64url parts")
    header, claims = _part(parts[1], "header"), _part(parts[2], "payload")
    _check_spelling(parts[3])
    iss = claims.get("iss")
    issuer = issuers.get(iss) if isinstance(iss, str) else None
    if issuer is None:
        raise Unauthenticated(f"the JWT is from none of the issuers: its iss is {_shown(iss)}")
    algorithm, key_id = _signing(header, issuer)
    _check_audience(claims.get("aud"), issuer)
    expires = _check_times(claims, issuer, now)
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise _refusal(issuer, "has no sub")
    return ReadToken(text, issuer, algorithm, key_id, subject, expires)


def verify(token: ReadToken, key: Any) -> None:
    """Verify the signature of a token with a public key for its algorithm; raise `Unauthenticated`."""
    try:
        _library().decode_complete(token.text, key, algorithms=[token.algorithm])
    except Exception as error:  # noqa: BLE001 - whatever it is, the signature is not verified
        raise _refusal(token.issuer, f"has no valid signature ({type(error).__name__})") from None


@cache
def _library() -> Any:
    import jwt  # noqa: PLC0415 - it needs 20 MB, and most servers have no issuers

    return jwt.PyJWS(algorithms=list(ALGORITHMS))


def _part(text: bytes, name: str) -> dict[str, Any]:
    try:
        return read_object(_decoded(text))
    except ValueError:
        raise Unauthenticated(f"the {name} of the JWT is not a JSON object") from None


def _check_spelling(signature: bytes) -> None:
    """Refuse another spelling of the signature: a token has exactly one text."""
    try:
        _decoded(signature)
    except ValueError:
        raise Unauthenticated("the signature of the JWT is not valid base64url") from None


def _decoded(text: bytes) -> bytes:
    """Decode base64url without padding. Raise `ValueError` for anything but the one canonical spelling."""
    data = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    if urlsafe_b64encode(data).rstrip(b"=") != text:
        raise ValueError("not canonical")
    return data


def _signing(header: Mapping[str, Any], issuer: Issuer) -> tuple[str, str | None]:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms or algorithm not in ALGORITHMS:
        raise _refusal(issuer, "is signed in a way that is not allowed")
    if "crit" in header or "b64" in header:
        raise _refusal(issuer, "needs extensions")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise _refusal(issuer, "is of a type for another purpose")
    if "kid" not in header:
        return algorithm, None
    key_id = header["kid"]
    if not isinstance(key_id, str) or len(key_id) > MAX_KEY_ID:
        raise _refusal(issuer, "has an invalid kid")
    return algorithm, key_id


def _check_audience(audience: Any, issuer: Issuer) -> None:
    values = [audience] if isinstance(audience, str) else audience
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _refusal(issuer, "has no aud")
    if not any(value in issuer.audiences for value in values):
        raise _refusal(issuer, f"is for somebody else: its aud is {_shown(audience)}")


def _check_times(claims: Mapping[str, Any], issuer: Issuer, now: float) -> int:
    """Return when the token expires. Leeway applies to its start, not to its end."""
    leeway = issuer.leeway.total_seconds()
    expires, issued = _time(claims, "exp", issuer), _time(claims, "iat", issuer)
    if issued > now + leeway:
        raise _refusal(issuer, f"is from the future: its iat is {_ahead(issued, now)}")
    if "nbf" in claims and (begins := _time(claims, "nbf", issuer)) > now + leeway:
        raise _refusal(issuer, f"is not yet valid: its nbf is {_ahead(begins, now)}")
    # Together with the check of iat, this bounds exp to max_lifetime plus leeway from now.
    longest = issuer.max_lifetime.total_seconds()
    if not 0 < expires - issued <= longest:
        lifetime = (
            f"from its iat to its exp it is {_seconds(expires - issued)}, and max_lifetime is {longest:g}"
        )
        raise _refusal(issuer, f"is valid for too long, or for no time: {lifetime}")
    check_expiry(issuer, expires, now)
    return expires


def _ahead(moment: int, now: float) -> str:
    return f"{_seconds(moment - int(now))} ahead; compare the clocks, or raise leeway"


def _seconds(number: int) -> str:
    return f"{max(-_MANY, min(number, _MANY))} s"


def check_expiry(issuer: Issuer, expires: int, now: float) -> None:
    """Raise `Unauthenticated` if a token has expired by now. Both are Unix times in seconds."""
    if expires <= now:
        raise Unauthenticated(
            f"the JWT of {issuer.name!r} has expired", *EXPIRED, about=f"issuer {issuer.name}"
        )


def _time(claims: Mapping[str, Any], name: str, issuer: Issuer) -> int:
    value = claims.get(name)
    if type(value) is not int or value < 0:  # a bool is an int, too
        raise _refusal(issuer, f"has no {name}, or one that is not a number of seconds")
    return value


def _shown(claim: Any) -> str:
    """Return a claim, shortened. It may be anything: it is not verified."""
    return ascii(claim)[:_SHOWN]


def _refusal(issuer: Issuer, why: str) -> Unauthenticated:
    return Unauthenticated(f"the JWT of {issuer.name!r} {why}", about=f"issuer {issuer.name}")
