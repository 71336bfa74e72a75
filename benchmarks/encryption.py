"""What TLS costs: publishes with it beside publishes without."""

from __future__ import annotations

from pathlib import Path

from tests.support.certificates import Authority

from .bench import Bench
from .comparing import Way, compare_publishing
from .processes import windshift_server

TLS = "tls"
PLAIN, ENCRYPTED = "plain text", "TLS 1.3"


def settings(directory: Path) -> dict[str, str]:
    """Make a certificate, and return the settings of a server that shows it."""
    pair = Authority(directory).issue("server")
    return {"GRPC_TLS_CERT": str(pair.certificate), "GRPC_TLS_KEY": str(pair.key)}


async def measure_tls(bench: Bench) -> None:
    """Publish as fast as publishes are answered, to a server with TLS and to one without."""
    if not bench.has_h2load("tls"):
        return
    environment = settings(bench.directory)
    async with (
        windshift_server(bench.directory, bench.nats) as plain,
        windshift_server(bench.directory, bench.nats, environment=environment) as encrypted,
    ):
        ways = {PLAIN: Way(plain), ENCRYPTED: Way(encrypted, tls=True)}
        await compare_publishing(bench, TLS, ways, plain, bench.options.scaled(120_000))
