"""An app against a real server: start, deliver, stop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

import windshift as ws
from windshift.protos import state, test

Text = test.StringValue
Other = state.SetResponse
LIMIT = 30.0
"""Seconds that anything may take on a busy machine."""
QUICK = ws.RetryPolicy(max_attempts=5, initial=0.01, maximum=0.01)


def make(lifespan: Any = None, **options: Any) -> tuple[ws.App, ws.AppConsumer]:
    """Make an app with one consumer."""
    app = ws.App("a", lifespan=lifespan)
    return app, app.consumer(app.stream("s", subjects=["s.>"]), "w", **options)


@dataclass
class Parcel:
    """A payload that is no Protobuf message."""

    name: str
    number: int


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 -- there is no event to wait for
            await asyncio.sleep(0.01)


async def test_an_app_handles_what_comes(client: ws.Client, caplog: pytest.LogCaptureFixture) -> None:
    """Verdicts by class, retries, unknown types, dead letters, and a replay, as told."""
    app, consumer = make(on_error={ValueError: ws.dead_letter}, retry=QUICK)
    mended = asyncio.Event()
    handled: Counter[str] = Counter()

    @consumer.on
    async def handle(text: Text, event: ws.Event[Text]) -> None:
        if text.value == "bad" and not mended.is_set():
            raise ValueError("no number")
        if text.value == "flaky" and event.attempt < 3:
            raise OSError("not now")
        handled[text.value] += 1

    async with app.running(client) as run:
        for value in ("bad", "flaky", "fine"):
            await client.publish("s.x", Text(value=value))
        await client.publish("s.x", Other())
        await run.idle(LIMIT)
        letters = {
            letter.event.id: (letter.error_type, letter.reason) for letter in await run.dead_letters(consumer)
        }
        assert letters == {
            1: ("ValueError", "no number"),
            4: ("UnknownType", "no handler takes windshift.state.v1alpha1.SetResponse on s.x"),
        }
        assert handled == {"flaky": 1, "fine": 1}
        mended.set()
        assert (await client.dead_letters.replay(stream="s", type=Text)).replayed == 1
        await run.idle(LIMIT)
        assert len(await run.dead_letters(consumer)) == 1
    assert handled == {"flaky": 1, "fine": 1, "bad": 1}
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_a_client_learns_the_codecs_of_an_app(client: ws.Client) -> None:
    """A client without codecs publishes, handles and stores what the app's codecs take."""
    seen: list[object] = []
    for _ in range(2):
        app = ws.App("a", codecs=[ws.codecs.Dataclasses()])
        consumer = app.consumer(app.stream("s", subjects=["s.>"]), "w", start=ws.START)

        @consumer.on
        async def handle(parcel: Parcel, client: ws.Client) -> None:
            await client.store("parcels", Parcel).set("last", parcel)
            seen.append(parcel)

        await client.stores.ensure("parcels", Text)
        async with app.running(client) as run:
            await run.client.publish("s.x", Parcel("a", len(seen)))
            await run.idle(LIMIT)
    assert seen == [Parcel("a", 0), Parcel("a", 1)]
    entry = await client.store("parcels", Parcel).get("last")
    assert entry is not None
    assert entry.value == seen[-1]


async def test_idle_waits_for_what_handlers_publish(client: ws.Client) -> None:
    """A chain over two consumers has ended when `idle` returns."""
    app = ws.App("chain")
    ping, pong = app.stream("ping", subjects=["ping"]), app.stream("pong", subjects=["pong"])
    seen: list[str] = []

    @app.on("ping", stream=ping, consumer="p")
    async def on_ping(text: Text, client: ws.Client) -> None:
        await asyncio.sleep(0.02)
        if len(text.value) < 10:
            await client.publish("pong", Text(value=text.value + "a"))

    @app.on("pong", stream=pong, consumer="p")
    async def on_pong(text: Text, client: ws.Client) -> None:
        seen.append(text.value)
        await client.publish("ping", Text(value=text.value + "b"))

    async with app.running(client) as run:
        await run.client.publish("ping", Text())
        await run.idle(LIMIT)
        assert len(seen[-1]) == 9 or len(seen[-1]) == 10
        assert (await client.stream("ping").consumer("p").info()).retry.max_attempts == 20


async def test_the_lifespan_is_around_the_deliveries(client: ws.Client) -> None:
    """It has a connected client and ensured consumers; it is left after the last handler."""
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(app: ws.App) -> AsyncIterator[None]:
        info = await app.client.stream("s").consumer("w").info()
        order.append(f"enter {info.pending}")
        app.provide(await app.client.stores.ensure("totals", Text))
        yield
        await app.client.publish("s.y", Text(value="last words"))
        order.append("leave")

    app, consumer = make(lifespan)
    began = asyncio.Event()

    @consumer.on
    async def handle(text: Text, totals: ws.Store[Text]) -> None:
        began.set()
        await asyncio.sleep(0.2)
        await totals.set("k", text)
        order.append("handled")

    async with app.running(client) as run:
        assert app.client is run.client is client
        await client.publish("s.x", Text(value="1"))
        await began.wait()
        with pytest.raises(RuntimeError, match="runs already"):
            async with app.running(client):
                pass
    assert order == ["enter 0", "handled", "leave"]
    entry = await client.store("totals", Text).get("k")
    assert entry is not None
    assert entry.value.value == "1"


async def test_a_lifespan_that_fails_stops_the_start(client: ws.Client) -> None:
    """Its error is raised, nothing is delivered, and the app can be run again."""
    broken = True

    @asynccontextmanager
    async def lifespan(app: ws.App) -> AsyncIterator[None]:
        if broken:
            raise OSError("no smtp")
        yield

    app, consumer = make(lifespan)
    seen: list[str] = []

    @consumer.on
    async def handle(text: Text) -> None:
        seen.append(text.value)

    with pytest.raises(OSError, match="no smtp"):
        async with app.running(client):
            pass
    broken = False
    async with app.running(client) as run:
        await client.publish("s.x", Text(value="1"))
        await run.idle(LIMIT)
    assert seen == ["1"]


async def test_streams_and_consumers_are_ensured_as_told(client: ws.Client) -> None:
    """`create` leaves what exists as it is, `never` makes nothing, `update` changes it."""
    await client.streams.ensure("old", subjects=["old.>"], max_age=60)
    app = ws.App("a")
    app.stream("old", subjects=["other.>"], ensure="create")
    app.stream("new", subjects=["new.>"], ensure="create")
    app.stream("none", subjects=["none.>"], ensure="never")
    async with app.running(client):
        pass
    assert (await client.streams.get("old")).spec.subjects == ("old.>",)
    assert (await client.streams.get("new")).spec.subjects == ("new.>",)
    with pytest.raises(ws.StreamNotFound):
        await client.streams.get("none")
    second = ws.App("b")
    consumer = second.consumer(second.stream("old", subjects=["old.>"]), "w", ensure="never")

    @consumer.on
    async def handle(text: Text) -> None: ...

    with pytest.raises(ws.ConsumerNotFound):
        async with second.running(client) as run:
            await run.wait()
    assert (await client.streams.get("old")).spec.max_age is None


async def test_an_error_ends_the_app(client: ws.Client, caplog: pytest.LogCaptureFixture) -> None:
    """A consumer that is deleted: `wait` and `idle` raise, it is logged, and leaving the block raises it."""
    app, consumer = make()

    @consumer.on
    async def handle(text: Text) -> None: ...

    async def use() -> None:
        async with app.running(client) as run:
            await until(lambda: run.ready)
            await client.stream("s").delete()
            with pytest.raises(ws.NotFound):
                await run.wait()
            assert not run.ready
            with pytest.raises(ws.NotFound):
                await run.idle(LIMIT)

    with pytest.raises(ws.NotFound):
        await use()
    assert "a: the consumer w of s ended:" in caplog.text


@pytest.mark.parametrize("kind", [GeneratorExit, asyncio.CancelledError, type("Odd", (BaseException,), {})])
async def test_whatever_a_handler_raises_is_a_verdict(client: ws.Client, kind: type[BaseException]) -> None:
    """Also what is no `Exception`: the event is retried, and its place is free for others."""
    app, consumer = make(retry=QUICK, concurrency=1)
    attempts: list[int] = []

    @consumer.on
    async def handle(text: Text, event: ws.Event[Any]) -> None:
        attempts.append(event.attempt)
        if event.attempt < 3:
            raise kind

    async with app.running(client) as run:
        await client.publish("s.x", Text())
        await run.idle(LIMIT)
    assert attempts == [1, 2, 3]


async def test_a_thread_may_raise_stop_iteration(client: ws.Client) -> None:
    """What no future can carry is a failure as any other."""
    app, consumer = make(retry=QUICK)
    attempts: list[int] = []

    @consumer.on
    def handle(text: Text, event: ws.Event[Any]) -> None:
        attempts.append(event.attempt)
        if event.attempt < 2:
            raise StopIteration

    async with app.running(client) as run:
        await client.publish("s.x", Text())
        await run.idle(LIMIT)
    assert attempts == [1, 2]


async def test_threads_and_coroutines_share_a_consumer(client: ws.Client) -> None:
    """A function that blocks runs in a thread beside coroutines, and keeps its lease."""
    app, consumer = make(timeout=1.8)
    seen: list[tuple[str, bool]] = []
    loop_thread, is_seen = threading.get_ident(), threading.Event()

    @consumer.on
    def blocking(text: Text, event: ws.Event[Any]) -> None:
        is_seen.wait(LIMIT)
        time.sleep(2.0)
        seen.append((f"blocking {event.attempt}", threading.get_ident() == loop_thread))

    @consumer.on
    async def quick(other: Other) -> None:
        seen.append(("quick", threading.get_ident() == loop_thread))
        is_seen.set()

    async with app.running(client) as run:
        await client.publish("s.x", Text())
        await client.publish("s.x", Other())
        await run.idle(LIMIT)
    assert seen == [("quick", True), ("blocking 1", False)]


async def test_a_handler_that_never_returns(client: ws.Client) -> None:
    """At `max_lease` it is cancelled and the event rejected; a stop cancels it after `grace`."""
    app, consumer = make(timeout=1.5, max_lease=1, retry=ws.RetryPolicy(max_attempts=1))
    began = cancelled = 0

    @consumer.on
    async def handle(text: Text) -> None:
        nonlocal began, cancelled
        began += 1
        try:
            await asyncio.Event().wait()
        finally:
            cancelled += 1

    async with app.running(client, grace=0.1) as run:
        await client.publish("s.x", Text(value="1"))
        await run.idle(LIMIT)
        (letter,) = await run.dead_letters(consumer)
        assert letter.reason == "took longer than max_lease"
        await client.publish("s.x", Text(value="2"))
        await until(lambda: began == 2)
    assert cancelled == 2


async def test_a_handler_that_refuses_to_be_cancelled(
    client: ws.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stop waits for it for a while, says so, and goes on."""
    monkeypatch.setattr("windshift.sdk.runtime.subscription._LAST_WAIT", 0.2)
    app, consumer = make()
    began, enough = asyncio.Event(), asyncio.Event()

    @consumer.on
    async def handle(text: Text) -> None:
        began.set()
        while not enough.is_set():
            try:
                await enough.wait()
            except asyncio.CancelledError:
                pass

    try:
        async with app.running(client, grace=0.1):
            await client.publish("s.x", Text())
            await began.wait()
        assert "1 handlers do not end although they are cancelled" in caplog.text
    finally:
        enough.set()


async def test_a_server_that_is_away_at_the_start(unused_address: str) -> None:
    """It fails within the client's timeout; one that is patient waits until it is told to stop."""
    app, consumer = make()

    @consumer.on
    async def handle(text: Text) -> None: ...

    async with ws.connect(unused_address, timeout=1) as client:
        with pytest.raises(ws.Unreachable):
            async with app.running(client):
                pass
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5), app.running(client, patient=True):
                pass
    with pytest.raises(RuntimeError, match="does not run"):
        _ = app.client


async def test_records_say_which_event_they_are_about(
    client: ws.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """With the filter, records of any logger have the event's stream, consumer, id and attempt."""
    app, consumer = make(retry=QUICK)
    log = logging.getLogger("shop")
    caplog.handler.addFilter(ws.EventLogFilter())

    def helper() -> None:
        log.warning("in a handler")

    @consumer.on
    async def handle(text: Text, event: ws.Event[Any]) -> None:
        helper()
        if event.attempt == 1:
            raise OSError("not now")

    @consumer.on
    def in_a_thread(other: Other) -> None:
        helper()

    try:
        async with app.running(client) as run:
            await client.publish("s.x", Text())
            await run.idle(LIMIT)
            await client.publish("s.x", Other())
            await run.idle(LIMIT)
            log.warning("outside")
    finally:
        caplog.handler.filters.clear()
    told = [
        (record.name, getattr(record, "event_id", 0), getattr(record, "attempt", 0))
        for record in caplog.records
        if record.levelno == logging.WARNING
    ]
    assert told == [
        ("shop", 1, 1),
        ("windshift", 1, 1),
        ("shop", 1, 2),
        ("shop", 2, 1),
        ("shop", None, None),
    ]
    assert {getattr(record, "stream", "") for record in caplog.records if record.name == "shop"} == {
        "s",
        None,
    }
