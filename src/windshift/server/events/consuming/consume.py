"""Consuming: a client subscribes with the first message of its call, and is attached to a consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Protocol

from windshift.server.errors import ShuttingDown, SubscribeExpected, WindshiftError
from windshift.server.events.consuming.attachment import Attachment
from windshift.server.events.consuming.commands import Command, Subscribe, check_subscribe
from windshift.server.events.consuming.lookup import Found, find_consumer
from windshift.server.events.consuming.parties import Broker, Client, ConsumeOptions, Gate
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
        gate: what the client may consume; None = everything.
    """

    __slots__ = ("_attachment", "_broker", "_client", "_ended", "_gate", "_options", "_patience")

    def __init__(
        self, broker: Broker, client: Subscriber, options: ConsumeOptions, gate: Gate | None = None
    ) -> None:
        self._broker = broker
        self._client = client
        self._options = options
        self._gate = gate
        self._ended: WindshiftError | None = None
        self._patience: asyncio.Timeout | None = None
        self._attachment: Attachment | None = None

    async def run(self) -> None:
        """Serve the call until the client has ended its side and everything is confirmed.

        When it is over, however it ended, events that the client had not settled are with the broker again.

        Raises:
            WindshiftError: the client made a mistake or may not consume this, the consumer is not there or
                not any more, the broker could not be reached at the start, or this server is about to stop.
        """
        if self._gate is not None:
            self._gate.follow(self._check, self.end)
        commands = await self._first_commands()
        command = next(commands, None)
        if not isinstance(command, Subscribe):
            raise SubscribeExpected
        size = check_subscribe(command)
        consumer, gate = ConsumerKey(command.stream, command.consumer), self._gate
        if gate is not None:
            gate.use_consumer(*consumer)
        found = await self._find(command, size)
        if self._ended is not None:
            raise self._ended
        window = Window(size, found.timeout.total_seconds())
        attachment = Attachment(self._broker, self._client, consumer, found, window, self._options, gate)
        attachment.check()
        self._attachment = attachment
        self._client.subscribed(found.timeout)
        await attachment.run(commands)

    def drain(self) -> None:
        """End the call soon, with `ShuttingDown`, once what the client asked for so far is confirmed."""
        self.end(ShuttingDown())

    def end(self, error: WindshiftError) -> None:
        """End the call soon, with an error, once what the client asked for so far is confirmed."""
        self._ended = self._ended or error
        if self._attachment is not None:
            self._attachment.end(error)
        elif self._patience is not None:
            self._patience.reschedule(0)

    def _check(self) -> None:
        if self._attachment is not None:
            self._attachment.check()

    async def _first_commands(self) -> Iterator[Command]:
        """Wait for the client's first message, and what came with it."""
        seconds = self._options.subscribe_timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds) as self._patience:
                commands = await self._client.receive()
        except TimeoutError:
            raise self._ended or SubscribeExpected from None
        finally:
            self._patience = None
        if commands is None:
            raise SubscribeExpected
        return commands

    async def _find(self, subscribe: Subscribe, window: int) -> Found:
        deadline = asyncio.get_running_loop().time() + self._options.lookup_timeout.total_seconds()
        return await find_consumer(self._broker.api, subscribe.stream, subscribe.consumer, window, deadline)
