"""From a JSON web token to who calls: keys that come late or not at all, and what is remembered.

What a token must say is the business of test_jwt_attacks.py. No test waits: the clocks are set.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.callers import NOW, Clock, bearer, known, no_certificate, principal, refusal
from tests.support.json_web_keys import SUBJECT, Signer, claims, issuer, key_set, part, policy, write_key_set
from tests.support.jwks_server import Answer, content, key_server
from windshift.server.auth.authenticate import Authenticator, Identity, Pending
from windshift.server.auth.jwks import KeySet, KeySets
from windshift.server.auth.policy import Policy
from windshift.server.auth.tokens import EXPIRED, make_token
from windshift.server.domain.errors import IdentityUnavailable, Unauthenticated

DEFAULT = Unauthenticated("").message


@pytest.fixture
def clock() -> Clock:
    """Give a clock, for everything."""
    return Clock()


class Corp:
    """An issuer, its key set, and an authenticator that knows it.

    Attributes:
        signer: its key.
        clock: the clock of all.
    """

    def __init__(self, jwks: str | Path, signer: Signer, clock: Clock) -> None:
        self.signer = signer
        self.clock = clock
        self.policy = policy(issuer(jwks))
        self.sets = KeySets(clock)
        self.keys = self.sets.for_policy(self.policy)
        self.authenticator = Authenticator(self.policy, self.keys, clock)

    def token(self, **changes: Any) -> bytes:
        return bearer(self.signer.token(claims(self.clock.now, **changes)))

    async def fetched(self) -> None:
        self.sets.prefetch()
        await self.keys["corp"].refreshed()

    async def identify(self, header: bytes) -> Identity:
        """Do what a call does."""
        who = self.authenticator.identify(header, no_certificate)
        return await who.resolve() if isinstance(who, Pending) else who


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give the file for a key set."""
    return tmp_path / "keys.json"


@pytest.fixture
def corp(file: Path, clock: Clock) -> Corp:
    """Give an issuer whose keys are not fetched yet."""
    signer = Signer("one")
    return Corp(write_key_set(file, signer), signer, clock)


def lose(file: Path) -> None:
    """Delete a key set."""
    file.unlink()


async def test_a_jwt_waits_for_keys_and_is_then_known(corp: Corp) -> None:
    """The first token waits for its issuer's keys, all others are judged at once."""
    header = corp.token()
    who = corp.authenticator.identify(header, no_certificate)
    assert isinstance(who, Pending)
    found = await who.resolve()
    assert (found.principal.name, found.credential) == ("ci", f"jwt corp {SUBJECT}")
    assert known(corp.authenticator, header) is found
    assert known(corp.authenticator, corp.token(jti="x")).principal is found.principal


async def test_a_token_that_expires_while_it_waits_is_refused(corp: Corp) -> None:
    """What was valid when the call came is judged again when the keys are there."""
    who = corp.authenticator.identify(corp.token(exp=int(NOW) + 1), no_certificate)
    assert isinstance(who, Pending)
    corp.clock.now += 1
    with pytest.raises(Unauthenticated) as caught:
        await who.resolve()
    assert caught.value.message == "; ".join(EXPIRED)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        (
            {"iss": "https://id.example/"},
            "the JWT is from none of the issuers: its iss is 'https://id.example/'",
        ),
        ({"iss": ["x" * 500]}, f"the JWT is from none of the issuers: its iss is ['{'x' * 126}"),
        ({"aud": ["api", "web"]}, "the JWT of 'corp' is for somebody else: its aud is ['api', 'web']"),
        (
            {"iat": int(NOW) + 90, "exp": int(NOW) + 100},
            "is from the future: its iat is 90 s ahead; compare the clocks, or raise leeway",
        ),
        (
            {"nbf": 10**4000},
            f"is not yet valid: its nbf is {10**15} s ahead; compare the clocks, or raise leeway",
        ),
        (
            {"iat": int(NOW), "exp": int(NOW) + 86401},
            "for no time: from its iat to its exp it is 86401 s, and max_lifetime is 86400",
        ),
    ],
)
async def test_why_a_jwt_is_refused(corp: Corp, claims: dict[str, Any], why: str) -> None:
    """The audit log has what is to be compared: the slash at the end of an issuer, the clocks."""
    await corp.fetched()
    assert refusal(corp.authenticator, corp.token(**claims)).why.endswith(why)


async def test_a_known_jwt_expires(corp: Corp) -> None:
    """A token that is known ends when it says."""
    await corp.fetched()
    header = corp.token(exp=int(NOW) + 60)
    assert known(corp.authenticator, header).expires == NOW + 60
    corp.clock.now += 59.9
    known(corp.authenticator, header)
    corp.clock.now += 0.1
    assert refusal(corp.authenticator, header).message == "; ".join(EXPIRED)
    assert header not in corp.authenticator._known._entries


async def test_a_known_jwt_ends_with_its_key(corp: Corp, file: Path) -> None:
    """Ten minutes after a key was withdrawn, what it signed is not accepted any more, though it was known."""
    await corp.fetched()
    header = corp.token()
    known(corp.authenticator, header)
    write_key_set(file, Signer("two"))
    corp.clock.now += 599
    known(corp.authenticator, header)
    corp.clock.now += 62
    with pytest.raises(Unauthenticated) as caught:
        await corp.identify(header)
    assert caught.value.why == "the issuer 'corp' has no key of the id that the token names"


async def test_without_keys_nobody_knows(corp: Corp, file: Path) -> None:
    """An issuer whose keys cannot be had makes a call fail in a way that can be tried again."""
    lose(file)
    for _ in range(2):
        with pytest.raises(IdentityUnavailable):
            await corp.identify(corp.token())
    write_key_set(file, corp.signer)
    corp.clock.now += 11
    assert (await corp.identify(corp.token())).principal.name == "ci"


def trickle(request: BaseHTTPRequestHandler) -> None:
    """Answer without end."""
    request.send_response(200)
    request.end_headers()
    for _ in range(3000):
        request.wfile.write(b" ")
        time.sleep(0.01)


@pytest.mark.parametrize(
    "answer",
    [
        content(b"", 503),
        content(b"", 302, Location="http://127.0.0.1:1/keys"),
        content(b"<html>"),
        content(b'{"keys": "none"}'),
        content(b" " * (10 << 20)),
        trickle,
    ],
    ids=["down", "elsewhere", "not JSON", "no keys", "10 MiB", "slow"],
)
async def test_an_issuer_that_misbehaves_lets_nobody_in(clock: Clock, answer: Answer) -> None:
    """Without a key set in time, of its size and form, no token is believed; its holder may try again."""
    with key_server(answer) as server:
        trusted = policy(issuer(server.url))
        keys = {"corp": KeySet(trusted.issuers["corp"], clock, time_limit=0.3)}
        authenticator = Authenticator(trusted, keys, clock)
        who = authenticator.identify(bearer(Signer("one").token(claims(NOW))), no_certificate)
        assert isinstance(who, Pending)
        with pytest.raises(IdentityUnavailable):
            await who.resolve()


async def test_without_keys_a_wrong_token_is_still_wrong(corp: Corp, file: Path) -> None:
    """What no key could save is refused at once, whether there are keys or not."""
    lose(file)
    assert refusal(corp.authenticator, corp.token(aud="elsewhere")).message == DEFAULT


@pytest.fixture
def held(clock: Clock) -> Iterator[tuple[Corp, threading.Event]]:
    """Give an issuer whose key set comes only when the event is set."""
    go = threading.Event()
    signer = Signer("one")

    def answer(request: BaseHTTPRequestHandler) -> None:
        go.wait(30)
        content(key_set(signer))(request)

    with key_server(answer) as server:
        yield Corp(server.url, signer, clock), go
        go.set()


async def test_few_may_wait(held: tuple[Corp, threading.Event]) -> None:
    """A thousand calls wait for keys at most; more are told to try again, and nothing is left over."""
    corp, go = held
    pending = [corp.authenticator.identify(corp.token(jti=str(n)), no_certificate) for n in range(1001)]
    tasks = [asyncio.ensure_future(who.resolve()) for who in pending if isinstance(who, Pending)]
    assert len(tasks) == 1001
    await asyncio.sleep(0)
    with pytest.raises(IdentityUnavailable):
        corp.authenticator.identify(corp.token(), no_certificate)
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, Identity) for result in results) == 1000
    assert sum(isinstance(result, IdentityUnavailable) for result in results) == 1
    assert known(corp.authenticator, corp.token()).principal.name == "ci"
    assert corp.authenticator._waiting == 0


async def test_a_call_that_ends_does_not_wait_any_more(held: tuple[Corp, threading.Event]) -> None:
    """A cancelled call gives its place back."""
    corp, go = held
    who = corp.authenticator.identify(corp.token(), no_certificate)
    assert isinstance(who, Pending)
    task = asyncio.ensure_future(who.resolve())
    await asyncio.sleep(0)
    assert corp.authenticator._waiting == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert corp.authenticator._waiting == 0
    go.set()
    assert (await corp.identify(corp.token())).principal.name == "ci"


async def test_a_bad_signature_is_remembered_for_ten_seconds(corp: Corp, file: Path) -> None:
    """A wrong token costs its verification once; a key that makes it right is believed soon."""
    await corp.fetched()
    successor = Signer("one")
    header = bearer(successor.token(claims(NOW)))
    first, second = (refusal(corp.authenticator, header) for _ in range(2))
    assert first.why == "the JWT of 'corp' has no valid signature (InvalidSignatureError)"
    assert second.why == "the JWT was refused lately, for its signature"
    write_key_set(file, successor)
    corp.clock.now += 661  # the keys are read anew
    await corp.identify(header)


async def test_few_refusals_are_remembered(corp: Corp) -> None:
    """What is remembered of wrong tokens is bounded in number."""
    await corp.fetched()
    message, _, signature = corp.token().decode().rpartition(".")
    for number in range(1100):
        refusal(corp.authenticator, f"{message}.{number:04}{signature[4:]}".encode())
    assert len(corp.authenticator._refused) == 1000


async def test_a_flood_of_unknown_keys_asks_the_issuer_once_a_minute(clock: Clock) -> None:
    """Two thousand tokens, each of another key, make one fetch in 60 seconds, and all are refused."""
    signer = Signer("one")
    message, _, signature = Signer("other").token(claims(NOW)).rpartition(".")
    rest = f"{message.partition('.')[2]}.{signature}"
    flood = [bearer(f"{part({'alg': 'ES256', 'kid': f'key-{number}'})}.{rest}") for number in range(2_000)]
    with key_server(content(key_set(signer))) as server:
        trusted = policy(issuer(server.url))
        sets = KeySets(clock)
        keys = sets.for_policy(trusted)
        authenticator = Authenticator(trusted, keys, clock)
        sets.prefetch()
        await keys["corp"].refreshed()
        for number, header in enumerate(flood):
            clock.now = NOW + number / len(flood) * 59
            refusal(authenticator, header)
        assert len(server.requests) == 1
        clock.now = NOW + 61
        waiting = [authenticator.identify(header, no_certificate) for header in flood[:1000]]
        results = await asyncio.gather(
            *(who.resolve() for who in waiting if isinstance(who, Pending)), return_exceptions=True
        )
        assert [type(result) for result in results] == [Unauthenticated] * 1000
        for number, header in enumerate(flood):
            clock.now = NOW + 61 + number / len(flood) * 59
            refusal(authenticator, header)
        assert len(server.requests) == 2
        assert known(authenticator, bearer(signer.token(claims(clock.now)))).principal.name == "ci"


class Everybody:
    """An authenticator that knows a static token and a JWT of each kind, made once."""

    def __init__(self) -> None:
        self._made: tuple[Authenticator, list[str]] | None = None

    def __call__(self) -> tuple[Authenticator, list[str]]:
        """Return it, and the tokens."""
        if self._made is None:
            self._made = asyncio.run(self._make())
        return self._made

    async def _make(self) -> tuple[Authenticator, list[str]]:
        static = make_token("billing")
        signers = [Signer("one"), Signer("two", "RS256"), Signer("three", "EdDSA")]
        with key_server(content(key_set(*signers))) as server:
            trusted = policy(issuer(server.url, "ES256", "RS256", "EdDSA"))
            everybody = Policy(
                {**trusted.principals, "billing": principal("billing", static)},
                trusted.issuers,
                trusted.by_subject,
            )
            sets = KeySets(lambda: 0)
            keys = sets.for_policy(everybody)
            sets.prefetch()
            await keys["corp"].refreshed()
        authenticator = Authenticator(everybody, keys, lambda: NOW)
        tokens = [static, *(signer.token(claims(NOW)) for signer in signers)]
        for token in tokens:
            known(authenticator, bearer(token))
        return authenticator, tokens


everybody = Everybody()


@settings(max_examples=60)
@given(
    which=st.integers(0, 3),
    place=st.floats(0, 1, exclude_max=True),
    instead=st.text(st.characters(max_codepoint=255), max_size=3),
    length=st.integers(0, 2),
)
def test_no_other_token_is_accepted(which: int, place: float, instead: str, length: int) -> None:
    """Whatever is changed in a token that is known, put in or left out, makes it nobody's."""
    authenticator, tokens = everybody()
    token = tokens[which]
    begin = int(place * len(token))
    changed = f"{token[:begin]}{instead}{token[begin + length :]}"
    assume(changed.lstrip(" ") != token)
    refusal(authenticator, b"Bearer " + changed.encode("latin-1"))


async def test_a_token_has_8192_characters_at_most(corp: Corp) -> None:
    """One that is larger is not looked into."""
    await corp.fetched()
    sizes = set()
    for size in range(5890, 5930):
        header = corp.token(x="x" * size)
        large = len(header) - len("Bearer ") > 8192
        sizes.add(large)
        if large:
            assert refusal(corp.authenticator, header).why == "the JWT has more than 8192 characters"
        else:
            known(corp.authenticator, header)
    assert sizes == {True, False}


async def test_an_authenticator_without_key_sets_gets_its_own(tmp_path: Path) -> None:
    """A policy alone is enough: keys are fetched when they are first needed."""
    signer = Signer("one")
    authenticator = Authenticator(policy(issuer(write_key_set(tmp_path / "keys", signer))))
    who = authenticator.identify(bearer(signer.token(claims(time.time()))), no_certificate)
    assert isinstance(who, Pending)
    assert (await who.resolve()).principal.name == "ci"


async def test_no_secret_is_logged_or_said(corp: Corp, caplog: pytest.LogCaptureFixture) -> None:
    """Neither what is logged, nor an error, nor how anything prints itself contains a credential."""
    caplog.set_level(logging.DEBUG)
    token = make_token("ci")
    people_and_corp = Policy({"ci": principal("ci", token)}, corp.policy.issuers, corp.policy.by_subject)
    authenticator = Authenticator(people_and_corp, corp.keys, corp.clock)
    jwt_header = corp.token()
    pending = authenticator.identify(jwt_header, no_certificate)
    assert isinstance(pending, Pending)
    said = [repr(pending), repr(await pending.resolve()), repr(authenticator)]
    said += [repr(known(authenticator, header)) for header in (jwt_header, bearer(token))]
    for header in (
        bearer(token[:-1] + "!"),
        jwt_header + b"x",
        bearer(make_token("ci")),
        b"Basic " + token.encode(),
    ):
        error = refusal(authenticator, header)
        said += [repr(error), error.why]
    everything = " ".join(said) + caplog.text
    for secret in (token[-43:], *jwt_header.decode()[7:].split(".")):
        assert secret not in everything
