"""The contents of the authorization file as values: principals, issuers, roles, quotas."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from math import inf
from typing import Final

from windshift.server.auth.actions import UseConsumer, ViewStream
from windshift.server.auth.permissions import ListEntry, Permissions, Role
from windshift.server.auth.subjects import SubjectPatterns
from windshift.server.domain import names

ALGORITHMS: Final[Mapping[str, tuple[str, str | None]]] = {
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "PS256": ("RSA", None),
    "PS384": ("RSA", None),
    "PS512": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""The signature algorithms that may be accepted: those for which nobody but the issuer has a secret. Each has
the type and the curve of the keys that fit."""

NAME: Final = re.compile("[A-Za-z0-9_-]{1,64}")
"""What principals, issuers and roles are called."""
NAME_RULE: Final = "use 1 to 64 characters of A-Z a-z 0-9 _ -"

_MIB: Final = 1024**2
_GIB: Final = 1024 * _MIB


@dataclass(frozen=True, slots=True)
class StaticToken:
    """A token by which a principal is known.

    Attributes:
        digest: SHA-256 of the whole token, 32 bytes.
        expires: Unix time in seconds after which it is no longer valid; infinity = never.
    """

    digest: bytes = field(repr=False)
    expires: float = inf

    @property
    def credential(self) -> str:
        """What it is called where it must not be shown."""
        return f"token {self.digest.hex()[:8]}"


@dataclass(frozen=True, slots=True)
class JwtSubject:
    """A subject of an issuer's JSON web tokens; `issuer` is the name that the file gives it."""

    issuer: str
    sub: str

    @property
    def credential(self) -> str:
        """What a token with it is called where that must not be shown."""
        return f"jwt {self.issuer} {self.sub}"


def certificate_credential(name: str) -> str:
    """Return what a client certificate with this name is called."""
    return f"certificate {name}"


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose JSON web tokens are trusted, and for what.

    Attributes:
        name: how the file calls it.
        issuer: the exact `iss` of its tokens.
        audiences: values of `aud`, one of which its tokens must have.
        jwks: where its public keys are: an https URL (http for loopback addresses only), or an absolute path.
        algorithms: names of the signature algorithms that are accepted, asymmetric ones only.
        max_lifetime: the longest time from `iat` to `exp`.
        leeway: by how much clocks may differ.
    """

    name: str
    issuer: str
    audiences: tuple[str, ...]
    jwks: str
    algorithms: tuple[str, ...]
    max_lifetime: timedelta = timedelta(hours=24)
    leeway: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """How much a principal may have; None = any number. What is left out is the default.

    What lasts belongs to the principal that made it, and counts wherever it was made. Bytes count once for
    each replica.

    Attributes:
        memory_streams: those streams that are kept in memory.
        consumers: consumers that have a name.
        ephemeral_consumers: consumers that have none.
        reserved_bytes: what the broker sets aside on disk for its streams: their `max_bytes`.
        memory_bytes: what its streams in memory may hold: their `max_bytes`, and without one what they hold.
        stored_bytes: what its streams on disk and its stores hold.
        sources: sources of one stream.
        all_sources: sources of all its streams; a mirror has one.
        replicas: replicas of one stream.
        subjects: subjects of one stream, filters of all its sources, or filters of one consumer.
        deduplication_seconds: the `deduplication_window` of one stream: the broker has its keys in memory.
        calls: the weight of the calls that are under way at once on one server.
        connections: connections to one server over which it called last.
        replays: replays that begin in a minute of dead letters of one consumer, on one server.
        dead_letters: dead letters that one consumer leaves in a minute on one server. Those without a name
            count as one, for each stream. All of a principal's together may leave four times as many.
        dead_letter_bytes: the bytes that these take. Unless it is None, a principal also gets only a part of
            the room for the dead letters of all, once more than half is used: see `Usage.take_room`.
    """

    streams: int | None = 1_000
    memory_streams: int | None = 100
    stores: int | None = 100
    consumers: int | None = 500
    ephemeral_consumers: int | None = 250
    reserved_bytes: int | None = 10 * _GIB
    memory_bytes: int | None = _GIB
    stored_bytes: int | None = None
    sources: int | None = 64
    all_sources: int | None = 256
    replicas: int | None = 5
    subjects: int | None = 256
    deduplication_seconds: int | None = 86_400
    calls: int | None = 2_048
    connections: int | None = 2_500
    replays: int | None = 60_000
    dead_letters: int | None = 6_000
    dead_letter_bytes: int | None = 64 * _MIB


QUOTAS: Final = tuple(each.name for each in fields(Quotas))
"""The keys of `quotas` in the authorization file."""

QUOTAS_IN_BYTES: Final = frozenset({"reserved_bytes", "memory_bytes", "stored_bytes", "dead_letter_bytes"})
"""Those that are counted in bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Principal:
    """Somebody who calls.

    Attributes:
        tokens: its static tokens.
        jwt: its subjects in JSON web tokens.
        mtls: its names in client certificates: ``CN=edge,O=Acme`` for a whole subject, or ``DNS:…``,
            ``URI:…``, ``EMAIL:…``, ``IP:…`` for one of the alternative names.
        max_streams: calls that stream which it may have open at once on this server; None = any number.
        max_rps: calls per second that it may begin on this server; None = any number.
        quotas: how much else it may have.
        shared_keys: subjects of events whose idempotency keys all principals share; None = there are none.
    """

    name: str
    permissions: Permissions
    tokens: tuple[StaticToken, ...] = ()
    jwt: tuple[JwtSubject, ...] = ()
    mtls: tuple[str, ...] = ()
    max_streams: int | None = None
    max_rps: float | None = None
    quotas: Quotas = field(default_factory=Quotas)
    shared_keys: SubjectPatterns | None = None

    def credentials(self) -> Iterator[tuple[str, float]]:
        """Yield what its credentials are called, and the Unix time at which each expires."""
        for token in self.tokens:
            yield token.credential, token.expires
        for subject in self.jwt:
            yield subject.credential, inf
        for name in self.mtls:
            yield certificate_credential(name), inf

    @property
    def expires(self) -> float:
        """When its last static token expires, if it has no other credential: Unix time; else infinity."""
        return max((expires for _, expires in self.credentials()), default=inf)

    def key_scope(self, subject: str) -> str:
        """Return the scope of an event's idempotency key: the principal's name; empty = shared by all."""
        return "" if self.shared_keys is not None and self.shared_keys.takes(subject) else self.name

    def consumer_in_rules(self, name: str, *, durable: bool, owner: str) -> str | None:
        """Return the name by which rules know a consumer; None = they have none: its id is enough.

        That is so of an ephemeral consumer that belongs to this principal, or to nobody.
        """
        is_open = not durable and owner in ("", self.name)
        return names.given_name(name) if is_open else name

    def sees(self, stream: str) -> bool:
        """Tell whether it may see a stream."""
        return self.permissions.decide(ViewStream(stream)).allowed

    def sees_consumer(self, stream: str, name: str, *, durable: bool, owner: str) -> bool:
        """Tell whether it may see a consumer of a stream that it sees.

        An ephemeral one is known to who made it, and to who may use a consumer of that name.
        """
        is_known = durable or not names.is_generated(name) or owner == self.name
        return is_known or self.permissions.decide(UseConsumer(stream, name)).allowed


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """All that the file says. Principals, issuers and roles are by name.

    Attributes:
        by_subject: principals by subject in JSON web tokens.
        by_certificate: principals by name in a certificate.
        roles: all of them, also those that nobody has.
        shared_keys: subjects of events whose idempotency keys all principals share.
    """

    principals: Mapping[str, Principal] = field(default_factory=dict)
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    by_subject: Mapping[JwtSubject, Principal] = field(default_factory=dict)
    by_certificate: Mapping[str, Principal] = field(default_factory=dict)
    roles: Mapping[str, Role] = field(default_factory=dict)
    shared_keys: tuple[ListEntry, ...] = ()
