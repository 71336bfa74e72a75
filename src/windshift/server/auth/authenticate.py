"""Authentication: from the credentials of a call to a principal."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from math import inf
from typing import Any, Final, NamedTuple

from windshift.server.auth import json_web_tokens
from windshift.server.auth.certificates import CertificateNames
from windshift.server.auth.json_web_tokens import ReadToken, check_expiry, read_token
from windshift.server.auth.jwks import KeySet, KeySets
from windshift.server.auth.last_use import LastUse, LastUses
from windshift.server.auth.policy import JwtSubject, Policy, Principal, StaticToken, certificate_credential
from windshift.server.auth.tokens import EXPIRED, matching_token, principal_of, token_digest
from windshift.server.domain.errors import IdentityUnavailable, Unauthenticated

_HEADER: Final = re.compile(rb"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
"""RFC 6750, with the scheme in whatever case (RFC 9110)."""
_LONGEST_HEADER: Final = json_web_tokens.MAX_LENGTH + 64

_KNOWN: Final = 10_000
_KNOWN_BYTES: Final = 16 << 20
"""How many callers stay known, and how large their headers may be in all."""
_REFUSED: Final = 1000
_REFUSED_FOR: Final = 10.0
"""How many tokens without a valid signature stay known, and for how many seconds."""
_VERIFIED_FOR: Final = 600.0
"""Seconds after which a token is verified again, because its key may have been withdrawn."""
_WAITING: Final = 1000
"""How many callers may wait for keys."""
_NOTHING: Final = "(nothing)"
"""What a call without credentials is about."""


class Identity(NamedTuple):
    """A caller who is known.

    `credential` says how, for the audit log and without anything secret; `expires` is a Unix time in seconds,
    infinity when there is no end.
    """

    principal: Principal
    credential: str
    expires: float


@dataclass(frozen=True, slots=True)
class Pending:
    """A caller whose token can be judged only when its issuer's keys have been fetched.

    Attributes:
        resolve: returns who it is; raises `Unauthenticated`, or `IdentityUnavailable` without the keys.
    """

    resolve: Callable[[], Coroutine[Any, Any, Identity]] = field(repr=False)  # it has the token


class Authenticator:
    """Knows callers by one policy; what was verified stays known.

    Args:
        keys: the keys of its issuers, as `KeySets.for_policy` gives them. Without them they are fetched when
            first needed, and anew for each authenticator.
        clock: gives the Unix time in seconds.
        uses: where it is noted when credentials were used.
    """

    def __init__(
        self,
        policy: Policy,
        keys: Mapping[str, KeySet] | None = None,
        clock: Callable[[], float] = time.time,
        uses: LastUses | None = None,
    ) -> None:
        self._policy = policy
        self._uses = LastUses(clock) if uses is None else uses
        self._keys = KeySets().for_policy(policy) if keys is None else keys
        self._issuers = {issuer.issuer: issuer for issuer in policy.issuers.values()}
        self._clock = clock
        self._known = _Known()
        self._look_up = self._known.get
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._waiting = 0

    @property
    def principals(self) -> Mapping[str, Principal]:
        """The principals of the policy, by name."""
        return self._policy.principals

    def unverified(self, identity: Identity) -> Identity:
        """Return who somebody known by a JWT is by this policy, whatever keys his issuer has now.

        Raise `Unauthenticated` when it knows nobody of that name with this subject.
        """
        name = identity.principal.name
        principal = self._policy.principals.get(name)
        jwt = () if principal is None else principal.jwt
        if principal is None or identity.credential not in [each.credential for each in jwt]:
            raise Unauthenticated(f"{identity.credential} is not {name!r} any more", about=name)
        return identity._replace(principal=principal)

    def identify(
        self, authorization: bytes | None, certificate_names: Callable[[], CertificateNames]
    ) -> Identity | Pending:
        """Say who sent these credentials.

        Args:
            authorization: the value of the header of that name; None when there is none.
            certificate_names: gives the names in the client's certificate. Asked only without a header.

        Raises:
            Unauthenticated: there are no credentials, or none that are valid.
            IdentityUnavailable: too many wait for keys, or the keys of the token's issuer cannot be had now.
        """
        if authorization is None:
            return self._by_certificate(certificate_names())
        return self.known(authorization) or self._by_header(authorization)

    def known(self, authorization: bytes) -> Identity | None:
        """Return who sends this header, if that was found out before and still holds."""
        # A dictionary finds its keys by a hash with a secret, so that time tells nothing of what is in it.
        known = self._look_up(authorization)
        if known is None:
            return None
        identity, until, use = known
        now = self._clock()
        if until <= now:
            return None
        use.at = now
        return identity

    def _by_header(self, authorization: bytes) -> Identity | Pending:
        match = None if len(authorization) > _LONGEST_HEADER else _HEADER.fullmatch(authorization)
        if match is None:
            raise Unauthenticated(_malformed(authorization))
        token = match[1]
        header = b"Bearer " + token  # one spelling of many
        known = self.known(header)
        if known is not None:
            return known
        self._known.forget(header)
        now = self._clock()
        if token.startswith(b"ws_"):
            return self._by_token(header, token.decode(), now)
        if not self._issuers or b"." not in token:
            raise Unauthenticated("the token is neither a static one nor a JWT of an issuer")
        return self._by_jwt(header, token, now)

    def _by_token(self, header: bytes, token: str, now: float) -> Identity:
        name = principal_of(token)
        principal = None if name is None else self._policy.principals.get(name)
        if principal is None:
            raise Unauthenticated("unknown static token")
        digest = token_digest(token)
        match = matching_token(principal.tokens, digest)
        credential = StaticToken(digest).credential
        if match is None:
            why = f"{credential} names {principal.name!r}, but is not one of its tokens"
            raise Unauthenticated(why + _hashed_with_line_end(principal, token), about=principal.name)
        if match.expires <= now:
            raise Unauthenticated(
                f"{credential} of {principal.name!r} has expired", *EXPIRED, about=principal.name
            )
        return self._add(header, Identity(principal, credential, match.expires), inf, now)

    def _by_jwt(self, header: bytes, text: bytes, now: float) -> Identity | Pending:
        token = read_token(text, self._issuers, now)
        identity = self._verify(header, token, waited=False)
        if identity is not None:
            return identity
        if self._waiting >= _WAITING:
            raise IdentityUnavailable
        return Pending(partial(self._wait, header, token))

    async def _wait(self, header: bytes, token: ReadToken) -> Identity:
        """Judge a token when its issuer's keys have been fetched."""
        if self._waiting >= _WAITING:
            raise IdentityUnavailable
        self._waiting += 1
        try:
            await self._keys[token.issuer.name].refreshed()
        finally:
            self._waiting -= 1
        identity = self._verify(header, token, waited=True)
        if identity is None:
            raise IdentityUnavailable
        return identity

    def _verify(self, header: bytes, token: ReadToken, *, waited: bool) -> Identity | None:
        """Return who it is; None when keys are to be waited for."""
        key = self._keys[token.issuer.name].find(token.key_id, token.algorithm, waited=waited)
        if key is None:
            return None
        now = self._clock()
        check_expiry(token.issuer, token.expires, now)
        digest = sha256(token.text).digest()
        if self._refused.get(digest, 0) > now:
            raise Unauthenticated(
                "the JWT was refused lately, for its signature", about=f"issuer {token.issuer.name}"
            )
        try:
            json_web_tokens.verify(token, key)
        except Unauthenticated:
            if len(self._refused) >= _REFUSED:
                self._refused.popitem(last=False)
            self._refused[digest] = now + _REFUSED_FOR
            raise
        subject = JwtSubject(token.issuer.name, token.subject)
        principal = self._policy.by_subject.get(subject)
        if principal is None:
            raise Unauthenticated(
                f"no principal matches the JWT of {subject.issuer!r}: its sub is {subject.sub[:128]!r}",
                about=f"issuer {subject.issuer}",
            )
        identity = Identity(principal, subject.credential, token.expires)
        return self._add(header, identity, now + _VERIFIED_FOR, now)

    def _add(self, header: bytes, identity: Identity, until: float, now: float) -> Identity:
        use = self._uses.of(identity.principal.name, identity.credential)
        use.at = now
        return self._known.add(header, identity, until, use)

    def _by_certificate(self, certificate: CertificateNames) -> Identity:
        names, expires = certificate
        if not names:
            raise Unauthenticated("there is neither a token nor a client certificate", about=_NOTHING)
        principals = self._policy.by_certificate
        found = {name: principals[name] for name in names if name in principals}
        if not found:
            raise Unauthenticated(f"no principal matches the client certificate: {', '.join(names)[:256]}")
        name, principal = next(iter(found.items()))
        if any(other is not principal for other in found.values()):
            who = ", ".join(f"{name} is {other.name!r}" for name, other in found.items())
            raise Unauthenticated(
                f"the client certificate matches several principals: {who}", about=principal.name
            )
        now = self._clock()
        if expires <= now:
            raise Unauthenticated(
                f"the client certificate {name} has expired",
                "the client certificate has expired",
                "connect with a new one",
                about=principal.name,
            )
        credential = certificate_credential(name)
        self._uses.of(principal.name, credential).at = now
        return Identity(principal, credential, expires)


def _malformed(header: bytes) -> str:
    """Say what is wrong with a header of which nothing may be repeated."""
    if len(header) > _LONGEST_HEADER:
        return f"the header has more than {_LONGEST_HEADER} characters"
    if header[:7].lower() != b"bearer ":
        return "the header does not begin with Bearer and a blank"
    return "the Bearer value is not a token (empty, or with blanks or quotes)"


def _hashed_with_line_end(principal: Principal, token: str) -> str:
    """Say so if the file has what `echo TOKEN | sha256sum` gives."""
    for end in ("\n", "\r\n"):
        if matching_token(principal.tokens, token_digest(token + end)) is not None:
            return "; the file has the hash of it with a line end: take that of the token alone (printf %s)"
    return ""


class _Known:
    """Callers by their header, each with the time at which to look closely again. The oldest goes first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, tuple[Identity, float, LastUse]] = OrderedDict()
        self.get: Final = self._entries.get
        self._bytes = 0

    def add(self, header: bytes, identity: Identity, until: float, use: LastUse) -> Identity:
        """Keep an identity until a Unix time, or until it expires. Return it."""
        self.forget(header)
        self._bytes += len(header)
        self._entries[header] = (identity, min(until, identity.expires), use)
        while len(self._entries) > _KNOWN or self._bytes > _KNOWN_BYTES:
            self.forget(next(iter(self._entries)))
        return identity

    def forget(self, header: bytes) -> None:
        if self._entries.pop(header, None) is not None:
            self._bytes -= len(header)
