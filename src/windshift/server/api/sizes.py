"""How large requests may be.

A list of elements of two bytes each takes 16 to 32 times the memory once it is decoded, before anybody can
count it. So only what carries payloads may be as large as those.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from windshift.rpc import Service

LARGEST_REQUEST: Final = 512 * 1024
"""Bytes of a request that carries no payload: 10,000 ids, or 4,096 subjects of 125 characters."""

LARGEST_OF_DEAD_LETTERS: Final = 1024 * 1024
"""The same for those about dead letters, whose ids hold names: 1,000 of the longest."""

LARGEST_OF_HEALTH: Final = 4 * 1024
"""The same for probes, which anybody may send, and which may stay open: they hold the name of a service."""

_STORING: Final = ("/Publish", "/PublishEvent", "/Set")
_DEAD_LETTERS: Final = "/windshift.deadletters."
_HEALTH: Final = "/grpc.health."


def limit_sizes(service: Service) -> None:
    """Limit the requests of a service; those with payloads are limited by what the broker takes."""
    service.methods = {
        path: method if path.endswith(_STORING) else replace(method, max_message_size=_largest(path))
        for path, method in service.methods.items()
    }


def _largest(path: str) -> int:
    if path.startswith(_HEALTH):
        return LARGEST_OF_HEALTH
    return LARGEST_OF_DEAD_LETTERS if path.startswith(_DEAD_LETTERS) else LARGEST_REQUEST
