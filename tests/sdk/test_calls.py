"""Connecting, deadlines, repeats and credentials, against a real server and connections that are cut."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo

import windshift as ws
from tests.authorization.policies import principal, put, token_of
from tests.support.app import running_app
from tests.support.certificates import Authority
from tests.support.cutting_proxy import CuttingProxy
from tests.support.nats_server import NatsServer
from tests.support.ports import new_port
from windshift import protos
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin_pb
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb
from windshift.protos import test
from windshift.rpc import RpcError, Server, ServerCall, Service, StatusCode
from windshift.sdk import calling, channels
from windshift.sdk.app.running import Running
from windshift.sdk.client import caller_of
from windshift.sdk.retry import Repeat
from windshift.sdk.runtime import subscription

StringValue = test.StringValue
LIMIT = 30.0
"""Seconds that anything may take on a busy machine."""


@pytest.fixture
async def proxy(server: str) -> AsyncIterator[CuttingProxy]:
    """Put a proxy before the shared server."""
    proxy = CuttingProxy(int(server.rpartition(":")[2]))
    await proxy.start()
    yield proxy
    await proxy.stop()


def address_of(proxy: CuttingProxy) -> str:
    """Return ``host:port`` of a proxy."""
    return proxy.url.removeprefix("nats://")


def closed_port() -> str:
    """Return an address that nobody listens at."""
    return f"127.0.0.1:{new_port()}"


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 -- there is no event to wait for
            await asyncio.sleep(0.01)


def test_requests_say_which_method_they_are_for() -> None:
    """Each method of the API is found by what it takes: of two names for one, the last one there."""
    files = (protos.admin, protos.deadletters, protos.events, protos.state)
    services = [each for file in files for each in file.DESCRIPTOR.services_by_name.values()]
    paths = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    found = {
        calling.path_of(GetMessageClass(method.input_type))
        for service in services
        for method in service.methods
    }
    events = "/windshift.events.v1alpha1.EventsService/"
    assert found == paths - {f"{events}PublishEvent", f"{events}Events"}


def test_a_client_is_made_by_connect() -> None:
    """Whoever gives an address to the class is told what to call."""
    made: type[Any] = ws.Client
    with pytest.raises(TypeError, match=r"`connect`, such as ws.connect\('127.0.0.1:8080'\)"):
        made("127.0.0.1:8080")


async def test_a_publish_with_a_key_survives_a_lost_answer(
    proxy: CuttingProxy, unique: Callable[[], str]
) -> None:
    """The answer is lost with the connection; the publish is repeated and stored once."""
    async with ws.connect(address_of(proxy), namespace=unique()) as client:
        stream = await client.streams.ensure("s", subjects=["s.>"])
        proxy.cut_after("down", 1)
        receipt = await client.publish("s.x", StringValue(value="once"))
        assert (receipt.id, receipt.duplicate, proxy.cuts) == (1, True, 1)
        assert (await stream.info()).events == 1


async def test_writes_that_are_not_idempotent_are_not_repeated_in_doubt(
    proxy: CuttingProxy, unique: Callable[[], str]
) -> None:
    """A publish without a key and a `set` end with `OutcomeUnknown`, and were done at most once."""
    async with ws.connect(address_of(proxy), namespace=unique()) as client:
        stream = await client.streams.ensure("s", subjects=["s.>"])
        store = await client.stores.ensure("t", StringValue)
        proxy.cut_after("down", 1)
        with pytest.raises(ws.OutcomeUnknown):
            await client.publish("s.x", StringValue(), key=None)
        await stream.info()  # connected again
        proxy.cut_after("down", 1)
        with pytest.raises(ws.OutcomeUnknown) as caught:
            await store.set("k", StringValue())
        assert isinstance(caught.value, TimeoutError)
        assert (await stream.info()).events == 1


async def test_modify_does_not_count_twice_in_doubt(proxy: CuttingProxy, unique: Callable[[], str]) -> None:
    """In doubt `modify` writes on the same revision again, so that at most one write lands, and says so."""
    async with ws.connect(address_of(proxy), namespace=unique()) as client:
        store = await client.stores.ensure("t", StringValue)
        await store.set("n", StringValue(value="1"))

        def add(value: StringValue) -> None:
            value.value = str(int(value.value) + 1)
            proxy.cut_after("down", 1)

        with pytest.raises(ws.OutcomeUnknown):
            await store.modify("n", add)
        entry = await store.get("n")
        assert entry is not None
        assert entry.value.value == "2"


class DoubtfulStore:
    """Has a key, and does not say what became of the first write; then refuses all."""

    def __init__(self, refusal: RpcError) -> None:
        self._refusal = refusal
        self._writes = 0

    async def get(self, request: state_pb.GetRequest, call: ServerCall) -> state_pb.GetResponse:
        """Return the key."""
        response = state_pb.GetResponse(revision=1)
        response.value.Pack(StringValue())
        return response

    async def set(self, request: state_pb.SetRequest, call: ServerCall) -> state_pb.SetResponse:
        """Take a write."""
        self._writes += 1
        raise RpcError(StatusCode.UNKNOWN) if self._writes == 1 else self._refusal


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (StatusCode.UNAVAILABLE, "BROKER_UNAVAILABLE"),
        (StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL"),
        (StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
    ],
)
async def test_modify_stays_in_doubt(code: StatusCode, reason: str) -> None:
    """That the second write did not happen does not say that the first one did not."""
    refusal = RpcError(code, "no", [ErrorInfo(reason=reason, domain="windshift")])
    service = Service(state_pb.DESCRIPTOR.services_by_name["StateService"], DoubtfulStore(refusal))
    server = Server([service])
    _, port = await server.listen("127.0.0.1", 0)
    async with ws.connect(f"127.0.0.1:{port}", timeout=1) as client:
        await client.ready(LIMIT)
        with pytest.raises(ws.OutcomeUnknown) as caught:
            await client.store("t", StringValue).modify("n", lambda value: value)
    server.close()
    assert isinstance(caught.value.__cause__, ws.WindshiftError)
    assert caught.value.__cause__.reason == reason


async def test_a_read_survives_lost_answers(proxy: CuttingProxy, unique: Callable[[], str]) -> None:
    """Reads are repeated until they are answered."""
    async with ws.connect(address_of(proxy), namespace=unique()) as client:
        stream = await client.streams.ensure("s", subjects=["s.>"])
        for _ in range(2):
            proxy.cut_after("down", 1)
            assert (await stream.info()).events == 0
        assert proxy.cuts == 2


async def test_the_next_server_is_used_when_one_is_away(server: str, unique: Callable[[], str]) -> None:
    """Of several servers one that answers is enough."""
    for _ in range(4):  # the order is random
        async with ws.connect(f"{closed_port()},{server}", namespace=unique()) as client:
            assert [stream async for stream in client.streams.list()] == []


class StuckServer:
    """Takes events and questions, and does not answer."""

    def __init__(self) -> None:
        self.taken = asyncio.Event()
        self.asked = asyncio.Event()

    async def get_stream(self, request: admin_pb.GetStreamRequest, call: ServerCall) -> Any:
        """Take a question."""
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def publish(self, request: pb.PublishEventRequest, call: ServerCall) -> pb.PublishEventResponse:
        """Take one."""
        self.taken.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def get_consumer(self, request: pb.GetConsumerRequest, call: ServerCall) -> Any:
        """Take a question."""
        await asyncio.Event().wait()


@pytest.mark.parametrize("sent", [False, True])
async def test_calls_go_on_when_another_server_is_used(
    server: str, unique: Callable[[], str], monkeypatch: pytest.MonkeyPatch, sent: bool
) -> None:
    """What waited for the connection, or for an answer, is asked of the next server."""
    monkeypatch.setattr("windshift.sdk.channels.random.sample", lambda targets, _: list(targets))
    namespace, stuck = unique(), StuckServer()
    async with ws.connect(server, namespace=namespace) as other:
        await other.streams.ensure("s", subjects=["s.>"])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        first = Server([Service(pb.DESCRIPTOR.services_by_name["EventsService"], stuck)])
        port = (await first.listen("127.0.0.1", 0))[1] if sent else silent.getsockname()[1]
        async with ws.connect(f"127.0.0.1:{port},{server}", namespace=namespace, timeout=60) as client:
            publishing = [
                asyncio.create_task(client.publish("s.x", StringValue(), key=key)) for key in ("key", None)
            ]
            channel = caller_of(client).channels().for_calls()
            await until(stuck.taken.is_set if sent else lambda: channel.connections)
            caller_of(client).channels().unreachable(channel)
            await channel.close()
            keyed, plain = await asyncio.gather(*publishing, return_exceptions=True)
        first.close()
    assert isinstance(keyed, ws.PublishReceipt)
    assert isinstance(plain, ws.OutcomeUnknown if sent else ws.PublishReceipt)


async def test_a_first_attempt_made_in_another_way_changes_no_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own call did, once; each event of it that is published by itself would change them again."""

    async def unary(*_: object, **__: object) -> pb.PublishEventResponse:
        return pb.PublishEventResponse(id=7)

    async with ws.connect(f"{closed_port()},{closed_port()}", timeout=LIMIT) as client:
        caller = caller_of(client)
        channel = caller.channels().for_calls()
        monkeypatch.setattr(channel, "unary", unary)
        failed = RpcError(StatusCode.UNAVAILABLE, "the call was cut off")
        request, response = pb.PublishEventRequest(), pb.PublishEventResponse
        assert (await caller.call(request, response, Repeat.SAME, failed=failed)).id == 7
        assert caller.channels().for_calls() is channel


@pytest.mark.parametrize(
    ("failure", "usable", "changes"),
    [
        pytest.param("timed out", [], True, id="an attempt failed"),
        pytest.param("", [], False, id="the first attempt goes on"),
        pytest.param("timed out", [None], False, id="no room"),
    ],
)
async def test_the_next_server_is_used_when_one_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, failure: str, usable: list[None], changes: bool
) -> None:
    """Also if calls have less time than attempts to connect, so that none hears that one failed."""

    async def unary(*_: object, **__: object) -> None:
        raise RpcError(StatusCode.DEADLINE_EXCEEDED, "no connection in time").unsent()

    async with ws.connect(f"{closed_port()},{closed_port()}", timeout=0.01) as client:
        caller = caller_of(client)
        channel = caller.channels().for_calls()
        for name, value in (("unary", unary), ("last_failure", failure), ("_usable", usable)):
            monkeypatch.setattr(channel, name, value)
        with pytest.raises(ws.Unreachable):
            await client.streams.get("a")
        assert (caller.channels().for_calls() is not channel) is changes


async def test_a_server_that_is_gone_without_a_word_is_noticed(
    proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while no call waits: those that come now and then would be sent to nobody."""
    connection = replace(channels.OPTIONS.connection, keepalive_interval=0.3, keepalive_timeout=0.3)
    monkeypatch.setattr(
        channels, "OPTIONS", replace(channels.OPTIONS, connection=connection, tick_interval=0.1)
    )
    async with ws.connect(address_of(proxy)) as client:
        await client.ready(LIMIT)
        channel = caller_of(client).channels().for_calls()
        proxy.frozen = True
        await until(lambda: not channel.connections)
        proxy.frozen = False
        await client.ready(LIMIT)


async def test_no_token_for_a_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that may have been done is in doubt then, and a read says what it lacks."""
    tokens = [ws.Token("one"), ws.Token("two")]
    async with ws.connect(closed_port(), token=tokens.pop) as client:
        caller = caller_of(client)

        async def unary(*_: object, metadata: Any, **__: object) -> None:
            caller.credentials.refused(metadata)
            raise RpcError(StatusCode.UNAVAILABLE, "cut")

        monkeypatch.setattr(caller.channels().for_calls(), "unary", unary)
        with pytest.raises(ws.OutcomeUnknown, match="stored or not: the token function failed"):
            await client.publish("a.b", StringValue(), key="key", timeout=LIMIT)
        tokens.append(ws.Token("three"))
        with pytest.raises(ws.TokenUnavailable):
            await client.streams.get("a")


@pytest.mark.parametrize("sent", [False, True])
async def test_a_call_ends_with_its_client(monkeypatch: pytest.MonkeyPatch, sent: bool) -> None:
    """One that waits to be repeated makes no new connection; a write that was sent before is in doubt."""
    waits, goes_on = asyncio.Event(), asyncio.Event()

    async def pause(*_: object) -> None:
        waits.set()
        await goes_on.wait()

    async def unary(*_: object, **__: object) -> None:
        raise RpcError(StatusCode.UNAVAILABLE, "cut")

    monkeypatch.setattr(calling, "_pause", pause)
    client = ws.connect(closed_port(), timeout=LIMIT)
    if sent:
        monkeypatch.setattr(caller_of(client).channels().for_calls(), "unary", unary)
    publishing = asyncio.create_task(client.publish("a.b", StringValue()))
    await waits.wait()
    before = caller_of(client).channels()
    await client.close()
    goes_on.set()
    with pytest.raises(ws.OutcomeUnknown if sent else ws.ClientClosed):
        await publishing
    assert before._calls is None


@pytest.mark.parametrize("key", ["key", None])
async def test_a_write_that_its_client_is_closed_on_is_in_doubt(key: str | None) -> None:
    """The server may have done it; of a read there is no doubt."""
    stuck = StuckServer()
    events = pb.DESCRIPTOR.services_by_name["EventsService"]
    admin = admin_pb.DESCRIPTOR.services_by_name["AdminService"]
    server = Server([Service(events, stuck), Service(admin, stuck)])
    _, port = await server.listen("127.0.0.1", 0)
    client = ws.connect(f"127.0.0.1:{port}", timeout=LIMIT)
    publishing = asyncio.create_task(client.publish("a.b", StringValue(), key=key))
    looking = asyncio.create_task(client.streams.get("a"))
    async with asyncio.timeout(LIMIT):
        await asyncio.gather(stuck.taken.wait(), stuck.asked.wait())
    await client.close(grace=0)
    written, read = await asyncio.gather(publishing, looking, return_exceptions=True)
    server.close()
    assert isinstance(written, ws.OutcomeUnknown)
    assert isinstance(written.__cause__, ws.ClientClosed)
    assert isinstance(read, ws.ClientClosed)


@pytest.mark.parametrize("how", ["cancelled", "closed", "aborted"])
async def test_the_end_of_a_client_can_be_hurried(how: str) -> None:
    """What runs ends at once when a `close` that waits is cancelled, or another or `abort` follows."""
    stuck = StuckServer()
    server = Server([Service(admin_pb.DESCRIPTOR.services_by_name["AdminService"], stuck)])
    _, port = await server.listen("127.0.0.1", 0)
    client = ws.connect(f"127.0.0.1:{port}", timeout=600)
    looking = asyncio.create_task(client.streams.get("a"))
    async with asyncio.timeout(LIMIT):
        await stuck.asked.wait()
        closing = asyncio.create_task(client.close(grace=600))
        await until(lambda: caller_of(client).closed)
        if how == "cancelled":
            closing.cancel()
        elif how == "closed":
            await client.close()
        else:
            client.abort()
        with pytest.raises(ws.ClientClosed):
            await looking
        await asyncio.wait({closing})
        await client.close()
    server.close()


async def test_a_refusal_while_its_client_closes_is_told() -> None:
    """What is answered within `grace` is known, also if it is no."""
    asked, answers = asyncio.Event(), asyncio.Event()

    class Refusing:
        async def publish(self, request: pb.PublishEventRequest, call: ServerCall) -> Any:
            asked.set()
            await answers.wait()
            raise RpcError(StatusCode.FAILED_PRECONDITION, "no")

    server = Server([Service(pb.DESCRIPTOR.services_by_name["EventsService"], Refusing())])
    _, port = await server.listen("127.0.0.1", 0)
    client = ws.connect(f"127.0.0.1:{port}", timeout=LIMIT)
    publishing = asyncio.create_task(client.publish("a.b", StringValue()))
    async with asyncio.timeout(LIMIT):
        await asked.wait()
        closing = asyncio.create_task(client.close(grace=LIMIT))
        await until(lambda: caller_of(client).closed)
        answers.set()
        with pytest.raises(ws.Refused, match="no"):
            await publishing
        await closing
    server.close()


async def test_idle_says_when_the_server_did_not_answer() -> None:
    """Whether all is settled is not known then."""
    app = ws.App("a")
    app.consumer(app.stream("s", subjects=["s.>"]), "c")
    server = Server([Service(pb.DESCRIPTOR.services_by_name["EventsService"], StuckServer())])
    _, port = await server.listen("127.0.0.1", 0)
    async with ws.connect(f"127.0.0.1:{port}", timeout=0.2) as client:
        await client.ready(LIMIT)
        for waits in (client.stream("s").consumer("c"), Running("a", client, app.consumers)):
            with pytest.raises(ws.DeadlineExceeded) as caught:
                await waits.idle(LIMIT)
            assert "not settled" not in caught.value.message
    server.close()


async def test_no_server_is_an_error_at_the_deadline() -> None:
    """Calls are tried until their timeout, then say why."""
    async with ws.connect(closed_port(), timeout=1) as client:
        begin = time.monotonic()
        with pytest.raises(ws.Unreachable, match="connection refused"):
            await client.publish("a.b", StringValue())
        assert time.monotonic() - begin < 10
        with pytest.raises(ws.Unreachable):
            await client.ready(0.1)


@pytest.mark.parametrize("key", ["key", None])
async def test_a_server_that_does_not_answer_is_not_reached(key: str | None) -> None:
    """Nothing was sent when the timeout comes before the end of the first attempt to connect."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with ws.connect(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.2) as client:
            with pytest.raises(ws.Unreachable, match="cannot be reached: it does not answer"):
                await client.publish("a.b", StringValue(), key=key)
            with pytest.raises(ws.Unreachable, match="cannot be reached: it does not answer"):
                await client.streams.get("a")


async def test_an_attempt_that_had_no_time_says_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for which no server was reached is told, not that the deadline passed meanwhile."""
    ends = [
        RpcError(StatusCode.UNAVAILABLE, "connection refused").unsent(),
        RpcError(StatusCode.DEADLINE_EXCEEDED, "the deadline passed").unsent(),
    ]

    async def unary(*_: object, timeout: float, **__: object) -> None:
        if len(ends) == 1:
            await asyncio.sleep(timeout)
        raise ends.pop(0)

    async with ws.connect(closed_port(), timeout=0.7) as client:
        monkeypatch.setattr(caller_of(client).channels().for_calls(), "unary", unary)
        with pytest.raises(ws.Unreachable, match="connection refused"):
            await client.publish("a.b", StringValue())
    assert not ends


async def test_a_repeat_goes_out_as_soon_as_there_is_a_server(
    proxy: CuttingProxy, unique: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be sent does not wait for its turn when the server is back before."""
    monkeypatch.setattr(calling, "decide", lambda *_, **__: 50.0)
    address = address_of(proxy)
    async with ws.connect(address, namespace=unique(), timeout=60) as client:
        await client.streams.ensure("s", subjects=["s.>"])
        channel = caller_of(client).channels().for_calls()
        await proxy.stop()
        await until(lambda: not channel.connections)
        publishing = asyncio.create_task(client.publish("s.x", StringValue()))
        await until(lambda: channel.last_failure)
        await proxy.start(int(address.rpartition(":")[2]))
        async with asyncio.timeout(LIMIT):
            assert (await publishing).id == 1


async def test_a_subscription_begins_as_soon_as_there_is_a_server(
    proxy: CuttingProxy, unique: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a consume call."""
    monkeypatch.setattr(subscription, "_FIRST_PAUSE", 50.0)
    monkeypatch.setattr(subscription, "_LONGEST_PAUSE", 50.0)
    address = address_of(proxy)
    async with ws.connect(address, namespace=unique()) as client:
        stream = await client.streams.ensure("s", subjects=["s.>"])
        consumer = await stream.consumers.ensure("c", start=ws.START)
        await client.publish("s.x", StringValue())
        await proxy.stop()
        await until(lambda: not caller_of(client).channels().for_calls().connections)
        handled = asyncio.Event()
        with caller_of(client).channels().for_stream() as channel:
            async with consumer.running(lambda _: handled.set()):
                await until(lambda: channel.last_failure)
                await proxy.start(int(address.rpartition(":")[2]))
                async with asyncio.timeout(LIMIT):
                    await handled.wait()


async def test_no_end(server: str) -> None:
    """An operation may take for ever; what is no number is told."""
    async with ws.connect(server, timeout=math.inf) as client:
        await client.ready(math.inf)
        with pytest.raises(ws.UnboundSubject):
            await client.publish("no.such", test.StringValue())
        with pytest.raises(ValueError, match="not nan"):
            await client.publish("no.such", test.StringValue(), timeout=math.nan)


async def test_ready_connects(server: str) -> None:
    """`ready` returns once the server answers."""
    async with ws.connect(server) as client:
        await client.ready(10)


async def test_a_refused_token_is_fetched_again(nats_server: NatsServer, tmp_path: Path) -> None:
    """After UNAUTHENTICATED a new token is fetched and the call repeated once; text is refused at once."""
    file = put(tmp_path / "rules.toml", _rules())
    tokens = ["wrong", token_of("ann")]

    async def fetch() -> ws.Token:
        return ws.Token(tokens.pop(0))

    with running_app(nats_server.url, WINDSHIFT_AUTH_FILE=str(file)) as address:
        async with ws.connect(address, token=fetch) as client:
            assert [stream async for stream in client.streams.list("no such")] == []
        assert tokens == []
        async with ws.connect(address, token="wrong") as client:
            with pytest.raises(ws.Unauthenticated, match="; connect with a token ") as refused:
                await client.streams.get("a")
            assert refused.value.message == "the call has no valid credentials"
            with pytest.raises(ws.Unauthenticated):
                await client.ready()
        async with ws.connect(address, token=token_of("ann")) as client:
            await client.ready()
            with pytest.raises(ws.PermissionDenied):
                await client.streams.ensure("a", subjects=["a.>"])


def _rules() -> str:
    return principal("ann", "look") + '\n[role.look]\nstreams = { consume = ["a"], subjects = ["a.>"] }\n'


async def test_tls(nats_server: NatsServer, tmp_path: Path) -> None:
    """With the authority's certificate the server is trusted; without, the error says why not."""
    authority = Authority(tmp_path)
    own = authority.issue("server", dns=["localhost"])
    with running_app(
        nats_server.url, GRPC_TLS_CERT=str(own.certificate), GRPC_TLS_KEY=str(own.key)
    ) as address:
        name = address.replace("127.0.0.1", "localhost")
        async with ws.connect(name, tls=ws.Tls(ca=authority.certificate)) as client:
            await client.ready(10)
        async with ws.connect(name, tls=True, timeout=1) as client:
            with pytest.raises(ws.Unreachable, match="certificate is not accepted"):
                await client.streams.get("a")


async def test_a_closed_client_says_so(server: str) -> None:
    """A call after the end of a client is a clear error."""
    client = ws.connect(server)
    await client.ready(10)
    await client.close()
    with pytest.raises(ws.ClientClosed):
        await client.streams.get("a")


def test_another_loop_is_refused_at_once(server: str) -> None:
    """A client used in a second event loop raises instead of waiting for ever."""
    client = ws.connect(server)

    async def use() -> None:
        with pytest.raises(ws.StreamNotFound):
            await client.streams.get("nothing")

    async def use_again() -> None:
        with pytest.raises(ws.WrongLoop):
            await client.streams.get("nothing")

    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(use())
        second.run(use_again())
        first.run(client.close())


async def test_watches_go_on_when_there_is_a_token_again(
    proxy: CuttingProxy, server: str, unique: Callable[[], str]
) -> None:
    """An issuer that is away while a watch is opened, or opened again, does not end it."""
    namespace, tokens = unique(), ["one"]
    asked = 0

    async def fetch() -> ws.Token:
        nonlocal asked
        asked += 1
        return ws.Token(tokens[0])

    async with (
        ws.connect(address_of(proxy), namespace=namespace, token=fetch) as client,
        ws.connect(server, namespace=namespace) as writing,
    ):
        store = await writing.stores.ensure("t", StringValue)
        watched = client.store("t", StringValue).watch()
        assert isinstance(await anext(watched), ws.CaughtUp)
        tokens.clear()
        credentials = caller_of(client).credentials
        credentials.refused(await credentials.pairs())
        asked = 0
        change = asyncio.ensure_future(anext(watched))
        port = int(address_of(proxy).rpartition(":")[2])
        await proxy.stop()
        await until(lambda: asked > 1)
        letter = asyncio.ensure_future(anext(client.dead_letters.watch(stream="s", existing=True)))
        asked = 0
        await until(lambda: asked > 2)
        await proxy.start(port)
        tokens.append("two")
        await store.set("k", StringValue(value="v"))
        stream = await writing.streams.ensure("s", subjects=["s.>"])
        consumer = await stream.consumers.ensure("c", start=ws.START)
        await writing.publish("s.x", StringValue())
        async with consumer.running(lambda delivery: delivery.dead_letter()), asyncio.timeout(LIMIT):
            assert isinstance(found := await change, ws.Revision)
            assert (found.key, (await letter).event.id) == ("k", 1)


async def test_a_watch_goes_on_behind_the_last_change(
    proxy: CuttingProxy, server: str, unique: Callable[[], str]
) -> None:
    """Its connection is cut again and again: every change comes once and in order, and one `CaughtUp`."""
    namespace = unique()
    count, told = 400, []
    async with (
        ws.connect(address_of(proxy), namespace=namespace) as client,
        ws.connect(server, namespace=namespace) as writing,
    ):
        store = await writing.stores.ensure("t", StringValue)
        watched = client.store("t", StringValue).watch()
        first = await anext(watched)
        assert isinstance(first, ws.CaughtUp)

        async def write() -> None:
            for number in range(count):
                await store.set(f"k{number}", StringValue(value=str(number)))

        writer = asyncio.create_task(write())
        async for change in watched:
            assert isinstance(change, ws.Revision)
            assert change.value is not None
            told.append(int(change.value.value))
            if len(told) % 40 == 0:
                proxy.cut_after("down", len(told))
            if len(told) == count:
                break
        await writer
    assert told == list(range(count))
    assert proxy.cuts >= 3


class FullServer:
    """Has room for one watch, and for some time none after it has broken."""

    def __init__(self, refusal: RpcError) -> None:
        self._refusal = refusal
        self._watches = 0

    def _take(self) -> None:
        self._watches += 1
        if 1 < self._watches <= 4:
            raise self._refusal

    async def watch(
        self, request: state_pb.WatchRequest | dead_letters_pb.WatchRequest, call: ServerCall
    ) -> None:
        """Break the first, refuse the next ones, and tell something to the last."""
        self._take()
        if self._watches == 1:
            raise RpcError(StatusCode.UNAVAILABLE, "the connection was lost")
        if isinstance(request, state_pb.WatchRequest):
            call.send(state_pb.WatchResponse(entry=state_pb.Entry(key="k", revision=7)))
        else:
            letter = dead_letters_pb.DeadLetter(id="s.c.7")
            call.send(dead_letters_pb.WatchResponse(dead_letter=letter, position="7"))


@pytest.mark.parametrize("reason", ["QUOTA_EXCEEDED", "CONSUMER_LIMIT"])
async def test_a_watch_that_broke_waits_for_room(reason: str) -> None:
    """While the server still counts the broken one, another may be one too many."""
    info = ErrorInfo(reason=reason, domain="windshift", metadata={"quota": "calls"})
    refusal = RpcError(StatusCode.RESOURCE_EXHAUSTED, "no room", [info])
    stores = state_pb.DESCRIPTOR.services_by_name["StateService"]
    letters = dead_letters_pb.DESCRIPTOR.services_by_name["DeadLettersService"]
    server = Server([Service(stores, FullServer(refusal)), Service(letters, FullServer(refusal))])
    _, port = await server.listen("127.0.0.1", 0)
    async with ws.connect(f"127.0.0.1:{port}") as client, asyncio.timeout(LIMIT):
        change = await anext(client.store("t", StringValue).watch())
        assert isinstance(change, ws.Revision)
        assert change.revision == 7
        assert (await anext(client.dead_letters.watch())).id == "s.c.7"
    server.close()


class ForgetfulServer(FullServer):
    """Breaks one watch, and refuses the token of some behind it."""

    def __init__(self, refusals: int) -> None:
        super().__init__(RpcError(StatusCode.UNAUTHENTICATED, "the token is too old"))
        self._refusals = refusals

    def _take(self) -> None:
        self._watches += 1
        if 1 < self._watches <= 1 + self._refusals:
            raise self._refusal


@pytest.mark.parametrize("refusals", [1, 2])
async def test_a_watch_whose_token_expired_while_it_was_broken(refusals: int) -> None:
    """It goes on with another one, unless that is refused as well."""
    stores = state_pb.DESCRIPTOR.services_by_name["StateService"]
    letters = dead_letters_pb.DESCRIPTOR.services_by_name["DeadLettersService"]
    services = [Service(stores, ForgetfulServer(refusals)), Service(letters, ForgetfulServer(refusals))]
    server = Server(services)
    _, port = await server.listen("127.0.0.1", 0)
    address = f"127.0.0.1:{port}"
    async with ws.connect(address, token=lambda: ws.Token("t")) as client, asyncio.timeout(LIMIT):
        for watched in (client.store("t", StringValue).watch(), client.dead_letters.watch()):
            with pytest.raises(ws.Unauthenticated) if refusals > 1 else nullcontext():
                await anext(watched)
    server.close()


class ExpiringServer:
    """Lets calls begin, and ends them when their token expires; the last one tells something."""

    def __init__(self, begun: int) -> None:
        self._left = begun

    async def watch(self, _: dead_letters_pb.WatchRequest, call: ServerCall) -> None:
        """Tell of a dead letter."""
        self._left -= 1
        if self._left >= 0:
            call.begin_response()
            raise RpcError(StatusCode.UNAUTHENTICATED, "the token has expired")
        letter = dead_letters_pb.DeadLetter(id="s.c.7")
        call.send(dead_letters_pb.WatchResponse(dead_letter=letter, position="7"))

    async def tail_events(self, _: admin_pb.TailEventsRequest, call: ServerCall) -> None:
        """Tell that all has been seen, unless the token has expired before."""
        self._left -= 1
        if self._left >= 0:
            raise RpcError(StatusCode.UNAUTHENTICATED, "the token has expired")
        call.send(admin_pb.TailEventsResponse(caught_up=True))
        if self._left == -1:
            raise RpcError(StatusCode.UNAUTHENTICATED, "the token has expired")


async def test_a_watch_on_which_nothing_happens_outlives_its_tokens() -> None:
    """Each that it was opened with was good: it goes on with the next one, however often."""
    letters = dead_letters_pb.DESCRIPTOR.services_by_name["DeadLettersService"]
    server = Server([Service(letters, ExpiringServer(5))])
    _, port = await server.listen("127.0.0.1", 0)
    address = f"127.0.0.1:{port}"
    async with ws.connect(address, token=lambda: ws.Token("t")) as client, asyncio.timeout(LIMIT):
        assert (await anext(client.dead_letters.watch())).id == "s.c.7"
    server.close()


async def test_a_tail_begins_with_another_token() -> None:
    """A token that is too old when the tail begins is fetched anew, once; a tail that has begun is not."""
    admin = admin_pb.DESCRIPTOR.services_by_name["AdminService"]
    server = Server([Service(admin, handler := ExpiringServer(1))])
    _, port = await server.listen("127.0.0.1", 0)
    address = f"127.0.0.1:{port}"
    async with ws.connect(address, token=lambda: ws.Token("t")) as client, asyncio.timeout(LIMIT):
        tail = client.stream("s").events.tail()
        assert isinstance(await anext(tail), ws.CaughtUp)
        with pytest.raises(ws.Unauthenticated):
            await anext(tail)
        handler._left = 2
        with pytest.raises(ws.Unauthenticated):
            await anext(client.stream("s").events.tail())
    async with ws.connect(address, token="t", plaintext_token=True) as client:
        handler._left = 1
        with pytest.raises(ws.Unauthenticated):
            await anext(client.stream("s").events.tail())
    server.close()


async def test_a_first_watch_that_there_is_no_room_for_is_refused() -> None:
    """Who begins is told: perhaps there will never be room."""
    info = ErrorInfo(reason="CONSUMER_LIMIT", domain="windshift")
    store = FullServer(RpcError(StatusCode.RESOURCE_EXHAUSTED, "no room", [info]))
    store._watches = 1
    server = Server([Service(state_pb.DESCRIPTOR.services_by_name["StateService"], store)])
    _, port = await server.listen("127.0.0.1", 0)
    async with ws.connect(f"127.0.0.1:{port}") as client:
        with pytest.raises(ws.ConsumerLimit):
            await anext(client.store("t", StringValue).watch())
    server.close()
