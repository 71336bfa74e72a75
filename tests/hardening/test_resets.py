"""Calls that are cancelled as soon as they are made (S4, CVE-2023-44487)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from ssl import SSLError

import pytest

from tests.hardening.target import CONSUME, MIB, PUBLISH, Target, healthy, publish_request, target, tell
from tests.rpc.floods import Flood, pieces, rapid_reset
from tests.rpc.frames import (
    END_HEADERS,
    Kind,
    Peer,
    data,
    encode,
    frame,
    prefixed,
    request_fields,
    rst_stream,
)

BURST, PER_SECOND = 10_000, 1_000
"""What honest clients may cancel."""

RESETS = 40_000
BODY = prefixed(publish_request("warm.reset").SerializeToString())


def begun(number: int, block: bytes) -> bytes:
    """Return the beginning of a request, which goes on."""
    return frame(Kind.HEADERS, END_HEADERS, 2 * number + 1, block)


def floods() -> dict[str, tuple[str, Flood]]:
    """Make the floods, with the method that each of them calls."""
    half, consume = (encode(request_fields(method)) for method in (PUBLISH, CONSUME))
    return {
        "whole publishes": (PUBLISH, rapid_reset(PUBLISH, BODY, RESETS)),
        "half publishes": (
            PUBLISH,
            (
                lambda i: begun(i, half) + data(2 * i + 1, BODY[:-1]) + rst_stream(2 * i + 1),
                RESETS,
            ),
        ),
        "consume calls": (CONSUME, (lambda i: begun(i, consume) + rst_stream(2 * i + 1), RESETS)),
    }


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Share a server without TLS: over TLS `test_frames` plays the same floods."""
    with target(tmp_path_factory.mktemp("server"), "plaintext") as running:
        yield running


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", floods())
async def test_a_rapid_reset_ends_its_connection(shared_server: Target, name: str) -> None:
    """The server takes up no more calls than honest clients may cancel, and others are served meanwhile."""
    method, flood = floods()[name]
    chunks = list(pieces(flood))
    await shared_server.warm_up()
    async with healthy(shared_server, pause=0) as before:
        await asyncio.sleep(1)
    calls, memory = _calls(shared_server, method), shared_server.memory
    peer = await shared_server.peer()
    started = time.monotonic()
    async with healthy(shared_server, pause=0) as meanwhile:
        await _send(peer, chunks)
        seconds = time.monotonic() - started
    if BURST + PER_SECOND * (seconds + 2) < RESETS:  # a busy machine may send as slowly as honest clients do
        await peer.closed()
    await peer.close()
    made = _calls(shared_server, method) - calls
    if method == PUBLISH:
        made -= len(meanwhile.seconds)
    growth = shared_server.memory - memory
    tell(
        f"{name}: {made:.0f} calls of {RESETS} in {seconds:.2f} s, memory +{growth / MIB:.1f} MiB",
        f"a healthy client: {before} before, {meanwhile} meanwhile, "
        f"p99 x{meanwhile.quantile(99) / before.quantile(99):.1f}",
    )
    assert made <= BURST + PER_SECOND * (seconds + 2)  # the engine counts by whole seconds
    assert growth <= 20 * MIB
    assert shared_server.faults() == []


async def _send(peer: Peer, chunks: list[bytes]) -> None:
    with suppress(ConnectionError, SSLError):
        for chunk in chunks:
            if peer._writer.transport.is_closing():
                break
            await peer.send_slowly(chunk)
        await peer.pong()  # unless it is over: until all was handled


def _calls(server: Target, method: str) -> float:
    return server.metric("rpc_server_call_duration_seconds_count", rpc_method=method[1:])
