"""Run a Windshift server and send orders through it: `python -m examples.orders`, or `make run`.

Exits with 0 when every order was counted exactly once and the server stopped in good order, with 1 otherwise.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import windshift as ws
from examples.orders._gen.shop.orders.v1.orders_pb2 import RunningTotal
from examples.orders.narration import Narration, euros
from examples.orders.orders import cents, make_orders
from examples.orders.server import Server
from examples.orders.shop import Shop
from examples.orders.worker import Progress, Worker

ORDERS = 16
LIMIT = 60.0
"""Seconds that everything together may take, also on a very busy machine."""


class Wrong(Exception):
    """Something did not come out as it must."""


@dataclass(frozen=True, slots=True)
class Books:
    """What was published, by event id and worth in cents, what the store holds of it, and who worked."""

    published: dict[int, int]
    total: RunningTotal
    workers: tuple[Worker, ...]

    def check(self) -> None:
        """Raise `Wrong` unless the store holds exactly what was published."""
        if Counter(self.total.counted_event_ids) != Counter(self.published.keys()):
            raise Wrong("not every event was counted exactly once")
        if (self.total.orders, self.total.cents) != (len(self.published), sum(self.published.values())):
            raise Wrong("the total in the store is not what was published")
        if not any(worker.rejected for worker in self.workers):
            raise Wrong("nobody rejected anything")
        if not any(worker.given_up for worker in self.workers):
            raise Wrong("nobody gave up on anything")
        if not any(worker.kept for worker in self.workers):
            raise Wrong("nobody kept an order for longer than the timeout")


async def run(directory: Path) -> None:
    """Start the server, do business, stop the server, check the books."""
    tell = Narration()
    server = Server(directory)
    try:
        tell("server", await server.start())
        with tell.listening("windshift"):
            async with ws.connect(server.address) as client:
                books = await do_business(client, server, tell)
    finally:
        await server.stop()
    tell.heading("Summary")
    tell.line(f"published  {len(books.published)} orders, {euros(sum(books.published.values()))}")
    tell.line(f"in store   {books.total.orders} orders, {euros(books.total.cents)}")
    for worker in books.workers:
        tell.line(f"{worker.name:<10} {worker.report}")
    books.check()


async def do_business(client: ws.Client, server: Server, tell: Narration) -> Books:
    """Publish orders, and have them counted by two workers.

    One worker leaves by itself in the end; the other is there when the server is told to stop.
    """
    shop = Shop(client, tell)
    await shop.set_up()
    progress = Progress(expected=ORDERS)
    first = Worker("worker-1", shop, progress, tell, rejects_every=4)
    second = Worker("worker-2", shop, progress, tell, slow_first=True)
    async with first.working():
        async with second.working():
            published = await publish(shop, tell)
            await look_after_dead_letters(shop, tell)
            await progress.done.wait()
        total = await shop.total()
        tell("server", "is sent SIGTERM while worker-1 is still subscribed")
        tell("server", await server.stop())
    return Books(published, total, (first, second))


async def publish(shop: Shop, tell: Narration) -> dict[int, int]:
    """Publish the orders, one of them twice; return what each event is worth, by its id."""
    orders = make_orders(ORDERS)
    worth: dict[int, int] = {}
    for order in orders:
        receipt = await shop.publish(order)
        worth[receipt.id] = cents(order)
        what = f"{order.order_id} of {order.customer}, {euros(cents(order))}"
        tell("shop", f"published {what}: event {receipt.id}")
    again = await shop.publish(orders[0])
    tell("shop", f"published {orders[0].order_id} once more with the same key: still event {again.id}")
    if not again.duplicate or len(worth) != ORDERS:
        raise Wrong("every order was to be one event, published twice or not")
    return worth


async def look_after_dead_letters(shop: Shop, tell: Narration) -> None:
    """Wait for the orders that nobody can count, see to the reason, and have them delivered again."""
    hopeless = sum(order.customer in shop.without_account for order in make_orders(ORDERS))
    for letter in await shop.dead_letters(hopeless):
        tell("shop", f"finds a dead letter, event {letter.event.id}: {letter.error_type}, {letter.reason}")
    shop.without_account.clear()
    tell("shop", f"opened the account; replays {await shop.replay()} dead letters to the consumer")


def main() -> int:
    """Run everything, say how it went, and return the exit status."""
    with tempfile.TemporaryDirectory(prefix="windshift-orders-") as folder:
        directory = Path(folder)
        try:
            asyncio.run(asyncio.wait_for(run(directory), LIMIT))
        except Exception as error:  # noqa: BLE001 - whatever it is, the example has failed
            return failed(error, directory)
    print("\nThe sums agree, and the server stopped in good order.")
    return 0


def failed(error: Exception, directory: Path) -> int:
    """Say what went wrong, after the server's log."""
    log = directory / "server.log"
    if log.exists():
        print(log.read_text(), file=sys.stderr)
    for each in causes(error):
        print(f"FAILED: {str(each) or type(each).__name__}", file=sys.stderr)
    return 1


def causes(error: Exception) -> list[Exception]:
    """Return what is in a group, and in groups within."""
    if isinstance(error, ExceptionGroup):
        return [cause for each in error.exceptions for cause in causes(each)]
    return [error]


if __name__ == "__main__":
    raise SystemExit(main())
