"""The orders of an imaginary shop."""

from __future__ import annotations

from itertools import cycle, islice

from examples.orders._gen.shop.orders.v1.orders_pb2 import Item, OrderPlaced

_CUSTOMERS = ("north", "south", "east", "west", "centre")
_PRODUCTS = (("kite", 3490), ("windmill", 12900), ("weather vane", 7450), ("spinnaker", 45999))


def make_orders(count: int) -> list[OrderPlaced]:
    """Make `count` different orders, always the same ones."""
    customers = list(islice(cycle(_CUSTOMERS), count))
    return [_order(number, customer) for number, customer in enumerate(customers, 1)]


def _order(number: int, customer: str) -> OrderPlaced:
    lines = (_PRODUCTS[number % 4], _PRODUCTS[number % 3])
    return OrderPlaced(
        order_id=f"order-{number:03d}",
        customer=customer,
        items=[
            Item(product=product, quantity=quantity, price_cents=price)
            for quantity, (product, price) in enumerate(lines, 1)
        ],
    )


def cents(order: OrderPlaced) -> int:
    """Return what an order is worth, in cents."""
    return sum(item.quantity * item.price_cents for item in order.items)
