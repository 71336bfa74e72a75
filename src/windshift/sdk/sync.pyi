"""The client without asyncio: `ws.sync.connect()`. Same names, no `await`; see docs/sdk.md."""

# Written by `make generate` from the asynchronous code. Do not edit.

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from datetime import datetime
from types import MappingProxyType, TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack, overload

from google.protobuf.message import Message

from windshift.sdk.consumers import ConsumerInfo, Sought
from windshift.sdk.credentials import TokenSource
from windshift.sdk.dead_letters import (
    By,
    CancelledReplays,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterSummary,
    Purged,
    Replayed,
)
from windshift.sdk.events import CaughtUp, Event, Explanation, Skipped, StoredEvent
from windshift.sdk.history import History
from windshift.sdk.payloads import Codec
from windshift.sdk.pointers import Position
from windshift.sdk.principals import PrincipalList
from windshift.sdk.publish_stream import PublishReceipt
from windshift.sdk.publishing import MADE
from windshift.sdk.runtime.subscription import LINGER
from windshift.sdk.servers import Identity, ServerInfo, ServerList
from windshift.sdk.settings import Tls
from windshift.sdk.specs import ConsumerFields, ConsumerSpec, StreamFields, StreamSpec
from windshift.sdk.stores import Entry, Revision, StoreInfo
from windshift.sdk.streams import StreamInfo
from windshift.sdk.times import Seconds

R = TypeVar("R")
T = TypeVar("T")

class Client:
    """A client, made by `connect`. It belongs to the event loop of its first call."""

    streams: Streams
    stores: Stores
    dead_letters: DeadLetters
    def stream(self, name: str) -> Stream:
        """Return a stream that exists already, without asking the server."""
    @overload
    def store(self, name: str, kind: type[T]) -> Store[T]: ...
    @overload
    def store(self, name: str, kind: None = None) -> Store[Message]: ...
    def follow_forks(self) -> None:
        """Let forked processes use the client too, with connections of their own, instead of `WrongLoop`."""
    def ready(self, timeout: Seconds = 10.0) -> None:
        """Connect, and see that the token is good. Not needed: calls wait for the server themselves."""
    def server(self) -> ServerInfo:
        """Describe the server that answers."""
    def servers(self, *, account: bool = False) -> ServerList:
        """Describe all servers on the same broker, and what they are busy with."""
    def who_am_i(self, checks: Sequence[tuple[str, str]] = ()) -> Identity:
        """Ask the server who the client is, and what it may do."""
    def principals(self) -> PrincipalList:
        """List the principals of the rules, when their credentials were used last, and what they have open."""
    def end_connections(self, principal: str) -> int:
        """End the connections of a principal to the server that answers, with the calls on them."""
    def publish(
        self,
        subject: str,
        message: object,
        *,
        key: str | None = MADE,
        expected_last_id: int | None = None,
        time: datetime | None = None,
        timeout: Seconds | None = None,
    ) -> PublishReceipt:
        """Publish an event. It is stored when this returns."""
    def publish_many(
        self,
        messages: Iterable[object],
        *,
        subject: str | None = None,
        in_flight: int = 128,
        without_ids: bool = False,
    ) -> list[PublishReceipt]:
        """Publish many events, and return their receipts in the order of the events."""
    def publish_atomic(
        self, messages: Iterable[object], *, subject: str | None = None, timeout: Seconds | None = None
    ) -> list[PublishReceipt]:
        """Publish events into one stream all or none, one right after the other; return their receipts."""
    def publisher(self, *, in_flight: int = 256, without_ids: bool = False) -> Publisher:
        """Return a publisher for a long-running program: `with client.publisher() as out`."""
    def history(
        self,
        streams: Sequence[str] = (),
        consumers: Sequence[str] = (),
        *,
        since: datetime | None = None,
        points: int = 360,
    ) -> History:
        """Return the last hour of streams and consumers in numbers, as servers remember it, for charts."""
    def close(self, grace: Seconds = 0.0) -> None:
        """Take no more calls, let running ones finish for `grace`, and disconnect."""
    def abort(self) -> None:
        """Disconnect at once, also when the event loop does not run any more; calls fail as if cut off."""
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

class Streams:
    """The streams of a server."""
    def ensure(self, name: str, spec: StreamSpec | None = None, **fields: Unpack[StreamFields]) -> Stream:
        """Make a stream, or change it to this."""
    def get(self, name: str) -> StreamInfo:
        """Describe a stream."""
    def list(self, find: str = "") -> Iterator[StreamInfo]:
        """List the streams of the client's namespace, by name: those with `find` in it or in a subject."""
    def delete(self, name: str, *, expected_last_id: int | None = None) -> None:
        """Delete a stream; see `Stream.delete`."""

class Stores:
    """The stores of a server."""
    @overload
    def ensure(
        self, name: str, kind: type[T], *, history: int | None = None, ttl: Seconds | None = None
    ) -> Store[T]: ...
    @overload
    def ensure(
        self, name: str, kind: None = None, *, history: int | None = None, ttl: Seconds | None = None
    ) -> Store[Message]: ...
    def list(self) -> Iterator[StoreInfo]:
        """List the stores of the client's namespace by name."""
    def delete(self, name: str) -> None:
        """Delete a store with all that is in it."""

class DeadLetters:
    """The dead letters of a server."""
    def list(self, *, newest_first: bool = False, **which: Unpack[DeadLetterFilter]) -> Iterator[DeadLetter]:
        """List dead letters, page by page, in the order in which they were written."""
    def count(self, **which: Unpack[DeadLetterFilter]) -> int | None:
        """Count dead letters; None where that would take the server long."""
    def summarize(self, *by: By, limit: int = 0, **which: Unpack[DeadLetterFilter]) -> DeadLetterSummary:
        """Group the newest 50,000 dead letters of a stream and consumer by what they have in common."""
    def get(self, id: str) -> DeadLetter:
        """Read one dead letter."""
    def watch(
        self, *, position: str = "", existing: bool = False, **which: Unpack[DeadLetterFilter]
    ) -> Iterator[DeadLetter]:
        """Yield dead letters as they are written, until the loop is left."""
    def replay(
        self,
        *,
        ids: Sequence[str] | None = None,
        everything: bool = False,
        rate: int = 0,
        dry_run: bool = False,
        progress: Callable[[Replayed], object] | None = None,
        **which: Unpack[DeadLetterFilter],
    ) -> Replayed:
        """Deliver the events of dead letters again, to the consumers that gave up on them, and only to these."""
    def cancel_replay(
        self, *, ids: Sequence[str] | None = None, everything: bool = False, **which: Unpack[DeadLetterFilter]
    ) -> CancelledReplays:
        """End replays that no subscriber has yet; see `replay` for the arguments. The dead letters stay."""
    def purge(
        self,
        *,
        ids: Sequence[str] | None = None,
        everything: bool = False,
        dry_run: bool = False,
        progress: Callable[[Purged], object] | None = None,
        **which: Unpack[DeadLetterFilter],
    ) -> Purged:
        """Remove dead letters for good; see `replay` for the arguments."""

class Stream:
    """A stream by its name; whether it exists shows at the first call."""

    name: str
    events: Events
    consumers: Consumers
    def consumer(self, name: str) -> Consumer:
        """Return a consumer that exists already, without asking the server."""
    def info(self) -> StreamInfo:
        """Describe the stream, as its leader sees it now."""
    def subjects(self, filter: str = "") -> Iterator[tuple[str, int]]:
        """List the subjects that the stream holds events of, with how many of each."""
    def purge(
        self,
        subject: str = "",
        *,
        up_to_id: int | None = None,
        keep: int | None = None,
        dry_run: bool = False,
    ) -> int:
        """Remove events for good, and return how many."""
    def delete(self, *, expected_last_id: int | None = None) -> None:
        """Delete the stream with its events and consumers. Its dead letters stay."""

class Store(Generic[T]):
    """A store whose values are of one type, or any messages."""

    name: str
    kind: type[T] | None
    def get(self, key: str) -> Entry[T] | None:
        """Read a key; None if it does not exist. The latest write is seen."""
    def set(self, key: str, value: T, *, ttl: Seconds | None = None) -> int:
        """Write a key whatever it holds, and return the revision."""
    def create(self, key: str, value: T, *, ttl: Seconds | None = None) -> int:
        """Write a key that does not exist, and return the revision."""
    def update(self, key: str, value: T, *, revision: int, ttl: Seconds | None = None) -> int:
        """Write a key that has this revision (0 = does not exist), and return the new one."""
    def delete(self, key: str, *, revision: int | None = None) -> None:
        """Delete a key. Deleting one that does not exist succeeds."""
    def touch(self, key: str, ttl: Seconds) -> int:
        """Give a key another time to live, from now on, and return its new revision; 0 = it does not expire."""
    def modify(
        self, key: str, change: Callable[[T], T | None], *, attempts: int = 10, ttl: Seconds | None = None
    ) -> Entry[T]:
        """Read a key, change its value, and write it if nobody else wrote meanwhile; otherwise begin again."""
    def transact(
        self,
        sets: Mapping[str, T] = MappingProxyType({}),
        *,
        deletes: Iterable[str] = (),
        checks: Mapping[str, int] = MappingProxyType({}),
        ttl: Seconds | None = None,
    ) -> dict[str, int]:
        """Write several keys, all or none, if all checks hold at that moment; return the revisions by key."""
    def watch(
        self, filter: str = "", *, existing: bool = False, from_revision: int = 0
    ) -> Iterator[Revision[T] | CaughtUp]:
        """Follow the keys that match until the loop is left: every change in order, each once."""
    def keys(self, filter: str = "") -> Iterator[Revision[T]]:
        """List the keys that match, in no particular order, without their values."""
    def list(self, filter: str = "") -> Iterator[Entry[T]]:
        """List the keys that match with their values, in no particular order."""
    def history(self, key: str) -> Sequence[Revision[T]]:
        """Return the revisions of a key that the store keeps, oldest first, deletions included."""

class Publisher:
    """Publishes in the background; made by `Client.publisher`."""
    def send(
        self,
        subject: str,
        message: object,
        *,
        key: str | None = MADE,
        expected_last_id: int | None = None,
        time: datetime | None = None,
    ) -> Future[PublishReceipt]:
        """Wait for room, then publish in the background; see `Client.publish` for the arguments."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

class Events:
    """The events of a stream, read without a consumer."""
    def get(
        self,
        id: int | None = None,
        *,
        at: datetime | None = None,
        last_of: str | None = None,
        subject: str | None = None,
    ) -> StoredEvent:
        """Read one event from the stream's leader: by id, by time, or the last of a subject."""
    def explain(self, id: int, *, consumer: str | None = None) -> Explanation:
        """Say how an event stands at each consumer, and why it is not delivered where it is not."""
    def read(
        self,
        *,
        start: Position | None = None,
        subjects: Sequence[str] = (),
        types: Sequence[type] = (),
        backwards: bool = False,
        limit: int | None = None,
    ) -> Iterator[StoredEvent]:
        """Read the events that the stream holds, page by page."""
    def tail(
        self,
        *,
        start: Position | None = None,
        subjects: Sequence[str] = (),
        types: Sequence[type] = (),
        max_rate: int = 0,
    ) -> Iterator[StoredEvent | Skipped | CaughtUp]:
        """Follow the stream until the loop is left. Nothing is settled, and each event comes at most once."""
    def tail_many(
        self,
        *,
        start: Position | None = None,
        subjects: Sequence[str] = (),
        types: Sequence[type] = (),
        max_rate: int = 0,
    ) -> Iterator[list[StoredEvent | Skipped | CaughtUp]]:
        """Follow the stream as `tail` does, which see; what has arrived together comes as one list."""
    def delete(self, id: int, *, erase: bool = False) -> None:
        """Delete one event for good."""

class Consumers:
    """The consumers of a stream."""
    def ensure(
        self, name: str | None, spec: ConsumerSpec | None = None, **fields: Unpack[ConsumerFields]
    ) -> Consumer:
        """Make a consumer, or change it to this; it keeps its position."""
    def get(self, name: str) -> ConsumerInfo:
        """Describe a consumer."""
    def list(self) -> Iterator[ConsumerInfo]:
        """List the consumers of the stream by name."""
    def delete(self, name: str) -> None:
        """Delete a consumer; see `Consumer.delete`."""

class Consumer:
    """A consumer by its name; whether it exists shows at the first call."""

    stream: str
    name: str
    def info(self) -> ConsumerInfo:
        """Describe the consumer."""
    def delete(self) -> None:
        """Delete the consumer. Who consumes from it gets `ConsumerNotFound`."""
    def pause(self, until: datetime | Seconds) -> datetime:
        """Deliver nothing new until a time, or for so long; return that time. What is held can be settled."""
    def resume(self) -> None:
        """End a pause."""
    def seek(self, to: Position, *, dry_run: bool = False) -> Sought:
        """Move the consumer to another event: from there on everything is delivered anew, as first attempts."""
    @overload
    def subscribe(
        self,
        *,
        types: Sequence[type[T]],
        concurrency: int = 1,
        prefetch: int | None = None,
        max_lease: Seconds = 900.0,
        linger: Seconds = LINGER,
    ) -> AbstractContextManager[Iterator[Delivery[T]]]: ...
    @overload
    def subscribe(
        self,
        *,
        concurrency: int = 1,
        prefetch: int | None = None,
        max_lease: Seconds = 900.0,
        linger: Seconds = LINGER,
    ) -> AbstractContextManager[Iterator[Delivery[Any]]]: ...
    def run(
        self,
        handler: Callable[[Delivery[Any]], object],
        *,
        types: Sequence[type] = (),
        concurrency: int = 32,
        prefetch: int | None = None,
        max_lease: Seconds = 900.0,
        linger: Seconds = LINGER,
        grace: Seconds = 30.0,
    ) -> None:
        """Handle events until the task is cancelled. Then what is held is finished, and settled in one write."""
    def running(
        self,
        handler: Callable[[Delivery[Any]], object],
        *,
        types: Sequence[type] = (),
        concurrency: int = 32,
        prefetch: int | None = None,
        max_lease: Seconds = 900.0,
        linger: Seconds = LINGER,
        grace: Seconds = 30.0,
    ) -> AbstractContextManager[None]:
        """Handle events beside the block; leaving it is like cancelling `run`, whose arguments it takes."""
    def idle(self, timeout: Seconds = 10.0) -> None:
        """Wait until nothing is pending and nothing is unsettled."""

class Delivery(Generic[T]):
    """One attempt to hand over an event."""

    event: Event[T]
    lost: bool
    def ack(self) -> None:
        """Settle the event, and wait until that is stored."""
    def retry(self, reason: str = "", *, delay: Seconds | None = None) -> None:
        """Have the event delivered again, after `delay` or by the consumer's policy; see `ack` for errors."""
    def dead_letter(self, reason: str = "") -> None:
        """Keep the event as a dead letter; see `ack` for errors."""
    def drop(self, reason: str = "") -> None:
        """Have the event not delivered again, and keep nothing; see `ack` for errors."""
    def ping(self) -> None:
        """Ask for more time now, before work that blocks the event loop."""
    def in_thread(self, function: Callable[[], R]) -> R:
        """Run a part of the handler that blocks in a thread of the subscription, with the same context."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool: ...

def connect(
    address: str | None = None,
    *,
    tls: Tls | bool | None = None,
    token: TokenSource | None = None,
    timeout: Seconds = 10.0,
    namespace: str | None = None,
    plaintext_token: bool = False,
    context: str | None = None,
    codecs: Sequence[Codec] = (),
) -> Client:
    """Make a client. Nothing connects before the first call."""

def shared() -> Client:
    """Return the client of this process, made as the environment says. It is never closed."""
