"""Rules for a server with authorization, and the credentials of those who may call it.

Everything is made anew for each run, and good for nothing but that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from windshift.server.auth.tokens import make_token, token_digest

_PRINCIPALS = 50
_ISSUER = "https://id.example"
_AUDIENCE = "windshift"
_LIFETIME = 3600

_ROLE = """
[role.service]
publish = ["orders.*.created", "billing.>", "audit.*.*.seen", "shipping.eu.>", "*"]
streams = { manage = ["*"], bind = [">"], consume = ["*"], subjects = [">"] }
consumers = { use = ["*"] }
"""
"""What the subjects of measurements need stands last."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What was written for a server.

    Attributes:
        file: the authorization file.
        token: the static token of one of its principals.
        key: signs the tokens of its issuer.
    """

    file: Path
    token: str
    key: ec.EllipticCurvePrivateKey

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a server that keeps them."""
        return {"WINDSHIFT_AUTH_FILE": str(self.file)}

    def tokens(self, count: int) -> Iterator[str]:
        """Sign different JSON web tokens, all of one principal."""
        now = int(time.time())
        claims = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": f"service:{_PRINCIPALS - 1}"}
        times = {"iat": now, "exp": now + _LIFETIME}
        for number in range(count):
            named = claims | times | {"jti": f"{number:032x}"}
            yield jwt.encode(named, self.key, "ES256", headers={"kid": "bench"})


def write_rules(directory: Path, *, issuer: bool) -> Rules:
    """Write an authorization file with 50 principals, each with a static token.

    Args:
        directory: for the file, and the issuer's keys.
        issuer: whether principals may come with a JSON web token as well.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    tokens = [make_token(f"service-{number}") for number in range(_PRINCIPALS)]
    text = ""
    if issuer:
        keys = directory / "keys.json"
        keys.write_text(json.dumps({"keys": [_public(key)]}))
        text = (
            f'[[issuers]]\nname = "bench"\nissuer = "{_ISSUER}"\naudience = "{_AUDIENCE}"\n'
            f'jwks = {json.dumps(str(keys))}\nalgorithms = ["ES256"]\n'
        )
    for number, token in enumerate(tokens):
        text += (
            f'[[principals]]\nname = "service-{number}"\nroles = ["service"]\n'
            f'token_sha256 = ["{token_digest(token).hex()}"]\n'
        )
        if issuer:
            text += f'jwt = {{ issuer = "bench", sub = "service:{number}" }}\n'
    file = directory / ("issuer.toml" if issuer else "tokens.toml")
    file.write_text(text + _ROLE)
    return Rules(file, tokens[-1], key)


def bearer(token: str) -> str:
    """Return the value of the header ``authorization``."""
    return f"Bearer {token}"


def credentials_of(token: str) -> list[tuple[str, str]]:
    """Return the metadata of a call; none without a token."""
    return [("authorization", bearer(token))] if token else []


def _public(key: ec.EllipticCurvePrivateKey) -> dict[str, object]:
    described = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**described, "kid": "bench", "use": "sig", "alg": "ES256"}
