"""The public keys of issuers: reading key sets (RFC 7517) and keeping them up to date.

Keys are fetched in a thread, one fetch at a time per issuer, so that neither the event loop nor the end of
the process waits for an issuer. Everything else happens in the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from windshift.server.auth.jwks_fetch import TIME_LIMIT, NotFetched, fetch
from windshift.server.auth.policy import ALGORITHMS, Issuer, Policy
from windshift.server.auth.strict_json import read_object
from windshift.server.background.threads import in_thread
from windshift.server.domain.errors import IdentityUnavailable, Unauthenticated

_log = logging.getLogger(__name__)

MAX_KEY_ID: Final = 256
"""Characters of a key's id."""
_MAX_KEYS: Final = 100
_RSA_BITS: Final = range(2048, 8192 + 1)

_FRESH: Final = 600.0
"""Seconds for which keys are used without fetching newer ones."""
_GRACE: Final = 60.0
"""Further seconds for which they are used while newer ones are fetched."""
_STALE: Final = 24 * 3600.0
"""Seconds for which keys are used if newer ones cannot be fetched."""
_INTERVAL: Final = 60.0
"""Seconds between fetches, whatever tokens ask for."""
_RETRY: Final = 10.0
"""The same while there are no keys at all, from the end of a failed fetch."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The usable keys of a key set.

    Attributes:
        by_use: public keys by id (None: for tokens without one) and algorithm; None if ambiguous.
        ignored: what is wrong with unusable keys, each reason once.
    """

    by_use: Mapping[tuple[str | None, str], Any]
    ignored: tuple[str, ...] = ()


class _Unusable(Exception):
    """Why a key cannot be used."""


def read_keys(document: bytes, algorithms: Iterable[str]) -> Keys:
    """Return the keys of a set for these algorithms.

    Raise `NotFetched` when it is not a key set, or has more than 100 keys.
    """
    try:
        entries = read_object(document).get("keys")
    except ValueError:
        raise NotFetched("it is not a JSON object") from None
    if not isinstance(entries, list):
        raise NotFetched("it has no list of keys")
    if len(entries) > _MAX_KEYS:
        raise NotFetched(f"it has more than {_MAX_KEYS} keys")
    by_use: dict[tuple[str | None, str], Any] = {}
    ignored = set()
    for entry in entries:
        try:
            key_id, fitting = _describe(entry, algorithms)
            key = _public_key(entry, fitting[0])
        except _Unusable as unusable:
            ignored.add(str(unusable))
            continue
        for use in {(name, algorithm) for name in (key_id, None) for algorithm in fitting}:
            by_use[use] = None if use in by_use else key
    return Keys(by_use, tuple(sorted(ignored)))


def _describe(entry: Any, algorithms: Iterable[str]) -> tuple[str | None, list[str]]:
    """Return a key's id, if any, and its algorithms, at least one."""
    if not isinstance(entry, dict):
        raise _Unusable("not an object")
    if "d" in entry:
        raise _Unusable("a private key")
    if entry.get("use", "sig") != "sig":
        raise _Unusable("not for signatures")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise _Unusable("not for verifying")
    key_id = entry.get("kid")
    if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= MAX_KEY_ID):
        raise _Unusable("an invalid id")
    kind = entry.get("kty"), entry.get("crv")
    only = entry.get("alg")
    fitting = [name for name in algorithms if only in (None, name) and ALGORITHMS.get(name) == kind]
    if not fitting:
        raise _Unusable("for none of the algorithms")
    return key_id, fitting


def _public_key(entry: dict[str, Any], algorithm: str) -> Any:
    import jwt  # noqa: PLC0415 - it needs 20 MB, and most servers have no issuers

    try:
        key: Any = jwt.PyJWK(entry, algorithm).key
    except Exception:  # noqa: BLE001 - whatever a malformed key makes them raise
        raise _Unusable("malformed") from None
    if entry["kty"] == "RSA" and key.key_size not in _RSA_BITS:
        raise _Unusable(f"not of {_RSA_BITS[0]} to {_RSA_BITS[-1]} bits")
    return key


class KeySet:
    """The keys of one issuer, for use in one event loop.

    `clock` returns monotonic seconds; `time_limit` is seconds that a fetch may take.
    """

    def __init__(
        self, issuer: Issuer, clock: Callable[[], float] = time.monotonic, time_limit: float = TIME_LIMIT
    ) -> None:
        self._issuer = issuer
        self._clock = clock
        self._time_limit = time_limit
        self._keys: Keys | None = None
        self._fetched = -inf
        self._attempted = -inf
        self._failed = False
        self._running: asyncio.Future[Keys] | None = None
        self._reported: tuple[str, ...] = ()

    def prefetch(self) -> None:
        """Start fetching the keys if there are none yet. Return at once."""
        if self._keys is None:
            self._refresh(self._clock())

    def find(self, key_id: str | None, algorithm: str, *, waited: bool = False) -> Any:
        """Return the public key for a token; None = wait for `refreshed`, then call again with `waited`.

        Raises:
            Unauthenticated: the issuer has no such key.
            IdentityUnavailable: this cannot be known now.
        """
        now = self._clock()
        keys = self._keys
        age = now - self._fetched
        if keys is None or age > _STALE:
            if waited or not self._refresh(now):
                raise IdentityUnavailable
            return None
        if age > _FRESH and self._refresh(now) and age > _FRESH + _GRACE and not (waited or self._failed):
            return None
        try:
            key = keys.by_use[key_id, algorithm]
        except KeyError:
            return self._missing(key_id, keys, now, waited=waited)
        if key is None:
            raise self._refusal("has several keys that the token may be signed with")
        return key

    def _missing(self, key_id: str | None, keys: Keys, now: float, *, waited: bool) -> None:
        if key_id is None or any(name == key_id for name, _ in keys.by_use):
            raise self._refusal("has no key for the token's algorithm")
        if not waited and self._refresh(now):
            return
        if self._failed or self._running is not None:
            raise IdentityUnavailable
        raise self._refusal("has no key of the id that the token names")

    def _refusal(self, why: str) -> Unauthenticated:
        name = self._issuer.name
        return Unauthenticated(f"the issuer {name!r} {why}", about=f"issuer {name}")

    async def renew(self) -> bool:
        """Fetch the keys now, and wait until that ends or takes too long. Return whether it went well."""
        await self.refreshed()
        if self._running is None:
            self._fetch(self._clock())
            await self.refreshed()
        return self._running is None and not self._failed

    async def refreshed(self) -> None:
        """Wait until the current fetch has succeeded, failed, or takes too long."""
        if self._running is not None:
            await asyncio.wait([self._running], timeout=self._time_limit)

    def _refresh(self, now: float) -> bool:
        """Start a fetch unless the last one was recent. Return whether one is under way."""
        if self._running is not None:
            return True
        return now - self._attempted >= (_INTERVAL if self._usable(now) else _RETRY) and self._fetch(now)

    def _usable(self, now: float) -> bool:
        return self._keys is not None and now - self._fetched <= _STALE

    def _fetch(self, now: float) -> bool:
        self._attempted = now
        source, algorithms, limit = self._issuer.jwks, self._issuer.algorithms, self._time_limit
        try:
            self._running = in_thread(lambda: read_keys(fetch(source, limit), algorithms), "windshift-keys")
        except RuntimeError:
            self._note_failure("no thread can be started")
            return False
        self._running.add_done_callback(self._ended)
        return True

    def _ended(self, fetched: asyncio.Future[Keys]) -> None:
        self._running = None
        error = fetched.exception()
        if error is None:
            self._take(fetched.result())
        else:
            self._note_failure(str(error) if isinstance(error, NotFetched) else type(error).__name__)

    def _note_failure(self, why: str) -> None:
        self._failed = True
        self._attempted = self._clock()
        usable = self._usable(self._attempted)
        _log.warning(
            "the keys of the issuer %r cannot be had, %s: %s",
            self._issuer.name,
            "and those that are known stay in use" if usable else "and its tokens get UNAVAILABLE",
            why,
            extra={"issuer": self._issuer.name},
        )

    def _take(self, keys: Keys) -> None:
        self._failed = False
        self._fetched = self._clock()
        self._keys = keys
        if keys.ignored != self._reported:
            self._reported = keys.ignored
            _log.warning(
                "keys of the issuer %r are ignored: %s",
                self._issuer.name,
                ", ".join(keys.ignored) or "none any more",
                extra={"issuer": self._issuer.name},
            )


class KeySets:
    """The keys of all issuers, across changes of the policy."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sets: dict[Issuer, KeySet] = {}  # by what of an issuer its keys depend on

    def for_policy(self, policy: Policy) -> Mapping[str, KeySet]:
        """Return the key sets for a policy, by issuer name.

        They are kept as long as name, issuer, place and algorithms are the same; others are dropped.
        """
        sources = [
            Issuer(each.name, each.issuer, (), each.jwks, each.algorithms) for each in policy.issuers.values()
        ]
        self._sets = {issuer: self._sets.get(issuer) or KeySet(issuer, self._clock) for issuer in sources}
        return {issuer.name: keys for issuer, keys in self._sets.items()}

    def prefetch(self) -> None:
        """Start fetching the keys of issuers that have none yet. Return at once."""
        for keys in self._sets.values():
            keys.prefetch()

    async def renew(self) -> bool:
        """Fetch the keys of all issuers now, as `KeySet.renew` does. Return whether all went well."""
        return all(await asyncio.gather(*(keys.renew() for keys in self._sets.values())))
