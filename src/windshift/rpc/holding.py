"""What clients make the server hold in memory: messages that are not whole, answers that they do not read.

Flow control bounds neither: a message is gathered until it is whole, and the answer of a call with a single
response is there as soon as its handler returns, whether or not its client opens the window for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

K = TypeVar("K")


def largest_holders(held: Mapping[K, int], limit: int) -> list[K]:
    """Return who has to go, so that what the others hold is no more than the limit: who holds most, first.

    Args:
        held: bytes that each of them holds.
        limit: bytes that all of them may hold together.
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
