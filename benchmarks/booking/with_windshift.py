"""Books orders with the client library. `python -m benchmarks.booking.with_windshift NOTES`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import windshift as ws
from benchmarks.booking import ATTEMPTS, CONCURRENCY, COUNTED, BadOrder, Notes
from examples.orders._gen.shop.orders.v1.orders_pb2 import OrderPlaced, RunningTotal

notes = Notes(sys.argv[1])


@asynccontextmanager
async def lifespan(app: ws.App) -> AsyncIterator[None]:
    """Provide the store of the total."""
    app.provide(await app.client.stores.ensure("accounting", RunningTotal))
    yield


app = ws.App("shop", lifespan=lifespan)
orders = app.stream("orders", ensure="never")
accounting = app.consumer(
    orders,
    "accounting",
    subjects=["orders.*"],
    start=ws.START,
    timeout=5,
    concurrency=CONCURRENCY,
    on_error={BadOrder: ws.dead_letter},
    retry=ws.RetryPolicy(max_attempts=ATTEMPTS, initial=0.4, maximum=60),
)


@accounting.on
async def placed(order: OrderPlaced, event: ws.Event[OrderPlaced], totals: ws.Store[RunningTotal]) -> None:
    """Book an order."""
    if not order.items:
        raise BadOrder(f"{order.order_id} has no items")

    def add(total: RunningTotal) -> None:
        total.orders += 1
        total.cents += sum(item.quantity * item.price_cents for item in order.items)

    if COUNTED:
        await totals.modify("total", add)
    notes.booked(event.id)


if __name__ == "__main__":
    app.run()
