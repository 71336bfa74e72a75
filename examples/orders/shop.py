"""What the shop asks of Windshift: a stream, a consumer, a store, and calls on them."""

from __future__ import annotations

import typing

from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from examples.orders._gen.shop.orders.v1.orders_pb2 import OrderPlaced, RunningTotal
from examples.orders.narration import Narration
from examples.orders.orders import cents
from windshift.protos import deadletters, events, state
from windshift.rpc import Channel, RpcError, StatusCode

STREAM, CONSUMER, STORE, KEY = "orders", "accounting", "accounting", "total"
PROCESSING_TIMEOUT = 2
"""Seconds in which a worker must settle an event, or ask for more time."""

_EVENTS = events.DESCRIPTOR.services_by_name["EventsService"].methods_by_name
_DEAD_LETTERS = deadletters.DESCRIPTOR.services_by_name["DeadLettersService"].methods_by_name
_STATE = state.DESCRIPTOR.services_by_name["StateService"].methods_by_name
_TIMEOUT = 10.0
_GIVEN_UP = deadletters.Filter(stream=STREAM, consumer=CONSUMER)


class Shop:
    """The shop's side of the API."""

    def __init__(self, channel: Channel, tell: Narration) -> None:
        self._channel = channel
        self._tell = tell
        self.without_account = {"west"}
        """Customers whose orders nobody can count yet."""

    async def set_up(self) -> None:
        """Ensure what is needed; all of it may be there already."""
        subjects = events.EnsureStreamRequest.Subjects(subjects=["orders.>"])
        await self._call(_EVENTS["EnsureStream"], events.EnsureStreamRequest(name=STREAM, subjects=subjects))
        self._tell("shop", "stream 'orders' takes every event below orders.")
        consumer = events.EnsureConsumerRequest(
            stream=STREAM,
            name=CONSUMER,
            subjects=["orders.placed"],
            processing_timeout=Duration(seconds=PROCESSING_TIMEOUT),
        )
        getattr(consumer, "from").start = True  # `from` is a keyword of Python
        await self._call(_EVENTS["EnsureConsumer"], consumer)
        self._tell("shop", "consumer 'accounting' hands out orders.placed, from the first one on")
        await self._call(_STATE["EnsureStore"], state.EnsureStoreRequest(store=STORE))
        self._tell("shop", "store 'accounting' keeps the running total")

    async def publish(self, order: OrderPlaced) -> int:
        """Publish an order, and return the event's id. Publishing an order twice stores it once."""
        data = Any()
        data.Pack(order)
        request = events.PublishEventRequest(
            subject="orders.placed", data=data, idempotency_key=order.order_id
        )
        return int((await self._call(_EVENTS["Publish"], request)).id)

    async def dead_letters(self, count: int) -> list[deadletters.DeadLetter]:
        """Watch the orders that the workers give up on, until there are so many."""
        letters: list[deadletters.DeadLetter] = []
        async with self._channel.stream(_DEAD_LETTERS["Watch"], deadletters.WatchResponse) as call:
            call.send(deadletters.WatchRequest(filter=_GIVEN_UP, existing=True))
            call.close_send()
            while len(letters) < count:
                letters.append((await anext(aiter(call))).dead_letter)
        return letters

    async def replay(self) -> int:
        """Have those orders delivered again, to the consumer that gave up on them; tell how many."""
        request = deadletters.ReplayRequest(filter=_GIVEN_UP)
        return int((await self._call(_DEAD_LETTERS["Replay"], request)).replayed)

    async def total(self) -> RunningTotal:
        """Read the running total."""
        return (await self._read())[0]

    async def count(self, event_id: int, order: OrderPlaced) -> tuple[RunningTotal, int]:
        """Add an order to the running total, unless it is in there.

        Returns the total, and how often another worker was quicker to change it.
        """
        conflicts = 0
        while True:
            total, revision = await self._read()
            if event_id in total.counted_event_ids:
                return total, conflicts
            total.orders += 1
            total.cents += cents(order)
            total.counted_event_ids.append(event_id)
            if await self._write(total, revision):
                return total, conflicts
            conflicts += 1

    async def _call(self, method: MethodDescriptor, request: Message) -> typing.Any:
        return await self._channel.unary(method, request, timeout=_TIMEOUT)

    async def _read(self) -> tuple[RunningTotal, int]:
        answer = await self._call(_STATE["Get"], state.GetRequest(store=STORE, key=KEY))
        total = RunningTotal()
        answer.value.Unpack(total)
        return total, answer.revision

    async def _write(self, total: RunningTotal, revision: int) -> bool:
        """Write it if it is still at this revision (0: not there); tell whether it was."""
        request = state.SetRequest(store=STORE, key=KEY, last_revision=revision)
        request.value.Pack(total)
        try:
            await self._call(_STATE["Set"], request)
        except RpcError as error:
            if error.code is StatusCode.ABORTED:
                return False
            raise
        return True
