"""How to connect to NATS: servers, credentials, TLS, and every timer of the connection."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

DEFAULT_PORT = 4222


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One NATS server, with the credentials that its URL carried (never shown by `repr`).

    A `user` without a `password` is a token, unless `ConnectionOptions.password` has one. `tls_name` is the
    name that its certificate must have, if not the host.
    """

    scheme: str
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls_name: str | None = None

    @property
    def url(self) -> str:
        """The URL without credentials, for messages and logs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def wants_tls(self) -> bool:
        """Whether the URL asks for TLS."""
        return self.scheme == "tls"


def parse_servers(text: str) -> tuple[ServerAddress, ...]:
    """Parse comma-separated NATS URLs: ``nats://`` or ``tls://``, with user and password or a token.

    Percent-encoded credentials are decoded. Raises `ValueError` with a message that quotes nothing of the
    text, since it may contain a password.
    """
    parts = [part.strip() for part in text.split(",")]
    if any("@" in part and "://" not in part for part in parts[1:]):  # the comma may be part of a password
        raise ValueError(
            "of several NATS servers each with credentials must begin with nats:// or tls://; "
            "write , in a password as %2C"
        )
    return tuple(parse_server(part) for part in parts)


def parse_server(text: str) -> ServerAddress:
    """Parse one NATS URL; see `parse_servers`."""
    try:
        parts = urlsplit(text if "://" in text else f"nats://{text}")
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise ValueError("a NATS server's URL has a malformed host or port") from None
    if parts.scheme not in ("nats", "tls"):
        raise ValueError("a NATS server's URL must begin with nats:// or tls://")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        # What looks like a host may be the start of a password, and hosts are shown.
        raise ValueError(
            "a NATS server's URL must end with its host and port; write / ? # in a password as %2F %3F %23"
        )
    if not parts.hostname:
        raise ValueError("a NATS server's URL has no host")
    return ServerAddress(
        parts.scheme, parts.hostname, port, _decoded(parts.username), _decoded(parts.password)
    )


def _is_number(server: ServerAddress) -> bool:
    return ":" in server.host or server.host.replace(".", "").isdigit()


def _decoded(text: str | None) -> str | None:
    return None if text is None else unquote(text)


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """The options of a `Connection`. Each duration bounds one step, not the whole.

    Files are read at each connect, so renewed ones apply from the next one on.
    """

    servers: tuple[ServerAddress, ...]
    credentials: Path | None = None
    """A credentials file: a user's JWT and nkey seed."""
    nkey: Path | None = None
    """A file with a user's nkey seed."""
    password: Path | None = None
    """A file with the password of the servers' users, or a token where they have none."""
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_first: bool = False
    """Whether to start with TLS, for a server with ``handshake_first``."""
    name: str = ""
    """Shown in NATS monitoring."""
    log_level: int = logging.INFO
    """With which level it is logged that the connection was made, and that it was closed on demand."""
    inbox_prefix: str = "_INBOX"
    """The prefix of inboxes. With one of its own, a user needs no permission to see replies to others."""
    start_timeout: timedelta = timedelta(seconds=5)
    """How long the first connect retries. Later ones retry forever."""
    connect_timeout: timedelta = timedelta(seconds=2)
    """For TCP, TLS and the handshake with one server together."""
    reconnect_wait: timedelta = timedelta(milliseconds=250)
    """The longest pause between attempts to connect; the shortest is half of it."""
    ping_interval: timedelta = timedelta(seconds=3)
    max_outstanding_pings: int = 2
    """With this many unanswered pings, a server counts as gone at the next: 9 seconds by default."""
    close_timeout: timedelta = timedelta(seconds=1)
    """How long a server that does not read delays the end of a connection."""
    linger: timedelta = timedelta(seconds=3)
    """How long a wire still receives after a move to another server. A server in lame-duck mode closes its
    connections after 10 seconds or more.
    """

    @property
    def wants_tls(self) -> bool:
        """Whether TLS is required, so that a server without it is refused."""
        files = (self.tls_ca, self.tls_certificate, self.tls_key)
        return self.tls_first or any(files) or any(server.wants_tls for server in self.servers)

    def discovered(self, url: str) -> ServerAddress | None:
        """Return the server for a ``host:port`` that a cluster announced; None if it is malformed.

        It has no credentials of its own, but clusters share their users: it gets those of the first server
        with credentials. If it is an IP address, its certificate must be for the first configured host name.
        """
        try:
            server = parse_server(url)
        except ValueError:
            return None
        lender = next((known for known in self.servers if known.user is not None), None)
        if lender is not None:
            server = replace(server, user=lender.user, password=lender.password)
        if _is_number(server):
            name = next((known.host for known in self.servers if not _is_number(known)), None)
            server = replace(server, tls_name=name)
        return server
