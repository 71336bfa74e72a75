"""What it costs to know a caller and to find that he may publish, without a server around it.

    python -m benchmarks.auth_check

Prints the CPU time of one call in each way, in microseconds, as a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift.rpc import ConnectionOptions, Method, ServerCall
from windshift.rpc.connection import SERVER, Connection, ConnectionHandler
from windshift.server.api.authentication import AuthInterceptor
from windshift.server.auth.audit import Audit
from windshift.server.auth.authenticate import Identity
from windshift.server.auth.authorization import Authorization
from windshift.server.events.counts import Counts

from .credentials import Rules, bearer, write_rules
from .h2load import PUBLISH

STATIC, STATIC_SUBJECTS = "static token", "static token, 1,000 subjects in turn"
JWT, NEW_JWT = "JWT", "JWT that is new"

_BATCHES, _BATCH = 100, 1000

Request = events_pb.PublishEventRequest


class Calls:
    """Calls without a connection behind them."""

    def __init__(self) -> None:
        self._owner: Any = None  # nothing is told of these calls
        loop = asyncio.get_running_loop()
        self._connection = Connection(SERVER, ConnectionOptions(), ConnectionHandler(), loop)
        self._method = Method(PUBLISH, asyncio.sleep, Request, False, False)

    def make(self, token: str) -> ServerCall:
        """Return a call whose client sent a token."""
        headers = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", PUBLISH.encode()),
            (b":authority", b"127.0.0.1:8080"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"authorization", bearer(token).encode()),
        )
        return ServerCall(self._owner, self._connection, 1, self._method, headers, dict(headers))


async def check(rules: Rules) -> dict[str, float]:
    """Measure calls with one token and with a new one each time, to one subject and to many."""
    authorization = Authorization(rules.file)
    authorization.watched.start()
    interceptor, calls = AuthInterceptor(authorization.access, Audit(), Counts()), Calls()
    first, *new = rules.tokens(_BATCH + 1)
    waiting = interceptor.on_headers(calls.make(first))
    if waiting is not None:
        await waiting  # for the issuer's keys
    subjects = [Request(subject=f"orders.{n}.created") for n in range(_BATCH)]
    same = subjects[:1] * _BATCH

    def cost(tokens: list[str], requests: list[Request], batches: int = _BATCHES) -> float:
        taken = sum(
            _measure(interceptor, [calls.make(token) for token in tokens], requests) for _ in range(batches)
        )
        return taken / (batches * _BATCH) * 1e6

    cost([rules.token] * _BATCH, subjects, 2)  # to warm up
    return {
        STATIC: cost([rules.token] * _BATCH, same),
        STATIC_SUBJECTS: cost([rules.token] * _BATCH, subjects),
        JWT: cost([first] * _BATCH, same),
        NEW_JWT: cost(new, same, 1),
    }


def _measure(interceptor: AuthInterceptor, calls: list[ServerCall], requests: list[Request]) -> float:
    """Admit calls that are all new, ask whether they may publish, and return the seconds that it took."""
    on_headers = interceptor.on_headers
    begun = time.process_time()
    for call, request in zip(calls, requests, strict=True):
        on_headers(call)
        caller = call.state
        if not isinstance(caller, Identity) or not caller.principal.permissions.publishes(request.subject):
            raise RuntimeError("the call was not let through")
    return time.process_time() - begun


def main() -> None:
    """Print what was measured."""
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(uvloop.run(check(write_rules(Path(directory), issuer=True)))))


if __name__ == "__main__":
    main()
