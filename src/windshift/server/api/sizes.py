"""Limits the size of requests."""

from __future__ import annotations

from dataclasses import replace

from windshift.rpc import Method
from windshift.server.api.policies import policy_of


class SizeInterceptor:
    """Limits requests without a payload; the broker limits the others."""

    def intercept(self, method: Method) -> Method:
        """Limit the requests of a method."""
        return replace(method, max_message_size=policy_of(method.path).max_size)
