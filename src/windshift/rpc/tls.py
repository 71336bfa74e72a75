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
        client_ca: PEM file of the authorities whose client certificates are accepted; with it a client
            must show one.
        client_required: whether it must; if not, one that it shows has to be good all the same.

    Raises:
        OSError: a file cannot be read (``ssl.SSLError`` is one: it holds no such thing, or the key does not
            fit the certificate, or wants a password).
    """
    kind = ssl.SSLContext if client_ca is None else _WithoutResumption
    context = kind(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(certificate, key, password=_no_password)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if client_required else ssl.CERT_OPTIONAL
        context.num_tickets = 0  # they would be good for nothing
        context.options |= ssl.OP_NO_TICKET
    return context


def _no_password() -> str:
    """Stand in for OpenSSL's question on the terminal, for which a server would wait."""
    return ""


def objection(context: ssl.SSLContext, certificate: Path) -> str | None:
    """Return what clients have against a server's certificate even if they trust who signed it.

    That is, for instance, that it has expired, or is for clients alone. It comes of a handshake in memory
    with one that trusts the certificate itself.

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
    """A context that looks at the client's certificate anew with each connection.

    When a session is resumed OpenSSL does not: the certificate may have expired meanwhile. Here each
    handshake begins with a context of its own, which knows no sessions, and goes on with this one: 0.1 ms and
    12 KiB for a connection. (Python cannot switch off the cache of sessions that TLS 1.2 has beside tickets.)
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

    Open connections keep what they began with. A live context must not be loaded again instead: a key that
    does not fit breaks it, an RSA certificate does not take the place of one with an elliptic curve, and
    sessions that the old authorities had let in could still be resumed.
    """

    _current: ssl.SSLContext

    def __new__(cls) -> Self:
        """Make one that must be given another context before it is used."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def replace(self, context: ssl.SSLContext) -> None:
        """Use this one, made by ``server_tls``, for connections from now on."""
        self._current = context

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Begin the handshake of a new connection; called by the event loop."""
        return self._current.wrap_bio(*args, **kwargs)


def handshake_failure(error: ssl.SSLError) -> str:
    """Say why a server let a client in no further, in one line: the client sees a closed connection."""
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
    """Return a client's context: verifies the server, ALPN ``h2``.

    Args:
        ca: PEM file of the authorities to trust; None = those of the system.
        certificate: PEM file with the client's own certificate, for servers that ask for one.
        key: PEM file with its private key.

    Raises:
        OSError: see ``server_tls``.
    """
    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if certificate is not None:
        context.load_cert_chain(certificate, key, password=_no_password)
    return context
