"""The client: one object for everything that a server can do."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from google.protobuf.message import Message

from .calling import Caller
from .credentials import TokenSource
from .payloads import Codec
from .publish_stream import PublishReceipt
from .publishing import MADE, Publish, Publisher, publish, publish_atomic, publish_many
from .settings import Tls, read_settings
from .times import Seconds, seconds

if TYPE_CHECKING:  # each is loaded when it is used: a program that publishes needs none of them
    from .dead_letters import DeadLetters
    from .history import History
    from .principals import PrincipalList
    from .servers import Identity, ServerInfo, ServerList
    from .stores import Store, Stores
    from .streams import Stream, Streams

T = TypeVar("T")


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
    """Make a client. Nothing connects before the first call.

    What is not given comes from `WINDSHIFT_ADDRESS`, `WINDSHIFT_TOKEN` or `WINDSHIFT_TOKEN_FILE`,
    `WINDSHIFT_TLS_CA`, `_TLS_CERT` and `_TLS_KEY`, and `WINDSHIFT_NAMESPACE`; then from a context: that
    which `context` or `WINDSHIFT_CONTEXT` names, or, if no address was given, the selected one.

    Args:
        address: `host:port` of the server, or of several, separated by commas: when one cannot be reached,
            the next one is used. Default: `127.0.0.1:8080`.
        tls: files for TLS; True = TLS with the system's authorities; False = plain text.
        token: the token's text; the path of its file, which is read again when it changes; or a function that
            returns a `Token`, which is called again at 80 % of its life; or `ClientCredentials`.
        timeout: how long an operation may take with all its attempts.
        namespace: prefix of all names and subjects, so that tests or developers share a server. It protects
            nothing.
        plaintext_token: send the token in plain text beyond this machine.
        context: name of a context in `~/.config/windshift/contexts.toml`.
        codecs: what makes payloads of objects that are no Protobuf messages, see `ws.codecs`.

    Raises:
        SettingsError: names everything that is wrong.
    """
    settings = read_settings(
        address,
        tls=tls,
        token=token,
        timeout=timeout,
        namespace=namespace,
        plaintext_token=plaintext_token,
        context=context,
        codecs=codecs,
    )
    return Client(Caller(settings))


class Client:
    """A client, made by `connect`. It belongs to the event loop of its first call."""

    def __init__(self, caller: Caller) -> None:
        if not isinstance(caller, Caller):
            raise TypeError(f"make a client with `connect`, such as ws.connect({caller!r})")
        self._caller = caller

    @cached_property
    def streams(self) -> Streams:
        """Streams, and through them consumers and events."""
        from .streams import Streams

        return Streams(self._caller)

    @cached_property
    def stores(self) -> Stores:
        """Values by key."""
        from .stores import Stores

        return Stores(self._caller)

    @cached_property
    def dead_letters(self) -> DeadLetters:
        """Events that consumers gave up on."""
        from .dead_letters import DeadLetters

        return DeadLetters(self._caller)

    def stream(self, name: str) -> Stream:
        """Return a stream that exists already, without asking the server."""
        from .streams import Stream

        return Stream(self._caller, name)

    @overload
    def store(self, name: str, kind: type[T]) -> Store[T]: ...

    @overload
    def store(self, name: str, kind: None = None) -> Store[Message]: ...

    def store(self, name: str, kind: type[Any] | None = None) -> Store[Any]:
        """Return a store that exists already, without asking the server; see `Stores.ensure`."""
        from .stores import Store

        return Store(self._caller, name, kind)

    def follow_forks(self) -> None:
        """Let forked processes use the client too, with connections of their own, instead of `WrongLoop`."""
        self._caller.follows_forks = True

    async def ready(self, timeout: Seconds = 10.0) -> None:
        """Connect, and see that the token is good. Not needed: calls wait for the server themselves.

        Raises:
            Unreachable: no server was reached in time.
            Unauthenticated: the server does not take the token.
            TokenUnavailable: there is no token.
        """
        await self._caller.ready(seconds(timeout))

    async def server(self) -> ServerInfo:
        """Describe the server that answers."""
        from .servers import server

        return await server(self._caller)

    async def servers(self, *, account: bool = False) -> ServerList:
        """Describe all servers on the same broker, and what they are busy with.

        Args:
            account: whether to ask the broker, too, how much of JetStream is used and what time it is.
        """
        from .servers import servers

        return await servers(self._caller, account=account)

    async def who_am_i(self, checks: Sequence[tuple[str, str]] = ()) -> Identity:
        """Ask the server who the client is, and what it may do.

        Args:
            checks: pairs of a verb and a resource, in the words of `windshift auth check`, such as
                `("publish", "orders.placed")`; at most 100. The namespace is not added.
        """
        from .servers import who_am_i

        return await who_am_i(self._caller, checks)

    async def principals(self) -> PrincipalList:
        """List the principals of the rules, when their credentials were used last, and what they have open.

        It is about the one server that answers, and the time since its start.
        """
        from .principals import principals

        return await principals(self._caller)

    async def end_connections(self, principal: str) -> int:
        """End the connections of a principal to the server that answers, with the calls on them.

        Its clients may connect again: take it out of the rules first if they are not to.

        Args:
            principal: its name in the rules.

        Returns:
            How many there were.

        Raises:
            PrincipalNotFound: the rules know nobody of this name.
            OutcomeUnknown: a worker of the server did not say that it is done.
        """
        from .principals import end_connections

        return await end_connections(self._caller, principal)

    async def publish(
        self,
        subject: str,
        message: object,
        *,
        key: str | None = MADE,
        expected_last_id: int | None = None,
        time: datetime | None = None,
        timeout: Seconds | None = None,
    ) -> PublishReceipt:
        """Publish an event. It is stored when this returns.

        Args:
            subject: the subject.
            message: the payload: any Protobuf message, or what a codec of the client takes.
            key: events with the same key within the stream's deduplication window are stored once. Without
                one it is made at random, which makes repeating safe. None = no key: then a publish in doubt
                is not repeated.
            expected_last_id: store it only if this is the id of the stream's last event; 0 = none ever was.
            time: when it happened; absent = now, by the server's clock.
            timeout: for all attempts; None = the client's.

        Raises:
            UnboundSubject: no stream takes this subject.
            WrongLastId: the stream's last id is another.
            OutcomeUnknown: it may have been stored or not.
            WindshiftError: see `windshift.sdk.errors`.
        """
        event = Publish(subject, message, key=key, expected_last_id=expected_last_id, time=time)
        return await publish(self._caller, event, None if timeout is None else seconds(timeout))

    async def publish_many(
        self,
        messages: Iterable[object] | AsyncIterable[object],
        *,
        subject: str | None = None,
        in_flight: int = 128,
        without_ids: bool = False,
    ) -> list[PublishReceipt]:
        """Publish many events, and return their receipts in the order of the events.

        Events are taken as they are sent, but a receipt of each is kept until the end: for a stream of events
        without an end there is `publisher`.

        Args:
            messages: payloads, or `Publish` objects with subjects of their own.
            subject: the subject of the payloads.
            in_flight: publishes at once, 1 to 200. The order in the stream is that of the events only with 1.
            without_ids: do without ids in receipts, and without being told of duplicates; where the stream
                has `fast_ingest`, it costs the server less.

        Raises:
            PublishManyError: an event failed. Then no more are taken; its `results` tell what became of each.
                What a generator was about to give is in none.
        """
        if not 1 <= in_flight <= 200:
            raise ValueError("in_flight must be 1 to 200")
        return await publish_many(self._caller, messages, subject, in_flight, without_ids=without_ids)

    async def publish_atomic(
        self,
        messages: Iterable[object],
        *,
        subject: str | None = None,
        timeout: Seconds | None = None,
    ) -> list[PublishReceipt]:
        """Publish events into one stream all or none, one right after the other; return their receipts.

        Args:
            messages: up to 1,000 payloads, or `Publish` objects with subjects of their own; 8 MiB in all. No
                more than one beyond that is taken of an iterable. An `expected_last_id` is about the last id
                just before its own event.
            subject: the subject of the payloads.
            timeout: for all attempts; None = the client's.

        Raises:
            InvalidField: there are more than 1,000; nothing was sent.
            DuplicateEvent: an event was stored before, by its key.
            WrongLastId: the stream's last id is another.
            NotAllowedByStream: the stream does not take such batches.
            OutcomeUnknown: all of it may have been stored, or nothing.
            WindshiftError: see `windshift.sdk.errors`; `index` is the position of the event that it is about.
        """
        return await publish_atomic(
            self._caller, messages, subject, None if timeout is None else seconds(timeout)
        )

    def publisher(self, *, in_flight: int = 256, without_ids: bool = False) -> Publisher:
        """Return a publisher for a long-running program: `async with client.publisher() as out`.

        Args:
            in_flight: publishes at once; 1 to 200 are on their way, the others wait for their turn.
            without_ids: do without ids in receipts, and without being told of duplicates; where the stream
                has `fast_ingest`, it costs the server less.
        """
        return Publisher(self._caller, in_flight, without_ids=without_ids)

    async def history(
        self,
        streams: Sequence[str] = (),
        consumers: Sequence[str] = (),
        *,
        since: datetime | None = None,
        points: int = 360,
    ) -> History:
        """Return the last hour of streams and consumers in numbers, as servers remember it, for charts.

        What does not exist, or the token may not see, is left out. What nothing has changed in for long may
        not be remembered; asking makes the servers look at it, within 10 seconds.

        Args:
            streams: names, at most 100.
            consumers: each as its stream's name, a slash and its own, such as `orders/billing`; at most 100.
            since: from when on; None = an hour ago.
            points: most values of a series, up to 360; fewer make the steps longer.
        """
        from .history import history

        return await history(self._caller, streams, consumers, since, points)

    async def close(self, grace: Seconds = 0.0) -> None:
        """Take no more calls, let running ones finish for `grace`, and disconnect.

        A cancellation, a second call with a shorter `grace`, or `abort` ends the wait.
        """
        await self._caller.close(seconds(grace))

    def abort(self) -> None:
        """Disconnect at once, also when the event loop does not run any more; calls fail as if cut off."""
        self._caller.abort()

    async def __aenter__(self) -> Self:
        self._caller.channels()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def caller_of(client: Client) -> Caller:
    """Return what makes a client's calls, for the parts of this package that stand on it."""
    return client._caller  # noqa: SLF001 -- it is none of the users' business
