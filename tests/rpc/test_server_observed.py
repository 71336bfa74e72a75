"""What a server tells about its calls and connections."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import perf_counter

from windshift.rpc import ServerCall, StatusCode

from .serving import DUPLEX, UNARY, echo, eventually, server_options, serving, simple


async def test_bytes() -> None:
    """Bytes are counted while a connection is open, and stay counted when it is gone."""
    async with serving(unary_call=echo) as served:
        server = served.server
        assert (server.received, server.sent) == (0, 0)
        async with await served.peer() as peer:
            await peer.call(UNARY, simple(b"x" * 1000))
            received, sent = server.received, server.sent
            assert received > 1000
            assert sent > 1000
        await eventually(lambda: server.connections == 0)
        assert server.received >= received
        assert server.sent >= sent


async def test_active_calls() -> None:
    """Calls are active from their headers to their status."""
    go_on = asyncio.Event()

    async def handler(call: ServerCall) -> None:
        await go_on.wait()

    async with serving(full_duplex_call=handler, unary_call=echo) as served, await served.peer() as peer:
        stream = peer.request(DUPLEX)
        await eventually(lambda: bool(served.server.active_calls()))
        assert served.server.active_calls() == {DUPLEX: 1}
        go_on.set()
        await peer.response(stream)
        assert served.server.active_calls() == {}


async def test_refused_calls() -> None:
    """A request that does not become a call is told with its method, or with none that there is not."""
    refused: list[tuple[str | None, StatusCode]] = []
    options = replace(server_options(), on_call_refused=lambda path, code: refused.append((path, code)))
    async with serving(options, unary_call=echo) as served, await served.peer() as peer:
        await peer.response(peer.request("/nobody.knows/This"))
        await peer.response(peer.request(UNARY, extra=[(b"grpc-encoding", b"br")]))
        assert served.finished == []
    assert refused == [(None, StatusCode.UNIMPLEMENTED), (UNARY, StatusCode.UNIMPLEMENTED)]


async def test_calls_know_when_they_began() -> None:
    """A call's beginning is told by a clock that is finer than a loop's."""
    begun: list[float] = []
    options = server_options(on_call_finished=None)

    async def handler(request: object, call: ServerCall) -> object:
        begun.append(call.begun)
        return request

    before = perf_counter()
    async with serving(options, unary_call=handler) as served, await served.peer() as peer:
        await peer.call(UNARY, simple())
    assert before < begun[0] < perf_counter()
