"""A worker: a handler of the consumer's events, which counts orders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import windshift as ws
from examples.orders._gen.shop.orders.v1.orders_pb2 import OrderPlaced
from examples.orders.narration import Narration, euros
from examples.orders.shop import PROCESSING_TIMEOUT, Shop

_DELAY = 0.5
_SLOW_WORK = 2 * PROCESSING_TIMEOUT + 0.5


class NoAccount(Exception):
    """The customer of an order has no account."""


class Progress:
    """How far all workers together are."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self.done = asyncio.Event()
        """Set when the expected number of orders is counted."""

    def counted(self, orders: int) -> None:
        """Note how many are."""
        if orders == self._expected:
            self.done.set()


class Worker:
    """One subscriber of the consumer. Works on one event at a time, and holds one more.

    `rejects_every` n makes it find that one in n new orders is not paid yet, and reject it for a while;
    `slow_first` makes it work longer on its first order than the consumer allows.
    """

    def __init__(
        self,
        name: str,
        shop: Shop,
        progress: Progress,
        tell: Narration,
        *,
        rejects_every: int = 0,
        slow_first: bool = False,
    ) -> None:
        self.name = name
        self._shop = shop
        self._progress = progress
        self._tell = tell
        self._rejects_every = rejects_every
        self._slow = slow_first
        self._seen = self._counted = self._conflicts = 0
        self.rejected = self.given_up = self.kept = 0

    @property
    def report(self) -> str:
        """What it did, in one line."""
        parts = [f"counted {self._counted}"]
        if self.rejected:
            parts.append(f"rejected {self.rejected} for a while")
        if self.given_up:
            parts.append(f"gave up on {self.given_up}")
        if self.kept:
            parts.append(f"kept {self.kept} for longer than {PROCESSING_TIMEOUT} s")
        if self._conflicts:
            parts.append(f"was overtaken in the store {self._conflicts} times")
        return ", ".join(parts)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Work beside the block; at its end finish what is held, and take nothing new."""
        running = self._shop.consumer.running(self.handle, types=[OrderPlaced], concurrency=1, prefetch=1)
        async with running:
            yield
        self._tell(self.name, "left, with everything settled that it held")

    async def handle(self, delivery: ws.Delivery[OrderPlaced]) -> None:
        """Count an order. Returning acknowledges it; what is raised says what becomes of it."""
        event, order = delivery.event, delivery.event.data
        self._seen += 1
        if order.customer in self._shop.without_account:
            self.given_up += 1
            reason = f"customer {order.customer} has no account"
            self._tell(self.name, f"gives up on {order.order_id}: {reason}")
            raise ws.GiveUp(reason) from NoAccount(reason)
        if self._rejects_every and event.attempt == 1 and self._seen % self._rejects_every == 1:
            self.rejected += 1
            self._tell(self.name, f"rejects {order.order_id}: not paid yet, to come again in {_DELAY:g} s")
            raise ws.RetryLater("not paid yet", delay=_DELAY)
        if self._slow:
            self._slow = False
            await self._take_long(delivery)
        total, conflicts = await self._shop.count(event.id, order)
        self._conflicts += conflicts
        self._counted += 1
        attempt = "" if event.attempt == 1 else f" (attempt {event.attempt})"
        self._tell(self.name, f"counted {order.order_id}{attempt}; the total is {euros(total.cents)}")
        self._progress.counted(total.orders)

    async def _take_long(self, delivery: ws.Delivery[OrderPlaced]) -> None:
        """Work longer than the consumer allows: the library asks for more time."""
        order = delivery.event.data.order_id
        self._tell(self.name, f"finds {order} hard; that will take {_SLOW_WORK:g} s")
        await asyncio.sleep(_SLOW_WORK)
        if not delivery.lost:
            self.kept += 1
            self._tell(self.name, f"is done with {order}, and still has event {delivery.event.id}")
