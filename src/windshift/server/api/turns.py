"""Has the lists that one caller asks for take turns.

What a list has read lies in memory until its answer is written. Fifty at once hold tens of thousands of
objects, which Python's garbage collector looks at in one piece, and everybody else waits; and each of them
takes as long as all together.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, Final

from windshift.nats.semaphore import FairSemaphore
from windshift.rpc import Method
from windshift.server.api.callers import asker_of
from windshift.server.api.deadlines import answer_by
from windshift.server.api.policies import policy_of
from windshift.server.domain.broker_errors import broker_errors

LISTS_AT_ONCE: Final = 4
"""Lists of one caller that are put together at the same time: enough to keep the broker busy."""


def list_turns() -> FairSemaphore:
    """Return the turns of the lists that each principal, or without rules each connection, asks for."""
    return FairSemaphore(sys.maxsize, lambda _: LISTS_AT_ONCE)


def take_turns(turns: FairSemaphore, method: Method) -> Method:
    """Have the calls of a method wait for their turn if they are lists."""
    if not policy_of(method.path).takes_turns:
        return method
    handler = method.handler

    async def in_turn(*arguments: Any) -> Any:
        call = arguments[-1]
        asker = asker_of(call)
        with broker_errors():
            await turns.take(asker, answer_by(call))
        try:
            return await handler(*arguments)
        finally:
            turns.give_back(asker)

    return replace(method, handler=in_turn)
