"""A consumer of an app: its handlers, and what becomes of events that they fail on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, overload

from windshift.sdk.client import Client, caller_of
from windshift.sdk.deliveries import (
    Delivery,
    Drop,
    GiveUp,
    Outcome,
    Rejection,
    RetryLater,
    Verdict,
    delay_of,
    failure,
    verdict_of,
)
from windshift.sdk.errors import UnknownType
from windshift.sdk.runtime.subscription import Handling, handle
from windshift.sdk.specs import ConsumerSpec, RetryPolicy, StreamSpec
from windshift.sdk.subjects import EVERYTHING, overlap, widest
from windshift.sdk.times import Seconds

from .injection import Function, Handler, Provided, bind, read_handler

F = TypeVar("F", bound=Function)

Ensure = Literal["update", "create", "never"]
"""What an app does about a stream or consumer when it starts: make it, or change it to what the app says;
make it if it does not exist; nothing."""
Unknown = Literal["dead_letter", "ack", "retry", "drop"]
"""What becomes of events that no handler takes."""
Next = Callable[[Delivery[Any]], Awaitable[None]]
Middleware = Callable[[Delivery[Any], Next], Awaitable[None]]

DEFAULT_RETRY = RetryPolicy(max_attempts=20)
"""For consumers of an app that says nothing else: about 5 minutes of attempts."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """What becomes of an event whose handler raised an exception of some class, for `on_error`.

    Attributes:
        outcome: what.
        delay: seconds until a retry; None = as the consumer's policy says.
    """

    outcome: Outcome
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class RetryReaction(Reaction):
    """Delivers the event again: by the consumer's policy, or `retry(delay=5)` after so many seconds."""

    def __call__(self, *, delay: Seconds) -> RetryReaction:
        """Return one with a delay."""
        return replace(self, delay=delay_of(delay))


dead_letter = Reaction(Outcome.DEAD_LETTER)
"""For `on_error`: the event becomes a dead letter."""
drop = Reaction(Outcome.DROP)
"""For `on_error`: the event does not come again, and nothing is kept."""
retry = RetryReaction(Outcome.RETRY)
"""For `on_error`: the event comes again, by the consumer's policy, or after `retry(delay=5)` seconds."""


@dataclass(frozen=True, slots=True)
class AppStream:
    """A stream that an app uses.

    Attributes:
        name: its name.
        spec: what it is to be.
        ensure: what the app does about it when it starts.
    """

    name: str
    spec: StreamSpec
    ensure: Ensure


class AppConsumer:
    """A consumer that an app handles the events of. Made by `App.consumer`.

    Attributes:
        stream: its stream.
        name: its name.
        ensure: what the app does about it when it starts.
    """

    def __init__(
        self,
        stream: AppStream,
        name: str,
        spec: ConsumerSpec,
        *,
        ensure: Ensure = "update",
        handling: Handling | None = None,
        unknown: Unknown = "dead_letter",
        on_error: Mapping[type[BaseException], Reaction] = MappingProxyType({}),
        narrowed: bool = False,
    ) -> None:
        _check_failures(unknown, on_error)
        self.stream = stream
        self.name = name
        self.ensure = ensure
        self._handling = handling or Handling()
        self._spec = spec if spec.retry is not None else replace(spec, retry=DEFAULT_RETRY)
        self._unknown = unknown
        self._on_error = on_error
        self._middleware: list[Middleware] = []
        self._narrowed = narrowed
        self._handlers: dict[type, list[tuple[str, Handler]]] = {}  # by type and subject
        self._otherwise: Handler | None = None
        self._subjects: list[str] = []

    @overload
    def on(self, first: type, /, *types: type, subject: str = EVERYTHING) -> Callable[[F], F]: ...

    @overload
    def on(self, *, subject: str) -> Callable[[F], F]: ...

    @overload
    def on(self, function: F, /) -> F: ...

    def on(self, *what: Any, subject: str = EVERYTHING) -> Any:
        """Handle events with a function: `@consumer.on`, `@consumer.on(OrderPlaced, subject="orders.eu.>")`.

        The function's annotations say what it is given: the message, `ws.Event`, `ws.Delivery`, `ws.Client`,
        and whatever was provided. It is a coroutine function, or a function that runs in a thread.

        Args:
            what: the function, or classes of payloads; none = the one that the function is annotated with.
            subject: only events on subjects that match.

        Raises:
            TypeError: an annotation is wrong, or another handler could take the same event.
        """
        if len(what) == 1 and not isinstance(what[0], type):
            return self._add(what[0], (), subject)
        return lambda function: self._add(function, what, subject)

    def on_unknown(self, function: F) -> F:
        """Handle the events that no other handler takes: `@consumer.on_unknown`.

        Raises:
            TypeError: an annotation is wrong, or there is such a handler already.
        """
        if self._otherwise is not None:
            raise TypeError(f"{self._otherwise} handles what no other handler of {self.name!r} takes already")
        self._otherwise = read_handler(function, untyped=True)
        return function

    def middleware(self, function: Middleware) -> Middleware:
        """Put a function around the handlers of this consumer, inside of the app's; see `App.middleware`."""
        self._middleware.append(function)
        return function

    def _add(self, function: F, types: Sequence[type], subject: str) -> F:
        handler = read_handler(function, types)
        for kind in handler.types:
            for taken, other in self._handlers.get(kind, ()):
                if overlap(taken, subject):
                    raise TypeError(f"{handler} and {other} both take {kind.__name__} on {subject!r}")
            self._handlers.setdefault(kind, []).append((subject, handler))
        self._subjects.append(subject)
        return function

    # -- running ---------------------------------------------------------------------------------------

    @property
    def spec(self) -> ConsumerSpec:
        """What the consumer is to be, with the subjects of its handlers if it has none of its own."""
        if self._narrowed and self._otherwise is None:
            return replace(self._spec, subjects=widest(self._subjects))
        return self._spec

    @property
    def handling(self) -> Handling:
        """How its deliveries are handled, by the handlers that it has now."""
        return replace(self._handling, types=self.types, others=True, decide=self.decide)

    @property
    def types(self) -> list[type]:
        """The classes of payloads that have handlers."""
        return list(self._handlers)

    def takes(self, subject: str) -> bool:
        """Say whether events on a subject come to this consumer."""
        streams, filters = self.stream.spec.subjects or (EVERYTHING,), self.spec.subjects or (EVERYTHING,)
        return all(any(overlap(each, subject) for each in several) for several in (streams, filters))

    def bind(self, client: Client, provided: Provided, middleware: Sequence[Middleware]) -> Next:
        """Return the function that handles the consumer's deliveries.

        Raises:
            NotProvided: a handler wants what nobody provided.
            TypeError: a handler takes what can be no payload of this client.
            ValueError: there is no handler.
        """
        if not self._handlers and self._otherwise is None:
            raise ValueError(f"the consumer {self.name!r} has no handler")
        caller_of(client).payloads.filter(self.types)  # refuses what can be no payload
        around = [*middleware, *self._middleware]

        def bound(handler: Handler) -> Next:
            call = bind(handler, client, provided)
            return _wrap(functools.partial(handle, call, threaded=handler.blocking), around)

        routes = {
            kind: [(subject, bound(handler)) for subject, handler in handlers]
            for kind, handlers in self._handlers.items()
        }
        rest = self._refuse if self._otherwise is None else bound(self._otherwise)

        async def dispatch(delivery: Delivery[Any]) -> None:
            event = delivery.event
            for subject, run in routes.get(event.kind, ()) if event.kind else ():
                if subject == EVERYTHING or overlap(subject, event.subject):
                    return await run(delivery)
            return await rest(delivery)

        return dispatch

    async def _refuse(self, delivery: Delivery[Any]) -> None:
        """Raise what becomes of an event that no handler takes, unless it is acknowledged."""
        if self._unknown != "ack":
            event, refusal = delivery.event, _REFUSALS[self._unknown]
            raise refusal(f"no handler takes {event.type} on {event.subject}") from UnknownType(event.type)

    def decide(self, error: BaseException) -> Verdict:
        """Say what becomes of an event whose handler raised this."""
        if not isinstance(error, Rejection):
            for kind in type(error).__mro__:
                reaction = self._on_error.get(kind)
                if reaction is not None:
                    return failure(error, reaction.outcome, reaction.delay)
        return verdict_of(error)

    def __repr__(self) -> str:
        return f"AppConsumer({self.stream.name!r}, {self.name!r})"


def _check_failures(unknown: str, on_error: Mapping[Any, Any]) -> None:
    if unknown not in get_args(Unknown):
        raise ValueError(f"unknown: {unknown!r} is not one of {', '.join(get_args(Unknown))}")
    for kind, reaction in on_error.items():
        is_exception = isinstance(kind, type) and issubclass(kind, BaseException)
        if not is_exception or not isinstance(reaction, Reaction):
            raise TypeError(
                f"on_error: {kind!r}: {reaction!r} is not a class of exceptions with ws.dead_letter, "
                "ws.retry or ws.drop"
            )


_REFUSALS: dict[str, type[Rejection]] = {"dead_letter": GiveUp, "retry": RetryLater, "drop": Drop}


def _wrap(run: Next, around: Iterable[Middleware]) -> Next:
    """Put middleware around a handler, the first one outermost."""
    for function in reversed(list(around)):
        run = functools.partial(_through, function, run)
    return run


async def _through(function: Middleware, run: Next, delivery: Delivery[Any]) -> None:
    passing: Any = function(delivery, run)
    if not inspect.isawaitable(passing):
        raise TypeError(f"the middleware {function!r} is not a coroutine function")
    await passing
