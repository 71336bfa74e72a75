"""Health endpoints of a worker: `/healthz` (the loop answers), `/readyz` (every consumer is subscribed)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_TIMEOUT = 5.0  # seconds that a prober has for its request
_CONNECTIONS = 64


@asynccontextmanager
async def health_endpoints(host: str, port: int, not_ready: Callable[[], str]) -> AsyncIterator[int]:
    """Answer probes for as long as the block lasts; give the port. While it is ready, `not_ready` gives "".

    Raises:
        OSError: the port cannot be listened on.
    """
    open_now = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        try:
            if open_now <= _CONNECTIONS:
                await _answer(reader, writer, not_ready)
        finally:
            open_now -= 1
            writer.close()

    server = await asyncio.start_server(serve, host, port, limit=8192)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, not_ready: Callable[[], str]
) -> None:
    try:
        async with asyncio.timeout(_TIMEOUT):
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_response(head, not_ready))
            await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # whoever asks is not there any more, or does not speak HTTP


def _response(head: bytes, not_ready: Callable[[], str]) -> bytes:
    words = head.split(b"\r\n", 1)[0].split(b" ")
    path = words[1].split(b"?")[0] if len(words) == 3 else b""
    if words[0] not in (b"GET", b"HEAD"):
        status, body = "405 Method Not Allowed", {"status": "error", "reason": "GET only"}
    elif path == b"/healthz":
        status, body = "200 OK", {"status": "ok"}
    elif path == b"/readyz":
        reason = not_ready()
        status = "503 Service Unavailable" if reason else "200 OK"
        body = {"status": "unavailable", "reason": reason} if reason else {"status": "ok"}
    else:
        status, body = "404 Not Found", {"status": "error", "reason": "/healthz and /readyz"}
    content = json.dumps(body).encode()
    lines = [
        f"HTTP/1.1 {status}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if words[0] == b"HEAD" else content)
