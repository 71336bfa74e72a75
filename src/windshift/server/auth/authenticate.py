"""Who calls: from the credentials of a call to a principal."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from windshift.server.auth.policy import Policy, Principal


class Identity(NamedTuple):
    """A caller who is known.

    `credential` says how, for the audit log and without anything secret; `expires` is a Unix time in seconds,
    infinity when there is no end.
    """

    principal: Principal
    credential: str
    expires: float


class Pending:
    """A caller whose token can be judged only when its issuer's keys have been fetched."""

    async def resolve(self) -> Identity:
        """Return who it is. Raise `Unauthenticated`, or `IdentityUnavailable` without the keys."""
        raise NotImplementedError


class Authenticator:
    """Knows callers by one policy; what was verified stays known."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def identify(
        self, authorization: bytes | None, certificate_names: Callable[[], tuple[str, ...]]
    ) -> Identity | Pending:
        """Say who sent these credentials.

        Args:
            authorization: the value of the header of that name; None when there is none.
            certificate_names: gives the names in the client's certificate, none when it showed none. Asked
                only without a header.

        Raises:
            Unauthenticated: there are no credentials, or none that are valid.
        """
        raise NotImplementedError
