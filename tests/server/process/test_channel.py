"""The channel between a server and a worker."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import uvloop

from windshift.server.process.channel import Channel, Order


def test_nobody_is_there() -> None:
    """What is sent to an end that is gone is lost, and that is no error: on uvloop, as servers run."""

    async def send() -> None:
        ours, theirs = socket.socketpair()
        channel = await Channel.of(ours)
        theirs.close()
        channel.send(Order.RELOAD)
        async with asyncio.timeout(30):
            with suppress(ConnectionError):
                await channel._writer.wait_closed()
        channel.send(Order.STOP)
        assert [each async for each in channel.messages()] == []
        await channel.aclose()

    uvloop.run(send())
