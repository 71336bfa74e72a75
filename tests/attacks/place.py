"""The server under attack, its rules, and what lies in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.authorization.callers import Callers
from tests.authorization.policies import ALL, principal, token_of
from tests.authorization.served import Served, served
from tests.wire.consuming import subscribed
from tests.wire.management import ensure_consumer, ensure_stream

ROOT: Final = "root"
HONEST: Final = "honest"
HOSTILE: Final = "hostile"
"""A principal with rights of its own on a stream and a store of its own."""

STREAM: Final = "HOSTILE"
STORE: Final = "hostile"
LETTERS: Final = 300
"""Dead letters of the hostile principal's consumer ``letters``."""
LARGE: Final = 1_000_000
"""Bytes of the value under the key ``large``."""
HELD_MB: Final = 200
"""``GRPC_MAX_HELD_MB`` of the server."""
PROXY: Final = "127.0.0.2"
"""Connections from here carry the address of a client in a PROXY header: loopback's own has no limits."""

_RULES: Final = (
    ALL
    + """
[role.honest]
publish = ["honest.>"]

[role.hostile]
publish = ["hostile.>"]
streams.manage = ["HOSTILE*"]
streams.purge = ["HOSTILE*"]
streams.ephemeral = ["HOSTILE*"]
streams.bind = ["hostile.>"]
streams.consume = ["HOSTILE*"]
streams.subjects = [">"]
consumers = { use = ["*"], reject = ["*"], delete = ["*"] }
stores = { manage = ["hostile*"], read = ["hostile*"], write = ["hostile*"], keys = [">"] }
dead_letters = { read = ["HOSTILE"], replay = ["HOSTILE"], purge = ["HOSTILE"], consumers = ["*"] }
"""
    + principal(ROOT, "all")
    + principal(HONEST)
    + principal(HOSTILE)
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attack happens.

    Attributes:
        api: the port of the API.
        health: the health port.
        seconds: how long it goes on.
    """

    api: int
    health: int
    seconds: float


@contextmanager
def attacked(directory: Path) -> Iterator[Served]:
    """Run a server, with an embedded broker, that has something worth attacking."""
    settings = {"GRPC_MAX_HELD_MB": str(HELD_MB), "GRPC_PROXY_PROTOCOL_FROM": PROXY}
    with served(directory, _RULES, **settings) as running:
        _furnish(running, running.callers)
        yield running


def _furnish(running: Served, callers: Callers) -> None:
    root, hostile = (callers.with_token(token_of(name)) for name in (ROOT, HOSTILE))
    limits = {"max_bytes": 1 << 28}
    ensure_stream(root, "HONEST", subjects={"subjects": ["honest.>"]}, retention_policy=limits)
    ensure_stream(hostile, STREAM, subjects={"subjects": ["hostile.>"]}, retention_policy=limits)
    hostile.ensure_store(STORE)
    hostile.set(STORE, "small")
    hostile.set(STORE, "large", "x" * LARGE)
    start = {"from": {"start": True}}
    policy = {"max_attempts": 1, "dead_letters": True}
    ensure_consumer(hostile, STREAM, name="letters", retry_policy=policy, **start)
    for number in range(LETTERS):
        hostile.publish("hostile.letters", str(number))
    with subscribed(hostile, STREAM, LETTERS, "letters") as call:
        left = [event.id for event in call.events(LETTERS)]
        while left:  # on a busy machine some fail for now
            call.reject(*left, permanently=True)
            _, _, invalid, left = call.told()
            assert not invalid
