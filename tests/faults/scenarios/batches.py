"""Publishing many events with one call while nats-server and the server are killed."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import grpc.aio

from tests.faults import checks
from tests.faults.calls import DEADLINE, Connection, Refused, ensure_stream, read_refused
from tests.faults.checks import Violation
from tests.faults.history import Failure, Outcome, Publish, Stored
from tests.faults.places import single
from tests.faults.run import Run, scenario
from tests.faults.scenarios.publishing import check_stream, count_publishes
from tests.faults.witness import read_stream
from tests.faults.workloads import Crowd, connections, crowd, rounds
from tests.support.client import EVENTS, any_of
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

_STREAMS = ("streams", "ingested", "batches", "atomic")
_BATCH = EVENTS.methods_by_name["PublishBatch"]
_STREAM = "/windshift.events.v1alpha1.EventsService/PublishStream"
_TOGETHER = 20
_PAUSE = 0.2
"""Seconds between batches: all that is stored is read and checked in the end."""
_WINDOW = 100
"""Events of a stream that wait for their results."""


class Publisher:
    """Publishes events of its own, and puts down what becomes of each."""

    def __init__(
        self, connection: Connection, who: str, stream: str, *, keys: bool, without_ids: bool = False
    ) -> None:
        self.connection = connection
        self.without_ids = without_ids
        self.who = who
        self.stream = stream
        self.keys = keys
        self.made = 0
        self.begun: dict[str, float] = {}

    def next_event(self) -> pb.PublishEventRequest:
        """Make an event that nobody else makes."""
        value = f"{self.who}.{self.made}"
        self.made += 1
        self.begun[value] = time.monotonic()
        event = pb.PublishEventRequest(subject=f"{self.stream}.{self.who}", data=any_of(value))
        if self.keys:
            event.idempotency_key = value
        return event

    def ended(self, number: int, outcome: Outcome, event_id: int = 0, why: Failure | None = None) -> None:
        """Put down what became of the event of this number."""
        value = f"{self.who}.{number}"
        self.connection.history.publishes.append(
            Publish(
                self.who,
                self.stream,
                f"{self.stream}.{self.who}",
                value,
                value if self.keys else "",
                None,
                self.begun.pop(value),
                time.monotonic(),
                event_id,
                outcome,
                () if why is None else (why,),
            )
        )

    def error_ended(self, number: int, error: pb.PublishError) -> None:
        """Put down that an event has an error."""
        code = next(each.name for each in grpc.StatusCode if each.value[0] == error.code)
        failure = Failure(time.monotonic(), "PublishEvent", code, error.reason, error.message)
        self.connection.history.failures.append(failure)
        unknown = error.reason == "OUTCOME_UNKNOWN"
        self.ended(number, Outcome.UNKNOWN if unknown else Outcome.NOT_DONE, 0, failure)


async def publish_batches(workers: Crowd, publisher: Publisher, *, atomic: bool) -> None:
    """Publish batches, one after the other; those with keys are repeated until their outcome is known."""
    while not workers.stopping:
        first = publisher.made
        events = [publisher.next_event() for _ in range(_TOGETHER)]
        request = pb.PublishBatchRequest(events=events, atomic=atomic)
        give_up = time.monotonic() + DEADLINE
        doubted = False
        while True:
            response = await publisher.connection.attempt(_BATCH, request)
            if not isinstance(response, Refused):
                _take_results(publisher, first, response)
                break
            doubted = doubted or not response.certain
            if publisher.keys and response.retryable and time.monotonic() < give_up:
                await asyncio.sleep(0.1)
                continue
            outcome = Outcome.UNKNOWN if doubted else Outcome.NOT_DONE
            for number in range(first, first + _TOGETHER):
                publisher.ended(number, outcome, 0, response.failure)
            break
        await asyncio.sleep(_PAUSE)


def _take_results(
    publisher: Publisher, first: int, response: pb.PublishBatchResponse | pb.PublishStreamResponse
) -> None:
    errors = {error.index: error for error in response.errors}
    start, count = getattr(response, "first", 0), getattr(response, "count", len(response.ids))
    for place, event_id in enumerate(response.ids or [0] * count):
        error = errors.get(start + place)
        if error is None:
            publisher.ended(first + place, Outcome.DONE, event_id)
        else:
            publisher.error_ended(first + place, error)


async def publish_streams(workers: Crowd, publisher: Publisher) -> None:
    """Publish by one call after the other; what has no result when one breaks, and a key, begins the next."""
    pending: list[pb.PublishEventRequest] = []
    while not workers.stopping or pending:
        try:
            await _publish_stream(workers, publisher, pending)
        except grpc.aio.AioRpcError as error:
            publisher.connection.history.failures.append(read_refused("PublishStream", error).failure)
            await asyncio.sleep(0.1)
        if not publisher.keys:
            for place in range(len(pending)):
                publisher.ended(publisher.made - len(pending) + place, Outcome.UNKNOWN)
            pending.clear()


async def _publish_stream(
    workers: Crowd, publisher: Publisher, pending: list[pb.PublishEventRequest]
) -> None:
    """Make one call. `pending` are the events without results, before and after it."""
    first = publisher.made - len(pending)
    room = asyncio.Semaphore(_WINDOW - min(len(pending), _WINDOW - 1))

    call = publisher.connection.channel.stream_stream(
        _STREAM,
        request_serializer=pb.PublishStreamRequest.SerializeToString,
        response_deserializer=pb.PublishStreamResponse.FromString,
    )(timeout=60)

    async def send() -> None:
        await call.write(pb.PublishStreamRequest(events=list(pending), without_ids=publisher.without_ids))
        each = _TOGETHER if publisher.without_ids else 1
        while not workers.stopping:
            for _ in range(each):
                await room.acquire()
            events = [publisher.next_event() for _ in range(each)]
            pending.extend(events)
            await call.write(pb.PublishStreamRequest(events=events))
            await asyncio.sleep(each * _PAUSE / _TOGETHER)
        await call.done_writing()

    sending = asyncio.create_task(send())
    try:
        async for response in call:
            _take_results(publisher, first + response.first, response)
            del pending[: response.count]
            for _ in range(response.count):
                room.release()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


def torn(publishes: Iterable[Publish], stored: Mapping[int, Stored]) -> Iterator[Violation]:
    """Find atomic batches that are there in part, or with something in between."""
    places = {event.value: event.id for event in stored.values()}
    batches: dict[tuple[str, int], list[int]] = defaultdict(list)
    for publish in publishes:
        who, _, number = publish.value.rpartition(".")
        place = places.get(publish.value)
        batches[who, int(number) // _TOGETHER].append(0 if place is None else place - int(number))
    for (who, batch), shifts in batches.items():
        if len(set(shifts)) > 1:
            yield Violation("torn", f"batch {batch} of {who} is at {shifts}")


def out_of_order(publishes: Sequence[Publish], stored: Mapping[int, Stored]) -> Iterator[Violation]:
    """Find events of one publisher that were stored before an earlier one of its events."""
    last: dict[str, int] = defaultdict(lambda: -1)
    for event in sorted(stored.values(), key=lambda each: each.id):
        who, _, number = event.value.rpartition(".")
        if int(number) < last[who]:
            yield Violation("order", f"{event.value} is behind {who}.{last[who]}")
        last[who] = int(number)


@scenario(
    "batch-kills", "kill -9 of nats-server and the server in turn, under publishers of batches and streams"
)
async def batch_kills(run: Run) -> None:
    """Nothing that was answered is lost, nothing is stored twice, an atomic batch is there whole or not."""
    kills = run.scale(20, 1)  # of each
    async with single(run) as (node, servers):

        async def kill(number: int) -> None:
            await (servers[0] if number % 2 else node).crash()

        async with connections(run.history, 8, *(server.address for server in servers)) as made:
            for stream in _STREAMS:
                await ensure_stream(made[0], stream, fast_ingest=stream == "ingested")
            async with crowd() as workers:
                for number in range(run.scale(2, 1)):
                    for keys in (True, False):
                        name, connection = f"{'k' if keys else 'b'}{number}", made[(2 * number + keys) % 8]
                        for stream in ("streams", "ingested"):
                            publisher = Publisher(
                                connection,
                                f"{stream[0]}{name}",
                                stream,
                                keys=keys,
                                without_ids=stream == "ingested",
                            )
                            workers.add(publish_streams(workers, publisher))
                        for stream in ("batches", "atomic"):
                            publisher = Publisher(connection, f"{stream[0]}{name}", stream, keys=keys)
                            workers.add(publish_batches(workers, publisher, atomic=stream == "atomic"))
                await rounds(run, 2 * kills, run.scale(2, 1), kill, "kill")
                await asyncio.sleep(0.5)
        run.count("kills of nats-server", kills)
        run.count("kills of the server", kills)
        for stream in _STREAMS:
            stored = await read_stream(node.url, stream)
            check_stream(run, stream, stored)
            publishes = [each for each in run.history.publishes if each.stream == stream]
            run.check(out_of_order(publishes, stored))
            run.count(f"events in {stream}", len(stored))
            if stream == "atomic":
                run.check(torn(publishes, stored))
        run.check(checks.undocumented(run.history.failures))
        count_publishes(run)
