"""Peers that flood: their connection ends, and a client on another one does not notice."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from itertools import count, pairwise

import pytest

import windshift.rpc.connection as connection_module
from windshift.rpc.turns import SLICE

from .fakes import connected
from .floods import ENDING, HARMLESS, Flood, pieces
from .frames import PREFACE, WAIT, Peer, data, headers, ping, request_fields, settings
from .serving import UNARY, Serving, Steps, echo, eventually, server_options, serving, simple


async def flood(peer: Peer, what: Flood) -> None:
    """Send a flood until the server closes the connection, reading nothing."""
    with suppress(ConnectionError):
        for piece in pieces(what):
            if peer._writer.transport.is_closing():
                return
            await peer.send_slowly(piece)


async def healthy(running: Serving, until: asyncio.Task[None]) -> list[float]:
    """Call on another connection, 20 times or more, until a flood is over; return how long each call took."""
    seconds: list[float] = []
    async with await running.peer() as peer:
        while not until.done() or len(seconds) < 20:
            started = time.monotonic()
            assert (await peer.call(UNARY, simple(b"x"))).status == 0
            seconds.append(time.monotonic() - started)
    return seconds


async def test_what_was_parsed_is_let_go_of() -> None:
    """Also where it was parsed in several turns: a read may have 256 KiB, and the connection may idle."""
    async with serving(unary_call=echo) as running:
        served, transport = connected(running.server)
        connection = served.http2
        transport.deliver(PREFACE + settings())
        many = b"".join(
            headers(n, request_fields(UNARY)) + data(n, simple(b"x"), end=True) for n in range(1, 401, 2)
        )
        before = sys.getrefcount(many)
        transport.deliver(many)
        assert connection.unread
        await eventually(lambda: not connection.unread)
        assert sys.getrefcount(many) == before
        transport.lose()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ENDING)
async def test_a_flood_ends_its_connection_only(name: str) -> None:
    """No call is left, none was handled beyond the limits, and others are served meanwhile."""
    steps = Steps()
    options = server_options(first_request_timeout=3.0)  # ends what the socket's buffers take whole
    async with serving(options, unary_call=echo, full_duplex_call=steps.handler) as running:
        peer = await running.peer()
        started = time.monotonic()
        attack = asyncio.create_task(flood(peer, ENDING[name]))
        seconds = await healthy(running, attack)
        await attack
        await peer.closed(60)
        allowed = 12_000 + 1000 * (time.monotonic() - started)  # what honest clients may cancel
        await eventually(lambda: running.server.connections == 0 and steps.ended == steps.started)
        assert len(running.finished) - len(seconds) <= allowed
        assert steps.cancelled == steps.started < 3000  # of most the resets arrive with them
        assert max(seconds) < 10


@pytest.mark.parametrize("name", HARMLESS)
async def test_a_flood_that_costs_nothing_disturbs_nobody(name: str) -> None:
    """The connection may go on; others are served meanwhile, and the server is as before."""
    steps = Steps()
    async with serving(unary_call=echo, full_duplex_call=steps.handler) as running:
        async with await running.peer() as peer:
            attack = asyncio.create_task(flood(peer, HARMLESS[name]))
            seconds = await healthy(running, attack)
            await attack
            assert max(seconds) < 10
        await eventually(lambda: running.server.connections == 0 and steps.ended == steps.started)


async def test_a_flood_of_refused_streams_ends_the_connection() -> None:
    """Also of a client that never acknowledges the limit and never reads the refusals."""
    steps = Steps()
    async with serving(unary_call=echo, full_duplex_call=steps.handler) as running:
        peer = await running.peer(start=False)
        peer.acknowledge_settings = False
        await peer.start()
        attack = asyncio.create_task(flood(peer, (ENDING["streams"][0], 100_000)))
        await healthy(running, attack)
        await attack
        await peer.closed()
        await eventually(lambda: running.server.connections == 0 and steps.ended == steps.started)
        assert steps.started == 256


async def test_answers_that_nobody_reads_do_not_pile_up() -> None:
    """A client that sends requests without end and reads nothing is held by the number of its streams."""
    async with serving(server_options(), unary_call=echo) as running:
        peer = await running.peer(settings={0x4: 0})  # no window: no answer can leave
        for _ in range(256):
            peer.request(UNARY, simple(bytes(10)))
        await peer.pong()
        assert len(running.finished) == 256
        assert not any(response.body for response in peer.responses.values())
        peer.request(UNARY, simple(bytes(10)))
        assert await peer.closed() is not None
        await eventually(lambda: running.server.connections == 0)


async def test_an_endless_flood_does_not_keep_its_connection() -> None:
    """A peer that goes on sending after GOAWAY, and never closes, is cut off after a moment."""
    async with serving(unary_call=echo) as running:
        peer = await running.peer()
        peer.send(b"\xff" * 9)

        async def send_for_ever() -> None:
            with suppress(ConnectionError):
                while not peer._writer.transport.is_closing():
                    await peer.send_slowly(b"\xff" * 10_000)
                    await asyncio.sleep(0)

        async with asyncio.timeout(WAIT):
            await send_for_ever()
        assert running.server.connections == 0


async def test_a_flood_takes_turns_with_others() -> None:
    """However much of it arrives at once, some hundred calls are looked at before others get their turn."""
    steps = Steps()
    options = server_options()
    async with serving(options, full_duplex_call=steps.handler) as running:
        _, transport = connected(running.server)
        transport.deliver(PREFACE + settings())
        resets = b"".join(pieces((ENDING["rapid reset of streams"][0], 5000)))
        seen = [0]
        for size in (60_000, 250_000, 250_000):  # as sockets give it
            transport.deliver(resets[:size])
            resets = resets[size:]
            seen.append(len(running.finished))
            while not transport.reading:
                await asyncio.sleep(0)
                seen.append(len(running.finished))
        assert sum(seen[-1:]) > 3000
        assert max(after - before for before, after in pairwise(seen[2:])) < 1000
        transport.lose()
        await eventually(lambda: steps.ended == steps.started)


@pytest.mark.parametrize(("body", "pieces_taken"), [(2000, 4), (0, 2), (None, 1)])
async def test_few_calls_may_take_longer(
    monkeypatch: pytest.MonkeyPatch, body: int | None, pieces_taken: int
) -> None:
    """A slice ends later where it brought few calls; not where it brought many, or nothing but PINGs."""
    clock = count(step=0.0006)
    monkeypatch.setattr(connection_module, "thread_time", lambda: next(clock))
    async with serving(unary_call=echo) as running:
        served, transport = connected(running.server)
        connection = served.http2
        transport.deliver(PREFACE + settings())
        fields, message = request_fields(UNARY), simple(bytes(body or 0))
        frames = [
            ping() if body is None else headers(stream, fields) + data(stream, message, end=True)
            for stream in range(1, 4001 if body is None else 401, 2)
        ]
        piece = connection._piece = 4096
        transport.deliver(b"".join(frames))
        before = len(connection._rest)
        assert connection.take_turn(SLICE)
        assert before - len(connection._rest) == pieces_taken * piece
        transport.lose()


async def test_a_new_connection_begins_with_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects anew all the time has no more parsed at once than others."""
    clock = count(step=0.01)
    monkeypatch.setattr(connection_module, "thread_time", lambda: next(clock))
    async with serving(unary_call=echo) as running:
        served, transport = connected(running.server)
        connection = served.http2
        calls = [
            headers(stream, request_fields(UNARY)) + data(stream, simple(b"x"), end=True)
            for stream in range(1, 101, 2)
        ]
        transport.deliver(PREFACE + settings() + b"".join(calls))
        connection.take_turn(SLICE)
        assert len(connection._rest) > sum(map(len, calls)) - 512
        transport.lose()


async def test_time_of_other_processes_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives together is parsed together also on a machine where others run in between."""
    clock = count(step=0.01)
    monkeypatch.setattr(connection_module, "perf_counter", lambda: next(clock))
    async with serving(unary_call=echo) as running:
        served, transport = connected(running.server)
        connection = served.http2
        transport.deliver(PREFACE + settings())
        piece = connection._piece = 4096
        for stream in (1, 3, 5, 7):
            call = headers(stream, request_fields(UNARY)) + data(stream, simple(bytes(2000)), end=True)
            assert len(call) < piece
            transport.deliver(call)
            assert connection._piece >= piece
        transport.lose()


async def test_bytes_that_wait_for_their_turn_are_lost_with_the_connection() -> None:
    """Nothing of them is looked at afterwards, and nothing is raised."""
    async with serving(full_duplex_call=Steps().handler) as running:
        served, transport = connected(running.server)
        connection = served.http2
        transport.deliver(PREFACE + settings())
        transport.deliver(b"".join(pieces((ENDING["rapid reset of streams"][0], 5000))))
        assert connection._rest
        seen = len(running.finished)
        transport.lose()
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(running.finished) == seen


async def test_a_peer_that_sends_after_the_end_is_read_no_more() -> None:
    """Bytes that nobody parses cost nothing, until the socket is closed."""
    async with serving(unary_call=echo) as running:
        peer = await running.peer()
        (connection,) = running.server._connections
        with suppress(ConnectionError):
            for _ in range(2000):
                await peer.send_slowly(b"\xff" * 10_000)
                await asyncio.sleep(0)
        await peer.closed()
        assert connection.http2.received < 2_000_000
