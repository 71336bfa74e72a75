"""Which keys of a set are used, and when it is asked for again. No test waits: the clock is set."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.support.callers import Clock
from tests.support.json_web_keys import Signer, issuer, key_set, policy, write_key_set
from tests.support.jwks_server import KeyServer, content, key_server
from tests.support.windshift_process import wait_for
from windshift.server.auth.jwks import KeySet, KeySets, read_keys
from windshift.server.auth.jwks_fetch import NotFetched
from windshift.server.auth.policy import ALGORITHMS
from windshift.server.domain.errors import IdentityUnavailable, Unauthenticated

ALL = tuple(ALGORITHMS)
MINUTE = 60.0
DAY = 24 * 60 * MINUTE


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


# What is usable of a set


@pytest.mark.parametrize("algorithm", ["RS256", "PS384", "ES256", "ES384", "ES512", "EdDSA"])
def test_a_key_is_found_by_id_and_algorithm(algorithm: str) -> None:
    """A key is there under its id and its algorithm, and under no id if it is the only one."""
    keys = read_keys(key_set(Signer("one", algorithm)), ALL)
    assert set(keys.by_use) == {("one", algorithm), (None, algorithm)}
    assert None not in keys.by_use.values()
    assert keys.ignored == ()


def test_a_key_without_an_algorithm_is_for_all_that_fit() -> None:
    """The type and the curve decide what a key can be used for, as far as the issuer allows it."""
    rsa = Signer("r", "RS256").jwk(alg=None, use=None)
    curve = Signer("c", "ES384").jwk(alg=None)
    keys = read_keys(key_set(rsa, curve), ALL)
    fitting = [("r", name) for name in ALL if name[:2] in ("RS", "PS")] + [("c", "ES384")]
    assert {use for use in keys.by_use if use[0] is not None} == set(fitting)
    assert set(read_keys(key_set(rsa, curve), ["PS256"]).by_use) == {("r", "PS256"), (None, "PS256")}


def test_keys_that_may_be_mixed_up_are_not_chosen() -> None:
    """Several keys for tokens that name none, or with one id, are none; one id for two types is fine."""
    one, two = Signer("one"), Signer("two")
    keys = read_keys(key_set(one, two), ALL)
    assert keys.by_use[None, "ES256"] is None
    assert isinstance(keys.by_use["one", "ES256"], ec.EllipticCurvePublicKey)
    assert read_keys(key_set(one, two.jwk(kid="one")), ALL).by_use["one", "ES256"] is None
    keys = read_keys(key_set(one, Signer("one", "RS256")), ALL)
    assert isinstance(keys.by_use["one", "ES256"], ec.EllipticCurvePublicKey)
    assert isinstance(keys.by_use["one", "RS256"], RSAPublicKey)
    three = read_keys(key_set(*(Signer(None) for _ in range(3))), ALL)
    assert three.by_use == {(None, "ES256"): None}


def private_key() -> dict[str, Any]:
    """Return a key with its private part."""
    signer = Signer()
    numbers = signer.private.private_numbers()
    return signer.jwk(d=str(numbers.private_value))


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("a string", "not an object"),
        (None, "not an object"),
        ({}, "for none of the algorithms"),
        ({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}, "for none of the algorithms"),
        ({"kty": "oct", "k": "c2VjcmV0"}, "for none of the algorithms"),
        ({"kty": "oct", "k": "c2VjcmV0", "alg": "ES256", "crv": "P-256"}, "for none of the algorithms"),
        (private_key(), "a private key"),
        (Signer().jwk(use="enc"), "not for signatures"),
        (Signer().jwk(use=["sig"]), "not for signatures"),
        (Signer().jwk(key_ops=["sign"]), "not for verifying"),
        (Signer().jwk(key_ops="verify"), "not for verifying"),
        (Signer().jwk(kid=1), "an invalid id"),
        (Signer().jwk(kid="x" * 257), "an invalid id"),
        (Signer().jwk(kid=["one"]), "an invalid id"),
        (Signer().jwk(alg="ES384"), "for none of the algorithms"),
        (Signer().jwk(alg="none"), "for none of the algorithms"),
        (Signer().jwk(alg=["ES256"]), "for none of the algorithms"),
        (Signer().jwk(crv="secp256k1", alg="ES256K"), "for none of the algorithms"),
        (Signer(algorithm="EdDSA").jwk(crv="Ed448"), "for none of the algorithms"),
        (Signer().jwk(x="AAAA"), "malformed"),
        (Signer().jwk(x=None), "malformed"),
        (Signer().jwk(x=5), "malformed"),
        (Signer().jwk(y=Signer().jwk()["y"]), "malformed"),
        (Signer(algorithm="EdDSA").jwk(x="AAAA"), "malformed"),
        (Signer(algorithm="RS256").jwk(n=None), "malformed"),
        (Signer(algorithm="RS256").jwk(e="AA"), "malformed"),
        (Signer(algorithm="RS256", number=1, bits=1024).jwk(), "not of 2048 to 8192 bits"),
    ],
)
def test_a_key_that_cannot_be_used_is_ignored(entry: Any, why: str) -> None:
    """One odd key is left out, with what is wrong with it; the others count."""
    keys = read_keys(key_set(entry, Signer("good")), ALL)
    assert {use[0] for use in keys.by_use} == {"good", None}
    assert keys.ignored == (why,)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": null}',
        b'{"keys": [], "keys": []}',
        b"\xff",
        key_set(*[Signer().jwk()] * 101),
    ],
)
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    """A document without a list of 100 keys or fewer is none."""
    with pytest.raises(NotFetched):
        read_keys(document, ALL)


# When it is asked for


class Source:
    """A key set on a web server, which can change and fail."""

    def __init__(self, server: KeyServer, keys: KeySet) -> None:
        self.server = server
        self.keys = keys

    def holds(self, *signers: Signer) -> None:
        self.server.answer = content(key_set(*signers))

    def fails(self) -> None:
        self.server.answer = content(b"", 503)

    @property
    def fetches(self) -> int:
        return len(self.server.requests)

    async def find(self, key_id: str | None = "one") -> Any:
        """Do what a call does: look for a key, wait if need be, look again."""
        key = self.keys.find(key_id, "ES256")
        if key is None:
            await self.keys.refreshed()
            key = self.keys.find(key_id, "ES256", waited=True)
            assert key is not None
        return key


@pytest.fixture
async def source(clock: Clock) -> AsyncIterator[Source]:
    """Give a key set with the key `one`, not yet fetched."""
    with key_server(content(key_set(Signer("one")))) as server:
        source = Source(server, KeySet(issuer(server.url), clock))
        yield source
        await source.keys.refreshed()


async def test_the_first_token_waits_for_the_keys(source: Source) -> None:
    """Without keys they are fetched; then they are at hand."""
    assert source.keys.find("one", "ES256") is None
    await source.keys.refreshed()
    assert source.keys.find("one", "ES256") is not None
    assert source.fetches == 1


async def test_keys_can_be_fetched_before_they_are_needed(source: Source) -> None:
    """A fetch that was begun at the start serves the first token; it is not begun twice."""
    source.keys.prefetch()
    source.keys.prefetch()
    await source.keys.refreshed()
    assert source.keys.find("one", "ES256") is not None
    source.keys.prefetch()
    await source.keys.refreshed()
    assert source.fetches == 1


async def test_all_who_wait_share_one_fetch(source: Source) -> None:
    """However many need keys, they are fetched once."""
    await asyncio.gather(*(source.find() for _ in range(100)))
    assert source.fetches == 1


async def test_somebody_who_stops_waiting_stops_nobody_else(source: Source) -> None:
    """A cancelled call leaves the fetch to the others."""
    waiting = [asyncio.ensure_future(source.find()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert await waiting[1] is not None
    assert waiting[0].cancelled()


async def test_keys_are_fetched_anew_after_ten_minutes(source: Source, clock: Clock) -> None:
    """Newer keys are fetched while the old ones serve; after that the old ones are gone."""
    await source.find()
    source.holds(Signer("two"))
    clock.now += 10 * MINUTE
    await source.find()
    assert source.fetches == 1
    clock.now += 1
    assert source.keys.find("one", "ES256") is not None
    await source.keys.refreshed()
    assert source.fetches == 2
    with pytest.raises(Unauthenticated):
        await source.find("one")
    assert await source.find("two") is not None


async def test_keys_that_are_much_older_are_not_used_unasked(source: Source, clock: Clock) -> None:
    """After a long time without calls, a key that was withdrawn meanwhile is not used once more."""
    await source.find()
    source.holds(Signer("two"))
    clock.now += 12 * MINUTE
    with pytest.raises(Unauthenticated):
        await source.find("one")


async def test_old_keys_serve_for_a_day_while_there_are_no_new_ones(source: Source, clock: Clock) -> None:
    """An issuer that is down does not stop its tokens, for 24 hours; it is asked once a minute."""
    await source.find()
    source.fails()
    for fetches in range(2, 25):
        clock.now += 60 * MINUTE
        assert await source.find() is not None
        await source.keys.refreshed()
        assert source.fetches == fetches
        clock.now += 59
        assert source.keys.find("one", "ES256") is not None
        assert source.fetches == fetches
    clock.now += DAY
    with pytest.raises(IdentityUnavailable):
        await source.find()


async def test_an_issuer_that_failed_does_not_slow_calls_down(source: Source, clock: Clock) -> None:
    """Once a fetch has failed, old keys serve while the next is under way."""
    await source.find()
    source.fails()
    clock.now += 20 * MINUTE
    await source.find()
    clock.now += 2 * MINUTE
    assert source.keys.find("one", "ES256") is not None


async def test_an_unknown_key_is_looked_for_once_a_minute(source: Source, clock: Clock) -> None:
    """A new key is found by its first token, but not sooner than 60 seconds after the last fetch."""
    await source.find()
    source.holds(Signer("one"), Signer("two"))
    clock.now += 59
    with pytest.raises(Unauthenticated):
        await source.find("two")
    assert source.fetches == 1
    clock.now += 2
    assert await source.find("two") is not None
    assert source.fetches == 2
    with pytest.raises(Unauthenticated):
        await source.find("three")
    assert source.fetches == 2


async def test_a_key_that_may_be_new_is_not_refused_when_the_issuer_is_down(
    source: Source, clock: Clock
) -> None:
    """Whether an unknown key is the issuer's cannot be said without it: try again."""
    await source.find()
    source.fails()
    clock.now += 61
    for _ in range(2):
        with pytest.raises(IdentityUnavailable):
            await source.find("two")
    assert await source.find("one") is not None
    assert source.fetches == 2


async def test_without_any_keys_an_issuer_is_asked_every_ten_seconds(source: Source, clock: Clock) -> None:
    """As long as there are no keys nobody is let in, and the issuer is asked for them seldom."""
    source.fails()
    for fetches in range(1, 4):
        for _ in range(5):
            with pytest.raises(IdentityUnavailable):
                await source.find()
        assert source.fetches == fetches
        clock.now += 11
    source.holds(Signer("one"))
    assert await source.find() is not None


async def test_a_known_key_for_another_algorithm_asks_for_nothing(source: Source, clock: Clock) -> None:
    """A key of the token's id, but not for its algorithm, is no reason for a fetch; nor is no id."""
    await source.find()
    clock.now += 61
    for key_id in ("one", None):
        with pytest.raises(Unauthenticated) as caught:
            source.keys.find(key_id, "ES384")
        assert caught.value.why == "the issuer 'corp' has no key for the token's algorithm"
    assert source.fetches == 1


async def test_a_token_without_a_key_id_is_for_the_only_key(source: Source, clock: Clock) -> None:
    """With one key there is nothing to choose; with two there is, and nobody chooses."""
    assert await source.find(None) is not None
    source.holds(Signer("one"), Signer("two"))
    clock.now += 12 * MINUTE
    with pytest.raises(Unauthenticated) as caught:
        await source.find(None)
    assert caught.value.why == "the issuer 'corp' has several keys that the token may be signed with"


async def test_an_empty_key_set_withdraws_all_keys(source: Source, clock: Clock) -> None:
    """An issuer may say that it has no keys; that is no failure."""
    await source.find()
    source.holds()
    clock.now += 12 * MINUTE
    with pytest.raises(Unauthenticated):
        await source.find()


async def test_a_broken_answer_leaves_the_keys(source: Source, clock: Clock) -> None:
    """What is no key set changes nothing."""
    await source.find()
    source.server.answer = content(b"<html>")
    clock.now += 12 * MINUTE
    assert await source.find() is not None
    assert source.fetches == 2


async def test_a_fetch_that_does_not_end_ends_the_waiting(clock: Clock) -> None:
    """Whoever waits is told after the time limit that there are no keys, even if the fetch goes on."""
    with key_server(content(b"{}")) as server:

        def hang(_: object) -> None:
            server.closing.wait(30)

        server.answer = hang
        keys = KeySet(issuer(server.url), clock, time_limit=0.2)
        assert keys.find("one", "ES256") is None
        await keys.refreshed()
        with pytest.raises(IdentityUnavailable):
            keys.find("one", "ES256", waited=True)


async def test_keys_may_lie_in_a_file(tmp_path: Path, clock: Clock) -> None:
    """A file is read as a URL is: in the background, and again when that is due."""
    path = write_key_set(tmp_path / "keys.json", Signer("one"))
    keys = KeySet(issuer(path), clock)
    keys.prefetch()
    await keys.refreshed()
    assert keys.find("one", "ES256") is not None
    write_key_set(path, Signer("two"))
    clock.now += 61
    assert keys.find("two", "ES256") is None
    await keys.refreshed()
    assert keys.find("two", "ES256", waited=True) is not None


async def test_the_log_says_what_is_wrong_and_not_where(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed fetch, with what it means, and ignored keys are warned of, the latter once, without a key."""
    missing = "No such file or directory"
    path = tmp_path / "keys.json"
    keys = KeySet(issuer(path), clock)
    keys.prefetch()
    await keys.refreshed()
    bad = Signer().jwk(x="c2VjcmV0")
    write_key_set(path, bad, Signer("good"))
    for _ in range(3):
        clock.now += 12 * MINUTE
        keys.find("good", "ES256")
        await keys.refreshed()
    path.unlink()
    for passed in (12 * MINUTE, DAY):
        clock.now += passed
        assert not await keys.renew()
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert messages == [
        f"the keys of the issuer 'corp' cannot be had, and its tokens get UNAVAILABLE: {missing}",
        "keys of the issuer 'corp' are ignored: malformed",
        f"the keys of the issuer 'corp' cannot be had, and those that are known stay in use: {missing}",
        f"the keys of the issuer 'corp' cannot be had, and its tokens get UNAVAILABLE: {missing}",
    ]


async def test_without_a_thread_there_are_no_keys(
    source: Source, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that is out of threads makes a fetch fail, and the next one may succeed."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(IdentityUnavailable):
            source.keys.find("one", "ES256")
    clock.now += 11
    assert await source.find() is not None


async def test_keys_are_fetched_on_demand(source: Source) -> None:
    """However fresh those are that are known, and whatever a fetch under way may bring."""
    source.keys.prefetch()
    assert await source.keys.renew()
    assert source.fetches == 2
    source.holds(Signer("two"))
    await source.keys.renew()
    assert source.fetches == 3
    assert await source.find("two") is not None
    with pytest.raises(Unauthenticated):
        await source.find("one")


# Across policies and processes


async def test_keys_survive_a_new_policy(tmp_path: Path, clock: Clock) -> None:
    """Issuers keep their keys as long as these are the same; others start anew, gone ones are forgotten."""
    path = write_key_set(tmp_path / "keys.json", Signer("one"))
    corp = issuer(path)
    sets = KeySets(clock)
    before = sets.for_policy(policy(corp, issuer(path, name="old", iss="https://old.example")))
    sets.prefetch()
    for keys in before.values():
        await keys.refreshed()
    assert before["corp"].find("one", "ES256") is not None
    after = sets.for_policy(
        policy(
            replace(issuer(path), audiences=("other",), leeway=timedelta(0), max_lifetime=timedelta(1)),
            issuer(path, "ES384", name="new", iss="https://new.example"),
        )
    )
    assert after["corp"] is before["corp"]
    assert set(after) == {"corp", "new"}
    changed = sets.for_policy(policy(issuer(path, "ES256", "ES384")))
    assert changed["corp"] is not before["corp"]


def test_a_fetch_does_not_hold_up_the_end_of_the_process() -> None:
    """A process whose issuer does not answer ends at once."""
    code = """
import asyncio, sys
from datetime import timedelta
from windshift.server.auth.jwks import KeySet
from windshift.server.auth.policy import Issuer
async def main():
    keys = KeySet(Issuer("corp", "i", ("a",), sys.argv[1], ("ES256",)), time_limit=1000)
    keys.prefetch()
    await asyncio.to_thread(sys.stdin.read, 1)
asyncio.run(main())
"""

    def hang(_: object) -> None:
        server.closing.wait(60)

    with key_server(hang) as server:
        process = subprocess.Popen([sys.executable, "-c", code, server.url], stdin=subprocess.PIPE)
        try:
            wait_for(lambda: server.requests)
            process.communicate(b"x", timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0


def test_a_server_without_issuers_does_not_load_cryptography() -> None:
    """What only issuers need is loaded when there are keys to read."""
    code = """
import sys
from windshift.server.auth.authenticate import Authenticator
from windshift.server.auth.policy import Policy
from windshift.server.domain.errors import Unauthenticated
for header in (b"Bearer ws_a_" + b"x" * 43, b"Bearer a.b.c"):
    try:
        Authenticator(Policy()).identify(header, tuple)
    except Unauthenticated:
        pass
print([name for name in ("jwt", "cryptography") if name in sys.modules])
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.stdout.strip() == "[]", ended.stderr
