"""What the broker says of the account that all servers share: how much of it is used, and what time it is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple

from windshift.nats import NotConnected, Requests, Unavailable
from windshift.nats.errors import JetStreamError
from windshift.nats.jetstream.api import JetStream, JsonObject
from windshift.nats.times import parse_rfc3339

_TIMEOUT: Final = 0.5
"""Seconds that the broker has for an answer."""
_USER: Final = b"$SYS.REQ.USER.INFO"
"""What the nats-server at the other end of the connection answers, in every account, with its time."""
_LARGEST: Final = 64 * 1024
"""Bytes of an answer."""


class Resource(Enum):
    """What an account has so much of."""

    STORAGE = "storage"
    MEMORY = "memory"
    STREAMS = "streams"
    CONSUMERS = "consumers"


class Usage(NamedTuple):
    """How much there is of something.

    Attributes:
        resource: of what.
        tier: of what has so many replicas, such as ``R3``; empty = of all.
        used: so much.
        reserved: bytes that are promised to streams, whether they use them or not.
        limit: what the account may have; None = what the nats-servers have room for.
    """

    resource: Resource
    tier: str
    used: int
    reserved: int
    limit: int | None


class AccountView(NamedTuple):
    """What the broker reported.

    Attributes:
        usage: what is used; empty = not reported.
        clock_ahead_ns: how far the broker's clock is ahead of this server's; None = not reported.
    """

    usage: tuple[Usage, ...]
    clock_ahead_ns: int | None


async def look_at_account(api: JetStream, requests: Requests) -> AccountView:
    """Ask the broker. What is not reported in half a second, or not to this user, is left out."""
    deadline = requests.loop.time() + _TIMEOUT
    return AccountView(*await asyncio.gather(_usage(api, deadline), _clock_ahead_ns(requests, deadline)))


async def _usage(api: JetStream, deadline: float) -> tuple[Usage, ...]:
    try:
        info = await api.call("INFO", None, deadline, size=_LARGEST)
    except (JetStreamError, Unavailable):
        return ()
    return tuple(read_usage(info))


async def _clock_ahead_ns(requests: Requests, deadline: float) -> int | None:
    asked_ns = time.time_ns()
    try:
        outcome = await requests.request(_USER, b"", b"", deadline)
    except NotConnected:
        return None
    reported_ns = read_time_ns(outcome) if isinstance(outcome, bytes) else None
    return None if reported_ns is None else reported_ns - (asked_ns + time.time_ns()) // 2


def read_usage(info: JsonObject) -> Iterator[Usage]:
    """Read JetStream's answer about an account; where it has tiers, only these have limits."""
    tiers = info.get("tiers") or {"": info}
    for tier, reported in sorted(tiers.items()):
        limits = reported.get("limits") or {}
        for resource in Resource:
            name = resource.value
            limit = int(limits.get(f"max_{name}", -1))
            yield Usage(
                resource,
                tier,
                int(reported.get(name) or 0),
                int(reported.get(f"reserved_{name}") or 0),
                limit if limit >= 0 else None,
            )


def read_time_ns(answer: bytes) -> int | None:
    """Read what time it was when a nats-server answered, in nanoseconds since 1970; None = it is not said."""
    try:
        reported = parse_rfc3339(json.loads(answer)["server"]["time"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return None if reported is None else reported.unix_ns
