"""Requests as chance makes them, to every method of a real server (S12)."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.hardening.requests import METHODS, Request, any_request
from tests.hardening.target import MODES, Target, target, tell
from tests.rpc.frames import Peer, Response, data, headers, request_fields, rst_stream
from windshift.rpc import StatusCode

TOGETHER: Final = 20
"""Requests of one example."""

EXAMPLES: Final = int(os.environ.get("WINDSHIFT_TEST_FUZZ", "40"))
"""Examples for each way to speak to the API. What is not set in the environment is the same at every run."""

OUR_FAULT: Final = {
    None,
    StatusCode.UNKNOWN,
    StatusCode.INTERNAL,
    StatusCode.DATA_LOSS,
    StatusCode.UNIMPLEMENTED,
    StatusCode.UNAVAILABLE,
    StatusCode.DEADLINE_EXCEEDED,
}
"""Codes that say nothing about what is wrong with a request."""


@dataclass
class Caller:
    """A client that makes calls as they come, on one connection after the other.

    Attributes:
        codes: how the calls ended, by method.
    """

    server: Target
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    _peer: Peer | None = None

    async def make(self, requests: list[Request]) -> list[Response]:
        """Make calls at once; return their answers. A call that has no end is cancelled after a while."""
        peer = await self._connection()
        ids = [peer.stream_id() for _ in requests]
        for stream_id, request in zip(ids, requests, strict=True):
            await peer.send_slowly(headers(stream_id, request_fields(request.path, _encoding(request))))
            if not await peer.upload(stream_id, request.body):
                continue
            peer.send(data(stream_id, end=True))
        await peer.pong()
        for stream_id, request in zip(ids, requests, strict=True):
            if request.endless and not peer.responses[stream_id].over:
                peer.send(rst_stream(stream_id))
                peer.responses[stream_id].reset = 0
        answers = [await peer.response(stream_id, 40) for stream_id in ids]
        assert not peer.ended
        peer.responses.clear()
        return answers

    async def _connection(self) -> Peer:
        if self._peer is None or self._peer.ended:
            self._peer = await self.server.peer()
        return self._peer

    async def close(self) -> None:
        """Close the connection."""
        if self._peer is not None:
            await self._peer.close()


def _encoding(request: Request) -> list[tuple[bytes, bytes]]:
    return [(b"grpc-encoding", b"gzip")] if request.compressed else []


@pytest.fixture(scope="module", params=MODES)
def caller(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[asyncio.Runner, Caller]]:
    """Run a server, and a client of it in an event loop that outlives the examples."""
    directory: Path = tmp_path_factory.mktemp("server")
    with target(directory, request.param) as server, asyncio.Runner() as runner:
        caller = Caller(server)
        yield runner, caller
        runner.run(caller.close())


@pytest.mark.timeout(1800)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="WINDSHIFT_TEST_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
@given(st.integers(0, 2**64 - 1))
def _calls(caller: tuple[asyncio.Runner, Caller], seed: int) -> None:
    runner, client = caller
    chance = Random(seed)
    requests = [any_request(chance) for _ in range(TOGETHER)]
    for request, answer in zip(requests, runner.run(client.make(requests)), strict=True):
        code = None if answer.status is None else StatusCode(answer.status)
        client.codes[request.path.rpartition("/")[2], "reset" if code is None else code.name] += 1
        if code in OUR_FAULT and not (code is None and request.endless):
            note(f"{request} was answered with {answer}")
            raise AssertionError(f"{request.path}: {code} {answer.message} {request.body!r}")


def test_any_requests_are_answered(caller: tuple[asyncio.Runner, Caller]) -> None:
    """Each with a code that says what is wrong with it, if anything is; no handler fails, nothing hangs."""
    _calls(caller)
    client = caller[1]
    tell(f"{client.codes.total()} requests", *(f"{key}: {n}" for key, n in sorted(client.codes.items())))
    assert {method for method, _ in client.codes} == {method.name for method in METHODS}
    assert client.server.faults() == []
    assert client.server.metric("windshift_nats_reconnects_total") == 0
    assert client.server.process.probe("/readyz").status == 200
