"""Attacks by calls: what a principal may do with a stream and a store of its own, as often as it can."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.attacks.place import HOSTILE, LARGE, STORE, STREAM, Place
from tests.authorization.callers import bearer
from tests.authorization.policies import token_of
from tests.support.client import DEAD_LETTERS, EVENTS, STATE, any_of
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb

ADMIN: Final = admin_pb.DESCRIPTOR.services_by_name["AdminService"]
CONNECTIONS: Final = 10
_METADATA: Final = bearer(token_of(HOSTILE))

_FROM_START: Final[dict[str, Any]] = {"stream": STREAM, "from": {"start": True}}

Call = Callable[[grpc.aio.Channel], Awaitable[object]]


def repeated(at_once: int, call: Call) -> Callable[[Place], None]:
    """Make an attack of calls that are repeated on ten connections.

    Args:
        at_once: calls at once on each connection.
        call: makes one; what it fails with is ignored.
    """

    async def work(channel: grpc.aio.Channel, end: float) -> None:
        while time.monotonic() < end:
            try:
                await call(channel)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.001)

    async def attack(place: Place) -> None:
        end = time.monotonic() + place.seconds
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{place.api}", options) for _ in range(CONNECTIONS)]
        tasks = [asyncio.create_task(work(each, end)) for each in channels for _ in range(at_once)]
        await asyncio.wait(tasks, timeout=place.seconds)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for channel in channels:
            await channel.close(0)

    return lambda place: asyncio.run(attack(place))


def unary(method: Any, /, _timeout: float = 5, **fields: Any) -> Call:
    """Make a unary call; fields as in Protobuf's JSON, or what makes them for each call."""
    request_class = GetMessageClass(method.input_type)

    def request() -> Message:
        made = {name: value() if callable(value) else value for name, value in fields.items()}
        return ParseDict(made, request_class())

    fixed = None if any(callable(value) for value in fields.values()) else request()
    return lambda channel: channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=request_class.SerializeToString,
        response_deserializer=bytes,  # the attacker does not care
    )(fixed or request(), timeout=_timeout, metadata=_METADATA)


def _message(size: int) -> dict[str, Any]:
    packed = any_of("x" * size)
    return {"@type": packed.type_url, "value": "x" * size}


def reading(method: Any, request: Message, pause: float) -> Call:
    """Make a call with many responses, of which one is read in each `pause` (seconds)."""

    async def call(channel: grpc.aio.Channel) -> None:
        stream = channel.unary_stream(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=bytes,
        )(request, metadata=_METADATA)
        async for _ in stream:
            await asyncio.sleep(pause)

    return call


def consuming(*, rejects: bool) -> Call:
    """Make a call that consumes by an ephemeral consumer: rejects all as dead letters, or never reads."""

    async def call(channel: grpc.aio.Channel) -> None:
        ensure = unary(EVENTS.methods_by_name["EnsureConsumer"], **_FROM_START)
        made = events_pb.EnsureConsumerResponse.FromString(await ensure(channel))  # type: ignore[arg-type]
        requests: asyncio.Queue[events_pb.EventsRequest] = asyncio.Queue()
        subscribe = events_pb.EventsRequest.Subscribe(
            stream=STREAM, consumer=made.id, max_processing_events=1000
        )
        requests.put_nowait(events_pb.EventsRequest(subscribe=subscribe))
        stream = channel.stream_stream(
            "/windshift.events.v1alpha1.EventsService/Events",
            request_serializer=events_pb.EventsRequest.SerializeToString,
            response_deserializer=events_pb.EventsResponse.FromString,
        )(_queued(requests), metadata=_METADATA)
        async for response in stream:
            if not rejects:
                await asyncio.sleep(1)
            elif response.HasField("event"):
                reject = events_pb.EventsRequest.Reject(ids=[response.event.id], permanently=True)
                requests.put_nowait(events_pb.EventsRequest(reject=reject))

    return call


def _event(subject: str) -> events_pb.PublishEventRequest:
    """Make an event; without a subject it is empty, and so malformed."""
    data = any_of("x") if subject else None
    return events_pb.PublishEventRequest(subject=subject, data=data)


async def _stream(channel: grpc.aio.Channel, method: str, requests: AsyncIterator[Message]) -> None:
    """Send requests, compressed, and read what is answered."""
    call: Any = channel.stream_stream(
        f"/windshift.events.v1alpha1.EventsService/{method}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=bytes,
    )
    async for _ in call(requests, metadata=_METADATA, compression=grpc.Compression.Gzip):
        pass


def publishing(subject: str) -> Call:
    """Make a call that publishes 1,000 events with each compressed request."""
    request = events_pb.PublishStreamRequest(events=[_event(subject)] * 1000)

    async def requests() -> AsyncIterator[events_pb.PublishStreamRequest]:
        while True:
            yield request

    return lambda channel: _stream(channel, "PublishStream", requests())


def batching(subject: str, last: str = "") -> Call:
    """Make a call that publishes 1,000 events; all or none of them if the last one has another subject."""
    events = [_event(subject)] * 999 + [_event(last or subject)]
    request = events_pb.PublishBatchRequest(events=events, atomic=bool(last))
    return lambda channel: channel.unary_unary(
        "/windshift.events.v1alpha1.EventsService/PublishBatch",
        request_serializer=events_pb.PublishBatchRequest.SerializeToString,
        response_deserializer=bytes,
    )(request, timeout=5, metadata=_METADATA, compression=grpc.Compression.Gzip)


def acknowledging() -> Call:
    """Make a call that consumes, and acknowledges 5,000 ids of nothing with each request."""
    ack = events_pb.EventsRequest(ack=events_pb.EventsRequest.Ack(ids=range(10_000, 15_000)))

    async def call(channel: grpc.aio.Channel) -> None:
        ensure = unary(EVENTS.methods_by_name["EnsureConsumer"], **_FROM_START)
        made = events_pb.EnsureConsumerResponse.FromString(await ensure(channel))  # type: ignore[arg-type]
        subscribe = events_pb.EventsRequest.Subscribe(
            stream=STREAM, consumer=made.id, max_processing_events=1
        )

        async def requests() -> AsyncIterator[events_pb.EventsRequest]:
            yield events_pb.EventsRequest(subscribe=subscribe)
            while True:
                yield ack

        await _stream(channel, "Events", requests())

    return call


async def _queued(queue: asyncio.Queue[events_pb.EventsRequest]) -> AsyncIterator[events_pb.EventsRequest]:
    while True:
        yield await queue.get()


_numbers = itertools.count()


def _named(text: str) -> Callable[[], str]:
    return lambda: f"{text}{next(_numbers)}"


def calls() -> dict[str, Callable[[Place], None]]:
    """Return the attacks by name."""
    events, state, letters, admin = (
        service.methods_by_name for service in (EVENTS, STATE, DEAD_LETTERS, ADMIN)
    )
    tail = admin_pb.TailEventsRequest(stream=STREAM)
    getattr(tail, "from").start = True
    every = {"stream": STREAM, "consumer": "letters"}
    nowhere = [f"{STREAM}.letters.{number}.1" for number in range(1, 1001)]
    return {
        "reads of a small value": repeated(20, unary(state["Get"], store=STORE, key="small")),
        "reads of a value of 1 MB": repeated(25, unary(state["Get"], store=STORE, key="large")),
        "writes of 1 MB": repeated(10, unary(state["Set"], store=STORE, key="new", value=_message(LARGE))),
        "publishes": repeated(20, unary(events["PublishEvent"], subject="hostile.a", data=_message(100))),
        "publishes of 1 MB": repeated(
            10, unary(events["PublishEvent"], subject="hostile.a", data=_message(LARGE))
        ),
        "publishes that nobody listens to": repeated(
            20, unary(events["PublishEvent"], subject="hostile", data=_message(100))
        ),
        "streams of events that are denied": repeated(2, publishing("honest.a")),
        "streams of events that nobody listens to": repeated(2, publishing("hostile")),
        "streams of events that are malformed": repeated(2, publishing("")),
        "batches of events that are denied": repeated(2, batching("honest.a")),
        "atomic batches that are denied": repeated(2, batching("hostile.a", "honest.a")),
        "acks of 5,000 unknown ids": repeated(2, acknowledging()),
        "wrong page tokens": repeated(20, unary(admin["ListStreams"], page_size=1000, page_token="x" * 1000)),
        "streams that are malformed": repeated(
            10,
            unary(
                events["EnsureStream"],
                name="HOSTILE-x",
                subjects={"subjects": [f"hostile.made.{number}" for number in range(4000)] + ["hostile. "]},
            ),
        ),
        "replays that last": repeated(75, unary(letters["Replay"], 60, filter=every, rate=1, limit=100_000)),
        "lists of dead letters": repeated(5, unary(letters["List"], filter=every, page_size=500)),
        "purges of 1,000 ids": repeated(5, unary(letters["Purge"], ids=nowhere)),
        "consumers": repeated(10, unary(events["EnsureConsumer"], stream=STREAM)),
        "streams": repeated(
            5,
            unary(
                events["EnsureStream"],
                name=_named("HOSTILE-"),
                subjects={"subjects": ["hostile.made.>"]},
                retention_policy={"max_bytes": 1 << 20},
            ),
        ),
        "stores": repeated(5, unary(state["EnsureStore"], store=_named("hostile"))),
        "lists of streams": repeated(5, unary(admin["ListStreams"], page_size=1000)),
        "reads of 500 events": repeated(5, unary(admin["ReadEvents"], stream=STREAM, limit=500)),
        "tails that read slowly": repeated(20, reading(admin["TailEvents"], tail, 0.1)),
        "rejects as dead letters": repeated(2, consuming(rejects=True)),
        "consume calls that do not read": repeated(20, consuming(rejects=False)),
    }
