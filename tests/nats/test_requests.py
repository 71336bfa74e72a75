"""Requests and their answers, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from tests.nats.waiting import eventually, wire_of
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import Message, MessageTooLarge, NoReply, NotConnected, Outcome
from windshift.nats import headers as h

Unique = Callable[[], str]


def echo(broker: Broker, subject: bytes) -> None:
    """Answer every message to a subject with its own body."""
    broker.connection.subscribe(
        subject, lambda message: broker.connection.publish(message.reply, message.body)
    )


def silence(broker: Broker, subject: bytes) -> asyncio.Queue[Message]:
    """Take every message to a subject, and answer none."""
    asked = asyncio.Queue[Message]()
    broker.connection.subscribe(subject, asked.put_nowait)
    return asked


async def test_every_request_gets_its_own_answer(broker: Broker, unique: Unique) -> None:
    """Answers to many requests at once go to whoever asked, and leave nothing behind."""
    subject = unique().encode()
    echo(broker, subject)
    bodies = [b"%d" % number for number in range(500)]
    answers = await asyncio.gather(
        *(broker.requests.request(subject, body, b"", in_seconds(20)) for body in bodies)
    )
    assert answers == bodies
    assert len(broker.requests) == 0


async def test_headers_go_along(broker: Broker, unique: Unique) -> None:
    """A request may have headers. Of the answer only the body is handed out."""
    subject, headers = unique().encode(), h.block(((b"Some", b"thing"),))
    broker.connection.subscribe(
        subject,
        lambda message: broker.connection.publish(
            message.reply, message.headers, h.block(((b"Other", b"503"),))
        ),
    )
    assert await broker.requests.request(subject, b"?", headers, in_seconds(20)) == headers


async def test_only_the_first_answer_counts(broker: Broker, unique: Unique) -> None:
    """Where several answer, one is handed out and the others are dropped."""
    subject = unique().encode()
    echo(broker, subject)
    echo(broker, subject)
    got = list[Outcome]()
    broker.requests.send(subject, b"a", b"", got.append, in_seconds(20))
    await broker.requests.round_trip(in_seconds(20))
    await broker.requests.round_trip(in_seconds(20))
    assert got == [b"a"]


async def test_nobody_listens(broker: Broker, unique: Unique) -> None:
    """A subject without listeners is told at once."""
    outcome = await broker.requests.request(
        unique().encode(), b"", h.block(((b"Header", b"x"),)), in_seconds(60)
    )
    assert outcome is NoReply.NO_RESPONDERS


async def test_no_answer_in_time(broker: Broker, unique: Unique) -> None:
    """A request that is not answered ends at its deadline, and a late answer is dropped."""
    subject = unique().encode()
    asked = silence(broker, subject)
    outcome = await broker.requests.request(subject, b"", b"", in_seconds(0.01))
    assert outcome is NoReply.TIMED_OUT
    broker.connection.publish((await asked.get()).reply, b"late")
    await broker.requests.round_trip(in_seconds(20))
    assert len(broker.requests) == 0


async def test_each_ends_at_its_own_deadline(broker: Broker, unique: Unique) -> None:
    """Requests end in the order of their deadlines, and not before these."""
    subject, loop, ended = unique().encode(), asyncio.get_running_loop(), list[tuple[float, float]]()
    silence(broker, subject)
    begun = loop.time()
    deadlines = [begun + 0.05 + (number * 7 % 20) / 25 for number in range(20)]

    def end(deadline: float, outcome: Outcome) -> None:
        assert outcome is NoReply.TIMED_OUT
        ended.append((deadline, loop.time()))

    for deadline in deadlines:
        broker.requests.send(subject, b"", b"", partial(end, deadline), deadline)
    await eventually(lambda: len(ended) == 20)
    assert [deadline for deadline, _ in ended] == sorted(deadlines)
    assert all(at >= deadline - 0.002 for deadline, at in ended)  # uvloop's time has milliseconds


async def test_waiting_on(broker: Broker, unique: Unique) -> None:
    """A request whose time is over may be waited for all the same."""
    subject = unique().encode()
    asked = silence(broker, subject)
    answer = asyncio.get_running_loop().create_future()
    token = broker.requests.send(subject, b"", b"", answer.set_result, in_seconds(0.01))
    assert await answer is NoReply.TIMED_OUT
    late = broker.requests.wait_on(token, subject, in_seconds(20))
    broker.connection.publish((await asked.get()).reply, b"late")
    assert await late == b"late"
    assert len(broker.requests) == 0


async def test_handler_form(broker: Broker, unique: Unique) -> None:
    """`send` calls a function once per message, and not at all after `forget`."""
    subject, got = unique().encode(), asyncio.Queue[Outcome]()
    echo(broker, subject)
    forgotten = broker.requests.send(subject, b"forgotten", b"", got.put_nowait, in_seconds(20))
    broker.requests.forget(forgotten)
    broker.requests.send(subject, b"answered", b"", got.put_nowait, in_seconds(20))
    assert await got.get() == b"answered"
    assert got.empty()


async def test_failing_handler_harms_nobody_else(
    broker: Broker, unique: Unique, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that raises is logged; the other answers arrive."""
    subject = unique().encode()
    echo(broker, subject)

    def fail(outcome: Outcome) -> None:
        raise RuntimeError("broken handler")

    broker.requests.send(subject, b"", b"", fail, in_seconds(20))
    assert await broker.requests.request(subject, b"fine", b"", in_seconds(20)) == b"fine"
    assert "broken handler" in caplog.text


async def test_cancelled_request_is_forgotten(broker: Broker, unique: Unique) -> None:
    """A request whose caller went away leaves nothing behind."""
    subject = unique().encode()
    silence(broker, subject)
    task = asyncio.create_task(broker.requests.request(subject, b"", b"", in_seconds(60)))
    await asyncio.sleep(0)
    assert len(broker.requests) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(broker.requests) == 0


async def test_too_large_a_request(broker: Broker, unique: Unique) -> None:
    """It is refused at once; its handler is never called, and nothing is left behind."""
    got = list[Outcome]()
    with pytest.raises(MessageTooLarge):
        broker.requests.send(
            unique().encode(), bytes(broker.connection.max_payload + 1), b"", got.append, in_seconds(20)
        )
    assert len(broker.requests) == 0
    assert got == []


async def test_lost_connection_fails_what_is_under_way(
    own_nats_server: NatsServer, own_broker: Broker
) -> None:
    """When the connection ends everything that waits is told so, and nothing more can be sent."""
    silence(own_broker, b"silence")
    waiting = asyncio.gather(
        *(own_broker.requests.request(b"silence", b"", b"", in_seconds(60)) for _ in range(3))
    )
    await asyncio.sleep(0)
    own_nats_server.kill()
    assert await waiting == [NoReply.DISCONNECTED] * 3
    with pytest.raises(NotConnected):
        await own_broker.requests.request(b"silence", b"", b"", in_seconds(60))
    assert len(own_broker.requests) == 0
    own_nats_server.start()
    await own_broker.connection.wait_ready(in_seconds(20))
    await own_broker.api.call("INFO", None, in_seconds(20))


async def test_a_handler_that_asks_again_when_the_connection_ends(
    own_nats_server: NatsServer, own_broker: Broker
) -> None:
    """It is told that there is no connection, and the others are told what became of theirs."""
    got = list[str]()
    silence(own_broker, b"silence")

    def ask_again(outcome: Outcome) -> None:
        got.append(str(outcome))
        try:
            own_broker.requests.send(b"silence", b"", b"", ask_again, in_seconds(60))
        except NotConnected:
            got.append("not connected")

    for _ in range(2):
        own_broker.requests.send(b"silence", b"", b"", ask_again, in_seconds(60))
    own_nats_server.kill()
    await own_broker.lost()
    assert got == ["NoReply.DISCONNECTED", "not connected"] * 2


async def test_two_with_one_inbox_prefix(broker: Broker, unique: Unique) -> None:
    """Answers to two connections do not get mixed up."""
    subject = unique().encode()
    async with connect(wire_of(broker).server.url) as other:
        echo(broker, subject)
        await broker.requests.round_trip(in_seconds(20))
        answers = await asyncio.gather(
            *(broker.requests.request(subject, b"a%d" % number, b"", in_seconds(20)) for number in range(50)),
            *(other.requests.request(subject, b"b%d" % number, b"", in_seconds(20)) for number in range(50)),
        )
    assert answers == [b"a%d" % number for number in range(50)] + [b"b%d" % number for number in range(50)]


async def test_round_trip(broker: Broker) -> None:
    """A message to the server and back is timed, more finely than the loop's clock, and leaves nothing."""
    times = [await broker.requests.round_trip(in_seconds(20)) for _ in range(5)]
    assert all(time is not None and 0 < time < 20 for time in times)
    assert len(broker.requests) == 0


async def test_no_round_trip(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """There is no time without an answer, nor without a connection."""
    own_nats_server.freeze()
    assert await own_broker.requests.round_trip(in_seconds(0.05)) is None
    own_nats_server.thaw()
    own_nats_server.kill()
    await own_broker.lost()
    assert await own_broker.requests.round_trip(in_seconds(20)) is None
