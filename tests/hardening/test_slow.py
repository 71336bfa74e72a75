"""Clients that begin and do not go on (S5): every wait of the server has an end, and others are served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLError

import pytest

from tests.hardening.target import CONSUME, MODES, PUBLISH, Target, healthy, publish_request, target, tell
from tests.rpc.frames import PREFACE, Kind, Peer, encode, frame, headers, prefixed, request_fields, settings
from windshift.rpc import StatusCode

MARGIN = 20.0
"""Seconds that a busy machine may add."""

LONGEST = {"a consume call": 12}
"""Seconds that a kind of call is waited for; a connection is waited for 15."""

FIELDS = request_fields(PUBLISH)
BEGINNINGS = {
    "nothing": b"",
    "half a preface": PREFACE[:10],
    "a preface": PREFACE,
    "half a SETTINGS": PREFACE + settings({4: 1})[:-1],
    "SETTINGS": PREFACE + settings(),
    "half a HEADERS": PREFACE + settings() + headers(1, FIELDS)[:20],
    "HEADERS without their end": PREFACE + settings() + frame(Kind.HEADERS, 0, 1, encode(FIELDS)),
    "a PING": PREFACE + settings() + frame(Kind.PING, 0, 0, bytes(8)),
}
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""How a TLS handshake begins."""


@dataclass
class Waits:
    """How long the server left what did not go on.

    Attributes:
        seconds: the longest that it took to be ended, by what it was.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    async def take(self, name: str, end: Awaitable[object], started: float) -> None:
        """Wait for an end."""
        with suppress(ConnectionError, SSLError):
            await end
        self.seconds[name] = max(time.monotonic() - started, self.seconds.get(name, 0))

    def __str__(self) -> str:
        return "; ".join(f"{name}: {seconds:.1f} s" for name, seconds in self.seconds.items())


class Attack:
    """Hundreds of connections that begin, and calls that do not go on, on one server."""

    def __init__(self, server: Target, stack: AsyncExitStack) -> None:
        self._server = server
        self._stack = stack
        self._tasks: list[asyncio.Task[None]] = []
        self.waits = Waits()

    async def run(self, connections: int) -> None:
        """Open everything, then wait for every end but those of publishes, which take the longest."""
        await self._stall_calls()
        await self._begin_connections(connections)
        await asyncio.gather(*self._tasks)

    async def _begin_connections(self, connections: int) -> None:
        kinds = list(BEGINNINGS.items())
        if self._server.tls is not None:
            kinds += [("a TCP connection", b""), ("half a TLS handshake", HELLO)]
        for number in range(connections):
            name, beginning = kinds[number % len(kinds)]
            started = time.monotonic()
            peer = await (self._server.peer(start=False) if name in BEGINNINGS else self._bare())
            self._stack.push_async_callback(peer.close)
            peer.acknowledge_settings = False
            peer.send(beginning)
            self._wait(name, peer.closed(120), started)

    async def _bare(self) -> Peer:
        """Connect without TLS to a server that wants it."""
        return Peer(*await asyncio.open_connection(*self._server.address))

    async def _stall_calls(self) -> None:
        whole = prefixed(publish_request("warm.slow").SerializeToString())
        for name, path, body in (
            ("a consume call without a message", CONSUME, None),
            ("a consume call of half a message", CONSUME, whole[:-1]),
            ("", PUBLISH, None),
            ("", PUBLISH, whole[:-1]),
            ("", PUBLISH, whole),
        ):
            peer = await self._server.peer()
            self._stack.push_async_callback(peer.close)
            started = time.monotonic()
            stream = peer.request(path, body, end=False)
            if name:
                self._wait(name, _told(peer, stream), started)

    def _wait(self, name: str, end: Awaitable[object], started: float) -> None:
        self._tasks.append(asyncio.create_task(self.waits.take(name, end, started)))


async def _told(peer: Peer, stream: int) -> None:
    """Wait for a status that says why."""
    response = await peer.response(stream, 120)
    assert response.status in {StatusCode.DEADLINE_EXCEEDED, StatusCode.INVALID_ARGUMENT}, response


async def attack(server: Target, connections: int = 500) -> tuple[Waits, float]:
    """Attack a server; return how long it let that be, and by how much its memory grew at most."""
    await server.warm_up()
    before = server.memory
    server.forget_peak()
    async with AsyncExitStack() as stack, healthy(server, pause=0.05) as client:
        of_connections = Attack(server, stack)
        await of_connections.run(connections)
    tell(f"{server.mode}: {of_connections.waits}", f"a healthy client: {client}")
    return of_connections.waits, (server.peak - before) / connections


@pytest.mark.timeout(180)
async def test_whoever_does_not_go_on_is_cut_off(tmp_path: Path) -> None:
    """A connection within 15 s, a consume call within 12; with and without TLS, beside stalled publishes.

    How long those are waited for is tried in `tests.rpc`.
    """
    with ExitStack() as stack:
        servers = []
        for mode in MODES:
            directory = tmp_path / mode
            directory.mkdir()
            servers.append(stack.enter_context(target(directory, mode)))
        for waits, memory in await asyncio.gather(*map(attack, servers)):
            tell(f"{memory / 1024:.0f} KiB for each connection")
            assert len(waits.seconds) >= len(BEGINNINGS) + 2
            for name, seconds in waits.seconds.items():
                longest = next((most for kind, most in LONGEST.items() if name.startswith(kind)), 15)
                assert seconds <= longest + MARGIN, name
                assert seconds > 9, name
            assert memory <= 100 * 1024
        for server in servers:
            assert server.faults() == []
            assert server.process.probe("/readyz").status == 200
