"""Questions to all servers, with a real nats-server between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.nats.waiting import eventually
from tests.support.broker import Broker, connect
from tests.support.nats_server import NatsServer
from windshift.nats import Message
from windshift.server.admin.gathering import Gathering


@asynccontextmanager
async def serving(broker: Broker) -> AsyncIterator[Gathering]:
    """Be a server for the length of the block."""
    server = Gathering(broker.connection)
    running = asyncio.create_task(server.run())
    await asyncio.sleep(0)
    try:
        yield server
    finally:
        running.cancel()
        await asyncio.wait([running])


async def known(server: Gathering, *others: str) -> None:
    """Wait until a server knows these others."""
    await eventually(lambda: server._others() == set(others))


def answer(broker: Broker, answers: Callable[[], list[bytes]]) -> None:
    """Answer questions about things as other servers do."""

    def on_question(message: Message) -> None:
        for each in answers():
            broker.connection.publish(message.reply, each)

    broker.connection.subscribe(b"_WS.ask.things", on_question)


async def test_an_answer_that_comes_twice(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """It counts once: a server that moves to another one of NATS listens at both for a while."""
    async with connect(own_nats_server.url) as others, serving(own_broker) as server:
        server.answer("things", lambda _: [])
        a, b = (b'{"id": "%b", "entries": [{"n": 1}], "last": true}' % each for each in (b"a", b"b"))
        answer(others, lambda: [a, a, b])
        for each in (b"a", b"b"):
            others.connection.publish(b"_WS.here." + each, b"+", reply=others.connection.inbox())
        await known(server, "a", "b")
        gathered = await server.ask("things", {})
        assert gathered.entries == {server.id: [], "a": [{"n": 1}], "b": [{"n": 1}]}
