"""The reply multiplexer, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from nats.aio.msg import Msg

from tests.support.broker import Broker, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.nats.connection import NotConnected
from windshift.server.nats.replies import NoReply, Outcome

Unique = Callable[[], str]


async def echo(broker: Broker, subject: str) -> None:
    """Answer every message to a subject with its own body."""
    await broker.connection.subscribe(
        subject, lambda message: broker.connection.publish(message.reply, message.data)
    )


async def test_every_request_gets_its_own_answer(broker: Broker, unique: Unique) -> None:
    """Answers to many requests at once go to whoever asked, and leave nothing behind."""
    subject = unique()
    await echo(broker, subject)
    bodies = [b"%d" % number for number in range(500)]
    answers = await asyncio.gather(
        *(broker.replies.request(subject, body, None, in_seconds(5)) for body in bodies)
    )
    assert answers == bodies
    assert len(broker.replies) == 0


async def test_nobody_listens(broker: Broker, unique: Unique) -> None:
    """A subject without listeners is told at once."""
    outcome = await broker.replies.request(unique(), b"", {"Header": "x"}, in_seconds(30))
    assert outcome is NoReply.NO_RESPONDERS


async def test_no_answer_in_time(broker: Broker, unique: Unique) -> None:
    """A request that is not answered ends at its deadline, and a late answer is dropped."""
    subject, asked = unique(), asyncio.Queue[Msg]()
    await broker.connection.subscribe(subject, asked.put_nowait)
    outcome = await broker.replies.request(subject, b"", None, in_seconds(0.01))
    assert outcome is NoReply.TIMED_OUT
    broker.connection.publish((await asked.get()).reply, b"late")
    await broker.api.call("INFO", None, in_seconds(5))
    assert len(broker.replies) == 0


async def test_handler_form(broker: Broker, unique: Unique) -> None:
    """`send` calls a function once per message, and not at all after `forget`."""
    subject, got = unique(), asyncio.Queue[Outcome]()
    await echo(broker, subject)
    forgotten = broker.replies.send(subject, b"forgotten", None, got.put_nowait, in_seconds(5))
    broker.replies.forget(forgotten)
    broker.replies.send(subject, b"answered", None, got.put_nowait, in_seconds(5))
    assert await got.get() == b"answered"
    assert got.empty()


async def test_failing_handler_harms_nobody_else(
    broker: Broker, unique: Unique, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that raises is logged; the other answers arrive."""
    subject = unique()
    await echo(broker, subject)

    def fail(outcome: Outcome) -> None:
        raise RuntimeError("broken handler")

    broker.replies.send(subject, b"", None, fail, in_seconds(5))
    assert await broker.replies.request(subject, b"fine", None, in_seconds(5)) == b"fine"
    assert "broken handler" in caplog.text


async def test_cancelled_request_is_forgotten(broker: Broker, unique: Unique) -> None:
    """A request whose caller went away leaves nothing behind."""
    subject = unique()
    await broker.connection.subscribe(subject, lambda _: None)
    task = asyncio.create_task(broker.replies.request(subject, b"", None, in_seconds(60)))
    await asyncio.sleep(0)
    assert len(broker.replies) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(broker.replies) == 0


async def test_lost_connection_fails_what_is_under_way(
    own_nats_server: NatsServer, own_broker: Broker
) -> None:
    """When the connection ends everything that waits is told so, and nothing more can be sent."""
    await own_broker.connection.subscribe("silence", lambda _: None)
    waiting = asyncio.gather(
        *(own_broker.replies.request("silence", b"", None, in_seconds(60)) for _ in range(3))
    )
    await asyncio.sleep(0)
    own_nats_server.kill()
    assert await waiting == [NoReply.DISCONNECTED] * 3
    with pytest.raises(NotConnected):
        await own_broker.replies.request("silence", b"", None, in_seconds(60))
    own_nats_server.start()
    await own_broker.connection.wait_connected(in_seconds(10))
    await own_broker.api.call("INFO", None, in_seconds(5))


async def test_round_trip(broker: Broker) -> None:
    """A message to the broker and back is timed, more finely than the loop's clock, and leaves nothing."""
    times = [await broker.replies.round_trip(in_seconds(5)) for _ in range(5)]
    assert all(time is not None and 0 < time < 5 for time in times)
    assert len(broker.replies) == 0


async def test_no_round_trip(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """There is no time without an answer, nor without a connection."""
    own_nats_server.freeze()
    assert await own_broker.replies.round_trip(in_seconds(0.05)) is None
    own_nats_server.thaw()
    own_nats_server.kill()
    await own_broker.lost()
    assert await own_broker.replies.round_trip(in_seconds(5)) is None
