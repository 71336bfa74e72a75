"""`/healthz`, `/readyz` and `/metrics` over HTTP, in the server's event loop.

`/healthz` says that the process answers, no more: a probe that restarts processes must not restart them
because NATS is down. `/readyz` says whether to send calls here. Both say since when.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from windshift.rpc import LOOPBACK, includes, open_sockets
from windshift.server.process.readiness import Readiness
from windshift.server.telemetry.exposition import Exposition

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_CONNECTIONS = 256
_REQUESTS = 100
"""Requests on one connection."""
_READS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: a status and a JSON body."""

    status: int
    body: dict[str, str | float]


Scrape = Callable[[str], Awaitable[Exposition | None]]
"""Returns the text of all metrics for an `Accept` header; None while there are none."""


class HealthApplication:
    """The ASGI application.

    Args:
        readiness: returns whether calls should be sent here.
        started: when the process started, in loop time.
        scrape: returns the response of /metrics; None = there is no /metrics.
    """

    def __init__(
        self, readiness: Callable[[], Readiness], started: float, scrape: Scrape | None = None
    ) -> None:
        self._readiness = readiness
        self._started = started
        self._scrape = scrape
        self._clock = _Clock()

    def answer(self, method: str, path: str) -> Answer:
        """Decide on one request."""
        if path == "/metrics" and self._scrape is None:
            return Answer(404, {"error": "metrics are turned off: WINDSHIFT_METRICS=false"})
        if path not in {"/healthz", "/readyz", "/metrics"}:
            return Answer(404, {"error": "there is only /healthz, /readyz and /metrics"})
        if method not in _READS:
            return Answer(405, {"error": "use GET"})
        if path == "/metrics":
            return Answer(503, {"status": "unavailable", "reason": "starting"})
        return self._liveness() if path == "/healthz" else self._ready_or_not()

    def _liveness(self) -> Answer:
        return Answer(200, {"status": "ok", **self._clock.since(self._started)})

    def _ready_or_not(self) -> Answer:
        readiness = self._readiness()
        since = self._clock.since(readiness.since)
        if readiness.reason is None:
            return Answer(200, {"status": "ok", **since})
        detail = {"detail": readiness.detail} if readiness.detail else {}
        return Answer(503, {"status": "unavailable", "reason": readiness.reason, **detail, **since})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        method, path = scope["method"], scope["path"]
        if path == "/metrics" and method in _READS and self._scrape is not None:
            exposition = await self._scrape(_header(scope, b"accept"))
            if exposition is not None:
                await _respond(send, method, 200, exposition.content_type, exposition.body)
                return
        answer = self.answer(method, path)
        body = json.dumps(answer.body).encode() + b"\n"
        await _respond(send, method, answer.status, "application/json", body)


class _Clock:
    """Converts loop times to `since`, in RFC 3339, and the `seconds` until now.

    A loop time always gives the same time of day, even if the clock is set meanwhile.
    """

    def __init__(self) -> None:
        self._offset = time.time() - asyncio.get_running_loop().time()

    def since(self, moment: float) -> dict[str, str | float]:
        when = datetime.fromtimestamp(moment + self._offset, UTC).isoformat(timespec="milliseconds")
        seconds = max(0.0, asyncio.get_running_loop().time() - moment)
        return {"since": when.replace("+00:00", "Z"), "seconds": round(seconds, 3)}


async def _respond(send: Send, method: str, status: int, content_type: str, body: bytes) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    if status == 405:
        headers.append((b"allow", b"GET, HEAD"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


def _header(scope: Scope, name: bytes) -> str:
    """Return a header of the request; repeated headers are joined as a list."""
    values: list[bytes] = [value for key, value in scope["headers"] if key == name]
    return b",".join(values).decode("latin-1")


_HTTP_2: Final = b"PRI * HTTP/2"


class _Connection(H11Protocol):
    """A connection with a timeout for each request, and a limit of requests.

    When there are too many connections, the oldest is closed, unless its address is reserved. So a probe is
    answered however many connections others hold, busy or idle.
    """

    timeout: float
    probes: tuple[IPv4Network | IPv6Network, ...]
    others: dict[_Connection, None]
    """Those that may be closed to make room, oldest first."""
    _limit: asyncio.TimerHandle
    _requests = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin; close the oldest connection if there are too many."""
        super().connection_made(transport)
        self._limit = self.loop.call_later(self.timeout, transport.abort)
        if self.client is None or not includes(self.probes, self.client[0]):
            self.others[self] = None
        if len(self.connections) > _CONNECTIONS and self.others:
            oldest = next(iter(self.others))
            del self.others[oldest]
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take data. HTTP/2 is rejected here, since it cannot be answered as HTTP/1.1."""
        if data.startswith(_HTTP_2):
            self.transport.abort()
        else:
            super().data_received(data)

    def on_response_complete(self) -> None:
        """Wait for another request, up to the limit."""
        self._limit.cancel()
        self._requests += 1
        if self._requests >= _REQUESTS:
            self.transport.close()
        self._limit = self.loop.call_later(self.timeout, self.transport.abort)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._limit.cancel()
        self.others.pop(self, None)
        super().connection_lost(exc)

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: strangers must not be able to fill the log."""


class _Uvicorn(uvicorn.Server):
    """An HTTP server that leaves signals to the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HealthServer:
    """An HTTP server for one application, in the running loop.

    Args:
        application: serves the requests.
        timeout: seconds that a connection has for each request.
        probes: addresses whose connections are never closed to make room, in addition to loopback.
    """

    def __init__(
        self,
        application: HealthApplication,
        *,
        timeout: float = 10.0,
        probes: tuple[IPv4Network | IPv6Network, ...] = (),
    ) -> None:
        connection = {"timeout": timeout, "probes": LOOPBACK + probes, "others": {}}
        self._server = _Uvicorn(
            uvicorn.Config(
                application,
                http=type("_HealthConnection", (_Connection,), connection),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, *, share_port: bool = False) -> int:
        """Listen, and return the port. Raises OSError if the address cannot be used."""
        sockets = await open_sockets(host, port, reuse_port=share_port)
        self._task = asyncio.create_task(self._server.serve(sockets), name="health HTTP server")
        return int(sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening, and close connections within about a second."""
        if self._task is not None:
            self._server.should_exit = True
            await self._task
            self._task = None
