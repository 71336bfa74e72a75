"""JSON web tokens at the wire, with keys from a file and from a web server."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.authorization.callers import Callers, bearer, callers_with_rules
from tests.authorization.policies import principal, put, token_of
from tests.authorization.served import served
from tests.authorization.whoami import answer_to, who
from tests.support.client import EVENTS, refused
from tests.support.json_web_keys import (
    AUDIENCE,
    ISSUER,
    Signer,
    base64url,
    claims,
    key_set,
    part,
    write_key_set,
)
from tests.support.jwks_server import KeyServer, content, key_server
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire.burying import watching
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

OTHER = "https://other.example"
CORP, RSA, ELSEWHERE, STRANGER = (
    Signer("one"),
    Signer("two", "RS256", number=1),
    Signer("one", "ES384"),
    Signer("one"),
)
"""Keys of the first issuer, one of the other, whose key has the same id, and one of nobody."""

POLICY = f"""
{principal("static", "none")}

[role.none]

[[issuers]]
name = "corp"
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
jwks = "FILE"
algorithms = ["ES256", "RS256"]

[[issuers]]
name = "other"
issuer = "{OTHER}"
audience = "{AUDIENCE}"
jwks = "URL"
algorithms = ["ES384"]

[[principals]]
name = "ci"
roles = ["none"]
jwt = {{ issuer = "corp", sub = "ci" }}

[[principals]]
name = "elsewhere"
roles = ["none"]
jwt = {{ issuer = "other", sub = "ci" }}
"""


@pytest.fixture(scope="module")
def keys() -> Iterator[KeyServer]:
    """Serve the keys of the other issuer."""
    with key_server(content(key_set(ELSEWHERE))) as server:
        yield server


@pytest.fixture(scope="module")
def callers(
    nats_server: NatsServer, keys: KeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callers]:
    """Run a server that trusts two issuers."""
    directory = tmp_path_factory.mktemp("tokens")
    file = write_key_set(directory / "keys.json", CORP, RSA)
    text = POLICY.replace("FILE", str(file)).replace("URL", keys.url)
    put(directory / "auth.toml", text)
    with callers_with_rules(nats_server, directory / "auth.toml") as callers:
        yield callers


def say(**changes: object) -> dict[str, object]:
    """Return the claims of a token that is right but for these."""
    return claims(time.time(), **({"sub": "ci"} | changes))


def test_keys_in_a_file(callers: Callers) -> None:
    """Tokens of the first issuer are known by keys from a file, of whatever allowed algorithm."""
    for signer in (CORP, RSA):
        assert who(callers.with_token(signer.token(say()))) == "ci"
    assert who(callers.with_token(token_of("static"))) == "static"


def test_keys_from_a_web_server(callers: Callers, keys: KeyServer) -> None:
    """Those of the other are fetched, once."""
    for _ in range(3):
        assert who(callers.with_token(ELSEWHERE.token(say(iss=OTHER)))) == "elsewhere"
    assert len(keys.requests) == 1


def _none() -> str:
    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(say())}."


def _public_key_as_secret() -> str:
    message = f"{part({'alg': 'HS256', 'kid': 'two', 'typ': 'JWT'})}.{part(say())}"
    return f"{message}.{base64url(hmac.digest(RSA.pem(), message.encode(), hashlib.sha256))}"


def _changed() -> str:
    head, _, signature = CORP.token(say(sub="somebody")).split(".")
    return f"{head}.{part(say())}.{signature}"


REFUSED: dict[str, Callable[[], str]] = {
    "unsigned": _none,
    "unsigned, in capitals": lambda: f"{part({'alg': 'NONE'})}.{part(say())}.",
    "without its signature": lambda: CORP.token(say()).rpartition(".")[0] + ".",
    "the public key as a secret": _public_key_as_secret,
    "changed": _changed,
    "by a stranger": lambda: STRANGER.token(say()),
    "by a stranger who brings his key": lambda: STRANGER.token(say(), jwk=STRANGER.jwk()),
    "by a stranger who says where his key is": lambda: STRANGER.token(say(), jku="http://127.0.0.1:1/keys"),
    "by the other issuer": lambda: ELSEWHERE.token(say()),
    "by the other issuer's algorithm": lambda: ELSEWHERE.token(say(), alg="ES256"),
    "by the first issuer for the other": lambda: CORP.token(say(iss=OTHER)),
    "an unknown key": lambda: CORP.token(say(), kid="three"),
    "a key elsewhere": lambda: CORP.token(say(), kid="../../etc/passwd"),
    "extensions": lambda: CORP.token(say(), crit=["exp"]),
    "another iss": lambda: CORP.token(say(iss=ISSUER + "/")),
    "no iss": lambda: CORP.token(say(iss=None)),
    "another aud": lambda: CORP.token(say(aud="somebody")),
    "no aud": lambda: CORP.token(say(aud=None)),
    "nobody who is known": lambda: CORP.token(say(sub="repo:acme/app")),
    "no sub": lambda: CORP.token(say(sub=None)),
    "expired": lambda: CORP.token(say(iat=int(time.time()) - 7200, exp=int(time.time()) - 3600)),
    "no exp": lambda: CORP.token(say(exp=None)),
    "an exp far away": lambda: CORP.token(say(exp=10**12)),
    "not yet": lambda: CORP.token(say(nbf=int(time.time()) + 3600)),
    "from the future": lambda: CORP.token(say(iat=int(time.time()) + 3600)),
    "for another end": lambda: CORP.token(say(), typ="logout+jwt"),
    "twice the same name": lambda: CORP.token(b'{"sub":"x",' + json.dumps(say()).encode()[1:]),
    "cut": lambda: CORP.token(say())[:-1],
    "lengthened": lambda: CORP.token(say()) + "A",
    "huge": lambda: CORP.token(say(more="x" * 7000)),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_refused(callers: Callers, make: Callable[[], str]) -> None:
    """A token that is not exactly right lets nobody in."""
    assert who(callers.with_token(make())) is None


def test_key_flood(callers: Callers, keys: KeyServer) -> None:
    """Tokens that name ever new keys do not have the issuer asked ever again."""
    assert who(callers.with_token(ELSEWHERE.token(say(iss=OTHER)))) == "elsewhere"
    before = len(keys.requests)
    caller = callers.with_metadata(())
    for number in range(200):
        token = ELSEWHERE.token(say(iss=OTHER), kid=f"unknown-{number}")
        with refused("UNAUTHENTICATED", "UNAUTHENTICATED"):
            caller.call(EVENTS.methods_by_name["GetConsumer"], pb.GetConsumerRequest(), 20, bearer(token))
    assert len(keys.requests) <= before + 1


def test_keys_that_are_withdrawn_end_at_once_on_sighup(nats_server: NatsServer, tmp_path: Path) -> None:
    """Keys are fetched anew: nobody comes in by the old one, its streams end, and the new one is known."""
    with key_server(content(key_set(ELSEWHERE))) as keys:
        file = write_key_set(tmp_path / "keys.json", CORP)
        text = POLICY.replace("FILE", str(file)).replace("URL", keys.url)
        text = text.replace("[role.none]", '[role.none]\ndead_letters = { read = ["*"], consumers = ["*"] }')
        with served(tmp_path, text, NATS_URL=nats_server.url) as server:
            old = server.callers.with_token(ELSEWHERE.token(say(iss=OTHER)))
            assert who(old) == "elsewhere"
            with watching(old) as watch:
                renewed = Signer("renewed", "ES384")
                keys.answer = content(key_set(renewed))
                before = len(keys.requests)
                server.hang_up()
                server.process.wait_for(lambda: len(keys.requests) > before)
                refusal = watch.end(20)
                assert refusal is not None
                assert refusal.code == "UNAUTHENTICATED"
            assert who(old) is None
            assert who(server.callers.with_token(renewed.token(say(iss=OTHER)))) == "elsewhere"
            after, began = len(keys.requests), time.monotonic()
            for _ in range(10):
                server.hang_up()
            assert len(keys.requests) - after <= 1 + (time.monotonic() - began) / 10  # once in ten seconds


def test_an_issuer_that_is_away(nats_server: NatsServer, tmp_path: Path) -> None:
    """Without keys nothing can be said: try again; once they are there, calls are let in."""
    with key_server(content(b"", 503)) as keys:
        text = POLICY.replace("FILE", str(tmp_path / "missing.json")).replace("URL", keys.url)
        file = put(tmp_path / "auth.toml", text)
        with callers_with_rules(nats_server, file) as callers:
            for signer, iss in ((CORP, ISSUER), (ELSEWHERE, OTHER)):
                refusal = answer_to(callers.with_token(signer.token(say(iss=iss))))
                assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "IDENTITY_UNAVAILABLE")
            assert who(callers.with_token(token_of("static"))) == "static"
            wait_for(lambda: keys.requests)
