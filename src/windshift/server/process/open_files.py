"""How many files, and so connections, this process may have open."""

from __future__ import annotations

import resource
from typing import Final

_RESERVED: Final = 384
"""Open files reserved for everything but API connections: probes (256), NATS, telemetry, the rest."""


def allow_connections(wanted: int) -> int:
    """Raise the limit on open files for this many connections, and return how many are possible.

    It is not raised beyond the hard limit, which only an administrator can raise. If it is very low, a
    quarter is reserved for the rest of the process.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _raised(soft, hard, wanted + _RESERVED, resource.RLIM_INFINITY)
    if limit != soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):  # macOS has another limit below an unlimited hard limit
            limit = soft
    if limit == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, limit - min(_RESERVED, limit // 4))


def _raised(soft: int, hard: int, wanted: int, unlimited: int) -> int:
    if soft == unlimited or soft >= wanted:
        return soft
    return wanted if hard == unlimited else min(wanted, hard)
