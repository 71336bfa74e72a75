"""The HTTP server for probes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from windshift.server.health_http import HealthApplication, HealthServer


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
def test_answers(method: str, path: str, reason: str | None, status: int) -> None:
    """Only readiness depends on the reason; other paths and methods are refused."""
    assert HealthApplication(lambda: reason).answer(method, path).status == status


def test_reason_is_told() -> None:
    """A server that is not ready says why."""
    answer = HealthApplication(lambda: "no connection to NATS").answer("GET", "/readyz")
    assert answer.body == {"status": "unavailable", "reason": "no connection to NATS"}


@asynccontextmanager
async def serving(reason: str | None = None) -> AsyncIterator[int]:
    """Serve for as long as the block lasts; gives the port."""
    server = HealthServer(HealthApplication(lambda: reason))
    port = await server.start("127.0.0.1", 0)
    try:
        yield port
    finally:
        async with asyncio.timeout(10):
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
        assert json.loads(body) == {"status": "unavailable", "reason": "draining"}
        head, nothing = await ask(port, "HEAD /readyz")
        assert f"content-length: {len(body)}" in head
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


async def test_port_in_use() -> None:
    """A port that somebody has is an OSError, and nothing is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = HealthServer(HealthApplication(lambda: None))
        with pytest.raises(OSError, match="in use"):
            await server.start("127.0.0.1", taken.getsockname()[1])
        await server.stop()


async def test_name_with_several_addresses() -> None:
    """A name is listened on at all its addresses, with one port."""
    server = HealthServer(HealthApplication(lambda: None))
    port = await server.start("localhost", 0)
    head, _ = await ask(port, "GET /healthz")
    assert head.startswith("http/1.1 200 ")
    await server.stop()
