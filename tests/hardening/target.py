"""A real `windshift serve` process under attack, with or without TLS, and a client beside the attacker."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from tests.rpc.frames import Peer, Response, prefixed
from tests.support.certificates import Authority
from tests.support.client import Client
from tests.support.exposition import scrape
from tests.support.windshift_process import WindshiftProcess
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.rpc import client_tls

EVENTS: Final = "/windshift.events.v1alpha1.EventsService/"
STATE: Final = "/windshift.state.v1alpha1.StateService/"
ADMIN: Final = "/windshift.admin.v1alpha1.AdminService/"
DEAD_LETTERS: Final = "/windshift.deadletters.v1alpha1.DeadLettersService/"
PUBLISH: Final = EVENTS + "Publish"
CONSUME: Final = EVENTS + "Consume"
CHECK: Final = "/grpc.health.v1.Health/Check"
NOTHING: Final = prefixed(b"")

MODES: Final = ("plaintext", "tls")
MIB: Final = 1 << 20


@dataclass(frozen=True)
class Target:
    """A running server.

    Attributes:
        process: the process.
        authority: that its certificate is of; None = it speaks plaintext.
    """

    process: WindshiftProcess
    authority: Authority | None = None

    @property
    def mode(self) -> str:
        """How the API is spoken to."""
        return "plaintext" if self.authority is None else "tls"

    @property
    def address(self) -> tuple[str, int]:
        """Where the API listens."""
        return "127.0.0.1", self.process.api_port

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        """What a client of the API needs for TLS."""
        return None if self.authority is None else client_tls(self.authority.certificate)

    async def peer(self, **arguments: Any) -> Peer:
        """Connect a client that speaks frames, see ``Peer.connect``."""
        return await Peer.connect(self.address, ssl=self.tls, **arguments)

    def client(self) -> Client:
        """Connect a client as others have it."""
        credentials = None
        if self.authority is not None:
            credentials = grpc.ssl_channel_credentials(self.authority.certificate.read_bytes())
        return Client(f"localhost:{self.process.api_port}", credentials)

    def metric(self, name: str, **labels: str) -> float:
        """Read a metric."""
        return scrape(self.process.health_port).value(name, **labels)

    @property
    def memory(self) -> int:
        """Resident memory in bytes."""
        return self._status("VmRSS:")

    @property
    def peak(self) -> int:
        """The most resident memory since ``forget_peak``, in bytes."""
        return self._status("VmHWM:")

    def forget_peak(self) -> None:
        """Let ``peak`` begin anew."""
        Path(f"/proc/{self.process.process.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        return int(status.partition(name)[2].split()[0]) * 1024

    @property
    def open_files(self) -> int:
        """How many files it has open, connections included."""
        return len(list(Path(f"/proc/{self.process.process.pid}/fd").iterdir()))

    @property
    def processor_seconds(self) -> float:
        """How much processor time it has taken."""
        fields = Path(f"/proc/{self.process.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def faults(self) -> list[str]:
        """Return what the server logged as an error, or wrote beside its log."""
        return [line for line in self.process.err.splitlines() if _is_fault(line)]

    async def warm_up(self) -> None:
        """Let it reach its usual size, so that what is measured is growth."""
        client = self.client()
        if client.publish("warm.up") == 1:
            for _ in range(200):
                client.publish("warm.up")
        client.channel.close()
        async with await self.peer() as peer:
            for _ in range(200):
                assert (await peer.call(CHECK)).status == 0


def _is_fault(line: str) -> bool:
    try:
        return json.loads(line)["level"] not in {"debug", "info", "warning"}
    except ValueError:
        return True


@contextmanager
def target(directory: Path, mode: str, **environment: str) -> Iterator[Target]:
    """Run a server for as long as the block lasts. It must live to its end and stop in good order."""
    authority = None
    if mode == "tls":
        authority = Authority(directory)
        own = authority.issue("api")
        environment |= {"GRPC_TLS_CERT": str(own.certificate), "GRPC_TLS_KEY": str(own.key)}
    process = WindshiftProcess(directory, **environment)
    try:
        process.start()
        running = Target(process, authority)
        client = running.client()
        client.ensure_stream("warm", "warm.>")
        client.channel.close()
        yield running
        assert process.stop() == 0, process.err
    finally:
        process.kill()


# -- a client that is nobody's enemy ------------------------------------------------------------------------


@dataclass
class Healthy:
    """What a client saw that only wanted to be served.

    Attributes:
        seconds: how long each of its calls took.
    """

    seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"p50 {1000 * self.quantile(50):.2f} ms, p99 {1000 * self.quantile(99):.2f} ms"

    def quantile(self, percent: int) -> float:
        """Return the time that so many percent of the calls did not exceed."""
        return quantiles(self.seconds, n=100, method="inclusive")[percent - 1]


@asynccontextmanager
async def healthy(running: Target, pause: float = 0.01) -> AsyncIterator[Healthy]:
    """Publish on a connection that is there already, as long as the block lasts; every call must succeed."""
    seen = Healthy()
    body = prefixed(publish_request("warm.up").SerializeToString())
    async with await running.peer() as peer:
        stop = asyncio.Event()

        async def work() -> None:
            while not stop.is_set() or len(seen.seconds) < 10:
                started = time.monotonic()
                response = await peer.call(PUBLISH, body)
                assert response.status == 0, (response, peer.ended)
                seen.seconds.append(time.monotonic() - started)
                peer.responses.clear()
                await asyncio.sleep(pause)

        task = asyncio.create_task(work())
        try:
            yield seen
        finally:
            stop.set()
            await task


def publish_request(subject: str, value: bytes = b"x", **fields: Any) -> pb.PublishEventRequest:
    """Return a request to publish."""
    return pb.PublishEventRequest(subject=subject, data=AnyMessage(type_url="x.Y", value=value), **fields)


async def call(peer: Peer, path: str, request: Message | bytes) -> Response:
    """Make a call with one message, as large as it may be."""
    payload = request if isinstance(request, bytes) else request.SerializeToString()
    stream_id = peer.request(path, None, end=False)
    await peer.upload(stream_id, prefixed(payload), end=True)
    return await peer.response(stream_id)


# -- figures ------------------------------------------------------------------------------------------------


def tell(*lines: str) -> None:
    """Print figures, which pytest shows with -s or -rP."""
    print(*lines, sep="\n")  # noqa: T201 -- figures to quote


def varint(number: int) -> bytes:
    """Write a number as Protobuf does."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def delimited(number: int, *values: bytes) -> bytes:
    """Write length-delimited fields of one number as Protobuf does."""
    return b"".join(varint(number << 3 | 2) + varint(len(value)) + value for value in values)
