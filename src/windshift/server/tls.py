"""TLS of the API: a context made of the configured files, and made anew when they change."""

from __future__ import annotations

import ssl
from pathlib import Path

from windshift.rpc import ReplaceableTls, server_tls
from windshift.server.config import ClientAuth, ServerConfig
from windshift.server.reloading import NotUsable, Watched, refuse_pipes


class TlsNotUsable(NotUsable):
    """The files cannot be read, or do not fit together."""


class ApiTls:
    """What the API shows to clients, and whom it lets in. Connections that are open keep what they have.

    Args:
        certificate: PEM file with the certificate and its chain.
        key: PEM file with its private key.
        client_ca: PEM file of the authorities whose client certificates are accepted.
        client_auth: whether a client must show one, where there are such authorities.

    Attributes:
        context: for the gRPC server; of no use before `watched` has started.
        watched: loads the files.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None, client_auth: ClientAuth) -> None:
        self._files = certificate, key, client_ca
        self._client_required = client_auth is ClientAuth.REQUIRE
        self.context = ReplaceableTls()
        self.watched = Watched("tls", filter(None, self._files), self._load, self.context.replace)

    def _load(self) -> ssl.SSLContext:
        try:
            refuse_pipes(self.watched.paths)
            for path in self.watched.paths:
                path.open("rb").close()  # the errors of OpenSSL do not name the file
            return server_tls(*self._files, client_required=self._client_required)
        except ssl.SSLError as error:
            reason = error.reason or "not usable"
            raise TlsNotUsable(
                f"{reason}; they must be PEM files, and the key the certificate's and without a password"
            ) from error
        except OSError as error:
            raise TlsNotUsable(f"{error.filename}: {error.strerror}") from error
        except NotUsable as error:
            raise TlsNotUsable(str(error)) from error


def api_tls(config: ServerConfig) -> ApiTls | None:
    """Make what is configured. None: the API speaks plain text."""
    files = config.grpc_tls
    if files is None or files.certificate is None or files.key is None:
        return None
    return ApiTls(files.certificate, files.key, files.ca, config.grpc_client_auth)
