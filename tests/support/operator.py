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


def _sign(
    issuer: Keys, subject: str, name: str, claims: Mapping[str, object], expires: int | None = None
) -> str:
    """Write a JWT as NATS wants it."""
    header = _b64(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    told = {
        "jti": name,
        "iat": int(time.time()),
        "iss": issuer.public,
        "name": name,
        "sub": subject,
        "nats": {**claims, "version": 2},
        **({} if expires is None else {"exp": expires}),
    }
    body = _b64(json.dumps(told).encode())
    return f"{header}.{body}.{_b64(issuer.pair.sign(f'{header}.{body}'.encode()))}"


class Operator:
    """An operator with one account beside the system's, and one user of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._operator = _keys(nkeys.PREFIX_BYTE_OPERATOR)
        self._jwt = _sign(self._operator, self._operator.public, "operator", {"type": "operator"})
        self._system, self._account = _keys(nkeys.PREFIX_BYTE_ACCOUNT), _keys(nkeys.PREFIX_BYTE_ACCOUNT)
        self._user = _keys(nkeys.PREFIX_BYTE_USER)

    def write_config(self, *, connections: int = -1, revoked: bool = False) -> Path:
        """Write a nats-server configuration; return its path.

        Args:
            connections: how many the account may have; -1 = any number.
            revoked: whether what the user was given until now counts no longer.
        """
        limits = {**_UNLIMITED, "wildcards": True, "conn": connections}
        claims: dict[str, object] = {"type": "account", "limits": limits}
        if revoked:
            claims["revocations"] = {self._user.public: int(time.time())}
        operator, system, account = self._operator, self._system, self._account
        accounts = {
            system.public: _sign(operator, system.public, "SYS", {"type": "account"}),
            account.public: _sign(operator, account.public, "APP", claims),
        }
        config = self._directory / "operator.conf"
        config.write_text(
            f"operator: {self._jwt}\n"
            f"system_account: {system.public}\n"
            "resolver: MEMORY\n"
            f"resolver_preload: {json.dumps(accounts)}\n"
        )
        return config

    def write_credentials(
        self, permissions: Mapping[str, object] | None = None, expires: int | None = None
    ) -> Path:
        """Write the user's credentials; return their path.

        Args:
            permissions: as the JWT has them: ``pub`` and ``sub``.
            expires: when they end, in seconds since 1970; None = never.
        """
        rights = {"type": "user", "subs": -1, "data": -1, "payload": -1, **(permissions or {})}
        jwt = _sign(self._account, self._user.public, "user", rights, expires)
        credentials = self._directory / "user.creds"
        credentials.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self._user.seed}\n------END USER NKEY SEED------\n"
        )
        return credentials


def write_operator(directory: Path, permissions: Mapping[str, object] | None = None) -> tuple[Path, Path]:
    """Write a nats-server configuration and the credentials of a user that it knows; return both paths."""
    operator = Operator(directory)
    return operator.write_config(), operator.write_credentials(permissions)


def user_key() -> Keys:
    """Make the key of a user that a nats-server's configuration names."""
    return _keys(nkeys.PREFIX_BYTE_USER)
