"""Warns about an API that is open to other machines."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from windshift.server.config.tree import ServerConfig

log = logging.getLogger(__name__)

_OPEN = (
    "serving other machines without authorization: whoever reaches %s:%d may do everything. "
    "WINDSHIFT_INSECURE allows it; set WINDSHIFT_AUTH_FILE, or GRPC_HOST=127.0.0.1"
)
_PLAIN = (
    "serving other machines without TLS: tokens travel in plain text, unless a proxy in front of %s:%d ends "
    "TLS. Set GRPC_TLS_CERT and GRPC_TLS_KEY"
)


def is_readable(config: ServerConfig) -> bool:
    """Return whether credentials travel over the network in plain text."""
    return (
        config.auth.file is not None
        and config.grpc.tls.certificate is None
        and not config.grpc.listen.loopback
    )


async def warn(config: ServerConfig, port: int, every: timedelta = timedelta(hours=1)) -> None:
    """Log what is unsafe about a server on this port: once, and an open API every hour."""
    if is_readable(config):
        log.warning(_PLAIN, config.grpc.listen.host, port)
    while config.is_open:
        log.warning(_OPEN, config.grpc.listen.host, port)
        await asyncio.sleep(every.total_seconds())
