"""Ordinary grpcio clients that publish without a pause while servers come and go.

    python -m benchmarks.grpcio_load ADDRESS SUBJECT --kind sync|aio

Every event carries a number of its own, so that the stream tells which call was handled, and how often. The
channel has grpcio's defaults: no retry policy, no wait-for-ready. A line on stdin ends it; then it prints
what it saw as a line of JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from typing import Any

import click
import grpc
import grpc.aio

from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift._gen.windshift.test.v1 import test_pb2

from .h2load import PUBLISH
from .reporting import tell, tell_and_wait


class Tally:
    """What became of the calls.

    Attributes:
        numbers: gives each call its number.
        failed: the numbers of calls that did not succeed.
        failures: how often each kind of failure was seen.
        ended: set when no further call should begin.
    """

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self.numbers = itertools.count(1)
        self.failed: list[int] = []
        self.failures: Counter[str] = Counter()
        self.ended = False

    def request(self, number: int) -> events_pb.PublishEventRequest:
        """Return the request of a call."""
        request = events_pb.PublishEventRequest(subject=self._subject)
        request.data.Pack(test_pb2.StringValue(value=str(number)))
        return request

    def fail(self, number: int, error: grpc.RpcError) -> None:
        """Note a call that failed."""
        self.failed.append(number)
        self.failures[f"{error.code().name}: {error.details()}"] += 1

    def report(self) -> dict[str, Any]:
        """Return everything for printing."""
        return {"begun": next(self.numbers) - 1, "failed": self.failed, "failures": self.failures}


_SERIALIZERS: dict[str, Any] = {
    "request_serializer": events_pb.PublishEventRequest.SerializeToString,
    "response_deserializer": events_pb.PublishEventResponse.FromString,
}


def run_sync(address: str, tally: Tally, inflight: int) -> None:
    """Keep ``inflight`` calls under way, each in a thread."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(PUBLISH, **_SERIALIZERS)

        def work() -> None:
            while not tally.ended:
                number = next(tally.numbers)
                try:
                    call(tally.request(number))
                except grpc.RpcError as error:
                    tally.fail(number, error)

        threads = [threading.Thread(target=work) for _ in range(inflight)]
        for thread in threads:
            thread.start()
        _wait(tally)
        for thread in threads:
            thread.join()


async def run_aio(address: str, tally: Tally, inflight: int) -> None:
    """Keep ``inflight`` calls under way, each in a task."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(PUBLISH, **_SERIALIZERS)

        async def work() -> None:
            while not tally.ended:
                number = next(tally.numbers)
                try:
                    await call(tally.request(number))
                except grpc.RpcError as error:
                    tally.fail(number, error)

        async with asyncio.TaskGroup() as group:
            for _ in range(inflight):
                group.create_task(work())
            await asyncio.to_thread(_wait, tally)


def _wait(tally: Tally) -> None:
    tell_and_wait({"open": True})
    tally.ended = True


@click.command(context_settings={"show_default": True})
@click.argument("address")
@click.argument("subject")
@click.option("--kind", type=click.Choice(["sync", "aio"]), default="sync", help="Which of grpcio's clients.")
@click.option("--inflight", default=200, help="Calls under way.")
def main(address: str, subject: str, kind: str, inflight: int) -> None:
    """Publish until a line comes on stdin, then say what became of the calls."""
    tally = Tally(subject)
    if kind == "sync":
        run_sync(address, tally, inflight)
    else:
        asyncio.run(run_aio(address, tally, inflight))
    tell(tally.report())


if __name__ == "__main__":
    main()
