"""JSON web tokens that must not let anybody in, each a little wrong, and those next to them that must.

Each case stands for itself: a name, and a function that makes the token from the keys of two issuers. They
all meet an authenticator whose keys are at hand.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from tests.support.json_web_keys import (
    AUDIENCE,
    ISSUER,
    SUBJECT,
    Signer,
    base64url,
    claims,
    issuer,
    part,
    policy,
    write_key_set,
)
from windshift.server.auth.authenticate import Authenticator, Identity
from windshift.server.auth.certificates import CertificateNames
from windshift.server.auth.jwks import KeySets
from windshift.server.auth.tokens import EXPIRED
from windshift.server.domain.errors import Unauthenticated

NOW: Final = 1_800_000_000.5
"""When all of this happens, and between two seconds."""
HOUR: Final = 3600
DAY: Final = 24 * HOUR
OTHER: Final = "https://other.example"


@dataclass(frozen=True, slots=True)
class World:
    """Two issuers and their keys, and keys that are nobody's.

    Attributes:
        ec: of the first issuer, `one`, for ES256.
        rsa: of the first issuer, `two`, for RS256; the key says so.
        free: of the first issuer, `free`, RSA without an algorithm.
        small: of the first issuer, `small`, 1024 bits.
        edwards: of the first issuer, `ed`; it does not allow EdDSA.
        other: of the other issuer, `other`, ES384.
        stranger: of nobody, `one`.
    """

    ec: Signer
    rsa: Signer
    free: Signer
    small: Signer
    edwards: Signer
    other: Signer
    stranger: Signer
    authenticator: Authenticator

    def token(self, **changes: Any) -> str:
        """Return a token that is right but for these claims."""
        return self.ec.token(claims(NOW, **changes))

    def raw(self, payload: str) -> str:
        """Return a token with this text for its claims."""
        return self.ec.token(payload.encode())

    def text(self, **changes: Any) -> str:
        """Return the claims as JSON text, without the closing brace."""
        return json.dumps(claims(NOW, **changes))[:-1]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory for key sets."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
async def world(directory: Path) -> World:
    """Give the issuers, with their keys fetched."""
    signers = (
        Signer("one"),
        Signer("two", "RS256", number=2),
        Signer("free", "RS256", number=3),
        Signer("small", "RS256", number=4, bits=1024),
        Signer("ed", "EdDSA"),
        Signer("other", "ES384"),
        Signer("one"),
    )
    ec, rsa, free, small, edwards, other, _ = signers
    ours = write_key_set(directory / "ours", ec, rsa, free.jwk(alg=None), small, edwards)
    theirs = write_key_set(directory / "theirs", other)
    known = policy(
        issuer(ours, "ES256", "RS256", "PS256"),
        issuer(theirs, "ES384", name="other", iss=OTHER),
    )
    sets = KeySets(lambda: 0.0)
    keys = sets.for_policy(known)
    sets.prefetch()
    for each in keys.values():
        await each.refreshed()
    return World(*signers, Authenticator(known, keys, lambda: NOW))


def hmac_signed(secret: bytes, algorithm: str = "HS256", key_id: str = "one") -> str:
    """Return a token whose signature is an HMAC."""
    message = f"{part({'typ': 'JWT', 'alg': algorithm, 'kid': key_id})}.{part(claims(NOW))}"
    digest = hmac.digest(secret, message.encode(), getattr(hashlib, f"sha{algorithm[2:]}"))
    return f"{message}.{base64url(digest)}"


def unsigned(algorithm: str) -> str:
    """Return a token without a signature."""
    return f"{part({'typ': 'JWT', 'alg': algorithm, 'kid': 'one'})}.{part(claims(NOW))}."


def flipped(token: str, which: int) -> str:
    """Return a token with one bit of one part changed."""
    parts = token.split(".")
    data = bytearray(urlsafe_b64decode(parts[which] + "=="))
    data[len(data) // 2] ^= 1
    parts[which] = base64url(bytes(data))
    return ".".join(parts)


def not_canonical(token: str) -> str:
    """Return a token whose signature's last character has other unused bits."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


def zero_signature(token: str) -> str:
    """Return a token signed by two zeros, which broken libraries took for anybody's ECDSA signature."""
    return f"{token.rpartition('.')[0]}.{base64url(bytes(64))}"


def der_signature(world: World) -> str:
    """Return a token with a DER signature, which is another encoding of a right one."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - for this case alone
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA  # noqa: PLC0415 - for this case alone

    message = world.token().rpartition(".")[0]
    return f"{message}.{base64url(world.ec.private.sign(message.encode(), ECDSA(hashes.SHA256())))}"


Attack: TypeAlias = Callable[[World], str]

ATTACKS: Final[dict[str, Attack]] = {
    # The signature and how it is said to be made
    "none": lambda _: unsigned("none"),
    "None": lambda _: unsigned("None"),
    "none, with a signature": lambda w: w.ec.token(claims(NOW), alg="none"),
    "no alg": lambda w: w.ec.token(claims(NOW), alg=None),
    "alg in lower case": lambda w: w.ec.token(claims(NOW), alg="es256"),
    "alg a list": lambda w: w.ec.token(claims(NOW), alg=["ES256"]),
    "alg a number": lambda w: w.ec.token(claims(NOW), alg=256),
    "ES256 without a signature": lambda _: unsigned("ES256"),
    "the signature is missing": lambda w: w.token().rpartition(".")[0],
    "HS256 with the EC key's PEM": lambda w: hmac_signed(w.ec.pem()),
    "HS256 with the RSA key's PEM": lambda w: hmac_signed(w.rsa.pem(), key_id="two"),
    "HS256 with the RSA key's PEM, stripped": lambda w: hmac_signed(w.rsa.pem().strip(), key_id="two"),
    "HS512 with the RSA key's PEM": lambda w: hmac_signed(w.rsa.pem(), "HS512", "two"),
    "HS256 with the key's JWK": lambda w: hmac_signed(json.dumps(w.ec.jwk()).encode()),
    "HS256 with nothing": lambda _: hmac_signed(b""),
    "alg that the issuer does not allow": lambda w: w.edwards.token(claims(NOW)),
    "alg of another issuer": lambda w: w.other.token(claims(NOW), kid="one"),
    "alg that does not fit the key": lambda w: w.ec.token(claims(NOW), alg="RS256"),
    "alg that the key is not for": lambda w: w.rsa.token(claims(NOW), alg="PS256"),
    "PS256 said, RS256 done": lambda w: w.free.token(claims(NOW), alg="PS256"),
    "RSA key of 1024 bits": lambda w: w.small.token(claims(NOW)),
    "a key of nobody": lambda w: w.stranger.token(claims(NOW)),
    "two zeros for a signature": lambda w: zero_signature(w.token()),
    "the signature in DER": der_signature,
    "the signature in other bits": lambda w: not_canonical(w.token()),
    "the signature of another token": lambda w: (
        f"{w.token().rpartition('.')[0]}.{w.token(jti='x').rpartition('.')[2]}"
    ),
    "a bit of the header": lambda w: flipped(w.token(), 0),
    "a bit of the payload": lambda w: flipped(w.token(), 1),
    "a bit of the signature": lambda w: flipped(w.token(), 2),
    # The key
    "kid of another issuer": lambda w: w.ec.token(claims(NOW), kid="other"),
    "key and kid of another issuer": lambda w: w.other.token(claims(NOW)),
    "key of the first issuer for the other": lambda w: w.ec.token(claims(NOW, iss=OTHER)),
    "kid unknown": lambda w: w.ec.token(claims(NOW), kid="unknown"),
    "kid a path": lambda w: w.ec.token(claims(NOW), kid="../../../../dev/null"),
    "kid a path in the system": lambda w: w.ec.token(claims(NOW), kid="/proc/self/environ"),
    "kid SQL": lambda w: w.ec.token(claims(NOW), kid="x' UNION SELECT 'key"),
    "kid a URL": lambda w: w.ec.token(claims(NOW), kid="http://127.0.0.1:1/key"),
    "kid with NUL": lambda w: w.ec.token(claims(NOW), kid="one\0"),
    "kid in other letters": lambda w: w.ec.token(claims(NOW), kid="\uff4f\uff4e\uff45"),
    "kid empty": lambda w: w.ec.token(claims(NOW), kid=""),
    "kid a number": lambda w: w.ec.token(claims(NOW), kid=1),
    "kid a list": lambda w: w.ec.token(claims(NOW), kid=["one"]),
    "kid null": lambda w: signed_header(w, '{"alg": "ES256", "kid": null}'),
    "kid too long": lambda w: w.ec.token(claims(NOW), kid="x" * 257),
    "no kid, and several keys that fit": lambda w: w.rsa.token(claims(NOW), kid=None),
    "jwk: the stranger's own key": lambda w: w.stranger.token(claims(NOW), jwk=w.stranger.jwk()),
    "jwk, and no kid": lambda w: w.stranger.token(claims(NOW), jwk=w.stranger.jwk(), kid=None),
    "jku: the stranger's key set": lambda w: w.stranger.token(claims(NOW), jku="http://127.0.0.1:1/keys"),
    "x5u and x5c: the stranger's certificate": lambda w: w.stranger.token(
        claims(NOW), x5u="http://127.0.0.1:1/cert", x5c=["MIIB"]
    ),
    # Other things in the header
    "crit": lambda w: w.ec.token(claims(NOW), crit=["exp"]),
    "crit with its extension": lambda w: w.ec.token(claims(NOW), crit=["x"], x=1),
    "crit empty": lambda w: w.ec.token(claims(NOW), crit=[]),
    "crit b64": lambda w: w.ec.token(claims(NOW), crit=["b64"], b64=True),
    "b64 false": lambda w: w.ec.token(claims(NOW), b64=False),
    "a token for logging out": lambda w: w.ec.token(claims(NOW), typ="logout+jwt"),
    "typ a number": lambda w: w.ec.token(claims(NOW), typ=1),
    "alg twice": lambda w: signed_header(w, '{"alg": "none", "alg": "ES256", "kid": "one"}'),
    "header a list": lambda w: signed_header(w, '["ES256"]'),
    "header no JSON": lambda w: signed_header(w, "{alg: ES256}"),
    "header endless": lambda w: signed_header(w, '{"alg": ' + "[" * 4000),
    # The issuer and whom it is for
    "iss missing": lambda w: w.token(iss=None),
    "iss of nobody": lambda w: w.token(iss="https://evil.example"),
    "iss with a slash": lambda w: w.token(iss=f"{ISSUER}/"),
    "iss in capitals": lambda w: w.token(iss=ISSUER.upper()),
    "iss with a blank": lambda w: w.token(iss=f"{ISSUER} "),
    "iss in other letters": lambda w: w.token(iss=ISSUER.replace("e", "\u0435")),
    "iss in full width": lambda w: w.token(iss=ISSUER.replace("i", "\uff49")),
    "iss a list": lambda w: w.token(iss=[ISSUER]),
    "iss a number": lambda w: w.token(iss=1),
    "iss with NUL": lambda w: w.token(iss=f"{ISSUER}\0"),
    "aud missing": lambda w: w.token(aud=None),
    "aud of somebody else": lambda w: w.token(aud="elsewhere"),
    "aud longer": lambda w: w.token(aud=f"{AUDIENCE}x"),
    "aud shorter": lambda w: w.token(aud=AUDIENCE[:-1]),
    "aud in capitals": lambda w: w.token(aud=AUDIENCE.upper()),
    "aud a list without us": lambda w: w.token(aud=["a", "b"]),
    "aud an empty list": lambda w: w.token(aud=[]),
    "aud a list with a list of us": lambda w: w.token(aud=[[AUDIENCE]]),
    "aud a list with us and a number": lambda w: w.token(aud=[AUDIENCE, 1]),
    "aud an object": lambda w: w.token(aud={AUDIENCE: 1}),
    "aud empty": lambda w: w.token(aud=""),
    "sub missing": lambda w: w.token(sub=None),
    "sub a number": lambda w: w.token(sub=7),
    "sub a list": lambda w: w.token(sub=[SUBJECT]),
    "sub empty": lambda w: w.token(sub=""),
    "sub of nobody": lambda w: w.token(sub="repo:acme/other"),
    "sub with a blank": lambda w: w.token(sub=f"{SUBJECT} "),
    "sub in capitals": lambda w: w.token(sub=SUBJECT.upper()),
    "sub in other letters": lambda w: w.token(sub=SUBJECT.replace("a", "\u0430")),
    "sub with a combining mark": lambda w: w.token(sub=f"{SUBJECT}\u0301"),
    "sub with a surrogate": lambda w: w.raw(w.text(sub="x").replace('"x"', '"\\ud800"') + "}"),
    "sub with NUL": lambda w: w.token(sub=f"{SUBJECT}\0"),
    # When
    "exp missing": lambda w: w.token(exp=None),
    "exp null": lambda w: w.raw(w.text(exp=None) + ', "exp": null}'),
    "exp past": lambda w: w.token(iat=int(NOW) - HOUR, exp=int(NOW) - 1),
    "exp this very second": lambda w: w.token(iat=int(NOW) - HOUR, exp=int(NOW)),
    "exp in the year 33658": lambda w: w.token(exp=1_000_000_000_000),
    "exp one second too late": lambda w: w.token(exp=int(NOW) + DAY + 1),
    "exp too late, iat in the future": lambda w: w.token(iat=int(NOW) + 31, exp=int(NOW) + DAY),
    "exp without end": lambda w: w.raw(w.text(exp=None) + ', "exp": 1' + "0" * 400 + "}"),
    "exp with thousands of digits": lambda w: w.raw(w.text(exp=None) + ', "exp": 1' + "0" * 5000 + "}"),
    "exp 1e400": lambda w: w.raw(w.text(exp=None) + ', "exp": 1e400}'),
    "exp Infinity": lambda w: w.raw(w.text(exp=None) + ', "exp": Infinity}'),
    "exp NaN": lambda w: w.raw(w.text(exp=None) + ', "exp": NaN}'),
    "exp negative": lambda w: w.token(exp=-1),
    "exp a float": lambda w: w.token(exp=NOW + HOUR),
    "exp a string": lambda w: w.token(exp=str(int(NOW) + HOUR)),
    "exp true": lambda w: w.token(exp=True),
    "exp a list": lambda w: w.token(exp=[int(NOW) + HOUR]),
    "iat missing": lambda w: w.token(iat=None),
    "iat in the future": lambda w: w.token(iat=int(NOW) + 31),
    "iat negative": lambda w: w.token(iat=-1),
    "iat long ago": lambda w: w.token(iat=0),
    "iat a float": lambda w: w.token(iat=NOW),
    "iat a string": lambda w: w.token(iat=str(int(NOW))),
    "iat after exp": lambda w: w.token(iat=int(NOW) + 20, exp=int(NOW) + 10),
    "nbf in the future": lambda w: w.token(nbf=int(NOW) + 31),
    "nbf huge": lambda w: w.token(nbf=10**18),
    "nbf a string": lambda w: w.token(nbf="0"),
    "nbf null": lambda w: w.raw(w.text() + ', "nbf": null}'),
    # The form
    "claims twice": lambda w: w.raw(w.text() + ', "sub": "repo:acme/app"}'),
    "claims twice, spelled in two ways": lambda w: w.raw(w.text() + ', "\\u0073ub": "x"}'),
    "claims a list": lambda w: w.raw(f"[{w.text()}}}]"),
    "claims no JSON": lambda w: w.raw("sub=x"),
    "claims in UTF-16": lambda w: w.ec.token((w.text() + "}").encode("utf-16")),
    "claims with a byte order mark": lambda w: w.ec.token(b"\xef\xbb\xbf" + (w.text() + "}").encode()),
    "claims nested without end": lambda w: w.raw(w.text() + ', "x": ' + "[" * 2500 + "]" * 2500 + "}"),
    "claims not UTF-8": lambda w: w.ec.token((w.text() + ', "x": "').encode() + b'\xff"}'),
    "too large": lambda w: w.token(x="x" * 5950),
    "one part": lambda w: w.token().replace(".", ""),
    "two parts": lambda w: w.token().replace(".", "", 1),
    "four parts": lambda w: f"{w.token()}.",
    "five parts": lambda w: f"{w.token()}.x.x",
    "an empty header": lambda w: f".{w.token().partition('.')[2]}",
    "an empty payload": lambda w: ".".join([(p := w.token().split("."))[0], "", p[2]]),
    "only dots": lambda _: "..",
    "padding": lambda w: f"{w.token()}==",
    "base64 that is not for URLs": lambda w: w.token()[:-4] + "+/+/",
    "a length that base64 cannot have": lambda w: f"AAAAA.{w.token().partition('.')[2]}",
    "a static token's prefix": lambda w: f"ws_{w.token()}",
}


def signed_header(world: World, header: str) -> str:
    """Return a token with this text for its header, rightly signed."""
    message = f"{part(header.encode())}.{part(claims(NOW))}"
    return f"{message}.{world.ec.sign(message)}"


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_a_token_that_is_wrong_in_one_thing_lets_nobody_in(world: World, attack: Attack) -> None:
    """Whatever is wrong, the client learns no more than that, and no part of the token gets into the log."""
    token = attack(world)
    for _ in range(2):  # the second time by what was remembered of the first
        with pytest.raises(Unauthenticated) as caught:
            world.authenticator.identify(f"Bearer {token}".encode(), CertificateNames)
        error = caught.value
        assert error.message in (Unauthenticated("").message, "; ".join(EXPIRED))
        said = f"{error} {error.why} {error.metadata}"
        assert not any(piece in said for piece in token.split(".") if len(piece) > 8)
        said.encode()  # no surrogates


ACCEPTED: Final[dict[str, Attack]] = {
    "as it should be": lambda w: w.token(),
    "RS256": lambda w: w.rsa.token(claims(NOW)),
    "RS256 by a key for all": lambda w: w.free.token(claims(NOW)),
    "no kid, and one key that fits": lambda w: w.ec.token(claims(NOW), kid=None),
    "no typ": lambda w: w.ec.token(claims(NOW), typ=None),
    "an access token": lambda w: w.ec.token(claims(NOW), typ="at+jwt"),
    "an access token, in full": lambda w: w.ec.token(claims(NOW), typ="application/at+jwt"),
    "jku, jwk, x5u, x5c beside the right key": lambda w: w.ec.token(
        claims(NOW), jku="http://127.0.0.1:1/", jwk=w.stranger.jwk(), x5u="http://127.0.0.1:1/", x5c=["x"]
    ),
    "aud a list with us": lambda w: w.token(aud=["a", AUDIENCE]),
    "exp as late as may be": lambda w: w.token(exp=int(NOW) + DAY),
    "exp in a second": lambda w: w.token(exp=int(NOW) + 1),
    "iat in the future, within the leeway": lambda w: w.token(iat=int(NOW) + 30),
    "nbf now": lambda w: w.token(nbf=int(NOW)),
    "nbf in the future, within the leeway": lambda w: w.token(nbf=int(NOW) + 30),
    "more claims": lambda w: w.token(jti="x", scope="a b", nested={"a": [1, 2.5, None]}),
    "nearly too large": lambda w: w.token(x="x" * 5500),
}


@pytest.mark.parametrize("make", ACCEPTED.values(), ids=ACCEPTED)
async def test_a_token_that_is_right_lets_its_subject_in(world: World, make: Attack) -> None:
    """What stands next to an attack and is none is accepted."""
    token = make(world)
    who = world.authenticator.identify(f"Bearer {token}".encode(), CertificateNames)
    assert isinstance(who, Identity)
    assert (who.principal.name, who.credential) == ("ci", f"jwt corp {SUBJECT}")
    assert who.expires == json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))["exp"]


async def test_each_issuer_speaks_for_its_own_subjects(world: World) -> None:
    """The same subject of another issuer is another principal."""
    who = world.authenticator.identify(
        f"Bearer {world.other.token(claims(NOW, iss=OTHER))}".encode(), CertificateNames
    )
    assert isinstance(who, Identity)
    assert (who.principal.name, who.credential) == ("other", f"jwt other {SUBJECT}")


async def test_a_stranger_who_knows_a_subject_is_not_told(world: World) -> None:
    """An expired token is said to be expired; all else gets one answer, whoever it is about."""
    messages = set()
    for token in (
        world.token(sub="nobody"),
        world.stranger.token(claims(NOW)),
        world.stranger.token(claims(NOW, sub="nobody")),
    ):
        with pytest.raises(Unauthenticated) as caught:
            world.authenticator.identify(f"Bearer {token}".encode(), CertificateNames)
        messages.add(caught.value.message)
    assert messages == {Unauthenticated("").message}
    with pytest.raises(Unauthenticated) as caught:
        world.authenticator.identify(f"Bearer {ATTACKS['exp past'](world)}".encode(), CertificateNames)
    assert caught.value.message == "; ".join(EXPIRED)
