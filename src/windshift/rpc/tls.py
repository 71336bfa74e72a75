"""TLS contexts for HTTP/2, and certificates that can be replaced while the server runs."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final, Self

_NO_TLS: Final = frozenset({"HTTP_REQUEST", "WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG"})


def server_tls(
    certificate: Path, key: Path, client_ca: Path | None = None, *, client_required: bool = True
) -> ssl.SSLContext:
    """Return a server's context: TLS 1.2 or newer, ALPN ``h2``.

    Args:
        certificate: PEM file with the certificate and its chain.
        key: PEM file with its private key.
        client_ca: PEM file of the authorities to verify client certificates against.
        client_required: whether clients must present one; if not, one that is presented must still be valid.

    Raises:
        OSError: a file cannot be read. ``ssl.SSLError``, a subclass: it has no certificate or key, or the key
            does not match the certificate or has a password.
    """
    kind = ssl.SSLContext if client_ca is None else _WithoutResumption
    context = kind(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(certificate, key, password="")  # else OpenSSL would ask the terminal
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if client_required else ssl.CERT_OPTIONAL
        context.num_tickets = 0  # useless here
        context.options |= ssl.OP_NO_TICKET
    return context


def objection(context: ssl.SSLContext, certificate: Path) -> str | None:
    """Return why clients will reject a server's certificate even if they trust its issuer, or None.

    For example because it has expired, or is for clients only. Determined by a handshake in memory with a
    client that trusts the certificate itself.

    Args:
        context: made by ``server_tls``.
        certificate: its certificate.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = client.wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True)
    for side in sides * 2:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return str(error.verify_message)
        break
    return None


class _WithoutResumption(ssl.SSLContext):
    """A context that verifies the client's certificate on each connection.

    OpenSSL does not verify it when a session is resumed, though it may have expired since. Here each
    handshake begins with a context of its own, without sessions, and continues with this one: 0.1 ms and 12
    KiB per connection. (Python cannot turn off the session cache that TLS 1.2 has besides tickets.)
    """

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Begin the handshake of a new connection; called by the event loop."""
        front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        front.minimum_version, front.options = self.minimum_version, self.options
        front.num_tickets, front.verify_mode = self.num_tickets, self.verify_mode  # a swap leaves these alone
        front.sni_callback = self._swap  # called without SNI as well
        return front.wrap_bio(*args, **kwargs)

    def _swap(self, connection: ssl.SSLObject, name: str | None, front: ssl.SSLContext) -> None:
        connection.context = self


class ReplaceableTls(ssl.SSLContext):
    """A context for ``Server.listen`` that leaves each handshake to another one, which can be replaced.

    Open connections keep theirs. Reloading files into a context in use would not work: a key that does not
    match breaks it, an RSA certificate does not replace one with an elliptic curve, and sessions admitted by
    removed authorities could still be resumed.
    """

    _current: ssl.SSLContext

    def __new__(cls) -> Self:
        """Make one; call ``replace`` before it is used."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def replace(self, context: ssl.SSLContext) -> None:
        """Use this context, made by ``server_tls``, for new connections."""
        self._current = context

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Begin the handshake of a new connection; called by the event loop."""
        return self._current.wrap_bio(*args, **kwargs)


def handshake_failure(error: ssl.SSLError) -> str:
    """Say in one line why a handshake failed; the client only sees a closed connection."""
    reason = error.reason or "no reason"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is not valid here: {error.verify_message}"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "the client showed no certificate"
    if reason in _NO_TLS:
        return "what the client sent is not TLS"
    if "_ALERT_" in reason:
        return f"the client broke off, as when it does not trust the server's certificate ({reason})"
    return f"the TLS handshake failed ({reason})"


def client_tls(
    ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """Return a client's context, which verifies the server; ALPN ``h2``.

    Args:
        ca: PEM file of the authorities to trust; None = the system's.
        certificate: PEM file with the client's own certificate, for servers that ask for one.
        key: PEM file with its private key.

    Raises:
        OSError: see ``server_tls``.
    """
    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if certificate is not None:
        context.load_cert_chain(certificate, key, password="")  # else OpenSSL would ask the terminal
    return context
