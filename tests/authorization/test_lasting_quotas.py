"""How much one principal may have at the broker, at the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest

from tests.authorization.callers import Caller, Callers, callers_with_rules
from tests.authorization.policies import ALL, principal, put, token_of
from tests.authorization.served import served
from tests.support.broker import connect
from tests.support.client import STATE, Refusal, read_refusal, refused
from tests.support.nats_server import NatsServer, running_nats
from tests.support.windshift_process import wait_for
from tests.wire.burying import delete_stream
from tests.wire.looking import tail
from tests.wire.management import (
    delete_consumer,
    ensure_consumer,
    ensure_stream,
    stored_consumer,
    stored_stream,
)
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin_pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb
from windshift.server.ownership import ownership
from windshift.server.ownership.amounts import OWNER

ADMIN = admin_pb.DESCRIPTOR.services_by_name["AdminService"]
NUMBERS = count()
MEMORY = {"type": "STORAGE_TYPE_MEMORY"}
KIB = 1024
LARGE = "x" * 34_000
"""Two of these are too much where 64 KiB are allowed."""


def limited(name: str, quotas: str) -> str:
    """Write a principal that has its own quotas."""
    return principal(name, "all", more=f"quotas = {{ {quotas} }}\n")


POLICY = (
    ALL
    + 'quotas.consumers = 10\nquotas.stores = "off"\n'
    + "[role.small]\nquotas = { consumers = 1, stores = 1 }\n"
    + '[role.reader]\nstreams = { consume = ["*"], subjects = [">"] }\n'
    + "[quotas]\nsources = 2\n"
    + principal("all")
    + principal("both", "small", "all")
    + principal("little", "small", "all", more="quotas = { stores = 1 }\n")
    + limited("streams", "streams = 2")
    + limited("memory-streams", "memory_streams = 1")
    + limited("memory", 'memory_bytes = "64KiB"')
    + limited("hoarder", 'stored_bytes = "64KiB"')
    + limited("stuffed", 'stored_bytes = "64KiB"')
    + limited("memory-hoarder", 'memory_bytes = "64KiB"')
    + limited("greedy", 'stored_bytes = "64KiB"')
    + limited("on-two", 'stored_bytes = "64KiB"')
    + limited("disk", "reserved_bytes = 65536")
    + limited("owner", "reserved_bytes = 1000")
    + limited("stores", "stores = 2")
    + limited("consumers", "consumers = 2")
    + limited("ephemeral", "ephemeral_consumers = 2")
    + principal("reader", more="quotas = { ephemeral_consumers = 2 }\n")
    + limited("watcher", "ephemeral_consumers = 1, streams = 1")
    + limited("crowd", "ephemeral_consumers = 10")
    + limited("two-servers", "streams = 3, consumers = 1")
    + limited("deleting", "streams = 2")
    + limited("copier", "all_sources = 3")
    + limited("subjects", "subjects = 3")
    + limited("replicas", "replicas = 2")
    + limited("forgetful", "deduplication_seconds = 200")
    + limited("none", "streams = 0")
    + limited("one", "streams = 1")
    + limited("fast", "streams = 20, ephemeral_consumers = 20")
)


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Run one for these tests alone: what principals of these names have elsewhere would count."""
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the rules."""
    return str(put(tmp_path_factory.mktemp("lasting-quotas") / "auth.toml", POLICY))


@pytest.fixture(scope="module", autouse=True)
def _looks_often() -> Iterator[None]:
    """Have servers in this process see soon what is full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ownership, "_INTERVAL", 0.1)
        yield


@pytest.fixture(scope="module")
def callers(nats_server: NatsServer, file: str) -> Iterator[Callers]:
    """Run a server with principals that have quotas."""
    with callers_with_rules(nats_server, file) as callers:
        callers.with_token(token_of("all")).ensure_stream("LASTING", "lasting.>")
        yield callers


def new(prefix: str = "lasting") -> str:
    """Return a name that nothing else has."""
    return f"{prefix}-{next(NUMBERS)}"


def exceeded(act: Callable[[], object], quota: str, limit: int, used: int | None = None) -> Refusal:
    """See that something is refused, and that this quota is told."""
    with refused("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED") as found:
        act()
    told = {"quota": quota, "limit": str(limit)}
    assert told.items() <= found[0].metadata.items()
    assert used is None or found[0].metadata["used"] == str(used)
    assert f"quotas.{quota} of it or of one of its roles raised in the rules" in found[0].message
    return found[0]


def of(callers: Callers, who: str) -> Caller:
    """Return the client of a principal."""
    return callers.with_token(token_of(who))


def owner_of_stream(nats_server: NatsServer, name: str) -> str | None:
    """Read whose a stream is."""
    stored = asyncio.run(stored_stream(nats_server, name))
    owner: str | None = stored["config"]["metadata"].get(OWNER)
    return owner


def foreign_stream(nats_server: NatsServer, name: str, **config: Any) -> str:
    """Make a stream as another program does."""

    async def make() -> str:
        async with connect(nats_server.url) as broker:
            return await broker.stream(name, *config.pop("subjects", ()), **config)

    return asyncio.run(make())


# What counts


def test_streams(callers: Callers, nats_server: NatsServer) -> None:
    """One more than allowed is refused; what exists may be ensured again; one that goes makes room."""
    caller, first, second = of(callers, "streams"), new(), new()
    ensure_stream(caller, first)
    ensure_stream(caller, second)
    refusal = exceeded(lambda: ensure_stream(caller, new()), "streams", 2, 2)
    assert refusal.message == (
        "'streams' may have no more than 2 streams and has 2; delete some, or have quotas.streams of it or "
        "of one of its roles raised in the rules"
    )
    ensure_stream(caller, first, retentionPolicy={"maxEvents": 5})
    ensure_stream(of(callers, "all"), new())
    assert owner_of_stream(nats_server, first) == "streams"
    request = admin_pb.DeleteStreamRequest(name=second)
    caller.call(ADMIN.methods_by_name["DeleteStream"], request)
    ensure_stream(caller, new())
    delete_stream(nats_server, first)
    wait_for(lambda: works(lambda: ensure_stream(caller, "lasting-again")))


def works(act: Callable[[], object]) -> bool:
    """Tell whether something is not refused for a quota."""
    try:
        act()
    except grpc.RpcError:
        return False
    return True


def fill(caller: Caller, stream: str, events: int = 2) -> None:
    """Publish events, and wait until the stream is found full. The duplicates until then add nothing."""
    for _ in range(events):
        caller.publish(f"{stream}.x", LARGE)
    wait_for(lambda: not works(lambda: caller.publish(f"{stream}.x", idempotency_key="again")))


def test_none(callers: Callers) -> None:
    """0 is none at all."""
    exceeded(lambda: ensure_stream(of(callers, "none"), new()), "streams", 0, 0)


def test_streams_in_memory(callers: Callers) -> None:
    """They count as streams, and apart."""
    caller = of(callers, "memory-streams")
    ensure_stream(caller, new(), storage=MEMORY)
    exceeded(lambda: ensure_stream(caller, new(), storage=MEMORY), "memory_streams", 1, 1)
    ensure_stream(caller, new())


def test_bytes_in_memory(callers: Callers) -> None:
    """What a stream in memory may hold counts, and what one holds that has no limit."""
    caller, unlimited = of(callers, "memory"), new()
    ensure_stream(caller, unlimited, storage=MEMORY)
    half, more = {"maxBytes": 32 * KIB}, {"maxBytes": 32 * KIB - 1}
    ensure_stream(caller, new(), storage=MEMORY, retentionPolicy=half)
    exceeded(
        lambda: ensure_stream(caller, new(), storage=MEMORY, retentionPolicy=half),
        "memory_bytes",
        64 * KIB,
        32 * KIB + 1,
    )
    ensure_stream(caller, new(), storage=MEMORY, retentionPolicy=more)
    caller.publish(f"{unlimited}.x", "x" * 1000)
    wait_for(lambda: not works(lambda: ensure_stream(caller, new(), storage=MEMORY)))
    wait_for(lambda: not works(lambda: caller.publish(f"{unlimited}.x")))
    exceeded(lambda: of(callers, "all").publish(f"{unlimited}.x"), "memory_bytes", 64 * KIB)


def test_bytes_set_aside_on_disk(callers: Callers) -> None:
    """What streams reserve counts, also when an existing one is given more; less is always let through."""
    caller, first = of(callers, "disk"), new()
    ensure_stream(caller, first, retentionPolicy={"maxBytes": 40_000})
    exceeded(
        lambda: ensure_stream(caller, new(), retentionPolicy={"maxBytes": 30_000}),
        "reserved_bytes",
        65_536,
        40_000,
    )
    ensure_stream(caller, new())  # sets nothing aside
    exceeded(
        lambda: ensure_stream(caller, first, retentionPolicy={"maxBytes": 70_000}),
        "reserved_bytes",
        65_536,
        40_000,
    )
    ensure_stream(caller, first, retentionPolicy={"maxBytes": 65_536})
    ensure_stream(caller, first, retentionPolicy={"maxBytes": 60_000})
    ensure_stream(caller, new(), retentionPolicy={"maxBytes": 5_536})


def test_bytes_stored(callers: Callers) -> None:
    """Once an owner has too many, its largest stream is full, for whoever writes; nothing else is."""
    caller, other, stream, store = of(callers, "hoarder"), of(callers, "all"), new(), new("store")
    ensure_stream(caller, stream)
    caller.ensure_store(store)
    ensure_stream(caller, f"{stream}-limited", retentionPolicy={"maxBytes": 500_000})
    fill(other, stream)
    exceeded(lambda: caller.publish(f"{stream}.y"), "stored_bytes", 64 * KIB)
    exceeded(lambda: other.publish(f"{stream}.y"), "stored_bytes", 64 * KIB)
    ensure_stream(caller, f"{stream}-new")
    caller.ensure_store(f"{store}-new")
    for each in ("limited", "new"):
        other.publish(f"{stream}-{each}.x")
    for each in (store, f"{store}-new"):
        caller.set(each, "k")
    ensure_consumer(caller, stream, name="c")
    ensure_stream(caller, stream, retentionPolicy={"maxEvents": 1})  # makes room
    wait_for(lambda: works(lambda: other.publish(f"{stream}.x")))


def test_a_full_store(callers: Callers) -> None:
    """Whoever fills one store fills no stream of its owner, and no other store."""
    caller, other, stream, store = of(callers, "stuffed"), of(callers, "all"), new(), new("store")
    ensure_stream(caller, stream)
    for each in (store, f"{store}-2"):
        caller.ensure_store(each)
    for key in ("a", "b"):
        other.set(store, key, LARGE)
    wait_for(lambda: not works(lambda: other.set(store, "k")))
    exceeded(lambda: caller.set(store, "k"), "stored_bytes", 64 * KIB)
    caller.set(f"{store}-2", "k")
    caller.publish(f"{stream}.x")


def test_a_stream_in_memory_that_is_full(callers: Callers) -> None:
    """Others of its owner go on."""
    caller, stream = of(callers, "memory-hoarder"), new()
    for each in (stream, f"{stream}-2"):
        ensure_stream(caller, each, storage=MEMORY)
    fill(caller, stream)
    exceeded(lambda: caller.publish(f"{stream}.x"), "memory_bytes", 64 * KIB)
    caller.publish(f"{stream}-2.x")
    ensure_stream(caller, new(), storage=MEMORY)


def test_bytes_in_many_streams(callers: Callers) -> None:
    """They become full one after the other, and at twice the quota all are, until there is room again."""
    caller, stream, small = of(callers, "greedy"), new(), new()
    ensure_stream(caller, small)
    for number, events in enumerate((2, 1)):  # more than 64 KiB, and more than half of that
        ensure_stream(caller, f"{stream}-{number}")
        fill(caller, f"{stream}-{number}", events)
        caller.publish(f"{small}.x")
    ensure_stream(caller, f"{stream}-2")
    caller.publish(f"{stream}-2.x", LARGE)
    wait_for(lambda: not works(lambda: caller.publish(f"{small}.x")))
    exceeded(lambda: ensure_stream(caller, new()), "stored_bytes", 64 * KIB)
    exceeded(lambda: caller.ensure_store(new("store")), "stored_bytes", 64 * KIB)
    caller.call(ADMIN.methods_by_name["DeleteStream"], admin_pb.DeleteStreamRequest(name=f"{stream}-1"))
    caller.publish(f"{small}.x")
    ensure_stream(caller, new())
    exceeded(lambda: caller.publish(f"{stream}-0.x"), "stored_bytes", 64 * KIB)


def test_all_servers_find_the_same_stream_full(callers: Callers, nats_server: NatsServer, file: str) -> None:
    """What is full on one soon is on the others, and what goes on does so on all."""
    stream = new()
    with callers_with_rules(nats_server, file) as others:
        one, two = of(callers, "on-two"), of(others, "on-two")
        ensure_stream(one, stream)
        ensure_stream(two, f"{stream}-2")
        fill(one, stream)
        wait_for(lambda: not works(lambda: two.publish(f"{stream}.x")))
        for each in (one, two):
            exceeded(partial(each.publish, f"{stream}.x"), "stored_bytes", 64 * KIB)
            each.publish(f"{stream}-2.x")


def test_bytes_that_are_no_more_too_many(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """Once other rules allow as many, or the stream is deleted, nothing is refused any more."""
    rules, less = ALL + principal("all"), limited("hoarder", 'stored_bytes = "64KiB"')
    with served(tmp_path, rules + less, NATS_URL=own_nats_server.url) as server:
        caller, other = server.caller("hoarder"), server.caller("all")
        ensure_stream(caller, "S")
        fill(caller, "S")
        server.put(rules + principal("hoarder", "all"))
        caller.publish("S.x")
        server.put(rules + less)
        exceeded(lambda: caller.publish("S.x"), "stored_bytes", 64 * KIB)
        other.call(ADMIN.methods_by_name["DeleteStream"], admin_pb.DeleteStreamRequest(name="S"))
        ensure_stream(other, "S")
        other.publish("S.x")


def test_stores(callers: Callers, nats_server: NatsServer) -> None:
    """One more than allowed is refused; what exists may be ensured again."""
    caller, first = of(callers, "stores"), new("store")
    caller.ensure_store(first)
    caller.ensure_store(new("store"))
    exceeded(lambda: caller.ensure_store(new("store")), "stores", 2, 2)
    caller.ensure_store(first)
    caller.set(first, "k")
    assert owner_of_stream(nats_server, f"KV_{first}") == "stores"
    caller.call(STATE.methods_by_name["DeleteStore"], state_pb.DeleteStoreRequest(store=first))
    caller.ensure_store(new("store"))


def test_consumers(callers: Callers, nats_server: NatsServer) -> None:
    """They count on all streams together; changing one needs no room; a deleted one makes room at once."""
    caller, other = of(callers, "consumers"), new()
    of(callers, "all").ensure_stream(other)
    ensure_consumer(caller, "LASTING", name="one-c")
    ensure_consumer(caller, other, name="two-c")
    exceeded(lambda: ensure_consumer(caller, other, name="three-c"), "consumers", 2, 2)
    ensure_consumer(caller, other, name="two-c", subjects=["x.y"])
    ensure_consumer(caller, other)  # an ephemeral one counts apart
    delete_consumer(caller, "LASTING", "one-c")
    ensure_consumer(caller, other, name="three-c")
    stored = asyncio.run(stored_consumer(nats_server, other, "three-c"))
    assert stored["config"]["metadata"][OWNER] == "consumers"


def test_a_consumer_stays_its_maker_s(callers: Callers, nats_server: NatsServer) -> None:
    """Who changes it, its retry policy for one, does not become its owner."""
    ensure_consumer(of(callers, "all"), "LASTING", name="mine", retry_policy={"max_attempts": 3})
    ensure_consumer(of(callers, "both"), "LASTING", name="mine", retry_policy={"max_attempts": 4})
    stored = asyncio.run(stored_consumer(nats_server, "LASTING", "mine"))
    assert stored["config"]["metadata"][OWNER] == "all"


def test_ephemeral_consumers(callers: Callers) -> None:
    """They count apart from those with a name."""
    caller = of(callers, "ephemeral")
    first = ensure_consumer(caller, "LASTING")
    ensure_consumer(caller, "LASTING")
    exceeded(lambda: ensure_consumer(caller, "LASTING"), "ephemeral_consumers", 2, 2)
    ensure_consumer(caller, "LASTING", name="with-a-name")
    delete_consumer(caller, "LASTING", first)
    ensure_consumer(caller, "LASTING")


def begun(caller: Caller, stream: str, timeout: float = 30) -> Any:
    """Begin a tail, and wait until it has caught up."""
    responses = tail(caller, stream, timeout)
    assert next(responses).caught_up
    return responses


def ended(responses: Any) -> None:
    """End a tail, and wait until that has come to an end."""
    responses.cancel()
    with pytest.raises(grpc.RpcError):
        next(responses)


def has_too_many(caller: Caller, stream: str, used: int) -> bool:
    """Tell whether a caller gets no further ephemeral consumer because it has so many."""
    try:
        ensure_consumer(caller, stream)
    except grpc.RpcError as error:
        return read_refusal(error).metadata.get("used") == str(used)
    return False


@contextmanager
def competing(act: Callable[[], object]) -> Iterator[Future[bool]]:
    """Attempt something again and again during the block; the result is whether it was ever let through."""
    stop = Event()

    def attempt() -> bool:
        while not stop.is_set():
            if works(act):
                return True
        return False

    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(attempt)
        finally:
            stop.set()


def test_tails(callers: Callers) -> None:
    """They count among ephemeral consumers as long as they last, and need no right to make those."""
    caller = of(callers, "reader")
    first, second = begun(caller, "LASTING"), begun(caller, "LASTING")
    exceeded(lambda: next(tail(caller, "LASTING")), "ephemeral_consumers", 2, 2)
    event = of(callers, "all").publish("lasting.tailed")
    assert [next(each).event.event.id for each in (first, second)] == [event, event]
    ended(first)
    more = list[Any]()
    wait_for(lambda: works(lambda: more.append(begun(caller, "LASTING"))))
    exceeded(lambda: next(tail(caller, "LASTING")), "ephemeral_consumers", 2, 2)
    for each in (second, *more):
        ended(each)


def test_tails_beside_consumers(callers: Callers, nats_server: NatsServer) -> None:
    """They count together; a tail that ends takes nothing else with it from what is counted."""
    caller, stream = of(callers, "watcher"), new()
    ensure_stream(caller, stream)
    watching = begun(caller, stream)
    exceeded(lambda: ensure_consumer(caller, stream), "ephemeral_consumers", 1, 1)
    ended(watching)
    wait_for(lambda: works(lambda: ensure_consumer(caller, stream)))
    exceeded(lambda: next(tail(caller, stream)), "ephemeral_consumers", 1, 1)
    exceeded(lambda: ensure_stream(caller, new()), "streams", 1, 1)


def test_tails_when_the_broker_restarts(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """Open ones keep their places, whatever the quota is by then; no others get them; they are given back."""
    rules = ALL + principal("all")
    few, fewer = (rules + limited("watcher", f"ephemeral_consumers = {number}") for number in (3, 1))
    with served(tmp_path, few, NATS_URL=own_nats_server.url) as server:
        caller, other = server.caller("watcher"), server.caller("all")
        ensure_stream(other, "S")
        tails = [begun(caller, "S", timeout=60) for _ in range(3)]
        for number, text in enumerate((few, fewer), 1):
            server.put(text)
            with competing(lambda: ensure_consumer(caller, "S")) as competitor:
                own_nats_server.kill()
                own_nats_server.start()
                wait_for(partial(works, partial(other.publish, "S.x", idempotency_key=str(number))))
                assert [next(each).event.event.id for each in tails] == [number] * 3
            assert not competitor.result()
        for left in (2, 1):
            ended(tails.pop())
            wait_for(partial(has_too_many, caller, "S", left))
        ended(tails.pop())
        wait_for(lambda: works(lambda: ensure_consumer(caller, "S")))
        exceeded(lambda: ensure_consumer(caller, "S"), "ephemeral_consumers", 1, 1)


def test_many_at_once(callers: Callers) -> None:
    """However many are asked for at the same moment, no more than allowed are made."""
    caller = of(callers, "crowd")
    with ThreadPoolExecutor(40) as pool:
        made = list(pool.map(lambda _: works(lambda: ensure_consumer(caller, "LASTING")), range(40)))
    assert made.count(True) == 10


def test_sources(callers: Callers) -> None:
    """An aggregate may have so many sources; the file says how many for everybody."""
    caller = of(callers, "all")
    sources = [{"name": "LASTING", "filterSubjects": [f"lasting.{number}"]} for number in range(3)]
    exceeded(lambda: ensure_stream(caller, new(), aggregate={"sources": sources}), "sources", 2)
    ensure_stream(caller, new(), aggregate={"sources": sources[:2]})


def test_sources_of_all_streams(callers: Callers, nats_server: NatsServer) -> None:
    """They count together, and a mirror as one; what an aggregate has no more makes room."""
    caller, one, two = of(callers, "copier"), new(), new()
    sources = [{"name": "LASTING", "filterSubjects": [f"lasting.{number}"]} for number in range(2)]
    ensure_stream(caller, one, aggregate={"sources": sources})
    ensure_stream(caller, new(), mirror={"name": "LASTING"})
    for act in (
        lambda: ensure_stream(caller, two, aggregate={"sources": sources[:1]}),
        lambda: ensure_stream(caller, two, aggregate={"sources": sources[:1]}, storage=MEMORY),
        lambda: ensure_stream(caller, two, mirror={"name": "LASTING"}),
    ):
        refusal = exceeded(act, "all_sources", 3, 3)
        assert "no more than 3 sources of all its streams and has 3; delete some" in refusal.message
    ensure_stream(caller, one, aggregate={"sources": sources})
    ensure_stream(caller, one, aggregate={"sources": sources[:1]})
    ensure_stream(caller, two, aggregate={"sources": sources[:1]})
    grow = partial(ensure_stream, of(callers, "all"), one, aggregate={"sources": sources})  # for its owner
    exceeded(grow, "all_sources", 3, 3)
    delete_stream(nats_server, two)
    wait_for(lambda: works(grow))


def test_subjects(callers: Callers, nats_server: NatsServer) -> None:
    """A stream, its sources together, or a consumer may have so many; what has more may stay as it is."""
    caller = of(callers, "subjects")
    few, many = ([f"{letter}.x" for letter in letters] for letters in ("abc", "abcd"))
    stream, copied = new(), new()
    prefixed = [f"{stream}.{each}" for each in many]
    exceeded(lambda: ensure_stream(caller, stream, subjects={"subjects": prefixed}), "subjects", 3)
    ensure_stream(caller, stream, subjects={"subjects": prefixed[:3]})
    sources = [
        {"name": stream, "filterSubjects": prefixed[:2]},
        {"name": "LASTING", "filterSubjects": few[:2]},
    ]
    exceeded(lambda: ensure_stream(caller, copied, aggregate={"sources": sources}), "subjects", 3)
    mirror = {"name": stream, "filterSubjects": prefixed}
    exceeded(lambda: ensure_stream(caller, copied, mirror=mirror), "subjects", 3)
    exceeded(lambda: ensure_consumer(caller, stream, name="filters", subjects=many), "subjects", 3)
    ensure_consumer(caller, stream, name="filters", subjects=few)
    exceeded(lambda: ensure_consumer(caller, stream, name="filters", subjects=many), "subjects", 3)
    ensure_consumer(of(callers, "all"), stream, name="filters", subjects=many)
    ensure_consumer(caller, stream, name="filters", subjects=many, processingTimeout="5s")
    larger = foreign_stream(
        nats_server, new(), subjects=[f"{stream}-2.{each}" for each in many], storage="file"
    )
    ensure_stream(caller, larger, subjects={"subjects": [f"{stream}-2.{each}" for each in reversed(many)]})


def test_deduplication(callers: Callers) -> None:
    """A stream may remember idempotency keys for so long."""
    caller, stream = of(callers, "forgetful"), new()
    exceeded(
        lambda: ensure_stream(caller, stream, deduplicationWindow="200.1s"), "deduplication_seconds", 200
    )
    ensure_stream(of(callers, "all"), stream, deduplicationWindow="86400s")
    exceeded(
        lambda: ensure_stream(of(callers, "all"), stream, deduplicationWindow="86400.001s"),
        "deduplication_seconds",
        86_400,
    )
    ensure_stream(caller, stream, deduplicationWindow="86399s")
    ensure_stream(caller, stream, deduplicationWindow="200s")
    ensure_stream(caller, new())


def test_replicas(callers: Callers) -> None:
    """A stream may have so many."""
    caller = of(callers, "replicas")
    exceeded(lambda: ensure_stream(caller, new(), storage={"replicas": 3}), "replicas", 2)
    with refused("FAILED_PRECONDITION", "REPLICAS_UNAVAILABLE"):  # of a single nats-server
        ensure_stream(caller, new(), storage={"replicas": 2})


# Whose it is


def test_roles_and_principals(callers: Callers) -> None:
    """What a principal says goes before its roles, and of these what the most generous says."""
    for who in ("both", "little"):
        for number in range(2):
            ensure_consumer(of(callers, who), "LASTING", name=f"{who}-{number}")
    for _ in range(2):
        of(callers, "both").ensure_store(new("store"))
    of(callers, "little").ensure_store(new("store"))
    exceeded(lambda: of(callers, "little").ensure_store(new("store")), "stores", 1, 1)


def test_what_another_enlarges(callers: Callers, nats_server: NatsServer) -> None:
    """It stays its maker's, and is limited by the maker's quota."""
    stream = new()
    ensure_stream(of(callers, "owner"), stream, retentionPolicy={"maxBytes": 500})
    other = of(callers, "all")
    refusal = exceeded(
        lambda: ensure_stream(other, stream, retentionPolicy={"maxBytes": 2000}), "reserved_bytes", 1000, 500
    )
    assert refusal.message.startswith("'owner' may have")
    ensure_stream(other, stream, retentionPolicy={"maxBytes": 1000})
    assert owner_of_stream(nats_server, stream) == "owner"


@pytest.mark.parametrize("metadata", [{}, {OWNER: "somebody who left"}], ids=["nobody", "unknown"])
def test_what_belongs_to_nobody(callers: Callers, nats_server: NatsServer, metadata: dict[str, str]) -> None:
    """It counts for nobody, and may be ensured by all; who enlarges it has it from then on."""
    stream = foreign_stream(nats_server, new(), max_bytes=5000, storage="file", metadata=metadata)
    caller = of(callers, "owner")
    ensure_stream(caller, stream, retentionPolicy={"maxBytes": 5000, "maxEvents": 5})
    ensure_stream(caller, stream, retentionPolicy={"maxBytes": 4000})
    assert owner_of_stream(nats_server, stream) == metadata.get(OWNER)
    exceeded(
        lambda: ensure_stream(caller, stream, retentionPolicy={"maxBytes": 6000}), "reserved_bytes", 1000
    )
    ensure_stream(of(callers, "all"), stream, retentionPolicy={"maxBytes": 6000})
    assert owner_of_stream(nats_server, stream) == "all"


def test_two_servers(callers: Callers, nats_server: NatsServer, file: str) -> None:
    """What was made on one server counts on the others, soon at the latest, and after a restart."""
    one = of(callers, "two-servers")
    ensure_stream(one, new())
    ensure_consumer(one, "LASTING", name="of-two")
    with callers_with_rules(nats_server, file) as others:
        two = of(others, "two-servers")
        exceeded(lambda: ensure_consumer(two, "LASTING", name="of-two-too"), "consumers", 1, 1)
        ensure_stream(two, new())
        ensure_stream(two, new())
        exceeded(lambda: ensure_stream(two, new()), "streams", 3, 3)
        wait_for(lambda: not works(lambda: ensure_stream(one, new())))


def test_what_another_server_deleted(callers: Callers, nats_server: NatsServer, file: str) -> None:
    """It does not come back beside what was made in its place."""
    names, others_names = [new(), new()], [new(), new()]
    one = of(callers, "deleting")
    for name in names:
        ensure_stream(one, name)
    with callers_with_rules(nats_server, file) as others:
        two = of(others, "deleting")
        for name in names:
            two.call(ADMIN.methods_by_name["DeleteStream"], admin_pb.DeleteStreamRequest(name=name))
        for name in others_names:
            wait_for(partial(works, partial(ensure_stream, two, name)))
        for name in names:
            exceeded(partial(ensure_stream, one, name), "streams", 2, 2)


def test_several_servers_at_once(callers: Callers, nats_server: NatsServer, file: str) -> None:
    """However fast something is made on two servers, it is too much by what one makes at the same moment."""
    with callers_with_rules(nats_server, file) as others:
        servers = [of(each, "fast") for each in (callers, others)]
        for make in (
            lambda server: ensure_stream(server, new()),
            lambda server: ensure_consumer(server, "LASTING"),
        ):

            def attempt(number: int, make: Callable[[Caller], object] = make) -> bool:
                return works(lambda: make(servers[number % 2]))

            with ThreadPoolExecutor(8) as pool:
                assert 20 <= list(pool.map(attempt, range(80))).count(True) <= 21


def test_what_the_broker_refuses_does_not_count(callers: Callers) -> None:
    """Only what is there does."""
    caller, taken = of(callers, "one"), new()
    ensure_stream(of(callers, "all"), taken)
    for _ in range(3):
        with refused("FAILED_PRECONDITION", "SUBJECTS_OVERLAP"):
            ensure_stream(caller, new(), subjects={"subjects": [f"{taken}.>"]})
    ensure_stream(caller, new())
    exceeded(lambda: ensure_stream(caller, new()), "streams", 1, 1)
