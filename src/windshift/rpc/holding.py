"""Which clients to cut off when all of them together make the server hold too much memory.

Flow control does not bound two things: incomplete messages, which are collected until they are complete, and
the response of a call with a single response, which exists whether or not its client opens the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

K = TypeVar("K")


def largest_holders(held: Mapping[K, int], limit: int) -> list[K]:
    """Return the keys to evict, largest first, until the rest fits.

    Args:
        held: bytes that each key holds.
        limit: bytes that all may hold together.
    """
    excess = sum(held.values()) - limit
    if excess <= 0:
        return []
    gone = []
    for each in sorted(held, key=lambda each: held[each], reverse=True):
        gone.append(each)
        excess -= held[each]
        if excess <= 0:
            break
    return gone
