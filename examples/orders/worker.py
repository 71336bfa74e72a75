"""A worker: takes orders off the consumer, counts them, and settles them."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from examples.orders._gen.shop.orders.v1.orders_pb2 import OrderPlaced
from examples.orders.narration import Narration, euros
from examples.orders.shop import CONSUMER, PROCESSING_TIMEOUT, STREAM, Shop
from windshift.protos import events
from windshift.rpc import Channel, ClientCall, RpcError, StatusCode

_CONSUME = events.DESCRIPTOR.services_by_name["EventsService"].methods_by_name["Consume"]
_AT_ONCE = 2
_DELAY = timedelta(milliseconds=500)
_SLOW_WORK = 2 * PROCESSING_TIMEOUT + 0.5
_PING_INTERVAL = PROCESSING_TIMEOUT / 3

Confirmation = (
    events.EventsResponse.AckConfirmation
    | events.EventsResponse.RejectConfirmation
    | events.EventsResponse.PingConfirmation
)


class Progress:
    """How far all workers together are."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._settled: set[int] = set()
        self.done = asyncio.Event()
        """Set when the expected number of events is acknowledged."""

    def acknowledged(self, event_id: int) -> None:
        """Note that the server confirmed an acknowledgement."""
        self._settled.add(event_id)
        if len(self._settled) == self._expected:
            self.done.set()


class Worker:
    """One subscriber of the consumer. Works on one event at a time, and holds one more.

    `rejects_every` n makes it find that one in n new orders is not paid yet, and reject it for a while;
    `slow_first` makes it work longer on its first order than the consumer allows, and ask for more time.
    """

    def __init__(
        self,
        name: str,
        channel: Channel,
        shop: Shop,
        progress: Progress,
        tell: Narration,
        *,
        rejects_every: int = 0,
        slow_first: bool = False,
    ) -> None:
        self.name = name
        self._channel = channel
        self._shop = shop
        self._progress = progress
        self._tell = tell
        self._rejects_every = rejects_every
        self._slow = slow_first
        self._call: ClientCall[events.EventsResponse] | None = None
        self._inbox: asyncio.Queue[events.Event] = asyncio.Queue()
        self._held: set[int] = set()
        self._confirmations: deque[asyncio.Future[Confirmation]] = deque()
        self._seen = self._counted = self._conflicts = 0
        self.rejected = self.given_up = self.pings = 0
        self.subscribed = asyncio.Event()
        self.left = asyncio.Event()
        self._ending = ""

    @property
    def report(self) -> str:
        """What it did, in one line."""
        parts = [f"counted {self._counted}"]
        if self.rejected:
            parts.append(f"rejected {self.rejected} for a while")
        if self.given_up:
            parts.append(f"gave up on {self.given_up}")
        if self.pings:
            parts.append(f"asked {self.pings} times for more time")
        if self._conflicts:
            parts.append(f"was overtaken in the store {self._conflicts} times")
        return ", ".join(parts)

    def leave(self) -> None:
        """Take nothing new: the server ends the call with OK after the last confirmation."""
        if self._call is not None:
            self._call.close_send()

    async def run(self) -> None:
        """Work until `leave` is called, or until the server goes away."""
        async with self._channel.stream(_CONSUME, events.EventsResponse) as call:
            self._call = call
            subscribe = events.EventsRequest.Subscribe(
                stream=STREAM, consumer=CONSUMER, max_processing_events=_AT_ONCE
            )
            call.send(events.EventsRequest(subscribe=subscribe))
            work = asyncio.create_task(self._work(), name=f"{self.name} works")
            receive = asyncio.create_task(self._receive(call), name=f"{self.name} receives")
            try:
                await asyncio.wait((work, receive), return_when=asyncio.FIRST_COMPLETED)
            finally:
                work.cancel()
                receive.cancel()
                await asyncio.wait((work, receive))
            for task in (receive, work):
                if not task.cancelled():
                    task.result()
        self._tell(self.name, self._ending)
        self.left.set()

    async def _receive(self, call: ClientCall[events.EventsResponse]) -> None:
        try:
            async for response in call:
                self._take(response)
            self._ending = "left, and the call ended with OK"
        except RpcError as error:
            if error.code is not StatusCode.UNAVAILABLE:
                raise
            self._ending = f"was sent away by the server: {error.message}"

    def _take(self, response: events.EventsResponse) -> None:
        match response.WhichOneof("response"):
            case "subscribed":
                timeout = response.subscribed.processing_timeout.ToTimedelta()
                self._tell(self.name, f"subscribed; has {timeout.total_seconds():g} s for each order")
                self.subscribed.set()
            case "event":
                self._held.add(response.event.id)
                self._inbox.put_nowait(response.event)
            case "ack_confirmation":
                self._confirmations.popleft().set_result(response.ack_confirmation)
            case "reject_confirmation":
                self._confirmations.popleft().set_result(response.reject_confirmation)
            case "ping_confirmation":
                self._confirmations.popleft().set_result(response.ping_confirmation)

    async def _ask(self, request: events.EventsRequest) -> Confirmation:
        """Send a request and wait for its confirmation. They come in the order of the requests."""
        if self._call is None:
            raise AssertionError("not subscribed")
        confirmation: asyncio.Future[Confirmation] = asyncio.get_running_loop().create_future()
        self._confirmations.append(confirmation)
        self._call.send(request)
        return await confirmation

    # Work

    async def _work(self) -> None:
        while True:
            event = await self._inbox.get()
            order = OrderPlaced()
            if not event.data.Unpack(order):
                raise ValueError(f"event {event.id} is no order but a {event.data.type_url}")
            await self._handle(event, order)

    async def _handle(self, event: events.Event, order: OrderPlaced) -> None:
        self._seen += 1
        is_new = event.delivery_attempt == 1
        if order.customer in self._shop.without_account:
            await self._give_up(event, order)
            return
        if self._rejects_every and is_new and self._seen % self._rejects_every == 1:
            await self._reject(event, order)
            return
        if self._slow:
            self._slow = False
            await self._take_long(order)
        total, conflicts = await self._shop.count(event.id, order)
        self._conflicts += conflicts
        await self._acknowledge(event, order, total.cents)

    async def _acknowledge(self, event: events.Event, order: OrderPlaced, total: int) -> None:
        confirmation = await self._ask(events.EventsRequest(ack=events.EventsRequest.Ack(ids=[event.id])))
        self._held.discard(event.id)
        if event.id not in confirmation.ids:
            self._tell(self.name, f"was too late with {order.order_id}; it comes again")
            return
        self._counted += 1
        attempt = "" if event.delivery_attempt == 1 else f" (attempt {event.delivery_attempt})"
        self._tell(self.name, f"counted {order.order_id}{attempt}; the total is {euros(total)}")
        self._progress.acknowledged(event.id)

    async def _reject(self, event: events.Event, order: OrderPlaced) -> None:
        delay = Duration()
        delay.FromTimedelta(_DELAY)
        await self._ask(events.EventsRequest(reject=events.EventsRequest.Reject(ids=[event.id], delay=delay)))
        self._held.discard(event.id)
        self.rejected += 1
        self._tell(
            self.name,
            f"rejected {order.order_id}: not paid yet, to come again in {_DELAY.total_seconds():g} s",
        )

    async def _give_up(self, event: events.Event, order: OrderPlaced) -> None:
        reason = f"customer {order.customer} has no account"
        reject = events.EventsRequest.Reject(
            ids=[event.id],
            action=events.EventsRequest.REJECT_ACTION_DEAD_LETTER,
            reason=reason,
            error_type="NoAccount",
        )
        await self._ask(events.EventsRequest(reject=reject))
        self._held.discard(event.id)
        self.given_up += 1
        self._tell(self.name, f"gave up on {order.order_id}: {reason}")

    async def _take_long(self, order: OrderPlaced) -> None:
        """Work longer than the consumer allows, and keep everything that is held meanwhile."""
        loop = asyncio.get_running_loop()
        done_at = loop.time() + _SLOW_WORK
        self._tell(self.name, f"finds {order.order_id} hard; that will take {_SLOW_WORK:g} s")
        while (left := done_at - loop.time()) > 0:
            await asyncio.sleep(min(left, _PING_INTERVAL))
            ping = events.EventsRequest.Ping(ids=sorted(self._held))
            confirmation = await self._ask(events.EventsRequest(ping=ping))
            self.pings += 1
            kept = ", ".join(str(event_id) for event_id in confirmation.ids)
            self._tell(self.name, f"asked for more time; keeps event {kept}")
