"""A subject of one's own on the present NATS client, which ends with that client."""

from __future__ import annotations

import asyncio

from nats.aio.subscription import Subscription as ClientSubscription
from nats.errors import Error

from windshift.server.nats.connection import Connection, Receive, Subscription


class Inbox(Subscription):
    """Interest in a fresh subject that nobody else knows, for the life of one client.

    Args:
        connection: on whose present client `open` subscribes.
        receive: called with each message as it arrives. It must not block; nothing is queued.
    """

    __slots__ = ()

    def __init__(self, connection: Connection, receive: Receive) -> None:
        super().__init__(connection, connection.inbox(), receive)

    async def open(self) -> bool:
        """Subscribe; False when there is no connection now."""
        client = self._connection.client
        if client is None:
            return False
        try:
            await self.attach(client)
        except Error:
            return False  # closed this moment
        return True

    async def drain(self, timeout: float) -> None:
        """End the interest, and return when what was on its way has been received. Never fails.

        Args:
            timeout: seconds after which this returns in any case; what comes later may still be received.
        """
        inner, self._inner = self._inner, None
        if inner is None:
            return
        # nats-py would forget to remove a subscription whose drain was cancelled: so it is not cancelled.
        draining = asyncio.ensure_future(_drain(inner))
        _under_way.add(draining)
        draining.add_done_callback(_under_way.discard)
        await asyncio.wait((draining,), timeout=timeout)


_under_way: set[asyncio.Future[None]] = set()
"""Keeps the drains alive that nobody waits for any more: the event loop itself does not."""


async def _drain(subscription: ClientSubscription) -> None:
    try:
        await subscription.drain()  # type: ignore[no-untyped-call]  # has no annotations
    except (Error, OSError, TimeoutError):
        pass  # disconnected: nothing is on its way any more
