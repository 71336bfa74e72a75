"""Frames that nobody should send (S3): a stream or a connection ends, nothing hangs, nobody else notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ssl import SSLError

import pytest

from tests.hardening.target import CHECK, CONSUME, EVENTS, MIB, NOTHING, PUBLISH, Target, healthy, tell
from tests.rpc.breaches import COMPRESSION_ERROR, Breach, bad_headers, breaches, no_http2
from tests.rpc.floods import Flood, ending, harmless, pieces
from tests.rpc.frames import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    Kind,
    data,
    encode,
    frame,
    headers,
    ping,
    prefixed,
    request_fields,
    settings,
)
from windshift.rpc import StatusCode

Case = Callable[[Target], Awaitable[object]]

IN_TIME = 60.0
"""Seconds after which nothing that was begun may still hang, on a busy machine."""

RESETS = 40_000
BURST, PER_SECOND = 10_000, 1_000
"""What honest clients may cancel."""

BODY = prefixed(b"\x0a\x01a")  # an event without data: refused by the handler
PATHS = [
    b"/",
    b"//",
    b"/%ff",
    b"/\xff",
    b"/\xff\xfe/\x80",
    b"/..",
    b"/%2e%2e/%2e",
    b"*",
    b"/" + b"x" * 8192,
    b"/" + b"\xff" * 8192,
    b"//" + PUBLISH[1:].encode(),
    PUBLISH.encode() + b"/",
    PUBLISH.encode() + b"?a=b",
    PUBLISH.encode() + b"%00",
    PUBLISH.encode() + b"#",
    PUBLISH.lower().encode(),
    PUBLISH.upper().encode(),
    PUBLISH.replace("Publish", "%50ublish").encode(),
    PUBLISH.replace("/Publish", "/./Publish").encode(),
    PUBLISH.replace("/Publish", "//Publish").encode(),
    EVENTS.encode(),
    EVENTS[:-1].encode(),
    b"http://localhost" + PUBLISH.encode(),
    b"/grpc.health.v1.Health",
    b"/" + b"/".join([b"a"] * 4000),
]
ODD_HEADERS: dict[str, tuple[list[tuple[bytes, bytes]], set[int]]] = {
    "a timeout of 11,415 years": ([(b"grpc-timeout", b"99999999H")], {0}),
    "a timeout of 9 digits": ([(b"grpc-timeout", b"999999999H")], {StatusCode.INVALID_ARGUMENT}),
    "a negative timeout": ([(b"grpc-timeout", b"-1S")], {StatusCode.INVALID_ARGUMENT}),
    "a timeout of nothing": ([(b"grpc-timeout", b"")], {StatusCode.INVALID_ARGUMENT}),
    "an encoding that nobody has": ([(b"grpc-encoding", b"br")], {StatusCode.UNIMPLEMENTED}),
    "an encoding of bytes": ([(b"grpc-encoding", b"\xff\xfe")], {StatusCode.UNIMPLEMENTED}),
    "two encodings": (
        [(b"grpc-encoding", b"identity"), (b"grpc-encoding", b"gzip")],
        {0, StatusCode.UNIMPLEMENTED},
    ),
    "another te": ([(b"te", b"trailers")], {0}),
    "cookie crumbs": ([(b"cookie", b"a=b")] * 100, {0}),
    "binary metadata that is none": ([(b"x-bin", b"!!!")], {0, StatusCode.INVALID_ARGUMENT}),
    "a trace that is none": ([(b"traceparent", b"\xff" * 200)], {0}),
    "credentials that nobody asked for": ([(b"authorization", b"Bearer " + b"x" * 4000)], {0}),
    "one value of 12 KiB": ([(b"x", b"y" * 12_288)], {0}),
}


def no_http2_cases() -> Iterator[tuple[str, Case]]:
    """Begin with what is no HTTP/2: it is closed."""
    beginnings = no_http2(PUBLISH) | {
        f"a preface cut after {length} bytes": PREFACE[:length] + b"\xff" * 24 for length in (1, 12, 23)
    }
    for name, beginning in beginnings.items():
        yield name, _closing(beginning)


def _closing(beginning: bytes) -> Case:
    async def case(server: Target) -> None:
        async with await server.peer(start=False) as peer:
            peer.send(beginning)
            await peer.closed(IN_TIME)

    return case


def stream_cases() -> Iterator[tuple[str, Case]]:
    """Send a malformed request: it is reset or refused, and the connection goes on."""
    for name, fields in bad_headers(PUBLISH).items():
        yield f"headers: {name}", _refusal(headers(1, fields) + data(1, BODY, end=True), None)
    for path in PATHS:
        block = headers(1, request_fields(path)) + data(1, NOTHING, end=True)
        yield f"path {path!r:.60}", _refusal(block, {StatusCode.UNIMPLEMENTED})
    for name, (extra, codes) in ODD_HEADERS.items():
        block = headers(1, request_fields(CHECK, extra)) + data(1, NOTHING, end=True)
        yield name, _refusal(block, codes)


def _refusal(frames: bytes, codes: set[int] | None) -> Case:
    async def case(server: Target) -> None:
        async with await server.peer() as peer:
            peer.send(frames)
            response = await peer.response(1, IN_TIME)
            assert not peer.ended
            if response.reset is None or 0 in (codes or ()):
                assert response.status != 0 if codes is None else response.status in codes, response
            peer.stream_id()
            assert (await peer.call(CHECK)).status == 0

    return case


def breach_cases() -> Iterator[tuple[str, Case]]:
    """Break a rule: GOAWAY comes with a fitting code, then the end."""
    more: dict[str, tuple[Breach, set[int]]] = {
        "a header table of 1 MB": (
            lambda p: p.send(
                frame(
                    Kind.HEADERS,
                    END_HEADERS | END_STREAM,
                    1,
                    b"\x3f\xe1\xff\x3f" + encode(request_fields(PUBLISH)),
                )
            ),
            {COMPRESSION_ERROR},
        ),
        "a number without end": (
            lambda p: p.send(frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1, b"\x7f" + b"\xff" * 1000)),
            {COMPRESSION_ERROR},
        ),
    }
    for name, (breach, codes) in (breaches(PUBLISH, CONSUME) | more).items():
        yield f"breach: {name}", _breaking(breach, codes)


def _breaking(breach: Breach, codes: set[int]) -> Case:
    async def case(server: Target) -> None:
        async with await server.peer() as peer:
            breach(peer)
            peer.send(ping())
            await peer.until(lambda: bool(peer.pongs), IN_TIME)
            if peer.ended:
                assert peer.goaways[-1][1] in codes
            else:  # the call that it was to break had its answer already
                assert (await peer.response(1, IN_TIME)).over

    return case


def flood_cases() -> Iterator[tuple[str, Case]]:
    """Send many cheap frames: the connection ends, or it does not matter."""
    for name, flood in ending(PUBLISH, CONSUME, BODY, RESETS).items():
        yield f"flood: {name}", _flooding(flood, ends=True, by_rate="reset" in name)
    for name, flood in harmless(CONSUME).items():
        yield f"flood: {name}", _flooding(flood, ends=False)
    crumbs = [*request_fields(CHECK), *[(b"cookie", b"a=b")] * 200]
    yield "flood: cookie crumbs", _flooding((lambda i: headers(2 * i + 1, crumbs), 1), ends=True)


def _flooding(flood: Flood, *, ends: bool, by_rate: bool = False) -> Case:
    async def case(server: Target) -> None:
        started = time.monotonic()
        async with await server.peer() as peer:
            with suppress(ConnectionError, SSLError, TimeoutError):  # the last when answers are in the way
                for part in pieces(flood):
                    if peer._writer.transport.is_closing():
                        break
                    await peer.send_slowly(part)
            seconds = time.monotonic() - started
            if by_rate and BURST + PER_SECOND * (seconds + 2) >= RESETS:
                return  # a busy machine is as slow as honest clients
            if ends:
                await peer.closed(IN_TIME)
            else:
                await peer.pong()

    return case


def left_cases() -> Iterator[tuple[str, Case]]:
    """Leave in the middle of something."""
    whole = PREFACE + settings() + headers(1, request_fields(PUBLISH)) + data(1, BODY)
    for cut in range(5, len(whole), len(whole) // 6):
        yield f"left after {cut} bytes", _leaving(whole[:cut])


def _leaving(beginning: bytes) -> Case:
    async def case(server: Target) -> None:
        peer = await server.peer(start=False)
        await peer.send_slowly(beginning)
        peer.kill()

    return case


CASES: dict[str, Case] = {
    name: case
    for cases in (no_http2_cases, stream_cases, breach_cases, flood_cases, left_cases)
    for name, case in cases()
}


@dataclass
class Round:
    """All cases, some at a time."""

    server: Target
    at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(6))
    failed: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Play them all; what went wrong is in ``failed``.

        Floods come over TLS only: `tests.rpc` and `test_resets` send them without.
        """
        chosen = {
            name: case
            for name, case in CASES.items()
            if self.server.tls is not None or not name.startswith("flood: ")
        }
        await asyncio.gather(*(self._play(name, case) for name, case in chosen.items()))

    async def _play(self, name: str, case: Case) -> None:
        async with self.at_once:
            try:
                await case(self.server)
            except (AssertionError, OSError, TimeoutError) as error:
                self.failed[name] = f"{error!r:.300}"


@pytest.mark.timeout(240)
async def test_no_frames_do_harm(server: Target) -> None:
    """Each case ends as it should and in time, a client is served meanwhile, and memory is as before."""
    assert len(CASES) >= 40
    await server.warm_up()
    before = server.memory
    cases = Round(server)
    async with healthy(server) as client:
        await cases.run()
    growth = server.memory - before
    tell(f"memory +{growth / MIB:.1f} MiB; a healthy client: {client}")
    assert cases.failed == {}
    assert growth <= 20 * MIB
    assert server.process.probe("/readyz").status == 200
    assert server.faults() == []
    await _eventually_alone(server)


async def _eventually_alone(server: Target) -> None:
    async with asyncio.timeout(IN_TIME):
        while server.metric("windshift_rpc_connections") > 0:  # noqa: ASYNC110 -- in another process
            await asyncio.sleep(0.05)
