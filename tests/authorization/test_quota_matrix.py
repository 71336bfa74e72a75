"""The matrix of quotas: every method, all that lasts or weighs, and what bounds how much calls add to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf.message import Message

from tests.authorization.callers import Caller, WithMetadata, bearer
from tests.authorization.policies import principal, token_of
from tests.authorization.rows import ALLOWED, SERVICES, Answer, Outcome, invoke, method_of, path_of
from tests.authorization.test_matrix import REQUESTS, Make
from tests.authorization.world import NOBODY, World, running_world
from tests.support.broker import connect
from tests.support.client import Client, any_of
from tests.support.windshift_process import wait_for
from tests.wire.burying import DEAD_LETTER
from tests.wire.consuming import calling
from tests.wire.management import ensure_consumer
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb
from windshift.server.api.policies import POLICIES, Quota
from windshift.server.auth.quotas import ALL_QUOTAS
from windshift.server.ownership import ownership, view
from windshift.server.ownership.amounts import OWNER

EXCEEDED = Answer("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
ROOT = Path(__file__).parents[2]

CALL = ("max_rps", "connections", "calls")
STREAM = ("max_rps", "connections", "max_streams")
STORED = ("stored_bytes", "memory_bytes")
"""Quotas of whoever owns what is written to."""
DEAD = ("dead_letters", "dead_letter_bytes")

FOR_ALL = (
    "GRPC_MAX_CONNECTIONS",
    "GRPC_MAX_CONNECTIONS_PER_ADDRESS",
    "GRPC_MAX_CONCURRENT_STREAMS",
    "GRPC_MAX_HELD_MB",
)
"""What bounds what every call adds to besides: connections, calls on one of them, and what the server holds
in memory for clients. These are limits of a server or an address, and `tests/hardening` has their tests."""


@dataclass(frozen=True, slots=True)
class Line:
    """What calls of one method can add to.

    Attributes:
        rights: the narrowest role with which it can be called.
        adds: the quotas of what a call adds to. It adds to nothing else, and is not refused for it.
        requests: requests that add to one of them, where that of the other matrix does not.
    """

    rights: str = ""
    adds: tuple[str, ...] = CALL
    requests: Mapping[str, Message | Make] = field(default_factory=dict)


def _stream(**fields: Any) -> Make:
    """Make a stream that has something special."""

    def make(world: World) -> Message:
        request = events_pb.EnsureStreamRequest(name=world.name("base-"), **fields)
        if "aggregate" not in fields:
            request.subjects.subjects.append(f"base.{request.name}")
        return request

    return make


def _filtered(world: World) -> Message:
    return events_pb.EnsureConsumerRequest(
        stream="SHOP", name=world.name("base-"), subjects=["shop.a.b", "shop.z"]
    )


def _event(quota: str) -> dict[str, Any]:
    return {"subject": f"full.{quota}", "data": any_of("x")}


FULL_STORE = "full-store"
WRITE = {"key": "billing.both", "set": {"value": any_of("x")}}
MEMORY = _stream(storage={"type": "STORAGE_TYPE_MEMORY"})
ONE_SOURCE = {"sources": [{"name": "SHOP", "filter_subjects": ["shop.a.>"]}]}
PUBLISH = 'publish = ["orders.a", "full.*"]'
CONSUME = (
    'streams = { consume = ["SHOP"], subjects = [">"] }\n'
    'consumers = { use = ["base-*"], reject = ["base-*"], delete = ["base-*"], control = ["base-*"] }'
)
KEYS = 'stores = { read = ["cfg"], write = ["cfg", "full-*"], keys = ["billing.*", "touched"] }'
ALL_KEYS = 'stores = { read = ["cfg"], keys = [">"] }'
VIEW = 'streams.view = ["SHOP"]'
PURGE = 'streams = { purge = ["SPARE"], subjects = [">"] }'
OBSERVE = 'server.observe = ["*"]'
LETTERS = 'dead_letters = { read = ["*"], replay = ["LEDGER"], purge = ["LEDGER"], consumers = ["*"] }'

PUBLISHING = Line(
    PUBLISH,
    ("max_rps", "connections", *STORED),
    {quota: events_pb.PublishEventRequest(**_event(quota)) for quota in STORED},
)

MATRIX: Final[Mapping[str, Line]] = {
    "EventsService/EnsureStream": Line(
        'streams = { manage = ["base-*"], bind = ["base.>"], consume = ["SHOP"], subjects = ["shop.a.>"] }',
        (
            *CALL,
            *STORED,
            "streams",
            "memory_streams",
            "reserved_bytes",
            "sources",
            "all_sources",
            "replicas",
            "subjects",
            "deduplication_seconds",
        ),
        {
            "memory_bytes": MEMORY,
            "memory_streams": MEMORY,
            "replicas": _stream(storage={"replicas": 2}),
            "reserved_bytes": _stream(retention_policy={"max_bytes": 1000}),
            "sources": _stream(aggregate=ONE_SOURCE),
            "all_sources": _stream(aggregate=ONE_SOURCE),
        },
    ),
    "EventsService/EnsureConsumer": Line(
        'streams = { consume = ["SHOP"], ephemeral = ["SHOP"], subjects = [">"] }\n'
        'consumers.use = ["base-*"]',
        (*CALL, "consumers", "ephemeral_consumers", "subjects"),
        {"ephemeral_consumers": events_pb.EnsureConsumerRequest(stream="SHOP"), "subjects": _filtered},
    ),
    "EventsService/GetConsumer": Line(CONSUME),
    "EventsService/DeleteConsumer": Line(CONSUME),
    "EventsService/PublishEvent": PUBLISHING,
    "EventsService/Publish": PUBLISHING,
    "EventsService/PublishBatch": Line(
        PUBLISH,
        (*CALL, *STORED),
        {quota: events_pb.PublishBatchRequest(events=[_event(quota)]) for quota in STORED},
    ),
    "EventsService/PublishStream": Line(
        PUBLISH,
        (*STREAM, *STORED),
        {quota: events_pb.PublishStreamRequest(events=[_event(quota)]) for quota in STORED},
    ),
    "EventsService/Events": Line(CONSUME, (*STREAM, *DEAD)),
    "EventsService/Consume": Line(CONSUME, (*STREAM, *DEAD)),
    "StateService/EnsureStore": Line('stores.manage = ["base-*"]', (*CALL, "stores", "stored_bytes")),
    "StateService/Get": Line(KEYS),
    "StateService/Set": Line(
        KEYS,
        (*CALL, "stored_bytes"),
        {"stored_bytes": state_pb.SetRequest(store=FULL_STORE, key="billing.a", value=any_of("x"))},
    ),
    "StateService/Delete": Line(KEYS),
    "StateService/Touch": Line(KEYS),
    "StateService/ListStores": Line(),
    "StateService/DeleteStore": Line('stores = { manage = ["s-*"], write = ["s-*"], keys = [">"] }'),
    "StateService/ListKeys": Line(ALL_KEYS),
    "StateService/History": Line(KEYS),
    "StateService/Watch": Line(ALL_KEYS, (*STREAM, "calls")),
    "StateService/Transact": Line(
        KEYS,
        (*CALL, "stored_bytes"),
        {"stored_bytes": state_pb.TransactRequest(store=FULL_STORE, writes=[WRITE])},
    ),
    "DeadLettersService/List": Line(LETTERS),
    "DeadLettersService/Get": Line(LETTERS),
    "DeadLettersService/Replay": Line(LETTERS, (*CALL, "replays")),
    "DeadLettersService/CancelReplay": Line(LETTERS),
    "DeadLettersService/Summarize": Line(LETTERS),
    "DeadLettersService/Purge": Line(LETTERS),
    "DeadLettersService/Watch": Line(LETTERS, (*STREAM, "calls")),
    "AdminService/GetServer": Line(),
    "AdminService/WhoAmI": Line(),
    "AdminService/ListServers": Line(OBSERVE),
    "AdminService/ListStreams": Line(),
    "AdminService/GetStream": Line(VIEW),
    "AdminService/ListSubjects": Line(VIEW),
    "AdminService/PurgeStream": Line(PURGE),
    "AdminService/DeleteStream": Line('streams.delete = ["spare-*"]'),
    "AdminService/GetEvent": Line(CONSUME),
    "AdminService/ReadEvents": Line(CONSUME),
    "AdminService/TailEvents": Line(
        CONSUME,
        (*STREAM, "calls", "ephemeral_consumers", "subjects"),
        {"subjects": admin_pb.TailEventsRequest(stream="SHOP", subjects=["shop.a.b", "shop.z"])},
    ),
    "AdminService/DeleteEvent": Line(PURGE),
    "AdminService/ExplainEvent": Line(f"{VIEW}\n{OBSERVE}"),
    "AdminService/ListConsumers": Line(VIEW),
    "AdminService/ListSubscriptions": Line(OBSERVE),
    "AdminService/PauseConsumer": Line(CONSUME),
    "AdminService/SeekConsumer": Line(CONSUME),
    "AdminService/GetHistory": Line(),
    "PrincipalsService/ListPrincipals": Line(OBSERVE),
    "PrincipalsService/EndConnections": Line('server.control = ["exact"]'),
    "Health/Check": Line("", ()),
    "Health/List": Line("", ()),
    "Health/Watch": Line("", ()),
    "ServerReflection/ServerReflectionInfo": Line("", STREAM),
    "ServerReflectionAlpha/ServerReflectionInfo": Line("", STREAM),
}
"""What calls of each method can add to, and by which quota that is bounded."""

CELLS = [(method, quota) for method, line in MATRIX.items() for quota in line.adds]


# The rules: a role for each method, a principal at its quota for each cell, and one that has nothing else


def named(method: str, quota: str = "") -> str:
    """Return what the role of a method is called, or a principal of it."""
    return "-".join(filter(None, (method.replace("/", "-"), quota)))


def limited(quotas: Iterable[str]) -> str:
    """Write quotas of nothing at all."""
    return f"quotas = {{ {', '.join(f'{quota} = 0' for quota in quotas)} }}"


AT_ONCE = {"max_rps": "max_rps = 0.001", "max_streams": "max_streams = 1"}
"""Quotas of calls that are not among the others."""
ONE_REPLICA = "quotas = { replicas = 1 }"


def at_its_quota(method: str, quota: str) -> str:
    """Write a principal that has all it may have, or has it with another call."""
    more = ONE_REPLICA if quota == "replicas" else AT_ONCE.get(quota) or limited([quota])
    return principal(named(method, quota), named(method), "holds", more=more)


def without_the_rest(method: str) -> str:
    """Write a principal that may have what calls of a method add to, and nothing else."""
    rest = [quota for quota in ALL_QUOTAS if quota not in (*MATRIX[method].adds, *AT_ONCE)]
    return principal(named(method, "other"), named(method), more=limited(rest))


RULES = (
    "".join(f"\n[role.{named(method)}]\n{line.rights}\n" for method, line in MATRIX.items())
    + '\n[role.holds]\nstores = { read = ["vault"], keys = ["hold"] }\n'
    + "".join(at_its_quota(*cell) for cell in CELLS)
    + "".join(map(without_the_rest, MATRIX))
    + "".join(principal(f"full-{quota}", "holds", more=limited([quota])) for quota in STORED)
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Run a server with these rules, and a broker on which some have too much."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for module, pause in ((ownership, "_INTERVAL"), (ownership, "_IDLE_INTERVAL"), (view, "_KEPT_NEAR")):
            monkeypatch.setattr(module, pause, 0.1)
        with running_world(tmp_path_factory.mktemp("quotas"), RULES) as world:
            fill(world)
            yield world


async def make_full(url: str) -> None:
    """Make streams and a store, which belong to principals that may hold nothing, as another program does."""
    async with connect(url) as broker:
        owners = {quota: {OWNER: f"full-{quota}"} for quota in STORED}
        on_disk = {"storage": "file", "metadata": owners["stored_bytes"]}
        await broker.stream("FULL", "full.stored_bytes", **on_disk)
        await broker.stream("FULL-MEMORY", "full.memory_bytes", metadata=owners["memory_bytes"])
        await broker.stream(f"KV_{FULL_STORE}", f"$KV.{FULL_STORE}.>", **on_disk)
        for subject in ("full.stored_bytes", "full.memory_bytes", f"$KV.{FULL_STORE}.some"):
            await broker.publish(subject, b"more than nothing")


def fill(world: World) -> None:
    """Have streams and a store take nothing more, and see that the server has noticed."""
    asyncio.run(make_full(world.nats.url))
    for quota in STORED:
        request = events_pb.PublishEventRequest(**_event(quota))
        wait_for(partial(is_refused, world.admin, request))


def is_refused(client: Client, request: Message) -> bool:
    """Tell whether an event is not taken."""
    return invoke(client, method_of("EventsService/Publish"), request).refusal is not None


# The matrix itself


def test_every_method_has_a_line() -> None:
    """A method that nobody has thought of is found here."""
    served = {f"{name}/{method.name}" for name, service in SERVICES.items() for method in service.methods}
    assert MATRIX.keys() == served


def test_every_quota_bounds_something() -> None:
    """A quota that nobody has thought of is found here, and so is a limit of a server that is gone."""
    assert {quota for _, quota in CELLS} == set(ALL_QUOTAS)
    limits = (ROOT / "docs" / "limits.md").read_text()
    assert [name for name in FOR_ALL if f"`{name}`" not in limits] == []


@pytest.mark.parametrize("method", MATRIX)
def test_what_calls_count_as(method: str) -> None:
    """What the table of methods says of calls, streams and weights is what this one says."""
    policy, adds = POLICIES[path_of(method_of(method))], MATRIX[method].adds
    assert (policy.quota is not Quota.NONE) == ("max_rps" in adds)
    assert (policy.quota is Quota.OPEN_STREAMS) == ("max_streams" in adds)
    assert (policy.weight > 0) == ("calls" in adds)


# What it says, at the wire


def caller_of(world: World, who: str) -> Caller:
    """Return the client of a principal; all of them share a connection."""
    caller = copy(world.caller(NOBODY))
    caller.channel = grpc.intercept_channel(caller.channel, WithMetadata(bearer(token_of(who))))
    return caller


def call(world: World, who: str, method: str, quota: str = "") -> Outcome:
    """Make a call that adds to what a quota bounds."""
    request = MATRIX[method].requests.get(quota, REQUESTS[method])
    message = request(world) if callable(request) else request
    return invoke(caller_of(world, who), method_of(method), message)


@contextmanager
def holding(world: World, who: str) -> Iterator[None]:
    """Have a principal make another call meanwhile: the only one is always let through."""
    watch = caller_of(world, who).channel.unary_stream(
        path_of(method_of("StateService/Watch")),
        request_serializer=state_pb.WatchRequest.SerializeToString,
        response_deserializer=state_pb.WatchResponse.FromString,
    )(state_pb.WatchRequest(store="vault", filter="hold"), timeout=30)
    watch.initial_metadata()
    try:
        yield
    finally:
        watch.cancel()


@pytest.mark.parametrize("method", MATRIX)
def test_others(world: World, method: str) -> None:
    """Who may have nothing but what its calls add to is not refused, whoever else is at its quota."""
    outcome = call(world, named(method, "other"), method)
    assert outcome.answer == ALLOWED, outcome.refusal


@pytest.mark.parametrize(("method", "quota"), [cell for cell in CELLS if cell[1] not in DEAD])
def test_refused(world: World, method: str, quota: str) -> None:
    """Who has all that it may have is refused with the name of the quota, and another one is not."""
    who = named(method, quota)
    if quota == "max_rps":
        call(world, who, "AdminService/WhoAmI")
    with holding(world, who) if quota in ("calls", "max_streams") else nullcontext():
        outcome = call(world, who, method, quota)
        assert outcome.answer == EXCEEDED, outcome.refusal
        told = outcome.responses[0].errors[0] if outcome.refusal is None else outcome.refusal
        assert told.metadata["quota"] == quota
        others = "" if quota in (*STORED, "replicas") else quota  # it has room elsewhere; NATS has one server
        assert call(world, named(method, "other"), method, others).answer == ALLOWED


@pytest.mark.parametrize(("method", "quota"), [cell for cell in CELLS if cell[1] in DEAD])
def test_events_that_stay(world: World, method: str, quota: str) -> None:
    """An event that may not become a dead letter is told as not done; that of somebody else becomes one."""
    for who, is_done in ((quota, False), ("other", True)):
        consumer, retried = world.name("base-"), {"max_attempts": 9, "initial_backoff": "60s"}
        ensure_consumer(world.admin, "SHOP", name=consumer, retry_policy=retried, **{"from": {"start": True}})
        with calling(caller_of(world, named(method, who)), method.partition("/")[2]) as consume:
            consume.subscribe("SHOP", consumer, 1)
            seq = consume.event().id
            consume.reject(seq, action=DEAD_LETTER)
            assert consume.told() == ("reject", *(([seq], [], []) if is_done else ([], [], [seq])))
