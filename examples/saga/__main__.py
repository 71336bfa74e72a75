"""A saga: an order reserves stock, then is paid, or gives the stock back. `python -m examples.saga`.

Each step is a handler, and tells the next one by an event. Where an order stands is in a store, so that a
step that comes twice is not done twice. An order whose customer nobody knows becomes a dead letter, until
somebody mends that and replays it. Exits with 0 when all orders came to their end and the stock is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import windshift as ws
from examples.orders._gen.shop.orders.v1.orders_pb2 import Item, OrderPlaced
from windshift.protos import test

Text = test.StringValue
Texts = ws.Store[test.StringValue]

LIMIT = 60.0
"""Seconds that everything together may take, also on a very busy machine."""

credit = {"north": 5, "south": 0}
"""What customers can pay for, in pieces."""


class UnknownCustomer(Exception):
    """Nobody knows what the customer can pay."""


@asynccontextmanager
async def lifespan(app: ws.App) -> AsyncIterator[None]:
    """Provide the store, with ten pieces in stock."""
    store = await app.client.stores.ensure("saga", Text)
    try:
        await store.create("stock", Text(value="10"))
    except ws.KeyExists:
        pass
    app.provide(store)
    yield


app = ws.App("saga", lifespan=lifespan)
stream = app.stream("saga", subjects=["saga.>"])
steps = app.consumer(
    stream,
    "steps",
    start=ws.START,
    on_error={UnknownCustomer: ws.dead_letter},
    retry=ws.RetryPolicy(max_attempts=5, initial=0.05),
)


async def advance(store: Texts, order: OrderPlaced, before: str, after: str, pieces: int = 0) -> bool:
    """Bring an order from one state to the next, and change the stock, all or nothing.

    Returns whether that is done, now or by an earlier attempt.
    """
    key = f"orders.{order.order_id}"
    while True:
        entry, stock = await store.get(key), await store.get("stock")
        state = entry.value.value if entry else ""
        if stock is None or state != before:
            return state == after
        left = int(stock.value.value) + pieces
        if left < 0:
            raise ws.RetryLater("out of stock")
        sets = {key: Text(value=after), "stock": Text(value=str(left))}
        checks = {key: entry.revision if entry else 0, "stock": stock.revision}
        try:
            await store.transact(sets, checks=checks)
        except ws.RevisionMismatch:
            continue  # another order was faster
        return True


def pieces(order: OrderPlaced) -> int:
    """Return how many pieces an order takes."""
    return sum(item.quantity for item in order.items)


@steps.on(subject="saga.placed")
async def reserve(order: OrderPlaced, store: Texts, client: ws.Client) -> None:
    """Take the pieces from the stock."""
    if await advance(store, order, "", "reserved", -pieces(order)):
        await client.publish("saga.reserved", order, key=f"{order.order_id}-reserved")


@steps.on(subject="saga.reserved")
async def pay(order: OrderPlaced, store: Texts, client: ws.Client) -> None:
    """Complete the order, or have the pieces given back."""
    if order.customer not in credit:
        raise UnknownCustomer(f"nobody knows {order.customer}")
    if pieces(order) <= credit[order.customer]:
        await advance(store, order, "reserved", "paid")
    else:
        await client.publish("saga.declined", order, key=f"{order.order_id}-declined")


@steps.on(subject="saga.declined")
async def give_back(order: OrderPlaced, store: Texts) -> None:
    """Put the pieces back into the stock."""
    await advance(store, order, "reserved", "declined", pieces(order))


async def show(store: Texts) -> dict[str, str]:
    """Print where all orders stand, and return it."""
    states = {entry.key: entry.value.value async for entry in store.list()}
    print("  ".join(f"{key} {states[key]}" for key in sorted(states)))
    return states


async def do_business(client: ws.Client) -> dict[str, str]:
    """Place orders, see to the one that cannot go on, and return where all stand in the end."""
    async with app.running(client) as run:
        for number, customer in enumerate(("north", "south", "east"), 1):
            order = OrderPlaced(order_id=str(number), customer=customer, items=[Item(quantity=2)])
            await client.publish("saga.placed", order, key=f"{number}-placed")
        await run.idle(LIMIT)
        store = client.store("saga", Text)
        await show(store)
        for letter in await run.dead_letters(steps):
            print(f"dead letter: event {letter.event.id} on {letter.event.subject}, {letter.reason}")
        credit["east"] = 2
        replayed = await client.dead_letters.replay(stream="saga", consumer="steps")
        print("now somebody does;", replayed.replayed, "replayed")
        await run.idle(LIMIT)
        return await show(store)


async def main() -> int:
    """Run it on a server of its own."""
    with ws.testing.Server() as server:
        async with ws.connect(server.address) as client:
            states = await asyncio.wait_for(do_business(client), LIMIT)
    expected = {"orders.1": "paid", "orders.2": "declined", "orders.3": "paid", "stock": "6"}
    return 0 if states == expected else 1


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
