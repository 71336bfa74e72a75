"""`/healthz`, `/readyz` and `/metrics` over HTTP, in the server's event loop.

`/healthz` says that the process answers, no more: a probe that restarts processes must not restart them
because NATS is down. `/readyz` says whether to send calls here. Both say since when.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network
from math import nan
from typing import Final

import h11

from windshift.rpc import LOOPBACK, includes, open_sockets
from windshift.server.background.pacing import Pacing
from windshift.server.process.readiness import Readiness
from windshift.server.telemetry.registry import Exposition

log = logging.getLogger(__name__)

_CONNECTIONS: Final = 256
_REQUESTS: Final = 100
"""Requests on one connection."""
_LARGEST: Final = 16_384
"""Bytes of a request's head."""
_STOP: Final = 1.0
"""Seconds for answers that are under way at the stop."""
_READS: Final = frozenset({"GET", "HEAD"})
_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response with a JSON body."""

    status: int
    body: dict[str, str | float]


Scrape = Callable[[str], Awaitable[Exposition | None]]
"""Returns the text of all metrics for an `Accept` header; None while there are none."""


class HealthApplication:
    """What is answered to requests.

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
        self._alive, self._ready = _Clock(), _Clock()
        self._alive.since(started)

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
        if path == "/healthz":
            return Answer(200, {"status": "ok", **self._alive.since(self._started)})
        return self._ready_or_not()

    def _ready_or_not(self) -> Answer:
        readiness = self._readiness()
        since = self._ready.since(readiness.since)
        if readiness.reason is None:
            return Answer(200, {"status": "ok", **since})
        detail = {"detail": readiness.detail} if readiness.detail else {}
        return Answer(503, {"status": "unavailable", "reason": readiness.reason, **detail, **since})

    async def respond(self, method: str, path: str, accept: str) -> tuple[int, str, bytes]:
        """Return the status, the content type and the body of the response to a request."""
        if path == "/metrics" and method in _READS and self._scrape is not None:
            exposition = await self._scrape(accept)
            if exposition is not None:
                return 200, exposition.content_type, exposition.body
        answer = self.answer(method, path)
        return answer.status, _JSON, _json(answer.body)


def _json(body: dict[str, str | float] | dict[str, str]) -> bytes:
    return json.dumps(body).encode() + b"\n"


class _Clock:
    """Converts a loop time to `since`, in RFC 3339, and the `seconds` until now.

    The time of day is found when the loop time is new, by the clock as it is set then, and stays the same
    if that is set later.
    """

    def __init__(self) -> None:
        self._moment, self._since = nan, ""

    def since(self, moment: float) -> dict[str, str | float]:
        seconds = asyncio.get_running_loop().time() - moment
        if moment != self._moment:
            when = datetime.fromtimestamp(time.time() - seconds, UTC).isoformat(timespec="milliseconds")
            self._moment, self._since = moment, when.replace("+00:00", "Z")
        return {"since": self._since, "seconds": round(max(0.0, seconds), 3)}


class HealthServer:
    """An HTTP server for one application, in the running loop.

    When there are too many connections, the oldest is closed, unless its address is reserved. So a probe is
    answered however many connections others hold, busy or idle. All requests take turns in a slice of each
    turn of the event loop: hundreds at once delay no call.

    Args:
        application: answers the requests.
        is_shared: tells whether somebody else is about who uses little of the loop: answers take longer then.
        timeout: seconds that a connection has for each request.
        probes: addresses whose connections are never closed to make room, in addition to loopback.
    """

    def __init__(
        self,
        application: HealthApplication,
        *,
        is_shared: Callable[[], bool] = lambda: False,
        timeout: float = 10.0,
        probes: tuple[IPv4Network | IPv6Network, ...] = (),
    ) -> None:
        self._application = application
        self._timeout = timeout
        self._probes = LOOPBACK + probes
        self._pacing = Pacing()
        self._pacing.is_shared = is_shared
        self._servers: list[asyncio.Server] = []
        self._connections: dict[_Connection, bool] = {}
        """The oldest first, and whether it may be closed to make room."""

    async def start(self, host: str, port: int, *, share_port: bool = False) -> int:
        """Listen, and return the port. Raises OSError if the address cannot be used."""
        sockets = await open_sockets(host, port, reuse_port=share_port)
        for each in sockets:
            self._servers.append(await asyncio.start_server(self._connected, sock=each, limit=_LARGEST))
        return int(sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening, and close connections within about a second."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for connection in self._connections:
            connection.finish()
        if self._connections:
            await asyncio.wait([each.task for each in self._connections], timeout=_STOP)
        for connection in self._connections:
            connection.end()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection, and close the oldest one if there are too many."""
        connection = _Connection(self._application, self._timeout, reader, writer)
        peer = writer.get_extra_info("peername")
        self._connections[connection] = not includes(self._probes, str(peer[0]) if peer else "")
        connection.task = asyncio.create_task(self._pacing.run(connection.serve()))
        connection.task.add_done_callback(lambda _: self._connections.pop(connection, None))
        if len(self._connections) > _CONNECTIONS:
            oldest = next((each for each, closable in self._connections.items() if closable), None)
            if oldest is not None:
                del self._connections[oldest]
                oldest.end()


class _Connection:
    """A connection: requests are answered one by one, each within a limit of time."""

    task: asyncio.Task[None]
    """Serves it."""

    def __init__(
        self,
        application: HealthApplication,
        timeout: float,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._application = application
        self._timeout = timeout
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, _LARGEST)
        self._left = _REQUESTS
        self._is_answering = False

    def end(self) -> None:
        """Close at once; what was not sent is lost."""
        self._writer.transport.abort()

    def finish(self) -> None:
        """Close as soon as nothing is being answered."""
        self._left = 0
        if not self._is_answering:
            self.end()

    async def serve(self) -> None:
        """Answer requests until no more may follow, and close."""
        try:
            while self._left:
                async with asyncio.timeout(self._timeout):
                    await self._exchange()
        except OSError:  # it was lost, or has taken too long
            pass
        finally:
            self.end()

    async def _exchange(self) -> None:
        """Answer the next request, and wait until that has been sent."""
        request = await self._read()
        if request is not None:
            self._is_answering = True
            await self._answer(request)
            self._is_answering = False
            self._left = max(0, self._left - 1)
        if self._left and request is not None and self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
            return
        self._left = 0
        self._writer.close()
        await self._writer.wait_closed()

    async def _read(self) -> h11.Request | None:
        """Return the next request when it is whole; None where none follows, or none may."""
        request = None
        try:
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self._reader.read(_LARGEST))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    self._send("GET", 413, _JSON, _json({"error": "send no body"}))
                    return None
                else:
                    return request if isinstance(event, h11.EndOfMessage) else None
        except h11.RemoteProtocolError as error:
            text = "this is not an HTTP/1.1 request"
            self._send("GET", error.error_status_hint, _JSON, _json({"error": text}))
            return None

    async def _answer(self, request: h11.Request) -> None:
        method, path = request.method.decode(), request.target.partition(b"?")[0].decode("latin-1")
        accept = b",".join(value for name, value in request.headers if name == b"accept").decode("latin-1")
        try:
            response = await self._application.respond(method, path, accept)
        except Exception:
            log.exception("a request to the health port failed")
            response = 500, _JSON, _json({"error": "it failed; see the log"})
        self._send(method, *response)
        await self._writer.drain()

    def _send(self, method: str, status: int, content_type: str, body: bytes) -> None:
        headers = [
            ("date", datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")),
            ("content-type", content_type),
            ("content-length", str(len(body))),
            ("cache-control", "no-store"),
        ]
        if status == 405:
            headers.append(("allow", "GET, HEAD"))
        events = (
            h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase),
            h11.Data(b"" if method == "HEAD" else body),
            h11.EndOfMessage(),
        )
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
