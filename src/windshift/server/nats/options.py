"""How to reach NATS: servers, credentials, TLS and every timer of the connection."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

DEFAULT_PORT = 4222


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One NATS server, with the credentials that its URL carried (never shown by `repr`)."""

    scheme: str
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The URL without credentials, fit for messages and logs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def wants_tls(self) -> bool:
        """Whether the URL asks for TLS."""
        return self.scheme == "tls"


def parse_servers(text: str) -> tuple[ServerAddress, ...]:
    """Read one or several comma-separated NATS URLs: ``nats://`` or ``tls://``, user and password or a token.

    Percent-encoded credentials are decoded. Raises `ValueError` with a message that repeats nothing of the
    text, since it may hold a password.
    """
    parts = [part.strip() for part in text.split(",")]
    if any("@" in part and "://" not in part for part in parts[1:]):  # the comma may be one of a password
        raise ValueError(
            "of several NATS servers each with credentials must begin with nats:// or tls://; "
            "write , in a password as %2C"
        )
    return tuple(parse_server(part) for part in parts)


def parse_server(text: str) -> ServerAddress:
    """Read one NATS URL; see `parse_servers`."""
    try:
        parts = urlsplit(text if "://" in text else f"nats://{text}")
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise ValueError("a NATS server's URL has a malformed host or port") from None
    if parts.scheme not in ("nats", "tls"):
        raise ValueError("a NATS server's URL must begin with nats:// or tls://")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        # What looks like a host may be the beginning of a password, and hosts are shown.
        raise ValueError(
            "a NATS server's URL must end with its host and port; write / ? # in a password as %2F %3F %23"
        )
    if not parts.hostname:
        raise ValueError("a NATS server's URL has no host")
    return ServerAddress(
        parts.scheme, parts.hostname, port, _decoded(parts.username), _decoded(parts.password)
    )


def _decoded(text: str | None) -> str | None:
    return None if text is None else unquote(text)


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Everything that a `Connection` can be told. Durations bound one step each, not the whole."""

    servers: tuple[ServerAddress, ...]
    credentials: Path | None = None
    """A NATS credentials file (JWT and seed)."""
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    name: str = "windshift"
    """Shown in NATS monitoring."""
    inbox_prefix: str = "_INBOX_windshift"
    """What replies are awaited below: one of our own, so that our user need not hear what others are told.
    No client publishes there: first tokens that begin with ``_INBOX`` are reserved.
    """
    start_timeout: timedelta = timedelta(seconds=5)
    """How long the first connect tries before it gives up. Later ones never do."""
    connect_timeout: timedelta = timedelta(seconds=2)
    """TCP, TLS and the handshake with one server, all together."""
    reconnect_wait: timedelta = timedelta(milliseconds=100)
    reconnect_wait_jitter: timedelta = timedelta(milliseconds=150)
    ping_interval: timedelta = timedelta(seconds=3)
    max_outstanding_pings: int = 2
    """A server that leaves this many pings unanswered counts as gone at the next: 9 seconds by default."""
    watch_interval: timedelta = timedelta(milliseconds=250)
    """How often the connection is looked at, should nats-py not tell of its end."""
    close_timeout: timedelta = timedelta(seconds=1)
    linger: timedelta = timedelta(seconds=3)
    """How long a connection that was left in good order is still listened to. A server that is about to stop
    closes its connections after 10 seconds or more.
    """

    @property
    def wants_tls(self) -> bool:
        """Whether TLS was asked for, and a server without it is to be refused."""
        files = (self.tls_ca, self.tls_certificate, self.tls_key)
        return any(files) or any(server.wants_tls for server in self.servers)

    def with_credentials_of_pool(self, server: ServerAddress) -> ServerAddress:
        """Lend a server without credentials those of the first that has some.

        A server that the cluster told us of comes without, and clusters share their users.
        """
        if server.user is not None:
            return server
        lender = next((known for known in self.servers if known.user is not None), None)
        if lender is None:
            return server
        return replace(server, user=lender.user, password=lender.password)


class WitnessedTls(ssl.SSLContext):
    """A client's TLS context that knows whether it was used.

    nats-py goes on in plain text when the server's greeting does not ask for TLS, whatever the URL says. The
    credentials must not travel then: see `Connection`.
    """

    used: bool = False

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Start a handshake, and remember that there was one (asyncio and uvloop come through here)."""
        self.used = True
        return super().wrap_bio(*args, **kwargs)


def tls_context(options: ConnectionOptions) -> WitnessedTls:
    """Build a context from the files as they are now: renewed ones count from the next connect on.

    Raises `OSError` (of which `ssl.SSLError` is one) when a file cannot be read or is no certificate.
    """
    context = WitnessedTls(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.tls_ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=options.tls_ca)
    if options.tls_certificate is not None:
        context.load_cert_chain(options.tls_certificate, options.tls_key)
    return context
