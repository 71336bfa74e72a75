"""A NATS operator with one account: what a NATS_CREDS file is about."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys

_COUNTED = (
    *("subs", "data", "payload", "imports", "exports", "conn", "leaf"),
    *("mem_storage", "disk_storage", "streams", "consumer"),
)
_UNLIMITED = dict.fromkeys(_COUNTED, -1)


@dataclass(frozen=True, slots=True)
class Keys:
    """An nkey."""

    pair: Any
    public: str
    seed: str


def _keys(kind: int) -> Keys:
    seed = nkeys.encode_seed(os.urandom(32), kind)
    pair = nkeys.from_seed(seed)
    return Keys(pair, pair.public_key.decode(), bytes(seed).decode())


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _sign(issuer: Keys, subject: str, name: str, claims: Mapping[str, object]) -> str:
    """Write a JWT as NATS wants it."""
    header = _b64(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    body = _b64(
        json.dumps(
            {
                "jti": name,
                "iat": int(time.time()),
                "iss": issuer.public,
                "name": name,
                "sub": subject,
                "nats": {**claims, "version": 2},
            }
        ).encode()
    )
    return f"{header}.{body}.{_b64(issuer.pair.sign(f'{header}.{body}'.encode()))}"


def write_operator(directory: Path, permissions: Mapping[str, object] | None = None) -> tuple[Path, Path]:
    """Write a nats-server configuration and the credentials of a user that it knows; return both paths.

    `permissions` are those of the user, as its JWT has them: ``pub`` and ``sub``.
    """
    operator = _keys(nkeys.PREFIX_BYTE_OPERATOR)
    system, account = _keys(nkeys.PREFIX_BYTE_ACCOUNT), _keys(nkeys.PREFIX_BYTE_ACCOUNT)
    user = _keys(nkeys.PREFIX_BYTE_USER)
    limits = {"type": "account", "limits": {**_UNLIMITED, "wildcards": True}}
    accounts = {
        system.public: _sign(operator, system.public, "SYS", {"type": "account"}),
        account.public: _sign(operator, account.public, "APP", limits),
    }
    config = directory / "operator.conf"
    config.write_text(
        f"operator: {_sign(operator, operator.public, 'operator', {'type': 'operator'})}\n"
        f"system_account: {system.public}\n"
        "resolver: MEMORY\n"
        f"resolver_preload: {json.dumps(accounts)}\n"
    )
    rights = {"type": "user", "subs": -1, "data": -1, "payload": -1, **(permissions or {})}
    jwt = _sign(account, user.public, "user", rights)
    credentials = directory / "user.creds"
    credentials.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    return config, credentials
