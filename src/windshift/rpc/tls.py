"""TLS contexts for HTTP/2, and certificates that can be replaced while the server runs."""

from __future__ import annotations

import ssl
from pathlib import Path


def server_tls(certificate: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """Return a server's context: TLS 1.2 or newer, ALPN ``h2``.

    Args:
        certificate: PEM file with the certificate and its chain.
        key: PEM file with its private key.
        client_ca: PEM file of the authorities whose client certificates are accepted; with it a client
            must show one.

    Raises:
        OSError: a file cannot be read (``ssl.SSLError`` is one: it holds no such thing, or the key does not
            fit the certificate).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


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
        context.load_cert_chain(certificate, key)
    return context
