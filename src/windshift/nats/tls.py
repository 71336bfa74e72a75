"""TLS contexts for connections to NATS, built from the files as they are now."""

from __future__ import annotations

import ssl
from typing import Final, NoReturn

from windshift.nats.errors import ConnectFailed
from windshift.nats.options import ConnectionOptions


def client_context(options: ConnectionOptions) -> ssl.SSLContext:
    """Build a context from the files as they are now.

    Raises:
        ConnectFailed: a file cannot be read or is not a certificate or key, or the key is encrypted.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files = (options.tls_ca, options.tls_certificate, options.tls_key)
    if not all(file.is_file() for file in files if file is not None):  # a pipe would block the event loop
        raise ConnectFailed(_UNUSABLE, final=True)
    try:
        if options.tls_ca is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            context.load_verify_locations(cafile=options.tls_ca)
        if options.tls_certificate is not None:
            context.load_cert_chain(options.tls_certificate, options.tls_key, password=_refuse)
    except OSError as error:
        raise ConnectFailed(_UNUSABLE, final=True) from error
    return context


def _refuse() -> NoReturn:
    """Answer OpenSSL's password prompt, which would block the event loop."""
    raise ConnectFailed("the TLS key is encrypted; give one that needs no password", final=True)


_UNUSABLE: Final = "the TLS files cannot be used"
