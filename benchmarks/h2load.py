"""Unary publishes by h2load, the load generator of the nghttp2 project.

It knows HTTP/2 and nothing of gRPC: it counts statuses, so whoever uses it must look whether the events
arrived.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift._gen.windshift.test.v1 import test_pb2

from .processes import FailedToRun, output

CONNECTIONS = 4
STREAMS = 50
PUBLISH = "/windshift.events.v1alpha1.EventsService/PublishEvent"


@dataclass(frozen=True, slots=True)
class Load:
    """What h2load reported.

    Attributes:
        per_second: requests answered in a second.
        answered: requests answered with a 2xx status.
        cpu_seconds: what h2load itself used.
    """

    per_second: float
    answered: int
    cpu_seconds: float


def available() -> bool:
    """Whether h2load is installed."""
    return shutil.which("h2load") is not None


def publish_request(subject: str, size: int) -> events_pb.PublishEventRequest:
    """Return a request to publish a text of ``size`` bytes."""
    request = events_pb.PublishEventRequest(subject=subject)
    request.data.Pack(test_pb2.StringValue(value="x" * size))
    return request


async def publish(
    directory: Path, address: str, subject: str, count: int, headers: Iterable[str] = (), *, tls: bool = False
) -> Load:
    """Send ``count`` publishes of 100 bytes, as many at once as connections and streams allow.

    Whose certificate the server shows is of no interest to h2load. A header ``authorization`` it writes out
    with each request, as one that no table of HPACK may hold.
    """
    payload = publish_request(subject, 100).SerializeToString()
    body = directory / "publish.bin"  # as gRPC frames it: a flag, the length in four bytes, the message
    body.write_bytes(b"\0" + len(payload).to_bytes(4, "big") + payload)
    command = ["h2load", f"-c{CONNECTIONS}", f"-m{STREAMS}", f"-n{count}", f"-d{body}"]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    for header in headers:
        command += ["-H", header]
    scheme = "https" if tls else "http"
    text, cpu_seconds = await output(directory, [*command, f"{scheme}://{address}{PUBLISH}"])
    return parse(text, cpu_seconds)


def parse(text: str, cpu_seconds: float) -> Load:
    """Read h2load's report.

    Raises:
        FailedToRun: it is no report.
    """
    rate = re.search(r"^finished in .*?, ([\d.]+) req/s", text, re.MULTILINE)
    answered = re.search(r"^status codes: (\d+) 2xx", text, re.MULTILINE)
    if rate is None or answered is None:
        raise FailedToRun(f"h2load reported nothing: {text[-500:]}")
    return Load(float(rate[1]), int(answered[1]), cpu_seconds)
