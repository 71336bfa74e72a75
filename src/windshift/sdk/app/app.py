"""An app: streams, consumers and handlers, told at import, and run later."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeVar, Unpack

from windshift.sdk.client import Client, caller_of, connect
from windshift.sdk.fakes import FakeCaller
from windshift.sdk.payloads import Codec, checked
from windshift.sdk.pointers import END, Position
from windshift.sdk.runtime.subscription import Handling
from windshift.sdk.specs import ConsumerFields, ConsumerSpec, StreamFields, StreamSpec
from windshift.sdk.times import Seconds, seconds

from .consumer import AppConsumer, AppStream, Ensure, Middleware, Next, Reaction, Unknown
from .injection import Function
from .process import run_until_told
from .running import Running, prepare
from .trial import Trial

F = TypeVar("F", bound=Function)

Lifespan = Callable[["App"], AbstractAsyncContextManager[object]]


class App:
    """Streams, consumers and their handlers. Nothing connects before it runs.

    Args:
        name: for logs.
        lifespan: `@asynccontextmanager async def lifespan(app)`. It is entered when `app.client` is connected
            and the consumers are ensured, before anything is delivered, and left after the last handler.
        middleware: see `App.middleware`.
        codecs: what takes payloads that are no Protobuf messages, see `ws.codecs`. Every client that the app
            runs with learns them.

    Attributes:
        name: its name.
        streams: its streams.
        consumers: its consumers.
    """

    def __init__(
        self,
        name: str,
        *,
        lifespan: Lifespan | None = None,
        middleware: Sequence[Middleware] = (),
        codecs: Sequence[Codec] = (),
    ) -> None:
        self.name = name
        self.streams: list[AppStream] = []
        self.consumers: list[AppConsumer] = []
        self._lifespan = lifespan
        self._middleware = list(middleware)
        self._codecs = checked(codecs)
        self._provided: list[tuple[Any, object]] = []
        self._client: Client | None = None

    # -- what there is -----------------------------------------------------------------------------------

    def stream(
        self,
        name: str,
        spec: StreamSpec | None = None,
        *,
        ensure: Ensure = "update",
        **fields: Unpack[StreamFields],
    ) -> AppStream:
        """Name a stream that the app uses.

        Args:
            name: its name.
            spec: what it is to be.
            ensure: what to do about it at the start: `update` makes it, or changes it to this; `create` makes
                it if it does not exist; `never` leaves it to others.
            **fields: what it is to be, or what differs from `spec`: the fields of a `StreamSpec`.

        Raises:
            ValueError: the app has a stream of this name.
        """
        if any(stream.name == name for stream in self.streams):
            raise ValueError(f"the app has a stream {name!r} already")
        stream = AppStream(name, (spec or StreamSpec()).with_fields(fields), ensure)
        self.streams.append(stream)
        return stream

    def consumer(
        self,
        stream: AppStream,
        name: str,
        spec: ConsumerSpec | None = None,
        *,
        ensure: Ensure = "update",
        concurrency: int = 32,
        prefetch: int | None = None,
        max_lease: Seconds = 900.0,
        unknown: Unknown = "dead_letter",
        on_error: Mapping[type[BaseException], Reaction] | None = None,
        middleware: Sequence[Middleware] = (),
        **fields: Unpack[ConsumerFields],
    ) -> AppConsumer:
        """Name a consumer whose events the app handles; `on` of what is returned adds handlers.

        Args:
            stream: its stream.
            name: its name, shared by all processes that run the app.
            spec: what it is to be; without a `retry`, an event gets 20 attempts, as far apart as the server
                has it.
            ensure: see `stream`.
            concurrency: handlers at once.
            prefetch: deliveries that wait beside them; None = a quarter of `concurrency`, at least 2.
            max_lease: how long a handler may take. Then it is cancelled and the event rejected.
            unknown: what becomes of events that no handler takes: `dead_letter`, `ack`, `retry` or `drop`.
            on_error: what becomes of an event whose handler raised an exception of a class, or of one derived
                from it: `ws.dead_letter`, `ws.drop`, `ws.retry`, `ws.retry(delay=5)`. What is not in here is
                retried by the policy.
            middleware: see `App.middleware`; these are inside of the app's.
            **fields: what it is to be, or what differs from `spec`: the fields of a `ConsumerSpec`.

        Raises:
            ValueError: the app has such a consumer.
        """
        consumer = AppConsumer(
            stream,
            name,
            (spec or ConsumerSpec()).with_fields(fields),
            ensure=ensure,
            handling=Handling(concurrency, prefetch, max_lease=seconds(max_lease)),
            unknown=unknown,
            on_error=dict(on_error or {}),
        )
        for function in middleware:
            consumer.middleware(function)
        return self._add(consumer)

    def on(
        self,
        subject: str,
        *types: type,
        stream: AppStream,
        consumer: str | AppConsumer,
        start: Position | None = None,
    ) -> Callable[[F], F]:
        """Handle events on a subject: `@app.on("orders.placed", stream=orders, consumer="mail")`.

        A consumer of this name is made if the app has none. Such a consumer gets only the subjects of its
        handlers; what no handler takes of these becomes a dead letter.

        Args:
            subject: only events on subjects that match.
            types: classes of payloads; none = the one that the function is annotated with.
            stream: the stream.
            consumer: the consumer, or its name.
            start: where a consumer that is made begins; None = at the end: it gets what is published later.

        Raises:
            TypeError: an annotation is wrong, or another handler could take the same event.
            ValueError: the app has the consumer already, and it begins elsewhere.
        """
        if isinstance(consumer, str):
            consumer = self._find(stream, consumer) or self._add(
                AppConsumer(stream, consumer, ConsumerSpec(start=start or END), narrowed=True)
            )
        if start is not None and start != consumer.spec.start:
            raise ValueError(
                f"the consumer {consumer.name!r} begins elsewhere: say `start` where it is first named"
            )
        decorate: Callable[[F], F] = consumer.on(*types, subject=subject)
        return decorate

    def _find(self, stream: AppStream, name: str) -> AppConsumer | None:
        return next((each for each in self.consumers if each.stream is stream and each.name == name), None)

    def _add(self, consumer: AppConsumer) -> AppConsumer:
        if self._find(consumer.stream, consumer.name) is not None:
            raise ValueError(f"the app has a consumer {consumer.name!r} of {consumer.stream.name!r} already")
        self.consumers.append(consumer)
        return consumer

    def middleware(self, function: Middleware) -> Middleware:
        """Put a function around every handler: `async def timing(delivery, call_next)`.

        It calls `await call_next(delivery)`, once; what it raises is the handler's failure. If it does not
        call, the event is acknowledged without a handler. It sees only events that can be decoded, unless
        `on_unknown` handles the others.
        """
        self._middleware.append(function)
        return function

    def provide(self, value: object, annotation: Any = None) -> None:
        """Give an object to the handlers that have a parameter annotated with its class, or one above it.

        Args:
            value: the object. A `ws.Store` is given to whoever asks for `ws.Store[ItsType]`.
            annotation: only to parameters that are annotated like this.
        """
        self._provided.append((annotation, value))

    # -- running -----------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The client, while the app runs.

        Raises:
            RuntimeError: it does not run.
        """
        if self._client is None:
            raise RuntimeError(f"the app {self.name!r} does not run")
        return self._client

    @asynccontextmanager
    async def running(
        self,
        client: Client | None = None,
        *,
        grace: Seconds = 30.0,
        concurrency: int | None = None,
        patient: bool = False,
    ) -> AsyncIterator[Running]:
        """Handle events beside the block: `async with app.running(client) as run`.

        At the start, streams and consumers are ensured, then the lifespan is entered, then handlers are given
        what they want. Leaving the block finishes what is held, settles it, and leaves the lifespan.

        Args:
            client: a client, which stays open; None = one that the environment configures.
            grace: at the end, how long handlers may take to finish before they are cancelled.
            concurrency: handlers at once of each consumer, whatever the consumers say.
            patient: wait for a server that cannot be reached, for as long as it takes; otherwise for the
                client's timeout.

        Raises:
            NotProvided: a handler wants what nobody provided.
            WindshiftError: at the start, what could not be ensured; at the end, what ended a consumer.
            RuntimeError: the app runs already.
        """
        last = seconds(grace)
        async with AsyncExitStack() as stack:
            if client is None:
                client = await stack.enter_async_context(connect())
            stack.enter_context(self._lent(client))
            await prepare(self.name, client, self.streams, self.consumers, patient=patient)
            if self._lifespan is not None:
                await stack.enter_async_context(self._lifespan(self))
            run = Running(self.name, client, self.consumers)
            run.start(self._bind(client), concurrency)
            try:
                yield run
            finally:
                await run.stop(last)
            run.check()

    def run(
        self,
        *,
        client: Client | None = None,
        grace: Seconds = 30.0,
        concurrency: int | None = None,
        health: tuple[str, int] | None = None,
        until: Callable[[], Awaitable[None]] | None = None,
    ) -> bool:
        """Run until SIGTERM or Ctrl-C, in the main thread; a second one ends the process at once.

        It waits for a server that cannot be reached. If handlers do not end although they are cancelled, or
        threads do not end, that is logged and the process ends with status 1.

        Args:
            client: a client that has made no call yet; it is closed at the end. None = one that the
                environment configures.
            grace: how long handlers, and what they leave in threads, may take to finish.
            concurrency: handlers at once of each consumer, whatever the consumers say.
            health: host and port for `/healthz` and `/readyz`.
            until: the app stops in good order, too, when this asynchronous function returns, or raises; then
                its error is raised.

        Returns:
            Whether a signal came, before the app stopped or meanwhile.

        Raises:
            WindshiftError: an error that ended a consumer, or that waiting will not mend.
        """

        @asynccontextmanager
        async def running() -> AsyncIterator[Running]:
            async with (
                client or connect() as used,
                self.running(used, grace=grace, concurrency=concurrency, patient=True) as run,
            ):
                yield run

        return run_until_told(self.name, running, grace=seconds(grace), health=health, until=until)

    @contextmanager
    def test(self, *, provide: Iterable[object] = ()) -> Iterator[Trial]:
        """Try handlers without a server: `with app.test(provide=[...]) as t: await t.deliver(...)`.

        The client records what is published, and has stores in memory. The lifespan is not entered; `provide`
        stands for what it provides.

        Args:
            provide: what handlers want beside the event.

        Raises:
            NotProvided: a handler wants what is not in `provide`.
        """
        caller = FakeCaller()
        client = Client(caller)
        with self._lent(client):
            for value in provide:
                self.provide(value)
            yield Trial(client, caller, self._bind(client))

    @contextmanager
    def _lent(self, client: Client) -> Iterator[None]:
        """Have a client for the time of the block, and forget afterwards what was provided meanwhile."""
        if self._client is not None:
            raise RuntimeError(f"the app {self.name!r} runs already")
        caller_of(client).payloads.learn(self._codecs)
        self._client, before = client, len(self._provided)
        try:
            yield
        finally:
            self._client = None
            del self._provided[before:]

    def _bind(self, client: Client) -> dict[AppConsumer, Next]:
        return {each: each.bind(client, self._provided, self._middleware) for each in self.consumers}
