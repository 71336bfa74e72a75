"""Bulk calls share a slice of each turn of the event loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from windshift.rpc import Method
from windshift.server.api.policies import policy_of
from windshift.server.background.pacing import Pacing


class PacingInterceptor:
    """Has the handlers of bulk calls run step by step, behind one another."""

    def __init__(self, pacing: Pacing) -> None:
        self._pacing = pacing

    def intercept(self, method: Method) -> Method:
        """Pace the calls of a method, if they are bulk work."""
        if not policy_of(method.path).is_bulk:
            return method
        handler, pacing = method.handler, self._pacing

        async def pace(*arguments: Any) -> Any:
            return await pacing.run(handler(*arguments))

        return replace(method, handler=pace)
