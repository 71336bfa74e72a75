"""Who calls an authenticator in tests, with what, and when."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import pytest

from windshift.server.auth.authenticate import Authenticator, Identity
from windshift.server.auth.certificates import CertificateNames
from windshift.server.auth.permissions import Permissions
from windshift.server.auth.policy import Policy, Principal, StaticToken
from windshift.server.auth.tokens import token_digest
from windshift.server.domain.errors import Unauthenticated

NOW = 1_800_000_000.0
"""When a `Clock` begins, a Unix time."""
HOUR = 3600.0


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def no_certificate() -> CertificateNames:
    """Fail: the certificate is not asked for when there is a header."""
    raise AssertionError("nobody asked for the certificate")


def bearer(token: str) -> bytes:
    """Return the header with a token."""
    return f"Bearer {token}".encode()


def known(authenticator: Authenticator, header: bytes) -> Identity:
    """Return who a header is, at once."""
    who = authenticator.identify(header, no_certificate)
    assert isinstance(who, Identity)
    return who


def refusal(authenticator: Authenticator, header: bytes | None, *names: str) -> Unauthenticated:
    """Return with what credentials are refused."""
    certificate: Callable[[], CertificateNames] = (
        partial(CertificateNames, names) if header is None else no_certificate
    )
    with pytest.raises(Unauthenticated) as caught:
        authenticator.identify(header, certificate)
    return caught.value


def principal(name: str, *tokens: str, expires: float = inf, **changes: Any) -> Principal:
    """Return a principal with tokens."""
    static = tuple(StaticToken(token_digest(token), expires) for token in tokens)
    return Principal(name, Permissions(), static, **changes)


def people(*principals: Principal) -> Policy:
    """Return a policy with these principals."""
    return Policy(
        {each.name: each for each in principals},
        by_certificate={name: each for each in principals for name in each.mtls},
    )
