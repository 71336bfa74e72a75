"""Books orders with FastStream's NATS broker. `python -m benchmarks.booking.with_faststream NOTES`, NATS_URL.

FastStream leaves to the program what a failure means: here attempts are counted, what fails for good is
published to a stream of dead letters, and a task for each event prolongs its lease.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from faststream import AckPolicy, Depends, FastStream, NoCast
from faststream.nats import ConsumerConfig, JStream, NatsBroker, NatsMessage, PullSub
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError

from benchmarks.booking import ATTEMPTS, CONCURRENCY, COUNTED, BadOrder, Notes
from examples.orders._gen.shop.orders.v1.orders_pb2 import OrderPlaced, RunningTotal

TYPE = "WS-Data-Type"
LEASE = 5.0

notes = Notes(sys.argv[1])
broker = NatsBroker(os.environ["NATS_URL"], max_reconnect_attempts=-1)
app = FastStream(broker)
orders = JStream(name="orders", subjects=["orders.>"], declare=False)
dead = JStream(name="orders-dead", subjects=["dead.>"])
bury = broker.publisher("dead.orders", stream=dead)


async def decode(msg: NatsMessage) -> Any:
    """Return the message, by the name of its type."""
    is_order = msg.headers.get(TYPE) == OrderPlaced.DESCRIPTOR.full_name
    return OrderPlaced.FromString(msg.body) if is_order else msg.body


async def keep_lease(msg: NatsMessage) -> AsyncIterator[None]:
    """Prolong the lease while the handler runs."""

    async def ping() -> None:
        while True:
            await asyncio.sleep(LEASE / 3)
            await msg.in_progress()

    task = asyncio.create_task(ping())
    yield
    task.cancel()


@asynccontextmanager
async def settling(msg: NatsMessage) -> AsyncIterator[None]:
    """Acknowledge, retry with a backoff, or keep as a dead letter."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 -- whatever a handler raises
        attempt = msg.raw_message.metadata.num_delivered
        if isinstance(error, BadOrder) or attempt >= ATTEMPTS:
            await bury.publish(msg.body, headers={**msg.headers, "reason": str(error)})
            await msg.reject()
        else:
            await msg.nack(delay=min(60, 0.2 * 2**attempt))
    else:
        await msg.ack_sync()


accounting = broker.subscriber(
    "orders.*",
    stream=orders,
    durable="accounting-faststream",
    pull_sub=PullSub(batch_size=CONCURRENCY),
    max_workers=CONCURRENCY,
    ack_policy=AckPolicy.MANUAL,
    decoder=decode,
    dependencies=[Depends(keep_lease)],
    config=ConsumerConfig(ack_wait=LEASE),
)


@accounting(filter=lambda msg: msg.headers.get(TYPE) == OrderPlaced.DESCRIPTOR.full_name)
async def placed(order: NoCast[OrderPlaced], msg: NatsMessage) -> None:
    """Book an order."""
    async with settling(msg):
        if not order.items:
            raise BadOrder(f"{order.order_id} has no items")
        if COUNTED:
            await add(sum(item.quantity * item.price_cents for item in order.items))
        notes.booked(msg.raw_message.metadata.sequence.stream)


@accounting
async def other(body: NoCast[bytes], msg: NatsMessage) -> None:
    """Keep what is no order."""
    await bury.publish(body, headers={**msg.headers, "reason": "unknown type"})
    await msg.reject()


async def add(cents: int) -> None:
    """Add an order to the total."""
    store = await broker.key_value(bucket="accounting-faststream")
    while True:
        try:
            entry = await store.get("total")
            total, revision = RunningTotal.FromString(entry.value), entry.revision
        except KeyNotFoundError:
            total, revision = RunningTotal(), 0
        total.orders += 1
        total.cents += cents
        try:
            await store.update("total", total.SerializeToString(), last=revision)
        except KeyWrongLastSequenceError:
            await asyncio.sleep(0.01)
        else:
            return


if __name__ == "__main__":
    asyncio.run(app.run())
