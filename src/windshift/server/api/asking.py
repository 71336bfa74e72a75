"""On whose behalf requests go to the broker without authorization: each connection is an asker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from windshift.rpc import Method
from windshift.server.api.policies import policy_of
from windshift.server.broker.asking import asking


def ask_as_connection(method: Method) -> Method:
    """Have the calls of a method ask the broker in the name of their connection.

    Not those of a publish, which asks nothing, or next to nothing.
    """
    policy = policy_of(method.path)
    if policy.publishes or not policy.identified:
        return method
    handler = method.handler

    async def ask(*arguments: Any) -> Any:
        asking.set(arguments[-1].peer)
        return await handler(*arguments)

    return replace(method, handler=ask)
