"""Many events by one call, and by calls of their own where that is needed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import windshift as ws
from tests.support.cutting_proxy import cutting
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.conventions import MESSAGE_ID
from windshift.protos import test
from windshift.rpc import RpcError, Server, ServerCall, Service, StatusCode
from windshift.sdk.tracing import Tracing

Unique = Callable[[], str]
Text = test.StringValue
SERVICE = pb.DESCRIPTOR.services_by_name["EventsService"]


class OlderServer:
    """Stores events one by one.

    Attributes:
        stored: their keys.
        parents: the `traceparent` of each call.
    """

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.parents: list[str] = []

    async def publish(self, request: pb.PublishEventRequest, call: ServerCall) -> pb.PublishEventResponse:
        """Store one."""
        self.parents.append(call.header(b"traceparent"))
        self.stored.append(request.idempotency_key)
        return pb.PublishEventResponse(id=len(self.stored))


class ScriptedServer(OlderServer):
    """Does with each call of many events what a test says.

    Attributes:
        calls: how many there were.
        ended: whether the last one has ended.
        requests: how many requests came with them.
        taken: the events of these.
    """

    def __init__(self, script: Callable[[ScriptedServer, ServerCall], AsyncIterator[None]]) -> None:
        super().__init__()
        self._script = script
        self.calls = 0
        self.ended = asyncio.Event()
        self.requests = 0
        self.taken: list[pb.PublishEventRequest] = []

    async def publish_stream(self, call: ServerCall) -> None:
        """Do it."""
        self.calls += 1
        self.parents.append(call.header(b"traceparent"))
        self.ended.clear()
        try:
            async for _ in self._script(self, call):
                pass
        finally:
            self.ended.set()

    async def take(self, call: ServerCall) -> bool:
        """Take what comes; return whether there is more to come."""
        requests = await call.receive_many()
        self.requests += len(requests)
        self.taken.extend(event for request in requests for event in request.events)
        return bool(requests)

    def answer(self, call: ServerCall, errors: Sequence[pb.PublishError] = ()) -> None:
        """Answer all events of a call, of which none was answered yet."""
        ids = range(1, len(self.taken) + 1)
        call.send(pb.PublishStreamResponse(ids=ids, count=len(ids), errors=errors))


@pytest.fixture(autouse=True)
def _no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no program that traces: its events may be published one by one. Others may have set it up."""
    monkeypatch.setattr("windshift.sdk.calling.tracing", lambda: None)


@pytest.fixture
def has_tracing(
    monkeypatch: pytest.MonkeyPatch, _no_tracing: None
) -> Callable[[TracerProvider | None], None]:
    """Have a program that has imported OpenTelemetry, with this provider."""

    def trace_with(provider: TracerProvider | None) -> None:
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        monkeypatch.setattr("windshift.sdk.calling.tracing", Tracing)

    return trace_with


@asynccontextmanager
async def connected(
    service: OlderServer, timeout: float = 20, token: Path | None = None
) -> AsyncIterator[ws.Client]:
    """Run a server, and connect to it."""
    server = Server([Service(SERVICE, service)])
    _, port = await server.listen("127.0.0.1", 0)
    try:
        async with ws.connect(f"127.0.0.1:{port}", timeout=timeout, token=token) as client:
            yield client
    finally:
        server.close()


def events(number: int, *, keys: bool) -> list[ws.Publish]:
    """Make events."""
    return [ws.Publish("a", Text(), key=f"key-{each}" if keys else None) for each in range(number)]


async def answering(server: ScriptedServer, call: ServerCall) -> AsyncIterator[None]:
    """Answer all events as they come."""
    call.begin_response()
    answered, before = 0, len(server.taken)
    while await server.take(call):
        yield
        count = len(server.taken) - before - answered
        call.send(pb.PublishStreamResponse(ids=[7] * count, count=count, first=answered))
        answered += count


def ending(error: RpcError) -> Callable[[ScriptedServer, ServerCall], AsyncIterator[None]]:
    """Take some events, then end the call so."""

    async def script(server: ScriptedServer, call: ServerCall) -> AsyncIterator[None]:
        call.begin_response()
        await server.take(call)
        yield
        raise error

    return script


async def test_one_call(client: ws.Client, unique: Unique) -> None:
    """Each of many events has its receipt, and one that is there already is told as such."""
    name = unique()
    await client.streams.ensure(name, subjects=[f"{name}.>"])
    messages = [Text(value=str(number)) for number in range(1000)]
    receipts = await client.publish_many(messages, subject=f"{name}.a")
    assert sorted(receipt.id for receipt in receipts) == list(range(1, 1001))
    async with client.publisher() as out:
        sent = [await out.send(f"{name}.a", message, key="same") for message in messages[:10]]
    assert sorted(each.result().duplicate for each in sent) == [False] + [True] * 9


async def test_without_ids(client: ws.Client, unique: Unique) -> None:
    """Receipts have no ids, and say nothing of duplicates; errors are told as always."""
    name = unique()
    stream = await client.streams.ensure(name, subjects=[f"{name}.>"], fast_ingest=True)
    async with client.publisher(without_ids=True) as out:
        sent = [await out.send(f"{name}.a", Text(), key=f"key-{each % 90}") for each in range(100)]
    assert [each.result() for each in sent] == [ws.PublishReceipt(0)] * 100
    info = await stream.info()
    assert (info.events, info.spec.fast_ingest) == (90, True)

    async def publish(*subjects: str) -> None:
        async with client.publisher(without_ids=True) as out:
            for subject in subjects:
                _ = await out.send(subject, Text())

    with pytest.raises(ExceptionGroup) as caught:
        await publish("nobody.takes.this", f"{name}.a")
    assert [type(error) for error in caught.value.exceptions] == [ws.UnboundSubject]
    assert (await stream.info()).events == 91
    many = await client.publish_many([Text()] * 100, subject=f"{name}.a", without_ids=True)
    assert many == [ws.PublishReceipt(0)] * 100
    assert (await stream.info()).events == 191


async def test_only_one_call() -> None:
    """All events that are small go by one call, which ends in good order; a large one goes by its own."""
    service = ScriptedServer(answering)
    async with connected(service) as client:
        large = ws.Publish("a", Text(value="x" * 10_000), key="large")
        receipts = await client.publish_many([*events(1000, keys=True), large])
        assert [receipt.id for receipt in receipts] == [7] * 1000 + [1]
        assert {event.idempotency_key for event in service.taken} == {f"key-{each}" for each in range(1000)}
        assert (service.calls, service.stored) == (1, ["large"])
        await service.ended.wait()


async def test_opentelemetry_without_provider(
    has_tracing: Callable[[TracerProvider | None], None],
) -> None:
    """A program that has only imported its API publishes by one call, but for events of a trace of others."""
    has_tracing(None)
    service = ScriptedServer(answering)
    async with connected(service) as client:
        await client.publish_many(events(100, keys=True))
        assert (service.calls, service.stored, service.parents) == (1, [], [""])
        context = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        with trace.use_span(NonRecordingSpan(context)):
            await client.publish_many(events(3, keys=True))
        assert (service.calls, len(service.stored)) == (1, 3)
        assert service.parents[1:] == [f"00-{1:032x}-{2:016x}-01"] * 3


async def test_spans_that_are_not_sampled(has_tracing: Callable[[TracerProvider | None], None]) -> None:
    """They go by one call, which tells the server so: or it would begin traces itself."""
    has_tracing(TracerProvider(ALWAYS_OFF))
    service = ScriptedServer(answering)
    async with connected(service) as client:
        await client.publish_many(events(100, keys=True))
        async with client.publisher() as out:
            _ = await out.send("a", Text())
    assert (service.calls, service.stored) == (2, [])
    assert [int(parent[-2:], 16) & TraceFlags.SAMPLED for parent in service.parents] == [0, 0]


async def test_spans_that_are_recorded(has_tracing: Callable[[TracerProvider | None], None]) -> None:
    """Each event with one has a call of its own, below it; others of the same publisher go by one call."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(ParentBased(ALWAYS_OFF))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    has_tracing(provider)
    service = ScriptedServer(answering)
    sampled = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    async with connected(service) as client, client.publisher() as out:
        before = await out.send("a", Text())
        with trace.use_span(NonRecordingSpan(sampled)):
            recorded = [await out.send("a", Text(), key=f"key-{each}") for each in range(3)]
        ids = {(await each).id for each in recorded}
        assert (await before, service.calls, len(service.taken)) == (ws.PublishReceipt(7), 1, 1)
    spans = exporter.get_finished_spans()
    assert ids == {1, 2, 3} == {int(str((span.attributes or {})[MESSAGE_ID])) for span in spans}
    parents = {f"00-{1:032x}-{span.context.span_id:016x}-01" for span in spans if span.context}
    assert {parent for parent in service.parents if parent.endswith("-01")} == parents
    assert len(parents) == 3


@pytest.mark.parametrize("keys", [True, False])
async def test_older_server(keys: bool) -> None:
    """A server that does not have the call gets each event with a call of its own."""
    service = OlderServer()
    async with connected(service) as client:
        receipts = await client.publish_many(events(300, keys=keys))
        assert sorted(receipt.id for receipt in receipts) == list(range(1, 301))
        async with client.publisher() as out:
            sent = await out.send("a", Text(), key="last")
        assert (await sent).id == 301
        assert service.stored[-1] == "last"


async def test_errors_of_events(client: ws.Client, unique: Unique) -> None:
    """An event has the error that it would have had by a call of its own."""
    name = unique()
    await client.streams.ensure(name, subjects=[f"{name}.>"])
    sent = [
        ws.Publish(f"{name}.a", Text()),
        ws.Publish("nobody.takes.this", Text()),
        ws.Publish(f"{name}.a", Text(), expected_last_id=7),
        ws.Publish(f"{name}.a", Text(value="x" * 2_000_000)),
    ]
    with pytest.raises(ws.PublishManyError) as caught:
        await client.publish_many(sent, in_flight=4)
    kinds = [type(result) for result in caught.value.results]
    assert kinds == [ws.PublishReceipt, ws.UnboundSubject, ws.WrongLastId, ws.EventTooLarge]
    with pytest.raises(ws.UnboundSubject) as single:
        await client.publish("nobody.takes.this", Text())
    many = caught.value.results[1]
    assert isinstance(many, ws.UnboundSubject)
    alone = single.value
    assert (str(many), many.metadata, many.code) == (str(alone), alone.metadata, alone.code)


async def test_reasons() -> None:
    """Reasons that are named like their status are kept; what the server failed on is in doubt."""

    async def script(server: ScriptedServer, call: ServerCall) -> AsyncIterator[None]:
        call.begin_response()
        while len(server.taken) < 2:
            await server.take(call)
        denied = pb.PublishError(index=0, code=7, reason="PERMISSION_DENIED", message="no")
        failed = pb.PublishError(index=1, code=13, reason="INTERNAL", message="oh")
        server.answer(call, [denied, failed])
        yield

    async with connected(ScriptedServer(script)) as client:
        with pytest.raises(ws.PublishManyError) as caught:
            await client.publish_many(events(2, keys=False), in_flight=2)
    denied, failed = caught.value.results
    assert isinstance(denied, ws.PermissionDenied)
    assert denied.reason == "PERMISSION_DENIED"
    assert isinstance(failed, ws.OutcomeUnknown)
    assert failed.reason == "INTERNAL"


async def test_cut_off_with_keys() -> None:
    """Events with keys that had no result when the call broke are published again, and no other ones."""
    service = ScriptedServer(ending(RpcError(StatusCode.UNAVAILABLE, "cut")))
    async with connected(service) as client:
        await client.publish_many(events(100, keys=True), in_flight=100)
        assert service.calls == 1
        assert sorted(service.stored) == sorted(f"key-{each}" for each in range(100))


async def test_cut_off_without_keys() -> None:
    """Events without keys are told to be in doubt, and are not published again."""
    service = ScriptedServer(ending(RpcError(StatusCode.INTERNAL, "cut")))
    async with connected(service) as client:
        with pytest.raises(ws.PublishManyError) as caught:
            await client.publish_many(events(10, keys=False), in_flight=10)
        results = caught.value.results
        in_doubt = [each for each in results if isinstance(each, ws.OutcomeUnknown)]
        assert len(in_doubt) == len(service.taken)
        assert len(in_doubt) + len(service.stored) == len(results)


async def test_operator_ends_the_connection() -> None:
    """What an operator ended is in doubt: the reason does not say that nothing was stored."""
    info = ErrorInfo(domain="windshift", reason="CONNECTION_ENDED")
    service = ScriptedServer(ending(RpcError(StatusCode.UNAVAILABLE, "ended", (info,))))
    async with connected(service) as client:
        with pytest.raises(ws.PublishManyError) as caught:
            await client.publish_many(events(1, keys=False))
        assert isinstance(caught.value.results[0], ws.OutcomeUnknown)
        assert service.stored == []


@pytest.mark.parametrize(
    ("code", "reason"),
    [(StatusCode.UNAVAILABLE, "SHUTTING_DOWN"), (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_IN_FLIGHT")],
)
async def test_server_that_takes_no_more(code: StatusCode, reason: str) -> None:
    """What it has not answered then was not stored: it is published again, also without keys."""
    info = ErrorInfo(domain="windshift", reason=reason)
    service = ScriptedServer(ending(RpcError(code, "no more", (info,))))
    async with connected(service) as client:
        await client.publish_many(events(50, keys=False), in_flight=50)
        assert len(service.stored) == 50


async def test_server_that_refuses_the_call() -> None:
    """Where such a call is not allowed, events have calls of their own, and it is not asked for with each."""

    async def script(server: ScriptedServer, call: ServerCall) -> AsyncIterator[None]:
        yield
        info = ErrorInfo(domain="windshift", reason="QUOTA_EXCEEDED", metadata={"quota": "max_streams"})
        raise RpcError(StatusCode.RESOURCE_EXHAUSTED, "too many", (info,))

    service = ScriptedServer(script)
    async with connected(service) as client:
        await client.publish_many(events(100, keys=False), in_flight=2)
        assert len(service.stored) == 100
        assert service.calls < 50


@pytest.mark.parametrize("has_token", [False, True])
async def test_silent_server(tmp_path: Path, has_token: bool) -> None:
    """An event whose result does not come in time is in doubt; then the call ends.

    No token is fetched for that: there would be none in time.
    """
    token = tmp_path / "token" if has_token else None
    if token is not None:
        token.write_text("token")

    async def script(server: ScriptedServer, call: ServerCall) -> AsyncIterator[None]:
        call.begin_response()
        await server.take(call)
        server.answer(call)
        while await server.take(call):
            yield
        await asyncio.Event().wait()

    service = ScriptedServer(script)
    async with connected(service, timeout=3, token=token) as client:
        out = client.publisher()
        await (await out.send("a", Text()))
        sent = [await out.send("a", Text(), key=key) for key in (None, "key")]
        for each in sent:
            with pytest.raises(ws.OutcomeUnknown):
                await each
        with pytest.raises(ExceptionGroup):
            await out.__aexit__(None, None, None)
        await service.ended.wait()
        assert service.stored == []


@pytest.mark.parametrize("is_given_up", [False, True])
async def test_an_event_without_a_result_in_time_ends_the_call(is_given_up: bool) -> None:
    """The server stores nothing more of it; those behind it go by calls of their own, the next by a new one.

    So it is, too, when the user waits no more for that event.
    """

    async def script(server: ScriptedServer, call: ServerCall) -> AsyncIterator[None]:
        call.begin_response()
        await server.take(call)
        call.send(pb.PublishStreamResponse(ids=[1], count=1))
        while await server.take(call):
            yield

    service = ScriptedServer(script)
    async with connected(service, timeout=3) as client:
        out = client.publisher()
        await (await out.send("a", Text()))
        late = await out.send("a", Text(), key="late")
        client._caller.timeout = 60.0
        behind = await out.send("a", Text(), key="behind")
        await asyncio.sleep(0)
        assert out._stream._queued == []
        if is_given_up:
            late.cancel()
        assert (await behind).id == 1
        if not is_given_up:
            with pytest.raises(ws.OutcomeUnknown):
                await late
        assert service.stored == ["behind"]
        await service.ended.wait()
        assert (await (await out.send("a", Text()))).id == 1
        assert (service.calls, service.stored) == (2, ["behind"])
        await out._stream.close()


@pytest.mark.parametrize("goes_on", [False, True])
async def test_server_that_reads_no_more(goes_on: bool) -> None:
    """What is too much to be written is not sent, and so not in doubt; it goes when the server reads on."""

    async def script(server: ScriptedServer, call: ServerCall) -> AsyncIterator[None]:
        call.begin_response()
        await server.take(call)
        call.send(pb.PublishStreamResponse(ids=[1], count=1))
        answered = 1
        await reads_on.wait()
        while await server.take(call):
            count = len(server.taken) - answered
            call.send(pb.PublishStreamResponse(ids=[7] * count, count=count, first=answered))
            answered += count
            yield

    reads_on, service, large = asyncio.Event(), ScriptedServer(script), Text(value="x" * 8000)
    async with connected(service, timeout=60 if goes_on else 3) as client:
        out = client.publisher()
        await (await out.send("a", Text()))
        sent = [await out.send("a", large, key=None) for _ in range(100)]
        await asyncio.sleep(0)
        assert out._stream._queued == []
        client._caller.timeout = 60.0
        held = [await out.send("a", large, key=None) for _ in range(20)]
        if goes_on:
            reads_on.set()
            assert [(await each).id for each in (*sent, *held)] == [7] * 120
            assert (service.calls, service.stored) == (1, [])
            await out._stream.close()
            return
        for each in sent:
            with pytest.raises(ws.OutcomeUnknown):
                await each
        assert sorted([(await each).id for each in held]) == list(range(1, 21))
        assert len(service.taken) == 1


async def test_what_no_call_takes_is_not_held() -> None:
    """A publisher whose server does not take up its call holds no events that are given up."""

    async def script(server: ScriptedServer, call: ServerCall) -> AsyncIterator[None]:
        while await server.take(call):
            yield

    async with connected(ScriptedServer(script), timeout=0.1) as client:
        out = client.publisher()
        for _ in range(3):
            with pytest.raises(ws.Unreachable):
                await (await out.send("a", Text()))
        assert out._stream._queued == []
        await out._stream.close()


async def test_server_that_does_not_begin() -> None:
    """Nothing is sent before the server has taken up the call: if it never does, nothing was stored."""

    async def script(server: ScriptedServer, call: ServerCall) -> AsyncIterator[None]:
        while await server.take(call):
            yield

    service = ScriptedServer(script)
    async with connected(service, timeout=0.5) as client:
        with pytest.raises(ws.PublishManyError) as caught:
            await client.publish_many(events(3, keys=False), in_flight=3)
        assert [type(each) for each in caught.value.results] == [ws.Unreachable] * 3
    assert (service.taken, service.stored) == ([], [])


async def test_events_that_the_client_is_closed_on_are_in_doubt() -> None:
    """They were sent, and may be stored."""

    async def script(server: ScriptedServer, call: ServerCall) -> AsyncIterator[None]:
        call.begin_response()
        while await server.take(call):
            taken.set()
            yield

    taken, service = asyncio.Event(), ScriptedServer(script)
    async with connected(service) as client:
        publishing = asyncio.create_task(client.publish_many(events(3, keys=True), in_flight=3))
        await taken.wait()
        await client.close(grace=0)
        with pytest.raises(ws.PublishManyError) as caught:
            await publishing
    sent = [ws.OutcomeUnknown] * len(service.taken)
    assert [type(each) for each in caught.value.results] == sent + [ws.ClientClosed] * (3 - len(sent))


async def test_no_more_than_in_flight() -> None:
    """No more events are under way than the caller allows, and no more are taken from it."""

    async def script(server: ScriptedServer, call: ServerCall) -> AsyncIterator[None]:
        call.begin_response()
        answered = 0
        while await server.take(call):
            count = len(server.taken) - answered
            assert count <= 8
            call.send(pb.PublishStreamResponse(ids=[1] * count, count=count, first=answered))
            answered += count
            yield

    taken = itertools.count()
    service = ScriptedServer(script)
    async with connected(service) as client:
        await client.publish_many(
            (Text(value=str(next(taken))) for _ in range(200)), subject="a", in_flight=8
        )
    assert len(service.taken) == 200


async def test_events_are_sent_together() -> None:
    """Events of an asynchronous iterator share requests, also when all have waited for it."""

    async def script(server: ScriptedServer, call: ServerCall) -> AsyncIterator[None]:
        call.begin_response()
        answered = 0
        while await server.take(call):
            count = len(server.taken) - answered
            call.send(pb.PublishStreamResponse(ids=[1] * count, count=count, first=answered))
            answered += count
            yield

    async def messages() -> AsyncIterator[Text]:
        for number in range(2000):
            if number % 500 == 0:
                await asyncio.sleep(0.01)
            yield Text(value=str(number))

    service = ScriptedServer(script)
    async with connected(service) as client:
        await client.publish_many(messages(), subject="a")
    assert len(service.taken) == 2000
    assert service.requests < 200


async def test_an_error_while_the_next_message_is_waited_for(client: ws.Client) -> None:
    """It is raised at once, and the iterator is ended."""
    ended = asyncio.Event()

    async def messages() -> AsyncIterator[ws.Publish]:
        try:
            yield ws.Publish("nobody.takes.this", Text())
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(ws.PublishManyError) as caught:
        await client.publish_many(messages())
    assert [type(each) for each in caught.value.results] == [ws.UnboundSubject]
    assert ended.is_set()


async def test_a_message_that_is_none(client: ws.Client, unique: Unique) -> None:
    """What cannot be a payload fails as an event that is refused does."""
    name = unique()
    await client.streams.ensure(name, subjects=[f"{name}.>"])
    with pytest.raises(ws.PublishManyError) as caught:
        await client.publish_many([Text(), object()], subject=f"{name}.a")
    assert [type(each) for each in caught.value.results] == [ws.PublishReceipt, TypeError]

    async def publish(*messages: object) -> None:
        async with client.publisher() as out:
            for message in messages:
                _ = await out.send(f"{name}.a", message)

    with pytest.raises(ExceptionGroup) as group:
        await publish(object(), Text())
    assert [type(error) for error in group.value.exceptions] == [TypeError]
    assert (await client.stream(name).info()).events == 2


async def test_a_publisher_that_fails_again_and_again(client: ws.Client, unique: Unique) -> None:
    """It keeps the first errors, and nothing of the events; each future has its own error."""
    name = unique()
    futures: list[asyncio.Future[ws.PublishReceipt]] = []

    async def publish() -> None:
        async with client.publisher() as out:
            futures.append(await out.send(f"{name}.a", Text(value="x" * 10_000)))
            await asyncio.wait(futures)
            futures.extend([await out.send(f"{name}.a", object()) for _ in range(149)])

    with pytest.raises(ExceptionGroup, match="150 events were not published; the first 100 errors") as group:
        await publish()
    errors = group.value.exceptions
    assert [type(error) for error in errors] == [ws.UnboundSubject, *[TypeError] * 99]
    assert list(errors) == [future.exception() for future in futures[:100]]
    for error in errors:
        assert error.__traceback__ is None
        assert error.__cause__ is None or error.__cause__.__traceback__ is None
    with pytest.raises(TypeError) as caught:
        await futures[1]
    assert "payloads.py" in str(caught.traceback[-1].path)


async def test_a_publish_that_is_given_up(client: ws.Client, unique: Unique) -> None:
    """Whoever cancels the future of an event ends neither the others nor the publisher."""
    name = unique()
    await client.streams.ensure(name, subjects=[f"{name}.>"])
    async with client.publisher() as out:
        given_up = await out.send(f"{name}.a", Text())
        given_up.cancel()
        large = await out.send(f"{name}.a", Text(value="x" * 10_000))
        large.cancel()
        last = await out.send(f"{name}.a", Text())
    assert last.result().id >= 1
    assert given_up.cancelled()
    assert large.cancelled()


async def test_a_publisher_that_is_closed(client: ws.Client, unique: Unique) -> None:
    """Who sends when the block is left is told: nobody would hear of an error."""
    name = unique()
    await client.streams.ensure(name, subjects=[f"{name}.>"])
    async with client.publisher() as out:
        _ = await out.send(f"{name}.a", Text())
    for _ in range(3):
        with pytest.raises(ws.ClientClosed, match="its block was left"):
            _ = await out.send(f"{name}.a", Text())
    assert (await client.stream(name).info()).events == 1


async def test_cancelled() -> None:
    """Who gives up has the call ended at once, though there are no results."""
    began = asyncio.Event()

    async def script(server: ScriptedServer, call: ServerCall) -> AsyncIterator[None]:
        call.begin_response()
        await server.take(call)
        began.set()
        yield
        await asyncio.Event().wait()

    service = ScriptedServer(script)
    async with connected(service) as client:
        publishing = asyncio.create_task(client.publish_many(events(10, keys=True)))
        await began.wait()
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        await service.ended.wait()
        assert service.stored == []
        service.ended.clear()
        began.clear()

        async def publish() -> None:
            async with client.publisher() as out:
                _ = await out.send("a", Text())

        leaving = asyncio.create_task(publish())
        await began.wait()
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await service.ended.wait()


async def test_connections_that_are_cut(server: str, unique: Unique) -> None:
    """Through connections that are cut at any byte, each event with a key is stored once."""
    async with (
        cutting(int(server.rpartition(":")[2])) as proxy,
        ws.connect(proxy.url.removeprefix("nats://"), namespace=unique(), timeout=60) as client,
    ):
        stream = await client.streams.ensure("s", subjects=["s.>"])
        for count in (1, 100, 300, 1000, 3000):
            for direction in ("up", "down"):
                proxy.cut_after(direction, count)
                receipts = await client.publish_many([Text()] * 300, subject="s.a")
                assert len({receipt.id for receipt in receipts}) == 300
        assert proxy.cuts >= 5
        assert (await stream.info()).events == 3000


async def test_server_that_is_gone(unused_address: str) -> None:
    """Nobody waits for ever for a server that is not there."""
    async with ws.connect(unused_address, timeout=0.5) as client:
        with pytest.raises(ws.PublishManyError) as caught:
            await client.publish_many(events(3, keys=True), in_flight=3)
        assert [type(each) for each in caught.value.results] == [ws.Unreachable] * 3
