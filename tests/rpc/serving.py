"""A server for one test, which must have forgotten everything when the test ends."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from google.protobuf.message import Message

from tests._gen.grpc.testing import messages_pb2, test_pb2
from windshift.rpc import (
    LOOPBACK,
    AdmissionOptions,
    ConnectionOptions,
    Interceptor,
    Server,
    ServerCall,
    ServerOptions,
    Service,
)

from .frames import WAIT, Peer, prefixed

SERVICE = test_pb2.DESCRIPTOR.services_by_name["TestService"]
UNARY = "/grpc.testing.TestService/UnaryCall"
UPLOAD = "/grpc.testing.TestService/StreamingInputCall"
DOWNLOAD = "/grpc.testing.TestService/StreamingOutputCall"
DUPLEX = "/grpc.testing.TestService/FullDuplexCall"

Handler = Callable[..., Any]


@dataclass
class Serving:
    """A running server.

    Attributes:
        server: the server.
        address: where it listens.
        finished: (method, status) of the calls that ended, in that order.
    """

    server: Server
    address: tuple[str, int]
    finished: list[tuple[str, int]] = field(default_factory=list)

    async def peer(self, **arguments: Any) -> Peer:
        """Connect a client, see ``Peer.connect``."""
        return await Peer.connect(self.address, **arguments)


@asynccontextmanager
async def serving(
    options: ServerOptions | None = None,
    *,
    ssl: tls.SSLContext | None = None,
    interceptors: Sequence[Interceptor] = (),
    **handlers: Handler,
) -> AsyncIterator[Serving]:
    """Serve the methods of ``grpc.testing.TestService`` that ``handlers`` names.

    When the body is done, the server is closed, and must then be without connections and tasks; nothing may
    have reached the event loop's handler of last resort.
    """
    finished: list[tuple[str, int]] = []
    options = options or server_options()
    options = replace(options, on_call_finished=lambda call, code: finished.append((call.method, int(code))))
    tasks = asyncio.all_tasks()
    with strict_loop():
        server = Server([Service(SERVICE, SimpleNamespace(**handlers))], options, interceptors)
        try:
            yield Serving(server, await server.listen("127.0.0.1", 0, ssl=ssl), finished)
        finally:
            server.close()
        assert server.connections == 0
        await eventually(lambda: not server._sockets)
        await eventually(lambda: asyncio.all_tasks() <= tasks)


@contextmanager
def strict_loop() -> Iterator[None]:
    """Fail when something reached the event loop's handler of last resort meanwhile."""
    loop = asyncio.get_running_loop()
    contexts: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    try:
        yield
    finally:
        loop.set_exception_handler(None)
    assert contexts == []


async def eventually(condition: Callable[[], bool], timeout: float = WAIT) -> None:
    """Wait until a condition holds that nothing announces."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 -- see the docstring
            await asyncio.sleep(0.002)


def server_options(connection: ConnectionOptions | None = None, **changes: Any) -> ServerOptions:
    """Return options with timers as in production, but looked at often."""
    defaults: dict[str, Any] = {"tick_interval": 0.02, "admission": AdmissionOptions(unlimited=LOOPBACK)}
    return ServerOptions(connection=connection or ConnectionOptions(), **defaults | changes)


# -- messages and handlers ----------------------------------------------------------------------------------


def simple(body: bytes = b"", **fields: Any) -> bytes:
    """Return a length-prefixed ``SimpleRequest``."""
    payload = messages_pb2.Payload(body=body)
    return prefixed(messages_pb2.SimpleRequest(payload=payload, **fields).SerializeToString())


def piece(body: bytes = b"") -> bytes:
    """Return a length-prefixed ``StreamingInputCallRequest``."""
    payload = messages_pb2.Payload(body=body)
    return prefixed(messages_pb2.StreamingInputCallRequest(payload=payload).SerializeToString())


def ask(body: bytes = b"") -> bytes:
    """Return a length-prefixed ``StreamingOutputCallRequest``."""
    payload = messages_pb2.Payload(body=body)
    return prefixed(messages_pb2.StreamingOutputCallRequest(payload=payload).SerializeToString())


def output(size: int) -> messages_pb2.StreamingOutputCallResponse:
    """Return a response with a payload of ``size`` bytes."""
    return messages_pb2.StreamingOutputCallResponse(payload=messages_pb2.Payload(body=bytes(size)))


async def echo(request: messages_pb2.SimpleRequest, call: ServerCall) -> Message:
    """Answer with the request's payload (UnaryCall)."""
    return messages_pb2.SimpleResponse(payload=request.payload)


async def count(call: ServerCall) -> Message:
    """Answer with the bytes of all payloads (StreamingInputCall)."""
    total = 0
    while (request := await call.receive()) is not None:
        total += len(request.payload.body)
    return messages_pb2.StreamingInputCallResponse(aggregated_payload_size=total)


async def reflect(call: ServerCall) -> None:
    """Answer each message with its payload (FullDuplexCall)."""
    while (request := await call.receive()) is not None:
        call.send(messages_pb2.StreamingOutputCallResponse(payload=request.payload))
        await call.ready()


class Steps:
    """A handler that a test follows: what it did, how often it was cancelled.

    Attributes:
        started: handlers that began.
        cancelled: CancelledErrors that handlers saw.
        ended: handlers that are over.
        open: set it, and handlers go on.
    """

    def __init__(self) -> None:
        self.started = self.cancelled = self.ended = 0
        self.open = asyncio.Event()

    async def handler(self, *_: object) -> None:
        """Wait until the test says go on."""
        await self.watched(self.open.wait())

    async def watched(self, work: Awaitable[object]) -> None:
        """Do the work and count every cancel, also those during the clean-up."""
        self.started += 1
        try:
            await work
        except asyncio.CancelledError:
            self.cancelled += 1
            await self._clean_up()
            raise
        finally:
            self.ended += 1

    async def _clean_up(self) -> None:
        try:
            for _ in range(20):
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
