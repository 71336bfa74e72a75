"""``grpc.health.v1``: whether services are serving, for probes and load balancers.

Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from ._gen.grpc.health.v1 import health_pb2 as pb
from .call import ServerCall
from .service import Service
from .status import RpcError, StatusCode

_SERVING = pb.HealthCheckResponse.SERVING
_NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN

MOST_WATCHES: Final = 20
"""Open watches per connection. Anybody may open them, without authentication."""

_WATCH_SIZE: Final = 8192
"""Bytes that a watch takes, about."""

HEALTH = pb.DESCRIPTOR.services_by_name["Health"]
"""Descriptor of the service, for clients."""


class HealthService(Service):
    """The health of a server and its services.

    The empty name is the server as a whole, which is serving by default.
    """

    def __init__(self) -> None:
        super().__init__(HEALTH, self)
        self._statuses = {"": _SERVING}
        self._changed = asyncio.Event()
        self._watches: Counter[int] = Counter()

    def set(self, service: str, serving: bool) -> None:
        """Set whether a service is serving, and notify its watches.

        Args:
            service: full name of the service; empty = the server as a whole.
            serving: whether it takes calls now.
        """
        self._statuses[service] = _SERVING if serving else _NOT_SERVING
        self._changed.set()
        self._changed = asyncio.Event()

    # -- the methods of the service ------------------------------------------------------------------

    async def check(self, request: pb.HealthCheckRequest, call: ServerCall) -> pb.HealthCheckResponse:
        """Return the status of one service.

        Raises:
            RpcError: NOT_FOUND: nothing was ever set for the service.
        """
        status = self._statuses.get(request.service)
        if status is None:
            raise RpcError(StatusCode.NOT_FOUND, f"the server has no service {request.service!r}")
        return pb.HealthCheckResponse(status=status)

    async def list(self, request: pb.HealthListRequest, call: ServerCall) -> pb.HealthListResponse:
        """Return the status of every service."""
        response = pb.HealthListResponse()
        for service, status in self._statuses.items():
            response.statuses[service].status = status
        return response

    async def watch(self, request: pb.HealthCheckRequest, call: ServerCall) -> None:
        """Send the status of one service, and again when it changes; a slow client gets only the latest.

        Raises:
            RpcError: RESOURCE_EXHAUSTED: the connection has too many watches.
        """
        connection = id(call.connection)
        if self._watches[connection] >= MOST_WATCHES:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED, f"a connection may have {MOST_WATCHES} watches; end some"
            )
        self._watches[connection] += 1
        call.overhead = _WATCH_SIZE
        try:
            await self._watch(request, call)
        finally:
            self._watches[connection] -= 1
            if not self._watches[connection]:
                del self._watches[connection]

    async def _watch(self, request: pb.HealthCheckRequest, call: ServerCall) -> None:
        sent = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, _SERVICE_UNKNOWN)
            if status == sent:
                await changed.wait()
                continue
            call.send(pb.HealthCheckResponse(status=status))
            await call.ready()
            sent = status
