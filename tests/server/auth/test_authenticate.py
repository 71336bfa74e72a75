"""From what a call brings to who it is. No test waits: the clocks are set."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.json_web_keys import SUBJECT, Signer, claims, issuer, key_set, part, policy, write_key_set
from tests.support.jwks_server import Answer, content, key_server
from windshift.server.auth.authenticate import Authenticator, Identity, Pending, _Known
from windshift.server.auth.certificates import CertificateNames
from windshift.server.auth.jwks import KeySet, KeySets
from windshift.server.auth.permissions import Permissions
from windshift.server.auth.policy import Policy, Principal, StaticToken
from windshift.server.auth.tokens import EXPIRED, make_token, token_digest
from windshift.server.errors import IdentityUnavailable, Unauthenticated

NOW = 1_800_000_000.0
HOUR = 3600.0
DEFAULT = Unauthenticated("").message


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a clock, for everything."""
    return Clock()


def no_certificate() -> tuple[str, ...]:
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
    certificate: Callable[[], tuple[str, ...]] = (lambda: names) if header is None else no_certificate
    with pytest.raises(Unauthenticated) as caught:
        authenticator.identify(header, certificate)
    return caught.value


def principal(name: str, *tokens: str, expires: float | None = None, **changes: Any) -> Principal:
    """Return a principal with tokens."""
    static = tuple(StaticToken(token_digest(token), expires) for token in tokens)
    return Principal(name, Permissions(), static, **changes)


def people(*principals: Principal) -> Policy:
    """Return a policy with these principals."""
    return Policy(
        {each.name: each for each in principals},
        by_certificate={name: each for each in principals for name in each.mtls},
    )


# The header


BILLING = make_token("billing")


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "bEaReR ", "Bearer   "])
def test_the_scheme_is_bearer_in_whatever_case(clock: Clock, scheme: str) -> None:
    """The scheme is compared as HTTP compares it, and one blank or more come after it."""
    authenticator = Authenticator(people(principal("billing", BILLING)), None, clock)
    for _ in range(2):
        assert known(authenticator, f"{scheme}{BILLING}".encode()).principal.name == "billing"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b" ",
        b"Bearer",
        b"Bearer ",
        b"%s",
        b"Bearer%s",
        b"Bearer\t%s",
        b"Bearer \t%s",
        b" Bearer %s",
        b"Bearer %s ",
        b"Bearer %s\n",
        b"Bearer %s\r\n",
        b"Bearer %s\0",
        b"Bearer \0%s",
        b"Bearer %s, Bearer x",
        b"Bearer x, Bearer %s",
        b"Bearer %s Bearer %s",
        b"Bearer %s %s",
        b"Bearer '%s'",
        b'Bearer "%s"',
        b"Bearer token=%s",
        b"Bearer %s=",
        b"Bearer =%s",
        b"Bearer %s,",
        b"Bearer \xff%s",
        b"Bearer \xc3\xa4%s",
        b"Basic %s",
        b"Basic YTpi",
        b"Bearer: %s",
        b"Token %s",
        b"DPoP %s",
        b"Bearerr %s",
        b"\xef\xbb\xbfBearer %s",
        b"Bearer " + b"x" * 100_000,
        b" " * 100_000,
        b"Bearer" + b" " * 100_000 + b"%s",
    ],
)
def test_any_other_header_is_refused(clock: Clock, header: bytes) -> None:
    """A header that is not one token of the scheme says nothing, and what it says is not repeated."""
    authenticator = Authenticator(people(principal("billing", BILLING)), None, clock)
    known(authenticator, bearer(BILLING))
    error = refusal(authenticator, header.replace(b"%s", BILLING.encode()))
    assert error.message == DEFAULT
    assert BILLING[-20:] not in f"{error}{error.why}"


# Static tokens


def test_a_static_token_is_its_principals(clock: Clock) -> None:
    """A principal is known by each of its tokens, the audit log by the first characters of the digest."""
    tokens = [make_token("billing") for _ in range(3)]
    billing = principal("billing", *tokens)
    authenticator = Authenticator(people(billing, principal("ops")), None, clock)
    for token in tokens:
        for _ in range(2):
            who = known(authenticator, bearer(token))
            assert who.principal is billing
            assert who.credential == f"token {token_digest(token).hex()[:8]}"
            assert who.expires == inf


def test_a_wrong_secret_is_refused(clock: Clock) -> None:
    """The name alone, another principal's secret and a token that was taken away are nobody's."""
    other = make_token("ops")
    authenticator = Authenticator(people(principal("billing", BILLING), principal("ops", other)), None, clock)
    secret, others = BILLING[-43:], other[-43:]
    for token in (
        make_token("billing"),
        make_token("nobody"),
        f"ws_ops_{secret}",
        f"ws_billing_{others}",
        f"ws_Billing_{secret}",
        f"ws_billing_{secret.swapcase()}",
        f"{BILLING[:-1]}",
        f"{BILLING}A",
        f"ws_{secret}",
        secret,
        "ws_",
        "ws_billing_",
        token_digest(BILLING).hex(),
        f"ws_billing_{token_digest(BILLING).hex()[:43]}",
    ):
        error = refusal(authenticator, bearer(token))
        assert error.message == DEFAULT
        assert token[-40:] not in error.why


def test_two_tokens_stuck_together_get_into_no_log(clock: Clock) -> None:
    """A malformed token may look like one whose name contains a secret; the name is not repeated."""
    stuck = f"ws_a_{BILLING[-43:]}{make_token('b')}"
    error = refusal(Authenticator(people(principal("a")), None, clock), bearer(stuck))
    assert BILLING[-43:] not in error.why


def test_a_static_token_expires(clock: Clock) -> None:
    """At its time a token ends, also one that is known already; only its holder is told so."""
    billing = principal("billing", BILLING, expires=NOW + HOUR)
    authenticator = Authenticator(people(billing), None, clock)
    for clock.now in (NOW, NOW + HOUR - 0.001):
        assert known(authenticator, bearer(BILLING)).expires == NOW + HOUR
    for clock.now in (NOW + HOUR, NOW + 10 * HOUR):
        for header in (bearer(BILLING), f"BEARER {BILLING}".encode()):
            error = refusal(authenticator, header)
            assert error.message == EXPIRED
            assert error.why == f"token {token_digest(BILLING).hex()[:8]} of 'billing' has expired"
    assert refusal(authenticator, bearer(make_token("billing"))).message == DEFAULT


def test_a_new_policy_knows_nobody_of_the_old_one(clock: Clock) -> None:
    """What one authenticator remembers is no business of the next."""
    before = Authenticator(people(principal("billing", BILLING)), None, clock)
    known(before, bearer(BILLING))
    assert (
        refusal(Authenticator(people(principal("billing")), None, clock), bearer(BILLING)).message == DEFAULT
    )


def test_without_issuers_a_jwt_is_refused(clock: Clock) -> None:
    """A policy that trusts no issuer looks into no JWT."""
    error = refusal(Authenticator(people(), None, clock), bearer("eyJ.eyJ.x"))
    assert error.why == "the token is neither a static one nor a JWT of an issuer"


def test_few_callers_are_remembered(clock: Clock) -> None:
    """What is remembered is bounded in number; who was forgotten is looked up anew."""
    tokens = [make_token(f"p{number}") for number in range(10_500)]
    everybody = [principal(f"p{number}", token) for number, token in enumerate(tokens)]
    authenticator = Authenticator(people(*everybody), None, clock)
    for token, each in zip(tokens, everybody, strict=True):
        assert known(authenticator, bearer(token)).principal is each
        assert known(authenticator, f"BEARER {token}".encode()).principal is each
    entries = authenticator._known._entries
    assert list(entries) == [bearer(token) for token in tokens[500:]]
    assert known(authenticator, bearer(tokens[0])).principal is everybody[0]
    assert len(entries) == 10_000
    assert bearer(tokens[500]) not in entries


def test_large_headers_are_remembered_as_far_as_there_is_room() -> None:
    """What is remembered is bounded in size: 16 MiB of headers."""
    remembered = _Known()
    who = Identity(EDGE, "", inf)
    for number in range(3000):
        remembered.add(b"%08d" % (number % 2900) + bytes(8000), who, inf)
    assert len(remembered._entries) == (16 << 20) // 8008
    assert remembered._bytes == sum(map(len, remembered._entries))
    assert remembered.get(b"%08d" % 99 + bytes(8000)) == (who, inf)
    remembered.forget(b"%08d" % 99 + bytes(8000))
    remembered.forget(b"unknown")
    assert remembered._bytes == sum(map(len, remembered._entries))


# Certificates


EDGE = principal("edge", mtls=("CN=edge,O=Acme", "DNS:edge.acme"))
OPS = principal("ops", mtls=("URI:spiffe://acme/ops",))


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (["CN=edge,O=Acme"], "CN=edge,O=Acme"),
        (["CN=else,O=Acme", "DNS:edge.acme"], "DNS:edge.acme"),
        (["CN=edge,O=Acme", "DNS:edge.acme", "DNS:other"], "CN=edge,O=Acme"),
    ],
)
def test_a_certificate_is_its_principals(clock: Clock, names: list[str], name: str) -> None:
    """A principal is known by any of its names, for as long as the certificate is valid."""
    certificate = CertificateNames(names, NOW + HOUR)
    who = Authenticator(people(EDGE, OPS), None, clock).identify(None, lambda: certificate)
    assert who == Identity(EDGE, f"certificate {name}", NOW + HOUR)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["CN=edge"],
        ["O=Acme,CN=edge"],
        ["CN=edge,O=Acme,C=DE"],
        ["CN=edge,O=acme"],
        ["CN=edge, O=Acme"],
        [r"CN=edge\,O=Acme"],
        ["CN=edge+O=Acme"],
        ["DNS:CN=edge,O=Acme"],
        ["CN=DNS:edge.acme"],
        ["DNS:EDGE.ACME"],
        ["DNS:*.acme"],
        ["DNS:edge.acme."],
        ["URI:edge.acme"],
        ["URI:spiffe://acme/ops/"],
    ],
)
def test_another_certificate_is_nobodys(clock: Clock, names: list[str]) -> None:
    """Names count as a whole and as they are written."""
    assert refusal(Authenticator(people(EDGE, OPS), None, clock), None, *names).message == DEFAULT


def test_a_certificate_of_two_principals_is_nobodys(clock: Clock) -> None:
    """Nobody chooses between principals that one certificate names."""
    error = refusal(
        Authenticator(people(EDGE, OPS), None, clock), None, "DNS:edge.acme", "URI:spiffe://acme/ops"
    )
    assert error.message == DEFAULT
    assert error.why == (
        "the client certificate is that of several: DNS:edge.acme is 'edge', URI:spiffe://acme/ops is 'ops'"
    )


def test_a_certificate_expires_during_a_connection(clock: Clock) -> None:
    """A connection outlives a certificate; calls on it do not."""
    authenticator = Authenticator(people(EDGE), None, clock)
    clock.now = NOW + HOUR
    with pytest.raises(Unauthenticated) as caught:
        authenticator.identify(None, lambda: CertificateNames(["DNS:edge.acme"], NOW + HOUR))
    assert caught.value.message == "the client certificate has expired; connect with a new one"


def test_a_bad_header_is_not_made_good_by_a_certificate(clock: Clock) -> None:
    """Whoever sends a header is judged by it alone."""
    authenticator = Authenticator(people(EDGE), None, clock)
    for header in (b"", b"Basic x", bearer(make_token("edge"))):
        with pytest.raises(Unauthenticated):
            authenticator.identify(header, lambda: ("DNS:edge.acme",))


# JSON web tokens and their keys


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
    assert caught.value.message == EXPIRED


async def test_a_known_jwt_expires(corp: Corp) -> None:
    """A token that is known ends when it says."""
    await corp.fetched()
    header = corp.token(exp=int(NOW) + 60)
    assert known(corp.authenticator, header).expires == NOW + 60
    corp.clock.now += 59.9
    known(corp.authenticator, header)
    corp.clock.now += 0.1
    assert refusal(corp.authenticator, header).message == EXPIRED
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
    """Ten thousand tokens, each of another key, make one fetch in 60 seconds, and all are refused."""
    signer = Signer("one")
    message, _, signature = Signer("other").token(claims(NOW)).rpartition(".")
    rest = f"{message.partition('.')[2]}.{signature}"
    flood = [bearer(f"{part({'alg': 'ES256', 'kid': f'key-{number}'})}.{rest}") for number in range(10_000)]
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


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_other_token_is_accepted(data: st.DataObject) -> None:
    """Whatever is changed, put in or left out of a token that is known, it is nobody's."""
    authenticator, tokens = FIXED.ready()
    token = data.draw(st.sampled_from(tokens))
    place = data.draw(st.integers(0, len(token) - 1))
    instead = data.draw(st.text(st.characters(codec="latin-1"), max_size=3))
    length = data.draw(st.integers(0, 2))
    changed = f"{token[:place]}{instead}{token[place + length :]}"
    if changed == token or (changed.strip(" ") == token and changed.endswith(token)):
        return
    with pytest.raises((Unauthenticated, IdentityUnavailable)):
        authenticator.identify(b"Bearer " + changed.encode("latin-1"), no_certificate)


class Fixed:
    """An authenticator with its keys, made once."""

    def __init__(self) -> None:
        self._made: tuple[Authenticator, list[str]] | None = None

    def ready(self) -> tuple[Authenticator, list[str]]:
        if self._made is None:
            self._made = asyncio.run(self._make())
        return self._made

    async def _make(self) -> tuple[Authenticator, list[str]]:
        signers = [Signer("one"), Signer("two", "RS256"), Signer("three", "EdDSA")]
        with key_server(content(key_set(*signers))) as server:
            trusted = policy(issuer(server.url, "ES256", "RS256", "EdDSA"))
            billing = principal("billing", BILLING)
            whole = Policy({**trusted.principals, "billing": billing}, trusted.issuers, trusted.by_subject)
            sets = KeySets(lambda: 0)
            keys = sets.for_policy(whole)
            sets.prefetch()
            await keys["corp"].refreshed()
        authenticator = Authenticator(whole, keys, lambda: NOW)
        tokens = [BILLING, *(signer.token(claims(NOW)) for signer in signers)]
        for token in tokens:
            known(authenticator, bearer(token))
        return authenticator, tokens


FIXED = Fixed()


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
