"""An issuer of JSON web tokens that can also make those that no honest one would."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from windshift.server.auth.permissions import Permissions
from windshift.server.auth.policy import Issuer, JwtSubject, Policy, Principal

ISSUER = "https://id.example"
AUDIENCE = "windshift"
SUBJECT = "repo:acme/app"


def base64url(data: bytes) -> str:
    """Return base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def part(value: object) -> str:
    """Return a header or a payload as a token has it; bytes stand for themselves."""
    return base64url(value if isinstance(value, bytes) else json.dumps(value).encode())


@cache
def rsa_key(number: int, bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return an RSA key, always the same for a number: they take long to make."""
    return rsa.generate_private_key(65537, bits)


class Signer:
    """A private key.

    Attributes:
        key_id: how the key set calls it; None = it does not.
        algorithm: what it signs by.
    """

    def __init__(
        self, key_id: str | None = "one", algorithm: str = "ES256", *, number: int = 0, bits: int = 2048
    ) -> None:
        self.key_id = key_id
        self.algorithm = algorithm
        self.private: Any
        if algorithm == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
        elif algorithm.startswith("ES"):
            curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
            self.private = ec.generate_private_key(curves[algorithm])
        else:
            self.private = rsa_key(number, bits)

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """Return the public key as a key set has it; None in `changes` leaves something out."""
        key = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key(), as_dict=True)
        key.pop("key_ops", None)
        key |= {"kid": self.key_id, "alg": self.algorithm, "use": "sig"} | changes
        return {name: value for name, value in key.items() if value is not None}

    def pem(self) -> bytes:
        """Return the public key as a PEM file has it."""
        pem: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    def sign(self, message: str, algorithm: str | None = None, private: Any = None) -> str:
        """Return a signature as a token has it."""
        signer = jwt.get_algorithm_by_name(algorithm or self.algorithm)
        return base64url(signer.sign(message.encode(), private or self.private))

    def token(self, payload: object, **header: Any) -> str:
        """Return a signed token. None in `header` leaves something out; `payload` may be bytes."""
        whole = {"typ": "JWT", "alg": self.algorithm, "kid": self.key_id} | header
        message = f"{part({k: v for k, v in whole.items() if v is not None})}.{part(payload)}"
        return f"{message}.{self.sign(message)}"


def claims(now: float, **changes: Any) -> dict[str, Any]:
    """Return the claims of a token that is valid for an hour; None in `changes` leaves something out."""
    start = int(now)
    whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": SUBJECT, "iat": start, "exp": start + 3600}
    return {name: value for name, value in (whole | changes).items() if value is not None}


def key_set(*keys: Signer | dict[str, Any]) -> bytes:
    """Return a key set."""
    entries = [key.jwk() if isinstance(key, Signer) else key for key in keys]
    return json.dumps({"keys": entries}).encode()


def write_key_set(path: Path, *keys: Signer | dict[str, Any]) -> Path:
    """Write a key set to a file. Return the path."""
    path.touch(0o644)  # a server refuses one that a group may write to
    path.write_bytes(key_set(*keys))
    return path


def issuer(jwks: str | Path, *algorithms: str, name: str = "corp", iss: str = ISSUER) -> Issuer:
    """Return an issuer; without algorithms it is one of ES256."""
    return Issuer(name, iss, (AUDIENCE,), str(jwks), algorithms or ("ES256",))


def policy(*issuers: Issuer, subject: str = SUBJECT) -> Policy:
    """Return a policy in which `ci` is the `subject` of the first issuer, `other` that of the others."""
    by_subject = {}
    for number, each in enumerate(issuers):
        name = "other" if number else "ci"
        jwt = JwtSubject(each.name, subject)
        by_subject[jwt] = Principal(name, Permissions(), jwt=(jwt,))
    return Policy(
        {principal.name: principal for principal in by_subject.values()},
        {each.name: each for each in issuers},
        by_subject,
    )
