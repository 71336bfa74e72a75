"""Sizes at their limits and one beyond (S2): the right code, and NATS never ends the connection over one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tests.hardening.target import (
    CHECK,
    CONSUME,
    DEAD_LETTERS,
    EVENTS,
    MIB,
    PUBLISH,
    STATE,
    Target,
    call,
    delimited,
    publish_request,
    varint,
)
from tests.rpc.frames import Peer, prefixed
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb
from windshift.rpc import StatusCode
from windshift.server.api.policies import LARGEST_OF_DEAD_LETTERS, LARGEST_OF_HEALTH, LARGEST_REQUEST

OK: Final = StatusCode.OK
INVALID: Final = StatusCode.INVALID_ARGUMENT
EXHAUSTED: Final = StatusCode.RESOURCE_EXHAUSTED
NOT_FOUND: Final = StatusCode.NOT_FOUND

HEADERS: Final = len(
    "NATS/1.0\r\nWS-Data-Type: x.Y\r\nWS-Published-Time: 2023-11-14T22:13:20.000000000Z\r\n\r\n"
)
TIME: Final = Timestamp(seconds=1_700_000_000)


def text(size: int, start: str = "") -> str:
    """Return a text of a size, which may be a name or a subject."""
    return start.ljust(size, "x")


def many(amount: int, start: str) -> list[str]:
    """Return so many subjects that do not overlap."""
    return [f"{start}.{number}" for number in range(amount)]


def stream(name: str, *subjects: str, **fields: object) -> pb.EnsureStreamRequest:
    """Return a request for a stream in memory."""
    return pb.EnsureStreamRequest(
        name=name,
        subjects=pb.EnsureStreamRequest.Subjects(subjects=subjects),
        storage=pb.EnsureStreamRequest.Storage(type=pb.EnsureStreamRequest.STORAGE_TYPE_MEMORY),
        **fields,  # type: ignore[arg-type] # of any field
    )


def mirror(name: str, *filters: str) -> pb.EnsureStreamRequest:
    """Return a request for a copy of a stream."""
    return pb.EnsureStreamRequest(
        name="mirror", mirror=pb.EnsureStreamRequest.StreamSource(name=name, filter_subjects=filters)
    )


def consumer(name: str, *subjects: str) -> pb.EnsureConsumerRequest:
    """Return a request for a consumer."""
    return pb.EnsureConsumerRequest(stream="warm", name=name, subjects=subjects)


def event(size: int) -> pb.PublishEventRequest:
    """Return an event that takes so many bytes of the broker's."""
    return publish_request("warm.a", bytes(size - HEADERS), timestamp=TIME)


def typed(size: int) -> pb.PublishEventRequest:
    """Return an event of a type with a long name."""
    data = AnyMessage(type_url=f"type.googleapis.com/{text(size)}")
    return pb.PublishEventRequest(subject="warm.a", data=data)


def value(key: str, size: int = 1) -> state_pb.SetRequest:
    """Return a request to write a value; the Any takes so many bytes."""
    return state_pb.SetRequest(store="sizes", key=key, value=AnyMessage(type_url="x.Y", value=bytes(size)))


def padded(size: int) -> bytes:
    """Return a message of a size, in a field that nobody knows."""
    return delimited(1000, bytes(size - 2 - len(varint(size - 4))))


TRANSIENT: Final = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)

Size = tuple[str, int, Callable[[int], Message | bytes], StatusCode, StatusCode]
"""A method, a limit, the request of a size, the code up to the limit, the code beyond."""

SIZES: Final[dict[str, Size]] = {
    "subject": (PUBLISH, 255, lambda n: publish_request(text(n, "warm.")), OK, INVALID),
    "type": (PUBLISH, 1024, typed, OK, INVALID),
    "idempotency key": (
        PUBLISH,
        256,
        lambda n: publish_request("warm.a", idempotency_key=text(n)),
        OK,
        INVALID,
    ),
    "expected id": (
        PUBLISH,
        2**63 - 1,
        lambda n: publish_request("warm.a", expected_last_id=n),
        StatusCode.ABORTED,
        INVALID,
    ),
    "event": (PUBLISH, MIB, event, OK, INVALID),
    "stream": (EVENTS + "EnsureStream", 255, lambda n: stream(text(n), text(n)), OK, INVALID),
    "stream's subject": (
        EVENTS + "EnsureStream",
        255,
        lambda n: stream(f"a{n}", text(n, f"a{n}.")),
        OK,
        INVALID,
    ),
    "subjects of a stream": (
        EVENTS + "EnsureStream",
        4096,
        lambda n: stream("many", *many(n, "many")),
        OK,
        INVALID,
    ),
    "event size of a stream": (
        EVENTS + "EnsureStream",
        2**31 - 1,
        lambda n: stream("big", "big", max_event_size=n),
        OK,
        INVALID,
    ),
    "mirror": (EVENTS + "EnsureStream", 255, lambda n: mirror(text(n, "no")), NOT_FOUND, INVALID),
    "mirror's filter": (EVENTS + "EnsureStream", 255, lambda n: mirror("no", text(n)), NOT_FOUND, INVALID),
    "filters of a mirror": (
        EVENTS + "EnsureStream",
        4096,
        lambda n: mirror("no", *many(n, "a")),
        NOT_FOUND,
        INVALID,
    ),
    "consumer": (EVENTS + "EnsureConsumer", 255, lambda n: consumer(text(n)), OK, INVALID),
    "consumer's filter": (
        EVENTS + "EnsureConsumer",
        255,
        lambda n: consumer(f"a{n}", text(n, "warm.")),
        OK,
        INVALID,
    ),
    "consumer to look at": (
        EVENTS + "GetConsumer",
        255,
        lambda n: pb.GetConsumerRequest(stream="warm", id=text(n, "no")),
        NOT_FOUND,
        INVALID,
    ),
    "consumer to delete": (
        EVENTS + "DeleteConsumer",
        255,
        lambda n: pb.DeleteConsumerRequest(stream="warm", id=text(n)),
        OK,
        INVALID,
    ),
    "stream to consume": (
        CONSUME,
        255,
        lambda n: pb.EventsRequest(subscribe=pb.EventsRequest.Subscribe(stream=text(n, "no"), consumer="c")),
        NOT_FOUND,
        INVALID,
    ),
    "events at once": (
        CONSUME,
        10_000,
        lambda n: pb.EventsRequest(
            subscribe=pb.EventsRequest.Subscribe(stream="no", consumer="c", max_processing_events=n)
        ),
        NOT_FOUND,
        INVALID,
    ),
    "store": (STATE + "EnsureStore", 252, lambda n: state_pb.EnsureStoreRequest(store=text(n)), OK, INVALID),
    "key to get": (
        STATE + "Get",
        255,
        lambda n: state_pb.GetRequest(store="sizes", key=text(n, "no")),
        OK,
        INVALID,
    ),
    "key to set": (STATE + "Set", 255, lambda n: value(text(n)), OK, INVALID),
    "key to delete": (
        STATE + "Delete",
        255,
        lambda n: state_pb.DeleteRequest(store="sizes", key=text(n)),
        OK,
        INVALID,
    ),
    "value": (STATE + "Set", MIB - 9, lambda n: value("big", n), OK, INVALID),
    "page": (DEAD_LETTERS + "List", 500, lambda n: letters_pb.ListRequest(page_size=n), OK, INVALID),
    "causes": (
        DEAD_LETTERS + "List",
        100,
        lambda n: letters_pb.ListRequest(filter=letters_pb.Filter(causes=[letters_pb.CAUSE_REJECTED] * n)),
        OK,
        INVALID,
    ),
    "rate": (
        DEAD_LETTERS + "Replay",
        10_000,
        lambda n: letters_pb.ReplayRequest(filter=letters_pb.Filter(), rate=n),
        OK,
        INVALID,
    ),
    "limit": (
        DEAD_LETTERS + "Replay",
        100_000,
        lambda n: letters_pb.ReplayRequest(filter=letters_pb.Filter(), limit=n),
        OK,
        INVALID,
    ),
    "a request": (EVENTS + "GetConsumer", LARGEST_REQUEST, padded, INVALID, EXHAUSTED),
    "a request to consume": (CONSUME, LARGEST_REQUEST, padded, INVALID, EXHAUSTED),
    "a request about dead letters": (
        DEAD_LETTERS + "Get",
        LARGEST_OF_DEAD_LETTERS,
        padded,
        INVALID,
        EXHAUSTED,
    ),
    "a request for health": (CHECK, LARGEST_OF_HEALTH, padded, OK, EXHAUSTED),
}


@pytest.mark.timeout(240)
async def test_sizes_at_their_limits(server: Target) -> None:
    """One below, at the limit, and one beyond."""
    wrong = {}
    async with await server.peer() as peer:
        store = state_pb.EnsureStoreRequest(store="sizes")
        assert (await call(peer, STATE + "EnsureStore", store)).status == OK
        for name, (path, limit, build, fine, beyond) in SIZES.items():
            if name == "subjects of a stream" and server.authority is not None:
                continue  # each takes nats-server seconds of CPU: over one of the transports is enough
            for size, code in ((limit - 1, fine), (limit, fine), (limit + 1, beyond)):
                response = await call(peer, path, build(size))
                for _ in range(
                    5
                ):  # 4,096 subjects take nats-server seconds of CPU, on a busy machine too many
                    if response.status in TRANSIENT:
                        response = await call(peer, path, build(size))
                if response.status != code:
                    wrong[name, size - limit] = (response.status, response.message, response.reset)
            peer.responses.clear()
    assert wrong == {}
    assert server.metric("windshift_nats_reconnects_total") == 0
    assert server.faults() == []


@pytest.mark.parametrize("kind", ["ack", "reject", "ping"])
async def test_ids_of_one_message(shared_server: Target, kind: str) -> None:
    """10,000 ids get a confirmation, one more ends the call."""
    types: dict[str, type[Message]] = {
        "ack": pb.EventsRequest.Ack,
        "reject": pb.EventsRequest.Reject,
        "ping": pb.EventsRequest.Ping,
    }
    async with await shared_server.peer() as peer:
        request = consumer(f"ids-{kind}")
        assert (await call(peer, EVENTS + "EnsureConsumer", request)).status == OK
        subscribe = pb.EventsRequest.Subscribe(stream="warm", consumer=f"ids-{kind}")
        for amount in (9_999, 10_000, 10_001):
            stream_id = peer.request(CONSUME, None, end=False)
            await _send(peer, stream_id, pb.EventsRequest(subscribe=subscribe))
            ids = [2**63 + number for number in range(amount)]
            await _send(peer, stream_id, pb.EventsRequest(**{kind: types[kind](ids=ids)}))  # type: ignore[arg-type] # one of three
            response = peer.responses[stream_id]
            await peer.until(lambda r=response: len(r.messages) == 2 or r.over)  # type: ignore[misc] # a lambda
            if amount > 10_000:
                assert (await peer.response(stream_id)).status == INVALID
            else:
                confirmed = pb.EventsResponse.FromString(response.messages[1])
                assert list(getattr(confirmed, f"{kind}_confirmation").invalid_ids) == ids
                peer.send(peer.data(stream_id, b"", end=True))
                assert (await peer.response(stream_id)).status == OK


async def _send(peer: Peer, stream_id: int, request: Message) -> None:
    assert await peer.upload(stream_id, prefixed(request.SerializeToString()))


async def test_headers_at_their_limit(shared_server: Target) -> None:
    """What is announced is let through; what is far beyond ends the connection, and that alone."""
    async with await shared_server.peer() as peer:
        await peer.pong()
        announced = peer.settings[0x6]
        assert announced == 16_384
        extra = [(b"x", bytes(b"y" * (announced - 700)))]
        assert (await peer.call(CHECK, extra=extra)).status == OK
        assert (await peer.call(CHECK, extra=[(b"x-%d" % i, b"y") for i in range(120)])).status == OK
        await peer.response(peer.request(CHECK, extra=[(b"x", bytes(b"y" * 2 * announced))]))
        assert peer.ended
    async with await shared_server.peer() as peer:
        await peer.response(peer.request(CHECK, extra=[(b"x-%d" % i, b"y") for i in range(130)]))
        assert peer.ended
    assert shared_server.faults() == []
