"""Questions to all servers, with a real nats-server between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.nats.waiting import eventually
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import Message
from windshift.server.admin import gathering
from windshift.server.admin.gathering import Gathering


@asynccontextmanager
async def serving(broker: Broker) -> AsyncIterator[Gathering]:
    """Be a server for the length of the block."""
    server = Gathering(broker.connection)
    running = asyncio.create_task(server.run())
    await asyncio.sleep(0)
    await broker.requests.round_trip(in_seconds(30))  # until it hears what is asked
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


async def test_an_answer_that_comes_twice(
    own_broker: Broker, own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts once: a server that moves to another one of NATS listens at both for a while."""
    monkeypatch.setattr(gathering, "TIMEOUT", 30.0)
    async with connect(own_nats_server.url) as others, serving(own_broker) as server:
        server.answer("things", lambda _: [])
        a, b = (b'{"id": "%b", "entries": [{"n": 1}], "last": true}' % each for each in (b"a", b"b"))
        answer(others, lambda: [a, a, b])
        for each in (b"a", b"b"):
            others.connection.publish(b"_WS.here." + each, b"+", reply=others.connection.inbox())
        await known(server, "a", "b")
        gathered = await server.ask("things", {})
        assert gathered.entries == {server.id: [], "a": [{"n": 1}], "b": [{"n": 1}]}


async def test_servers_that_have_a_connection_again(
    own_broker: Broker, own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They know each other at once, though they had forgotten each other."""
    monkeypatch.setattr(gathering, "_INTERVAL", 3_600.0)
    async with (
        connect(own_nats_server.url) as broker,
        serving(own_broker) as one,
        serving(broker) as other,
    ):
        await known(one, other.id)
        await known(other, one.id)
        own_nats_server.stop()
        for each in own_broker, broker:
            await each.lost()
        for server in one, other:
            server._heard.clear()
        own_nats_server.start()
        await known(one, other.id)
        await known(other, one.id)


async def test_a_server_that_is_not_known_yet(
    own_broker: Broker, own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss of the connection its answer is waited for all the same."""
    monkeypatch.setattr(gathering, "_INTERVAL", 3_600.0)
    monkeypatch.setattr(gathering, "TIMEOUT", 3.0)
    async with connect(own_nats_server.url) as other, serving(own_broker) as server:
        server.answer("things", lambda _: [])
        assert (await server.ask("things", {})).entries.keys() == {server.id}
        own_nats_server.stop()
        for each in own_broker, other:
            await each.lost()
        own_nats_server.start()
        answer(other, lambda: [b'{"id": "a", "entries": [], "last": true}'])
        for each in own_broker, other:
            await each.connection.wait_ready(in_seconds(30))
        assert (await server.ask("things", {})).entries.keys() == {server.id, "a"}


async def test_a_server_that_told_no_inbox(own_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it has a connection cannot be asked, and nothing is subscribed to for that."""
    async with serving(own_broker) as server:
        own_broker.connection.publish(b"_WS.here.a", b"+")
        await known(server, "a")
        monkeypatch.setattr(own_broker.connection, "subscribe_once", None)
        assert await server.gone({"a"}) == set()
