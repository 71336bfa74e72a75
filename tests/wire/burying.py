"""Dead letters as a client in the field handles them, and writing some without a consumer that gives up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, Queue
from typing import Any

import grpc
from google.protobuf.message import Message

from tests.support.broker import connect, in_seconds
from tests.support.client import DEAD_LETTERS, Client, Refusal, read_refusal
from tests.support.nats_server import NatsServer
from tests.wire.consuming import Call, subscribed
from tests.wire.management import ensure_consumer, get_consumer
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift.nats.jetstream.writes import Writes
from windshift.server.events.dead_letters.model import Cause, DeadLetterId, Failure
from windshift.server.events.dead_letters.store import DeadLetterStore
from windshift.server.events.dead_letters.writer import DeadLetterWriter
from windshift.server.events.model import StreamSeq
from windshift.server.events.notes import Notes


def bury(nats_server: NatsServer, stream: str, *seqs: int, consumer: str = "c", **failure: Any) -> list[str]:
    """Make dead letters of events; give their ids. Fields are those of `Failure`."""
    return asyncio.run(_bury(nats_server, stream, seqs, consumer, failure))


async def _bury(
    nats_server: NatsServer, stream: str, seqs: tuple[int, ...], consumer: str, failure: dict[str, Any]
) -> list[str]:
    fields = {
        "attempts": 3,
        "first_delivery_ns": 1_700_000_000_000_000_001,
        "last_delivery_ns": 1_700_000_001_000_000_002,
        "cause": Cause.MAX_ATTEMPTS,
        **failure,
    }
    async with connect(nats_server.url) as broker:
        writes = Writes(broker.requests, broker.api)
        store = DeadLetterStore(broker.api, writes, 1)
        writer = DeadLetterWriter(broker.connection, broker.api, store, Notes(broker.connection))
        ids = []
        for seq in seqs:
            stored = await broker.api.message(stream, {"seq": seq}, in_seconds(30))
            assert stored is not None
            dead_letter_id = DeadLetterId(stream, consumer, StreamSeq(seq), stored.unix_ns)
            await writer.write(Failure(dead_letter_id, **fields), in_seconds(30))
            ids.append(f"{stream}.{consumer}.{seq}.{dead_letter_id.stored_ns}")
        return ids


def delete_stream(nats_server: NatsServer, name: str) -> None:
    """Delete a stream with NATS's own means."""
    jetstream(nats_server, f"STREAM.DELETE.{name}")


def jetstream(nats_server: NatsServer, operation: str, request: Any = None) -> Any:
    """Ask JetStream's API."""

    async def call() -> Any:
        async with connect(nats_server.url) as broker:
            return await broker.api.call(operation, request, in_seconds(30))

    return asyncio.run(call())


def store(nats_server: NatsServer, subject: str, body: bytes, headers: dict[str, str]) -> None:
    """Store a message, as another program does."""

    async def publish() -> None:
        async with connect(nats_server.url) as broker:
            await broker.publish(subject, body, headers)

    asyncio.run(publish())


def ask(client: Client, method: str, request: Message, timeout: float | None = 20) -> Any:
    """Call a method of the service."""
    return client.call(DEAD_LETTERS.methods_by_name[method], request, timeout)


def listed(client: Client, stream: str, **fields: Any) -> list[pb.DeadLetter]:
    """List the dead letters of a stream, all pages; fields are those of the filter."""
    request = pb.ListRequest(filter=pb.Filter(stream=stream, **fields))
    letters: list[pb.DeadLetter] = []
    while True:
        page = ask(client, "List", request)
        letters.extend(page.dead_letters)
        if not page.next_page_token:
            return letters
        request.page_token = page.next_page_token


class Watching:
    """A `Watch` call, and a thread that reads it."""

    def __init__(self, client: Client, request: pb.WatchRequest, *, reads: bool = True) -> None:
        self.call: Any = client.channel.unary_stream(
            f"/{DEAD_LETTERS.full_name}/Watch",
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )(request)
        self._seen: Queue[pb.WatchResponse] = Queue()
        self._ended = threading.Event()
        self._error: grpc.RpcError | None = None
        if reads:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for response in self.call:
                self._seen.put(response)
        except grpc.RpcError as error:
            self._error = error
        self._ended.set()

    def begun(self) -> None:
        """Wait until the server watches."""
        assert self.call.initial_metadata() is not None

    def next(self, within: float = 20) -> pb.WatchResponse:
        """Return the next response."""
        try:
            return self._seen.get(timeout=within)
        except Empty:
            raise AssertionError(f"nothing came; the call has ended: {self._error}") from None

    def ids(self, count: int) -> list[int]:
        """Return the event ids of the next responses."""
        return [self.next().dead_letter.event.id for _ in range(count)]

    def nothing(self, seconds: float = 0.3) -> None:
        """See that nothing comes."""
        try:
            response = self._seen.get(timeout=seconds)
        except Empty:
            return
        raise AssertionError(f"unexpected {response}")

    def end(self, within: float = 30) -> Refusal | None:
        """Wait for the end of the call, and return its error."""
        assert self._ended.wait(within), "the call goes on"
        return None if self._error is None else read_refusal(self._error)


@contextmanager
def watching(client: Client, stream: str = "", *, reads: bool = True, **fields: Any) -> Iterator[Watching]:
    """Watch for the length of a block, once the server does; fields are those of the request."""
    if stream:
        fields["filter"] = pb.Filter(stream=stream)
    call = Watching(client, pb.WatchRequest(**fields), reads=reads)
    try:
        call.begun()
        yield call
    finally:
        call.call.cancel()


# Consumers that give up


RETRY = events_pb.EventsRequest.REJECT_ACTION_RETRY
DEAD_LETTER = events_pb.EventsRequest.REJECT_ACTION_DEAD_LETTER
DROP = events_pb.EventsRequest.REJECT_ACTION_DROP

TIMES: Any = {"initial_backoff": "0.001s", "max_backoff": "0.05s"}


def consumer(client: Client, stream: str, name: str = "c", attempts: int = 2, **fields: Any) -> None:
    """Ensure a consumer of all events, with dead letters."""
    policy = {"max_attempts": attempts, **TIMES, **fields.pop("policy", {})}
    ensure_consumer(client, stream, name=name, **{"from": {"start": True}, "retry_policy": policy, **fields})


def reject(call: Call, *ids: int, **fields: Any) -> None:
    """Reject events, and see it confirmed."""
    call.reject(*ids, **fields)
    assert call.told() == ("reject", sorted(ids), [], [])


def ack(call: Call, *ids: int) -> None:
    """Acknowledge events, and see it confirmed."""
    call.ack(*ids)
    assert call.told() == ("ack", sorted(ids), [], [])


def kill_off(client: Client, stream: str, **fields: Any) -> pb.DeadLetter:
    """Publish an event, and have it become a dead letter of ``c``; give that."""
    seq = client.publish(f"{stream}.x", "poison", **fields)
    with subscribed(client, stream) as call:
        assert call.event().id == seq
        reject(call, seq, action=DEAD_LETTER, reason="bad", error_type="Bad")
        call.half_close()
        assert call.end() is None  # what is published next is not delivered to this call
    (letter,) = [each for each in listed(client, stream) if each.event.id == seq]
    return letter


def replay(client: Client, *ids: str) -> None:
    """Replay dead letters."""
    assert ask(client, "Replay", pb.ReplayRequest(ids=ids)).replayed == len(ids)


def is_over(client: Client, stream: str) -> bool:
    """Tell whether a consumer has nothing to do."""
    seen = get_consumer(client, stream)
    return (seen.pending, seen.unsettled) == (0, 0)
