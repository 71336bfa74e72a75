"""TLS of the API: a context built from the configured files, and rebuilt when they change."""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from windshift.nats import ConnectFailed
from windshift.nats.credentials import credentials_expiry
from windshift.rpc import ReplaceableTls, objection, server_tls
from windshift.server.background.reloading import NotUsable, Watched, refuse_pipes
from windshift.server.background.writers import other_writers
from windshift.server.config.tree import ClientAuth, NatsConfig, ServerConfig

_log = logging.getLogger(__name__)

_VARIABLES: Final = ("GRPC_TLS_CERT", "GRPC_TLS_KEY", "GRPC_TLS_CLIENT_CA")

_LONGEST: Final = 4 * 1024 * 1024

_CERTIFICATE: Final = b"CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"
_ENCRYPTED: Final = (b"ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED")


class TlsNotUsable(NotUsable):
    """The files cannot be read, or do not match, or others decide which clients get in."""


class ApiTls:
    """The TLS context of the API, reloaded from files. Open connections keep theirs.

    Args:
        certificate: PEM file with the certificate and its chain.
        key: PEM file with its private key.
        client_ca: PEM file of the authorities to verify client certificates against.
        client_auth: whether clients must present a certificate, if `client_ca` is set.

    Attributes:
        context: for the gRPC server; not usable before `watched` has started.
        watched: loads the files.
        not_after: when the first certificate of the chain expires, in seconds since 1970; infinite before
            `watched` has started, and if that cannot be read.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None, client_auth: ClientAuth) -> None:
        self._files = certificate, key, client_ca
        self._client_required = client_auth is ClientAuth.REQUIRE
        self.context = ReplaceableTls()
        self.not_after = math.inf
        self.watched = Watched("tls", filter(None, self._files), self._load, self._take)

    def _take(self, loaded: tuple[ssl.SSLContext, float]) -> None:
        context, self.not_after = loaded
        self.context.replace(context)

    def _load(self) -> tuple[ssl.SSLContext, float]:
        """Return the context, and when its certificate expires."""
        certificate, key, client_ca = self._files
        refuse_pipes(self.watched.paths)
        files = [_read(*named) for named in zip(_VARIABLES, self.watched.paths, strict=False)]
        if client_ca and (others := other_writers(client_ca, client_ca.stat().st_mode)):
            raise TlsNotUsable(f"{_VARIABLES[2]}: {client_ca}: {others}")
        try:
            context = server_tls(certificate, key, client_ca, client_required=self._client_required)
            against = objection(context, certificate)
        except ssl.SSLError as error:
            raise TlsNotUsable(_what_is_wrong(files, error.reason or "")) from error
        except OSError as error:
            raise TlsNotUsable(f"{error.filename}: {error.strerror}") from error
        if against is not None:
            _log.warning("clients will not accept the certificate in %s: %s", certificate, against)
        try:
            not_after = _first_end(files[0].text)
        except ValueError:
            not_after = math.inf
        return context, not_after


def broker_credentials_expiry(config: NatsConfig) -> float:
    """Return when the first of what NATS is shown expires, in seconds since 1970; 0 = a file cannot be used.

    Infinite if there is nothing that expires.
    """
    jwt, certificate = config.credentials, config.tls.certificate
    try:
        found = [] if jwt is None else [credentials_expiry(jwt)]
        if certificate is not None:
            refuse_pipes([certificate])
            found.append(_first_end(certificate.read_bytes()))
    except (ConnectFailed, NotUsable, OSError, ValueError):
        return 0.0
    return min(found, default=math.inf)


def _first_end(chain: bytes) -> float:
    """Return when the first certificate of a chain in PEM expires. Raise `ValueError` if none can be read."""
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415 - 10 MB that only TLS needs

    return min(each.not_valid_after_utc.timestamp() for each in load_pem_x509_certificates(chain))


class _File(NamedTuple):
    variable: str
    path: Path
    text: bytes


def _read(variable: str, path: Path) -> _File:
    """Read a file to diagnose it: OpenSSL's errors do not even name the file."""
    try:
        with path.open("rb") as file:
            return _File(variable, path, file.read(_LONGEST))
    except OSError as error:
        raise TlsNotUsable(f"{variable}: {path}: {error.strerror}") from error


def _what_is_wrong(files: Sequence[_File], reason: str) -> str:
    """Say which file OpenSSL means, judging by their PEM headers, and what to change."""
    certificate, key, *_ = files
    for each in files:
        wanted, what = (_KEY, "private key") if each is key else (_CERTIFICATE, "certificate")
        if wanted not in each.text:
            others = ((_KEY, " but a key"), (_CERTIFICATE, " but a certificate"))
            held = next((held for mark, held in others if mark in each.text), "")
            return f"{each.variable}: {each.path} holds no {what} in PEM{held}"
    if any(mark in key.text for mark in _ENCRYPTED):
        return f"{key.variable}: {key.path} has a password; write it without: openssl pkey -in OLD -out NEW"
    if reason == "KEY_VALUES_MISMATCH":
        return f"{key.variable}: {key.path} is not the key of the first certificate in {certificate.path}"
    names = ", ".join(f"{each.variable}: {each.path}" for each in files)
    return f"cut off or damaged ({reason or 'no reason'}) is one of {names}"


def api_tls(config: ServerConfig) -> ApiTls | None:
    """Return the configured TLS; None = plain text."""
    files = config.grpc.tls
    if files.certificate is None or files.key is None:
        return None
    return ApiTls(files.certificate, files.key, files.ca, config.grpc.client_auth)
