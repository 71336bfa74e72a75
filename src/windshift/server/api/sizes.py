"""Limits the size of requests."""

from __future__ import annotations

from dataclasses import replace

from windshift.rpc import Method
from windshift.rpc.service import UNLIMITED
from windshift.server.api.policies import policy_of


class SizeInterceptor:
    """Limits requests by what they may hold.

    Args:
        largest: bytes of a request with one payload, which the broker limits.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest

    def intercept(self, method: Method) -> Method:
        """Limit the requests of a method."""
        size = policy_of(method.path).max_size
        return replace(method, max_message_size=self._largest if size == UNLIMITED else size)
