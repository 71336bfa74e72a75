"""What the clients' ends of all streaming calls share."""

from __future__ import annotations

from windshift.rpc import ServerCall


class CallStream:
    """The client's end of a streaming call, as the domain sees it. Sending only queues, and never blocks."""

    __slots__ = ("_call",)

    def __init__(self, call: ServerCall) -> None:
        self._call = call

    @property
    def queued(self) -> int:
        """Sent bytes that the client has not read."""
        return self._call.queued

    async def ready(self) -> None:
        """Wait until the client has read most of the sent bytes."""
        await self._call.ready()

    def begin(self) -> None:
        """Send the headers: from then on the client misses nothing."""
        self._call.begin_response()
