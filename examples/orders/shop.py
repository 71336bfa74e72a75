"""What the shop asks of Windshift: a stream, a consumer, a store, and calls on them."""

from __future__ import annotations

import windshift as ws
from examples.orders._gen.shop.orders.v1.orders_pb2 import OrderPlaced, RunningTotal
from examples.orders.narration import Narration
from examples.orders.orders import cents

STREAM, CONSUMER, STORE, KEY = "orders", "accounting", "accounting", "total"
PROCESSING_TIMEOUT = 2
"""Seconds in which a worker must settle an event; the library asks for more time while it works."""


class Shop:
    """The shop's side of the API."""

    consumer: ws.Consumer
    """Hands out the orders; there once everything is set up."""

    def __init__(self, client: ws.Client, tell: Narration) -> None:
        self._client = client
        self._tell = tell
        self._totals = client.store(STORE, RunningTotal)
        self.without_account = {"west"}
        """Customers whose orders nobody can count yet."""

    async def set_up(self) -> None:
        """Ensure what is needed; all of it may be there already."""
        stream = await self._client.streams.ensure(STREAM, subjects=["orders.>"])
        self._tell("shop", "stream 'orders' takes every event below orders.")
        self.consumer = await stream.consumers.ensure(
            CONSUMER, subjects=["orders.placed"], start=ws.START, timeout=PROCESSING_TIMEOUT
        )
        self._tell("shop", "consumer 'accounting' hands out orders.placed, from the first one on")
        await self._client.stores.ensure(STORE, RunningTotal)
        self._tell("shop", "store 'accounting' keeps the running total")

    async def publish(self, order: OrderPlaced) -> ws.PublishReceipt:
        """Publish an order. Publishing it twice stores it once."""
        return await self._client.publish("orders.placed", order, key=order.order_id)

    async def dead_letters(self, count: int) -> list[ws.DeadLetter]:
        """Watch the orders that the workers give up on, until there are so many."""
        letters: list[ws.DeadLetter] = []
        async for letter in self._client.dead_letters.watch(stream=STREAM, consumer=CONSUMER, existing=True):
            letters.append(letter)
            if len(letters) == count:
                break
        return letters

    async def replay(self) -> int:
        """Have those orders delivered again, to the consumer that gave up on them; tell how many."""
        return (await self._client.dead_letters.replay(stream=STREAM, consumer=CONSUMER)).replayed

    async def total(self) -> RunningTotal:
        """Read the running total."""
        entry = await self._totals.get(KEY)
        return RunningTotal() if entry is None else entry.value

    async def count(self, event_id: int, order: OrderPlaced) -> tuple[RunningTotal, int]:
        """Add an order to the running total, unless it is in there.

        Returns the total, and how often another worker was quicker to change it.
        """
        attempts = 0

        def add(total: RunningTotal) -> None:
            nonlocal attempts
            attempts += 1
            if event_id not in total.counted_event_ids:
                total.orders += 1
                total.cents += cents(order)
                total.counted_event_ids.append(event_id)

        entry = await self._totals.modify(KEY, add, attempts=100)
        return entry.value, attempts - 1
