"""Which handler takes an event, what it is given, and what becomes of the event: without a server."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import windshift as ws
from windshift.protos import state, test
from windshift.sdk.subjects import covers, overlap, widest

Text = test.StringValue
Other = state.SetResponse
TextStore = ws.Store[test.StringValue]


class Smtp:
    """Something that a lifespan would provide."""


def make(**options: Any) -> tuple[ws.App, ws.AppConsumer]:
    """Make an app with one consumer."""
    app = ws.App("a")
    return app, app.consumer(app.stream("s", subjects=["s.>"]), "w", **options)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "*.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a", False),
        ("a.>", "a.b.c", True),
        (">", "*", True),
        ("a.*.c", "a.b.>", True),
        ("a.*.c", "b.>", False),
    ],
)
def test_filters_overlap(one: str, other: str, expected: bool) -> None:
    """Two filters overlap when a subject can match both."""
    assert overlap(one, other) is overlap(other, one) is expected


def test_filters_cover_each_other() -> None:
    """A filter covers another one whose every subject it matches."""
    assert covers("a.>", "a.*.c")
    assert covers("a.*", "a.b")
    assert not covers("a.b", "a.*")
    assert not covers("a.*", "a.>")
    assert not covers("a.>", "a")
    assert widest(["a.b", "a.*", "c", "a.*", "a.x.y"]) == ("a.*", "c", "a.x.y")


async def test_the_type_and_the_subject_choose_the_handler() -> None:
    """Types that are annotated or named, unions, and subjects; exactly one handler gets each event."""
    app, consumer = make()
    seen: list[str] = []

    @consumer.on(subject="s.eu.>")
    async def european(text: Text) -> None:
        seen.append(f"eu {text.value}")

    @consumer.on(Text, subject="s.us")
    async def american(event: ws.Event[Text]) -> None:
        seen.append(f"us {event.data.value}")

    @consumer.on
    def others(message: Other | state.DeleteResponse, delivery: ws.Delivery[Any]) -> None:
        seen.append(
            f"{type(message).__name__} {delivery.event.subject} {threading.current_thread().name != main}"
        )

    main = threading.current_thread().name
    with app.test() as trial:
        for subject, message in (
            ("s.eu.x", Text(value="1")),
            ("s.us", Text(value="2")),
            ("s.eu.x", Other()),
            ("s.us", state.DeleteResponse()),
        ):
            assert (await trial.deliver(subject, message)).outcome is ws.Outcome.ACK
        refused = await trial.deliver("s.asia", Text())
    assert seen == ["eu 1", "us 2", "SetResponse s.eu.x True", "DeleteResponse s.us True"]
    assert refused.outcome is ws.Outcome.DEAD_LETTER
    assert refused.reason == "no handler takes windshift.test.v1.StringValue on s.asia"
    assert refused.error_type == "UnknownType"


async def test_a_function_around_a_coroutine_function_is_waited_for() -> None:
    """As many decorators return it; the event is not acknowledged before the coroutine has ended."""
    app, consumer = make()
    seen: list[str] = []

    async def book(text: Text) -> None:
        await asyncio.sleep(0)
        seen.append(text.value)

    @consumer.on
    def handle(text: Text) -> Awaitable[None]:
        return book(text)

    with app.test() as trial:
        assert (await trial.deliver("s.x", Text(value="a"))).outcome is ws.Outcome.ACK
    assert seen == ["a"]


def test_two_handlers_for_one_event_are_refused_at_import() -> None:
    """Handlers of one type need disjoint subjects; other types and consumers may have the same."""
    app, consumer = make()

    @consumer.on(subject="s.*.x")
    async def first(text: Text) -> None: ...

    with pytest.raises(TypeError, match=r"second and .*first both take StringValue on 's.a.>'"):

        @consumer.on(subject="s.a.>")
        async def second(text: Text) -> None: ...

    @consumer.on
    async def third(other: Other) -> None: ...

    other = app.consumer(app.streams[0], "other")
    other.on(first)
    with pytest.raises(ValueError, match="has a consumer 'other' of 's' already"):
        app.consumer(app.streams[0], "other")
    with pytest.raises(ValueError, match="has a stream 's' already"):
        app.stream("s")


def _no_annotation(text: Text, more) -> None: ...  # type: ignore[no-untyped-def] # noqa: ANN001 -- it is what is tested
def _unknown_name(text: Txet) -> None: ...  # type: ignore[name-defined] # noqa: F821 -- it is what is tested
def _no_message(number: int) -> None: ...
def _rest(text: Text, *more: Smtp) -> None: ...
def _twice(text: Text, other: Other) -> None: ...
def _contradiction(text: Text, event: ws.Event[Other]) -> None: ...
async def _generator(text: Text) -> AsyncIterator[None]: yield  # fmt: skip


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (_no_annotation, "the parameter 'more' has no annotation"),
        (_unknown_name, "cannot be resolved: name 'Txet' is not defined"),
        (_no_message, "no parameter is annotated with a class of payloads"),
        (_rest, r"\*more cannot be filled"),
        (_twice, "takes its message twice"),
        (_contradiction, "annotated with SetResponse, but takes StringValue"),
        ("text", "a handler is a function"),
        (_generator, "does not yield"),
    ],
)
def test_wrong_annotations_are_refused_at_import(function: Any, problem: str) -> None:
    """What a handler wants must be clear when it is told."""
    _, consumer = make()
    with pytest.raises(TypeError, match=problem):
        consumer.on(function)


def test_wrong_types_are_refused_at_import() -> None:
    """Types that are named must be messages, and those that are annotated."""
    _, consumer = make()
    with pytest.raises(TypeError, match="'int' is not a class"):
        consumer.on(Text, "int")(_no_message)  # type: ignore[call-overload] # that is what is tested
    with pytest.raises(TypeError, match="annotated with StringValue, but takes SetResponse"):

        @consumer.on(Other)
        async def handle(text: Text) -> None: ...


def test_wrong_options_are_refused_at_import() -> None:
    """Errors and what becomes of them, unknown events, concurrency."""
    with pytest.raises(TypeError, match="is not a class of exceptions with"):
        make(on_error={ValueError: "drop"})
    with pytest.raises(TypeError, match="is not a class of exceptions with"):
        make(on_error={"ValueError": ws.drop})
    with pytest.raises(ValueError, match="'keep' is not one of dead_letter, ack"):
        make(unknown="keep")
    with pytest.raises(ValueError, match="concurrency"):
        make(concurrency=0)


async def test_what_is_provided_is_given_by_annotation() -> None:
    """The client, objects by class, stores by type, defaults; methods, partials and callable objects."""
    app, consumer = make()
    given: dict[str, object] = {}

    class Handlers:
        async def method(self, text: Text, smtp: Smtp, client: ws.Client, *, more: int = 7) -> None:
            given.update(method=(text.value, type(smtp), type(client), more))

        async def __call__(self, other: Other, totals: TextStore) -> None:
            entry = await totals.modify("k", lambda _: Text(value="x"))
            given.update(called=entry.value.value)

    async def partial(number: int, empty: state.DeleteResponse, /) -> None:
        given.update(partial=(number, empty))

    consumer.on(Handlers().method)
    consumer.on(Handlers())
    consumer.on(functools.partial(partial, 3))
    with app.test(provide=[Smtp(), ws.testing.FakeStore(Text), ws.testing.FakeStore(Other)]) as trial:
        for message in (Text(value="a"), Other(), state.DeleteResponse()):
            verdict = await trial.deliver("s.x", message)
            assert verdict.outcome is ws.Outcome.ACK, verdict
    assert given == {
        "method": ("a", Smtp, ws.Client, 7),
        "called": "x",
        "partial": (3, state.DeleteResponse()),
    }


def test_what_is_missing_stops_the_start() -> None:
    """Nothing provided, two that fit, and a consumer without handlers."""
    app, consumer = make()
    with pytest.raises(ValueError, match="'w' has no handler"), app.test():
        pass

    @consumer.on
    async def handle(text: Text, smtp: Smtp) -> None: ...

    with pytest.raises(ws.NotProvided, match=r"handle wants smtp: .*Smtp, which nobody provided"), app.test():
        pass
    with (
        pytest.raises(ws.NotProvided, match="which 2 provided objects are"),
        app.test(provide=[Smtp(), Smtp()]),
    ):
        pass
    with app.test(provide=[Smtp()]):
        pass
    with pytest.raises(ws.NotProvided), app.test():
        pass  # what was provided for one run is not there in the next
    app.provide(Smtp(), annotation=Smtp)
    for _ in range(2):
        with app.test():
            pass
    with pytest.raises(RuntimeError, match="does not run"):
        _ = app.client


async def test_exceptions_decide_by_their_class() -> None:
    """`on_error` goes by the nearest class; what it does not name is retried; rejections say it."""

    class Busy(OSError): ...

    app, consumer = make(
        on_error={OSError: ws.drop, Busy: ws.retry(delay=5), ValueError: ws.dead_letter, KeyError: ws.retry}
    )

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    raised: list[BaseException] = []

    @consumer.on
    async def handle(text: Text) -> None:
        raise raised[0]

    expected: list[tuple[BaseException, ws.Verdict]] = [
        (OSError("a"), ws.Verdict(ws.Outcome.DROP, "a", "OSError")),
        (Busy("b"), ws.Verdict(ws.Outcome.RETRY, "b", Busy.__qualname__, 5.0)),
        (ValueError("c"), ws.Verdict(ws.Outcome.DEAD_LETTER, "c", "ValueError")),
        (KeyError("d"), ws.Verdict(ws.Outcome.RETRY, "'d'", "KeyError")),
        (LookupError("e"), ws.Verdict(ws.Outcome.RETRY, "e", "LookupError")),
        (ws.GiveUp("f"), ws.Verdict(ws.Outcome.DEAD_LETTER, "f", "GiveUp")),
        (ws.RetryLater("g", delay=2), ws.Verdict(ws.Outcome.RETRY, "g", "RetryLater", 2.0)),
        (ws.Drop(OSError("h")), ws.Verdict(ws.Outcome.DROP, "h", "Drop")),
        (OSError("\udcff"), ws.Verdict(ws.Outcome.DROP, r"\udcff", "OSError")),
        (Mute(), ws.Verdict(ws.Outcome.RETRY, "its text cannot be had", Mute.__qualname__)),
        (asyncio.CancelledError(), ws.Verdict(ws.Outcome.RETRY, "", "CancelledError")),
    ]
    with app.test() as trial:
        for error, verdict in expected:
            raised[:] = [error]
            assert await trial.deliver("s.x", Text()) == verdict


async def test_a_block_that_is_cancelled_rejects_its_delivery() -> None:
    """Also if the handler goes on and returns."""
    app, consumer = make()

    @consumer.on
    async def handle(delivery: ws.Delivery[Text]) -> None:
        with pytest.raises(asyncio.CancelledError):
            async with delivery:
                raise asyncio.CancelledError

    with app.test() as trial:
        verdict = await trial.deliver("s.x", Text())
    assert verdict == ws.Verdict(ws.Outcome.RETRY, "", "CancelledError")


async def test_a_thread_may_raise_stop_iteration() -> None:
    """In a test as elsewhere: a failure as any other."""
    app, consumer = make()

    @consumer.on
    def handle(text: Text) -> None:
        raise StopIteration

    with app.test() as trial:
        async with asyncio.timeout(20):
            verdict = await trial.deliver("s.x", Text())
    assert verdict == ws.Verdict(ws.Outcome.RETRY, "the function raised StopIteration", "RuntimeError")


@pytest.mark.parametrize(
    ("unknown", "outcome"),
    [
        ("dead_letter", ws.Outcome.DEAD_LETTER),
        ("ack", ws.Outcome.ACK),
        ("retry", ws.Outcome.RETRY),
        ("drop", ws.Outcome.DROP),
    ],
)
async def test_what_no_handler_takes(unknown: str, outcome: ws.Outcome) -> None:
    """The consumer's policy decides; a handler for it decides instead."""
    app, consumer = make(unknown=unknown)

    @consumer.on
    async def handle(text: Text) -> None: ...

    with app.test() as trial:
        assert (await trial.deliver("s.x", Other())).outcome is outcome
    seen: list[str] = []

    @consumer.on_unknown
    async def rest(event: ws.Event[Any]) -> None:
        seen.append(event.type)

    with app.test() as trial:
        assert (await trial.deliver("s.x", Other())).outcome is ws.Outcome.ACK
    assert seen == ["windshift.state.v1alpha1.SetResponse"]
    with pytest.raises(TypeError, match="rest handles what no other handler"):
        consumer.on_unknown(rest)


async def test_middleware_is_around_every_handler() -> None:
    """The app's is outermost; it sees failures, may raise, and may leave the handler out."""
    app, consumer = make()
    seen: list[str] = []

    @app.middleware
    async def outer(delivery: ws.Delivery[Any], call_next: Callable[[Any], Awaitable[None]]) -> None:
        seen.append(f"outer {delivery.event.data.value}")
        try:
            await call_next(delivery)
        except ValueError as error:
            raise ws.GiveUp("from outside") from error

    @consumer.middleware
    async def inner(delivery: ws.Delivery[Any], call_next: Callable[[Any], Awaitable[None]]) -> None:
        seen.append("inner")
        if delivery.event.data.value != "skip":
            await call_next(delivery)

    @consumer.on
    async def handle(text: Text) -> None:
        seen.append("handler")
        raise ValueError

    with app.test() as trial:
        assert await trial.deliver("s.x", Text(value="a")) == ws.Verdict(
            ws.Outcome.DEAD_LETTER, "from outside", "ValueError"
        )
        assert (await trial.deliver("s.x", Text(value="skip"))).outcome is ws.Outcome.ACK
    assert seen == ["outer a", "inner", "handler", "outer skip", "inner"]


async def test_middleware_that_does_not_wait() -> None:
    """The error names it; the event is not taken for handled."""
    app, consumer = make()

    @app.middleware  # type: ignore[arg-type] # that is the point
    def careless(delivery: ws.Delivery[Any], call_next: object) -> None: ...

    @consumer.on
    async def handle(text: Text) -> None: ...

    with app.test() as trial:
        verdict = await trial.deliver("s.x", Text())
    assert verdict.outcome is ws.Outcome.RETRY
    assert "careless" in verdict.reason
    assert verdict.reason.endswith("is not a coroutine function")


async def test_the_short_form_makes_a_consumer_of_its_subjects() -> None:
    """`app.on` names a stream, a consumer and a subject; the consumer gets no other subjects."""
    app = ws.App("a")
    stream = app.stream("s", subjects=["s.>"])

    @app.on("s.placed", stream=stream, consumer="mail")
    async def placed(text: Text, client: ws.Client) -> None:
        await client.publish("mails.sent", text, key="k")

    @app.on("s.*", Other, stream=stream, consumer="mail")
    async def other(event: ws.Event[Other]) -> None: ...

    @app.on("s.eu.>", stream=stream, consumer="more")
    async def more(text: Text) -> None: ...

    mail, _ = app.consumers
    assert mail.spec.subjects == ("s.*",)
    assert mail.spec.retry == ws.RetryPolicy(max_attempts=20)
    with app.test() as trial:
        await trial.deliver("s.placed", Text(value="1"))
        (sent,) = trial.published
        assert (sent.subject, sent.message, sent.key) == ("mails.sent", Text(value="1"), "k")
        with pytest.raises(ValueError, match=r"no consumer takes 't\.x'"):
            await trial.deliver("t.x", Text())
        app.consumer(stream, "all").on(placed)
    with app.test() as trial, pytest.raises(ValueError, match="several consumers, name one: mail, all"):
        await trial.deliver("s.placed", Text())


def test_the_short_form_says_where_its_consumer_begins() -> None:
    """The first handler decides, another one may say the same; nobody says anything: at the end."""
    app = ws.App("a")
    stream = app.stream("s", subjects=["s.>"])

    async def handle(text: Text) -> None: ...

    app.on("s.a", stream=stream, consumer="mail", start=ws.from_id(7))(handle)
    app.on("s.b", stream=stream, consumer="mail", start=ws.from_id(7))(handle)
    app.on("s.c", stream=stream, consumer="mail")(handle)
    app.on("s.a", stream=stream, consumer="more")(handle)
    assert [consumer.spec.start for consumer in app.consumers] == [ws.from_id(7), ws.END]
    with pytest.raises(ValueError, match="the consumer 'more' begins elsewhere"):
        app.on("s.b", stream=stream, consumer="more", start=ws.START)


async def test_a_trial_has_stores_and_no_server() -> None:
    """The client of a trial has stores in memory; what needs a server says so."""
    app, consumer = make()

    @consumer.on
    async def handle(text: Text, client: ws.Client, delivery: ws.Delivery[Any]) -> None:
        store = await client.stores.ensure("x", Text)
        await store.create("k", text)
        delivery.ping()
        if text.value == "watch":
            async for _ in client.dead_letters.watch(existing=True):
                pass
        if text.value == "info":
            await client.stream("s").info()
        await delivery.dead_letter("by hand")

    with app.test() as trial:
        assert (await trial.deliver("s.x", Text())).reason == "by hand"
        again = await trial.deliver("s.x", Text(value="again"))
        assert again.error_type == "KeyExists"
        await trial.client.store("x").delete("k")
        assert "needs a server" in (await trial.deliver("s.x", Text(value="info"))).reason
        await trial.client.store("x").delete("k")
        assert "needs a server" in (await trial.deliver("s.x", Text(value="watch"))).reason


async def test_a_lifespan_is_not_entered_by_a_trial() -> None:
    """What it would provide is given to `test`."""
    entered = False

    @asynccontextmanager
    async def lifespan(app: ws.App) -> AsyncIterator[None]:
        nonlocal entered
        entered = True
        yield

    app = ws.App("a", lifespan=lifespan)
    app.consumer(app.stream("s"), "w").on(_handle)
    with app.test() as trial:
        await trial.deliver("x", Text())
    assert not entered


async def _handle(text: Text) -> None: ...


@dataclasses.dataclass
class Plain:
    """A payload by the codec for dataclasses."""

    number: int


async def test_classes_of_codecs_are_payloads() -> None:
    """The first parameter may be a class that a codec of the app takes; it is decoded to it."""
    seen: list[object] = []

    async def handle(plain: Plain, event: ws.Event[Plain]) -> None:
        seen.extend((plain, event.data))

    without, consumer = make()
    consumer.on(handle)
    with pytest.raises(TypeError, match="what a codec of the client or app takes, not Plain"), without.test():
        pass
    app = ws.App("a", codecs=[ws.codecs.Dataclasses()])
    app.consumer(app.stream("s", subjects=["s.>"]), "w").on(handle)
    with app.test() as trial:
        assert (await trial.deliver("s.x", Plain(7))).outcome is ws.Outcome.ACK
        assert (await trial.deliver("s.x", Text())).error_type == "UnknownType"
    assert seen == [Plain(7), Plain(7)]
