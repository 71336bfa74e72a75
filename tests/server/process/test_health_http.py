"""The HTTP server for probes."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from ipaddress import ip_network
from time import perf_counter
from typing import Any

import pytest

from windshift.server.background import pacing
from windshift.server.process import health_http
from windshift.server.process.health_http import HealthApplication, HealthServer, Scrape
from windshift.server.process.readiness import Readiness
from windshift.server.telemetry.registry import Exposition


@pytest.mark.parametrize(
    ("method", "path", "reason", "status"),
    [
        ("GET", "/healthz", None, 200),
        ("GET", "/healthz", "draining", 200),
        ("HEAD", "/healthz", None, 200),
        ("GET", "/readyz", None, 200),
        ("GET", "/readyz", "draining", 503),
        ("POST", "/readyz", None, 405),
        ("GET", "/", None, 404),
        ("GET", "/healthz/", None, 404),
    ],
)
async def test_answers(method: str, path: str, reason: str | None, status: int) -> None:
    """Only readiness depends on the reason; other paths and methods are refused."""
    assert application(reason).answer(method, path).status == status


def application(
    reason: str | None = None, detail: str = "", scrape: Scrape | None = None
) -> HealthApplication:
    """Make one of a process that was started 90 s ago, and has been as it is for 30."""
    now = asyncio.get_running_loop().time()
    return HealthApplication(lambda: Readiness(reason, now - 30, detail), now - 90, scrape)


async def test_reason_is_told() -> None:
    """A server that is not ready says why, and since when."""
    body = application("no connection to NATS", "it refused the connection").answer("GET", "/readyz").body
    since, seconds = body.pop("since"), body.pop("seconds")
    assert body == {
        "status": "unavailable",
        "reason": "no connection to NATS",
        "detail": "it refused the connection",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(since))
    age = (datetime.now(UTC) - datetime.fromisoformat(str(since))).total_seconds()
    assert float(seconds) == pytest.approx(30, abs=1)
    assert age == pytest.approx(30, abs=1)


@pytest.mark.parametrize(("path", "seconds"), [("/healthz", 90), ("/readyz", 30)])
async def test_well_since(path: str, seconds: float) -> None:
    """A server that is well says so, and since when: /healthz since its start."""
    body = application().answer("GET", path).body
    assert body["status"] == "ok"
    assert float(body["seconds"]) == pytest.approx(seconds, abs=1)


async def test_since_by_a_clock_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """What began since then is told by the new clock; what began before stays as it was told."""
    now = asyncio.get_running_loop().time()
    readiness = Readiness("starting", now - 30)
    app = HealthApplication(lambda: readiness, now - 90)

    def since(path: str) -> str:
        return str(app.answer("GET", path).body["since"])

    began, unready = since("/healthz"), since("/readyz")
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 3600)
    assert (since("/healthz"), since("/readyz")) == (began, unready)
    readiness = Readiness(None, now - 10)
    ready = since("/readyz")
    later = datetime.fromisoformat(ready) - datetime.fromisoformat(unready)
    assert later.total_seconds() == pytest.approx(3600 + 20, abs=1)
    monkeypatch.undo()
    assert (since("/healthz"), since("/readyz")) == (began, ready)


@asynccontextmanager
async def serving(
    reason: str | None = None, scrape: Scrape | None = None, **options: Any
) -> AsyncIterator[int]:
    """Serve for as long as the block lasts; gives the port."""
    server = HealthServer(application(reason, scrape=scrape), **options)
    port = await server.start("127.0.0.1", 0)
    try:
        yield port
    finally:
        async with asyncio.timeout(30):
            await server.stop()


async def ask(port: int, request: str) -> tuple[str, bytes]:
    """Send one request and return the response's head, in lower case, and its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.decode().lower(), body


async def test_over_http() -> None:
    """Status, headers and a JSON body travel over HTTP; HEAD has the same without the body."""
    async with serving("draining") as port:
        head, body = await ask(port, "GET /readyz?verbose=1")
        assert head.startswith("http/1.1 503 ")
        assert "content-type: application/json" in head
        assert json.loads(body).items() >= {"status": "unavailable", "reason": "draining"}.items()
        head, nothing = await ask(port, "HEAD /readyz")
        length = re.search(r"content-length: (\d+)", head)
        assert length is not None
        assert int(length[1]) == pytest.approx(len(body), abs=5)  # `seconds` has more digits, or fewer
        assert nothing == b""
        head, _ = await ask(port, "DELETE /healthz")
        assert "allow: get, head" in head


async def test_stop_does_not_wait_for_silent_clients() -> None:
    """A connection that says nothing, and one in the middle of a request, do not hold up the stop."""
    async with serving() as port:
        _, silent = await asyncio.open_connection("127.0.0.1", port)
        _, half = await asyncio.open_connection("127.0.0.1", port)
        half.write(b"GET /readyz HTTP/1.1\r\n")
        await half.drain()
        await ask(port, "GET /healthz")
    silent.close()
    half.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_connections_without_requests_end() -> None:
    """Any number of connections that ask nothing, or not to the end, keep nobody out for long."""
    async with serving(timeout=0.7) as port:
        peers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
        for _, writer in peers[::2]:
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
        async with asyncio.timeout(30):
            for reader, writer in peers:
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()
        head, _ = await ask(port, "GET /healthz")
        assert head.startswith("http/1.1 200 ")


async def test_connections_with_requests_go_on() -> None:
    """The timeout counts anew for each request of a connection."""
    async with serving(timeout=0.8) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        until = asyncio.get_running_loop().time() + 1.4
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.05)
            writer.write(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def busy(port: int, amount: int, local: str) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open connections on each of which a request was answered."""
    peers = []
    for _ in range(amount):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(local, 0))
        writer.write(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        peers.append((reader, writer))
    return peers


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
async def test_busy_connections_keep_no_probe_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, a probe is answered; it takes the place of the oldest that is not kept."""
    monkeypatch.setattr(health_http, "LOOPBACK", ())
    async with serving(probes=(ip_network("127.0.0.2"),)) as port:
        kept = await busy(port, 1, "127.0.0.2")
        peers = await busy(port, 300, "127.0.0.1")
        for _ in range(3):
            head, _ = await ask(port, "GET /healthz")
            assert head.startswith("http/1.1 200 ")
        async with asyncio.timeout(30):
            for reader, writer in peers[:40]:
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()
        for _, writer in peers[40:-200]:
            writer.close()
        for reader, writer in (*kept, *peers[-200:]):
            writer.write(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.close()


async def test_a_connection_has_so_many_requests() -> None:
    """Then it is closed, and the client opens another one."""
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(health_http._REQUESTS):
            writer.write(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()


UPGRADE = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: %b\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),  # a gRPC client with the wrong port
        (UPGRADE % b"websocket", 200),
        (UPGRADE % b"h2c", 200),
        (b"\x16\x03\x01\x02\x00\x01", 400),  # TLS
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),  # without a host
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: " + b"x" * 20_000, 431),
        (b"POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nabcde", 413),
        (b"POST /healthz HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZ\r\n", 400),
    ],
)
async def test_other_protocols(said: bytes, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """What is not a request for this server is answered and ends its connection; nothing is logged."""
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        async with asyncio.timeout(30):
            answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert not caplog.records


async def test_pipelined_requests() -> None:
    """They are answered one by one, also when the client has closed its side."""
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
        writer.write_eof()
        async with asyncio.timeout(30):
            assert (await reader.read()).count(b"HTTP/1.1 200 ") == 2
        writer.close()


async def test_a_scrape_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """It is answered, and logged; the connection goes on."""

    async def fail(accept: str) -> Exposition:
        raise RuntimeError(accept)

    server = HealthServer(application(scrape=fail))
    port = await server.start("127.0.0.1", 0)
    head, body = await ask(port, "GET /metrics")
    assert head.startswith("http/1.1 500 ")
    assert json.loads(body)
    assert "RuntimeError" in caplog.text
    await server.stop()


async def test_a_client_that_does_not_read() -> None:
    """No more is read from it than what it has read the answers to, and its time runs out."""
    asked = 0

    async def much(accept: str) -> Exposition:
        nonlocal asked
        asked += 1
        return Exposition("text/plain", b"x" * 8_000_000)

    server = HealthServer(application(scrape=much), timeout=0.5)
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n" * 50)
    async with asyncio.timeout(30):
        await asyncio.sleep(1)
        with suppress(ConnectionResetError):
            while await reader.read(65_536):
                pass
    assert asked == 1
    writer.close()
    await server.stop()


async def test_many_at_once() -> None:
    """In one turn of the event loop no more is done for them than fits into a slice."""
    turns = answers = most = 0

    async def slow(accept: str) -> Exposition:
        nonlocal answers
        answers += 1
        until = perf_counter() + 0.002
        while perf_counter() < until:
            pass
        return Exposition("text/plain", b"x")

    def turn() -> None:
        nonlocal turns, answers, most
        turns, most, answers = turns + 1, max(most, answers), 0
        if turns > 0:
            asyncio.get_running_loop().call_soon(turn)

    server = HealthServer(application(scrape=slow))
    port = await server.start("127.0.0.1", 0)
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
    turn()
    for _, writer in connections:
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    async with asyncio.timeout(30):
        for reader, writer in connections:
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
    turns = -1
    assert most == 1
    await server.stop()


async def test_answers_do_not_rest_where_they_hinder_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of many pieces is made at once."""
    monkeypatch.setattr(pacing, "REST", 3600.0)

    async def long(accept: str) -> Exposition:
        for _ in range(5):
            until = perf_counter() + 2 * pacing.SLICE
            while perf_counter() < until:
                pass
            await asyncio.sleep(0)
        return Exposition("text/plain", b"x")

    async with serving(scrape=long) as port, asyncio.timeout(30):
        assert (await ask(port, "GET /metrics"))[1] == b"x"


async def test_port_in_use() -> None:
    """A port that somebody has is an OSError, and nothing is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = HealthServer(application())
        with pytest.raises(OSError, match="in use"):
            await server.start("127.0.0.1", taken.getsockname()[1])
        await server.stop()


async def test_name_with_several_addresses() -> None:
    """A name is listened on at all its addresses, with one port."""
    server = HealthServer(application())
    port = await server.start("localhost", 0)
    head, _ = await ask(port, "GET /healthz")
    assert head.startswith("http/1.1 200 ")
    await server.stop()


async def no_metrics_yet(accept: str) -> Exposition | None:
    """Answer as a server that is starting."""
    return None


async def some_metrics(accept: str) -> Exposition | None:
    """Answer as a server that runs."""
    return Exposition("text/plain; version=0.0.4", f"# {accept}\n".encode())


async def test_metrics() -> None:
    """What is scraped comes with its own content type; the client's wishes are passed on."""
    server = HealthServer(application(scrape=some_metrics))
    port = await server.start("127.0.0.1", 0)
    head, body = await ask(port, "GET /metrics")
    assert head.startswith("http/1.1 200 ")
    assert "content-type: text/plain; version=0.0.4" in head
    assert body == b"# \n"
    request = "GET /metrics HTTP/1.1\r\naccept: a/b\r\nAccept: c/d\r\nx-rest:"
    _, body = await ask(port, request)
    assert body == b"# a/b,c/d\n"
    head, nothing = await ask(port, "HEAD /metrics")
    assert "content-length: 3" in head
    assert nothing == b""
    head, _ = await ask(port, "POST /metrics")
    assert head.startswith("http/1.1 405 ")
    await server.stop()


@pytest.mark.parametrize(("scrape", "status"), [(no_metrics_yet, 503), (None, 404)])
async def test_no_metrics(scrape: Scrape | None, status: int) -> None:
    """A server that is starting has no metrics yet; one whose metrics are switched off says so."""
    server = HealthServer(application(scrape=scrape))
    port = await server.start("127.0.0.1", 0)
    head, body = await ask(port, "GET /metrics")
    assert head.startswith(f"http/1.1 {status} ")
    assert json.loads(body)
    await server.stop()
