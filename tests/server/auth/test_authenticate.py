"""From the header or the certificate of a call to who it is. No test waits: the clock is set."""

from __future__ import annotations

from math import inf

import pytest

from tests.support.callers import HOUR, NOW, Clock, bearer, known, people, principal, refusal
from windshift.server.auth.authenticate import Authenticator, Identity, _Known
from windshift.server.auth.certificates import CertificateNames
from windshift.server.auth.last_use import LastUse
from windshift.server.auth.tokens import EXPIRED, make_token, token_digest
from windshift.server.domain.errors import Unauthenticated

DEFAULT = Unauthenticated("").message


@pytest.fixture
def clock() -> Clock:
    """Give a clock, for everything."""
    return Clock()


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


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("Basic YTpi", "the header does not begin with Bearer and a blank"),
        ("%s", "the header does not begin with Bearer and a blank"),
        ('Bearer "%s"', "the Bearer value is not a token"),
        ("Bearer Bearer %s", "the Bearer value is not a token"),
        ("Bearer ", "the Bearer value is not a token (empty, or"),
        (f"Bearer {'x' * 10_000}", "the header has more than 8256 characters"),
    ],
)
def test_why_a_header_is_refused(clock: Clock, header: str, why: str) -> None:
    """The audit log tells the mistakes apart that clients make most."""
    authenticator = Authenticator(people(principal("billing", BILLING)), None, clock)
    assert refusal(authenticator, header.replace("%s", BILLING).encode()).why.startswith(why)


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


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_hash_with_a_line_end_is_found_out(clock: Clock, end: str) -> None:
    """`echo TOKEN | sha256sum` has the line end in it: the token is not accepted, and it is said why."""
    billing = principal("billing", f"{BILLING}{end}")
    error = refusal(Authenticator(people(billing), None, clock), bearer(BILLING))
    digest = token_digest(BILLING).hex()[:8]
    assert error.why.startswith(f"token {digest} names 'billing', but is not one of its tokens; the file has")
    assert "line end" in error.why
    other = refusal(Authenticator(people(billing), None, clock), bearer(make_token("billing")))
    assert other.why.endswith("names 'billing', but is not one of its tokens")


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
            assert error.message == "; ".join(EXPIRED)
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
    remembered, use = _Known(), LastUse()
    who = Identity(EDGE, "", inf)
    for number in range(3000):
        remembered.add(b"%08d" % (number % 2900) + bytes(8000), who, inf, use)
    assert len(remembered._entries) == (16 << 20) // 8008
    assert remembered._bytes == sum(map(len, remembered._entries))
    assert remembered.get(b"%08d" % 99 + bytes(8000)) == (who, inf, use)
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
    certificate = CertificateNames(tuple(names), NOW + HOUR)
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
        "the client certificate matches several principals: "
        "DNS:edge.acme is 'edge', URI:spiffe://acme/ops is 'ops'"
    )


def test_a_certificate_expires_during_a_connection(clock: Clock) -> None:
    """A connection outlives a certificate; calls on it do not."""
    authenticator = Authenticator(people(EDGE), None, clock)
    clock.now = NOW + HOUR
    with pytest.raises(Unauthenticated) as caught:
        authenticator.identify(None, lambda: CertificateNames(("DNS:edge.acme",), NOW + HOUR))
    assert caught.value.message == "the client certificate has expired; connect with a new one"


def test_a_bad_header_is_not_made_good_by_a_certificate(clock: Clock) -> None:
    """Whoever sends a header is judged by it alone."""
    authenticator = Authenticator(people(EDGE), None, clock)
    for header in (b"", b"Basic x", bearer(make_token("edge"))):
        with pytest.raises(Unauthenticated):
            authenticator.identify(header, lambda: CertificateNames(("DNS:edge.acme",)))
