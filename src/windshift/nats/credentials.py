"""Who the client is: user and password, a token, a key (nkey), or a JWT with its key.

Keys sign the server's nonce (nats-server's ``auth.go``; ``nkeys``); the seed never leaves the process.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from math import inf
from pathlib import Path
from typing import Final

from windshift.nats.errors import ConnectFailed
from windshift.nats.options import ConnectionOptions, ServerAddress

_JWT: Final = re.compile(rb"-{3,}BEGIN NATS USER JWT-{3,}\s+([\w.=-]+)\s")
_SEED: Final = re.compile(rb"-{3,}BEGIN USER NKEY SEED-{3,}\s+(\w+)\s")
_BARE_SEED: Final = re.compile(rb"^\s*(SU[A-Z2-7]{50,})\s*$", re.MULTILINE)
_LARGEST_FILE: Final = 64 * 1024


def credentials(options: ConnectionOptions, server: ServerAddress, nonce: str) -> dict[str, str]:
    """Return the fields of ``CONNECT`` that identify the user.

    Raises:
        ConnectFailed: a file cannot be read or has no key, or ``nkeys`` is not installed.
    """
    said: dict[str, str] = {}
    if options.credentials is not None:
        text = _read(options.credentials, _UNREADABLE)
        jwt, seed = _JWT.search(text), _SEED.search(text)
        if jwt is None or seed is None:
            raise ConnectFailed(_NO_CREDENTIALS, final=True)
        said["jwt"] = jwt[1].decode()
        said["sig"], _ = _sign(seed[1], nonce, _NO_CREDENTIALS)
    elif options.nkey is not None:
        seed = _BARE_SEED.search(_read(options.nkey, "the nkey file cannot be read"))
        if seed is None:
            raise ConnectFailed(_NO_SEED, final=True)
        said["sig"], said["nkey"] = _sign(seed[1], nonce, _NO_SEED)
    user = server.user
    secret = server.password if options.password is None else _read_password(options.password)
    if user is not None and secret is not None:
        said["user"], said["pass"] = user, secret
    elif (token := secret if user is None else user) is not None:
        said["auth_token"] = token
    return said


def _read_password(file: Path) -> str:
    try:
        password = _read(file, "the password file cannot be read").decode().rstrip("\r\n")
    except UnicodeDecodeError:
        password = ""
    if not password:
        raise ConnectFailed("the password file does not hold a password", final=True)
    return password


def credentials_expiry(file: Path) -> float:
    """Return when the JWT of a credentials file expires, in seconds since 1970; infinite = never.

    Raises:
        ConnectFailed: the file cannot be read or has no JWT.
    """
    jwt = _JWT.search(_read(file, _UNREADABLE))
    try:
        _, claims, _ = (b"" if jwt is None else jwt[1]).split(b".")
        return float(json.loads(urlsafe_b64decode(claims + b"==")).get("exp") or inf)
    except (ValueError, TypeError, AttributeError):
        raise ConnectFailed(_NO_CREDENTIALS, final=True) from None


_UNREADABLE: Final = "the credentials file cannot be read"
_NO_CREDENTIALS: Final = "the credentials file does not hold a user's JWT and seed"
_NO_SEED: Final = "the nkey file does not hold a user's seed"


def _read(file: Path, failure: str) -> bytes:
    try:
        if not file.is_file():  # opening a pipe would block the event loop
            raise ConnectFailed(failure, final=True)
        with file.open("rb") as opened:
            return opened.read(_LARGEST_FILE)
    except OSError as error:
        raise ConnectFailed(failure, final=True) from error


def _sign(seed: bytes, nonce: str, failure: str) -> tuple[str, str]:
    """Return the signature of the nonce, and the public key."""
    try:
        import nkeys  # noqa: PLC0415 - only who has a key needs it
    except ImportError:
        raise ConnectFailed("signing with a key needs the package nkeys", final=True) from None
    try:
        pair = nkeys.from_seed(bytearray(seed))
        signature = urlsafe_b64encode(pair.sign(nonce.encode())).rstrip(b"=")  # the server accepts no padding
        return signature.decode(), pair.public_key.decode()
    except (nkeys.NkeysError, ValueError) as error:
        raise ConnectFailed(failure, final=True) from error
