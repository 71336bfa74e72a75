"""Consuming: a client subscribes with the first message of its call, and is attached to a consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Protocol

from windshift.server.errors import ShuttingDown, SubscribeExpected
from windshift.server.events.consuming.attachment import Attachment
from windshift.server.events.consuming.commands import Command, Subscribe, check_subscribe
from windshift.server.events.consuming.lookup import Found, find_consumer
from windshift.server.events.consuming.parties import Broker, Client, ConsumeOptions
from windshift.server.events.consuming.window import Window
from windshift.server.events.model import ConsumerKey


class Subscriber(Client, Protocol):
    """A client that is to be attached."""

    def subscribed(self, processing_timeout: timedelta) -> None:
        """Tell the client that it is attached."""
        ...


class Subscription:
    """One consume call.

    Args:
        broker: NATS.
        client: the client.
        options: timers.
    """

    __slots__ = ("_attachment", "_broker", "_client", "_draining", "_options", "_patience")

    def __init__(self, broker: Broker, client: Subscriber, options: ConsumeOptions) -> None:
        self._broker = broker
        self._client = client
        self._options = options
        self._draining = False
        self._patience: asyncio.Timeout | None = None
        self._attachment: Attachment | None = None

    async def run(self) -> None:
        """Serve the call until the client has ended its side and everything is confirmed.

        When it is over, however it ended, events that the client had not settled are with the broker again.

        Raises:
            WindshiftError: the client made a mistake, the consumer is not there or not any more, the broker
                could not be reached at the start, or this server is about to stop.
        """
        commands = await self._first_commands()
        command = next(commands, None)
        if not isinstance(command, Subscribe):
            raise SubscribeExpected
        size = check_subscribe(command)
        found = await self._find(command, size)
        if self._draining:
            raise ShuttingDown
        self._client.subscribed(found.timeout)
        consumer = ConsumerKey(command.stream, command.consumer)
        window = Window(size, found.timeout.total_seconds())
        self._attachment = Attachment(self._broker, self._client, consumer, found, window, self._options)
        await self._attachment.run(commands)

    def drain(self) -> None:
        """End the call soon, with `ShuttingDown`, once what the client asked for so far is confirmed."""
        self._draining = True
        if self._attachment is not None:
            self._attachment.end(ShuttingDown())
        elif self._patience is not None:
            self._patience.reschedule(0)

    async def _first_commands(self) -> Iterator[Command]:
        """Wait for the client's first message, and what came with it."""
        seconds = self._options.subscribe_timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds) as self._patience:
                commands = await self._client.receive()
        except TimeoutError:
            raise ShuttingDown if self._draining else SubscribeExpected from None
        finally:
            self._patience = None
        if commands is None:
            raise SubscribeExpected
        return commands

    async def _find(self, subscribe: Subscribe, window: int) -> Found:
        deadline = asyncio.get_running_loop().time() + self._options.lookup_timeout.total_seconds()
        return await find_consumer(
            self._broker.consumers, subscribe.stream, subscribe.consumer, window, deadline
        )
