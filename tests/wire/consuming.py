"""A consume call as a client in the field makes it: grpcio, one thread that reads."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, Queue, SimpleQueue
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from tests.support.client import EVENTS, Client, Refusal, read_refusal
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

T = TypeVar("T")

Confirmed = tuple[str, list[int], list[int], list[int]]


class Call:
    """An `Events` call."""

    def __init__(self, client: Client, method: str = "Events", *, reads: bool = True) -> None:
        self._requests: SimpleQueue[pb.EventsRequest | None] = SimpleQueue()
        self._events: Queue[pb.Event] = Queue()
        self._confirmations: Queue[Confirmed] = Queue()
        self._ended = threading.Event()
        self._error: grpc.RpcError | None = None
        self.batches: list[int] = []
        self.subscribed: Queue[float] = Queue()
        self.linger: float | None = None
        self.call: Any = client.channel.stream_stream(
            f"/{EVENTS.full_name}/{method}",
            request_serializer=pb.EventsRequest.SerializeToString,
            response_deserializer=pb.EventsResponse.FromString,
        )(iter(self._requests.get, None))
        if reads:
            self.read()

    def read(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for response in self.call:
                self._sort(response)
        except grpc.RpcError as error:
            self._error = error
        self._ended.set()

    def _sort(self, response: pb.EventsResponse) -> None:
        match response.WhichOneof("response"):
            case "event":
                self._events.put(response.event)
            case "batch":
                self.batches.append(len(response.batch.events))
                for event in response.batch.events:
                    self._events.put(event)
            case "subscribed":
                self.linger = None
                if response.subscribed.HasField("linger"):
                    self.linger = response.subscribed.linger.ToTimedelta().total_seconds()
                self.subscribed.put(response.subscribed.processing_timeout.ToTimedelta().total_seconds())
            case str() as kind:
                some = getattr(response, kind)
                ids, invalid, failed = map(sorted, (some.ids, some.invalid_ids, some.temporary_failed_ids))
                self._confirmations.put((kind.removesuffix("_confirmation"), ids, invalid, failed))
            case None:
                raise AssertionError("an empty response")

    def say(self, **fields: Any) -> None:
        """Send a message."""
        self._requests.put(pb.EventsRequest(**fields))

    def subscribe(
        self,
        stream: str,
        consumer: str,
        window: int | None = None,
        resume: Iterable[bytes] = (),
        linger: float | None = None,
        max_batch: int = 0,
        max_message_size: int = 0,
    ) -> float:
        """Subscribe, and return the consumer's timeout in seconds."""
        subscribe = pb.EventsRequest.Subscribe(
            stream=stream,
            consumer=consumer,
            max_processing_events=window,
            resume=resume,
            max_batch=max_batch,
            max_message_size=max_message_size,
        )
        if linger is not None:
            subscribe.linger.CopyFrom(seconds(linger))
        self.say(subscribe=subscribe)
        return self._next(self.subscribed, 30)

    def limit(self, count: int) -> None:
        """Change the window."""
        self.say(limit={"max_processing_events": count})

    def ack(self, *ids: int) -> None:
        """Send an ack."""
        self.say(ack={"ids": ids})

    def ping(self, *ids: int) -> None:
        """Send a ping."""
        self.say(ping={"ids": ids})

    def reject(self, *ids: int, **fields: Any) -> None:
        """Send a reject."""
        self.say(reject=pb.EventsRequest.Reject(ids=ids, **fields))

    def event(self, within: float = 30) -> pb.Event:
        """Return the next event."""
        return self._next(self._events, within)

    @property
    def has_event(self) -> bool:
        """Whether an event has come that was not looked at."""
        return not self._events.empty()

    def events(self, count: int) -> list[pb.Event]:
        """Return the next events."""
        return [self.event() for _ in range(count)]

    def told(self, within: float = 30) -> Confirmed:
        """Return the next confirmation: its kind, and its three lists, sorted."""
        return self._next(self._confirmations, within)

    def nothing(self, seconds: float = 0.2) -> None:
        """See that no event comes."""
        try:
            event = self._events.get(timeout=seconds)
        except Empty:
            return
        raise AssertionError(f"unexpected {event}")

    def half_close(self) -> None:
        """End the client's side."""
        self._requests.put(None)

    def end(self, within: float = 30) -> Refusal | None:
        """Wait for the end of the call, and return its error."""
        assert self._ended.wait(within), "the call goes on"
        return None if self._error is None else read_refusal(self._error)

    def cancel(self) -> None:
        """Give the call up."""
        self.call.cancel()
        self._requests.put(None)

    def _next(self, queue: Queue[T], within: float) -> T:
        try:
            return queue.get(timeout=within)
        except Empty:
            end = f"ended with {self._error}" if self._ended.is_set() else "goes on"
            raise AssertionError(f"nothing came, and the call {end}") from None


@contextmanager
def calling(client: Client, method: str = "Events", *, reads: bool = True) -> Iterator[Call]:
    """Make a call for the length of a block."""
    call = Call(client, method, reads=reads)
    try:
        yield call
    finally:
        call.cancel()


@contextmanager
def subscribed(client: Client, stream: str, window: int | None = None, consumer: str = "c") -> Iterator[Call]:
    """Subscribe for the length of a block."""
    with calling(client) as call:
        call.subscribe(stream, consumer, window)
        yield call


def ensure_consumer(client: Client, stream: str, name: str = "c", timeout: float | None = None) -> str:
    """Ensure a consumer of all events, with a timeout in seconds."""
    request = pb.EnsureConsumerRequest(stream=stream, name=name)
    getattr(request, "from").start = True
    if timeout is not None:
        request.processing_timeout.CopyFrom(seconds(timeout))
    response: pb.EnsureConsumerResponse = client.call(EVENTS.methods_by_name["EnsureConsumer"], request)
    return response.id


def delete_consumer(client: Client, stream: str, name: str = "c") -> None:
    """Delete a consumer."""
    request = pb.DeleteConsumerRequest(stream=stream, id=name)
    client.call(EVENTS.methods_by_name["DeleteConsumer"], request)


def seconds(value: float) -> Duration:
    """Make a duration."""
    return Duration(seconds=int(value), nanos=round(value % 1 * 10**9))
