"""Every rule about `Get` and `Set` holds with a task and without one, and is told in the same words.

They take none where one answer of the broker is likely to settle the call, and it is not recorded as a span.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from tests.authorization.callers import Callers, callers_of
from tests.authorization.policies import ALL, principal, put, token_of
from tests.support.app import running_app
from tests.support.broker import connect
from tests.support.client import STATE, Metadata, Refusal, any_of, read_refusal
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire.test_tracing import UNSAMPLED, noted
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as pb
from windshift.server.api.state import StateService
from windshift.server.ownership import ownership

WAYS = ("short", "unsampled", "traced")
"""The last one has a task for each call, the second one has none where tracing is on."""
POLICY = (
    ALL
    + """
[role.some]
stores = { read = ["*"], write = ["*"], keys = ["a.>", "b.>"] }
deny.stores.keys = ["b.x"]
[role.reader]
stores = { read = ["*"], keys = [">"] }
"""
    + "".join(
        principal(name, more='quotas = { calls = 1, stores = "off" }\n') for name in ("all", "some", "reader")
    )
    + principal("hoarder", "all", more='quotas = { stored_bytes = "64KiB" }\n')
    + "".join(
        principal(f"seldom-{way}-{method}", "all", more="max_rps = 0.001")
        for way in WAYS
        for method in ("Get", "Set")
    )
)
NUMBERS = count(1)

Request = pb.GetRequest | pb.SetRequest
Outcome = pb.GetResponse | pb.SetResponse | Refusal


class Server(NamedTuple):
    """A server with the rules, and one that traces beside it.

    Attributes:
        plain: clients of the first.
        traced: clients of the second.
        tasks: the calls that took one.
    """

    plain: Callers
    traced: Callers
    tasks: list[str]

    def ask(self, way: str, who: str, request: Request) -> Outcome:
        """Make a call in one of the ways; return what the client is told, but for the time of a value."""
        callers = self.plain if way == "short" else self.traced
        metadata: Metadata | None = (("traceparent", UNSAMPLED),) if way == "unsampled" else None
        method = STATE.methods_by_name["Get" if isinstance(request, pb.GetRequest) else "Set"]
        try:
            response: Outcome = callers.with_token(token_of(who)).call(method, request, 20, metadata)
        except grpc.RpcError as error:
            return read_refusal(error)
        if isinstance(response, pb.GetResponse):
            response.ClearField("last_updated")
        return response


@contextmanager
def serving(nats_server: NatsServer, directory: Path) -> Iterator[Server]:
    """Run both."""
    rules = {"WINDSHIFT_AUTH_FILE": str(put(directory / "auth.toml", POLICY))}
    tasks: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("get", "set"):
            patch.setattr(StateService, name, noted(tasks, name, getattr(StateService, name)))
        with (
            running_app(nats_server.url, **rules) as plain,
            running_app(nats_server.url, **rules, OTEL_TRACING_LOG="true") as traced,
            callers_of(plain) as plain_callers,
            callers_of(traced) as traced_callers,
        ):
            yield Server(plain_callers, traced_callers, tasks)


@pytest.fixture(scope="module")
def server(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Share both between the tests of this module."""
    with serving(nats_server, tmp_path_factory.mktemp("ways")) as server:
        yield server


class Case(NamedTuple):
    """A request, and what must come of it.

    Attributes:
        request: its store is one of its own, unless it names another.
        reason: of the error; empty = none.
        who: asks.
        before: what the key `a.k` was set to before, in order; bytes by another program, None = deleted.
    """

    request: Request
    reason: str = ""
    who: str = "all"
    before: tuple[str | bytes | None, ...] = ()


def read(key: str = "a.k", store: str = "") -> pb.GetRequest:
    """Make a request to read."""
    return pb.GetRequest(store=store, key=key)


def write(key: str = "a.k", store: str = "", **fields: Any) -> pb.SetRequest:
    """Make a request to write."""
    return pb.SetRequest(store=store, key=key, **{"value": any_of("text"), **fields})


CASES = {
    "get": Case(read(), before=("one", "two")),
    "get of nothing": Case(read()),
    "get of what was deleted": Case(read(), before=("one", None)),
    "get of much": Case(read(), before=("x" * 200_000,)),
    "get of what is no message": Case(read(), "VALUE_NOT_ANY", before=(b"\xff\xff",)),
    "get from no store": Case(read(store="missing"), "STORE_NOT_FOUND"),
    "get from a bad store": Case(read(store="a b"), "INVALID_FIELD"),
    "get of a bad key": Case(read("a b"), "INVALID_FIELD"),
    "get without a key": Case(read(""), "INVALID_FIELD"),
    "get of an allowed key": Case(read(), who="some", before=("one",)),
    "get of a key that is not allowed": Case(read("c.k"), "PERMISSION_DENIED", "some"),
    "get of a denied key": Case(read("b.x"), "PERMISSION_DENIED", "some"),
    "get of a bad key that nobody may have": Case(read("c k"), "INVALID_FIELD", "some"),
    "get from no store without rights": Case(read("c.k", "missing"), "PERMISSION_DENIED", "some"),
    "set": Case(write()),
    "set once more": Case(write(), before=("one", None, "two")),
    "set what is no message": Case(write(), before=(b"\xff\xff",)),
    "set without a value": Case(write(value=None), "INVALID_FIELD"),
    "set to more than the broker takes": Case(write(value=any_of("x" * 2**20)), "EVENT_TOO_LARGE"),
    "set in no store": Case(write(store="missing"), "STORE_NOT_FOUND"),
    "set in a bad store": Case(write(store="a b"), "INVALID_FIELD"),
    "set of a bad key": Case(write("a b"), "INVALID_FIELD"),
    "set without a key": Case(write(""), "INVALID_FIELD"),
    "set of an allowed key": Case(write(), who="some"),
    "set of a key that is not allowed": Case(write("c.k"), "PERMISSION_DENIED", "some"),
    "set of a denied key": Case(write("b.x"), "PERMISSION_DENIED", "some"),
    "set by who may read": Case(write(), "PERMISSION_DENIED", "reader"),
    "set of a bad key by who may read": Case(write("a b"), "INVALID_FIELD", "reader"),
    "create": Case(write(create_only=True), before=("one", None)),
    "create what is there": Case(write(create_only=True), "KEY_EXISTS", before=("one",)),
    "set of a revision": Case(write(last_revision=2), before=("one", "two")),
    "set of another revision": Case(write(last_revision=1), "REVISION_MISMATCH", before=("one", "two")),
    "set of no revision": Case(write(last_revision=2**63), "INVALID_FIELD"),
    "two conditions": Case(write(create_only=True, last_revision=1), "INVALID_FIELD"),
    "a bad time to live": Case(write(ttl={"nanos": 5}), "INVALID_FIELD"),
}


def new_store(server: Server, who: str = "all") -> str:
    """Make a store."""
    return server.plain.with_token(token_of(who)).ensure_store(f"ways-{next(NUMBERS):03}")


def named(request: Request, store: str) -> Request:
    """Name the store in a request that names no other."""
    named = copy(request)
    named.store = request.store or store
    return named


def prepare(server: Server, nats_server: NatsServer, store: str, *values: str | bytes | None) -> None:
    """Have a key set, by us or by another program, or deleted."""
    caller = server.plain.with_token(token_of("all"))
    for value in values:
        if value is None:
            caller.delete(store, "a.k")
        elif isinstance(value, str):
            caller.set(store, "a.k", value)
        else:
            asyncio.run(publish(nats_server, f"$KV.{store}.a.k", value))


async def publish(nats_server: NatsServer, subject: str, payload: bytes) -> None:
    """Store a message as another program does."""
    async with connect(nats_server.url) as broker:
        await broker.publish(subject, payload)


def without_name(outcome: Outcome, store: str) -> Outcome:
    """Leave the name of a store out of what is told."""
    if not isinstance(outcome, Refusal):
        return outcome
    metadata = {key: value.replace(store, "NAME") for key, value in outcome.metadata.items()}
    return replace(outcome, message=outcome.message.replace(store, "NAME"), metadata=metadata)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_way_has_every_rule(server: Server, nats_server: NatsServer, case: Case) -> None:
    """The outcome is the same, to the words of the error, and no call counts once it has ended."""
    seen: dict[str, Outcome] = {}
    for way in WAYS:
        store = new_store(server)
        prepare(server, nats_server, store, *case.before)
        seen[way] = without_name(server.ask(way, case.who, named(case.request, store)), store)
    expected = seen["short"]
    assert (expected.reason if isinstance(expected, Refusal) else "") == case.reason
    assert seen == dict.fromkeys(WAYS, expected)


@pytest.mark.parametrize("request_", [read(), write()], ids=["get", "set"])
def test_each_way_counts(server: Server, request_: Request) -> None:
    """Whoever has no call left is refused."""
    seen: dict[str, Refusal] = {}
    request = named(request_, new_store(server))
    method = "Get" if isinstance(request, pb.GetRequest) else "Set"
    for way in WAYS:
        who = f"seldom-{way}-{method}"
        assert not isinstance(server.ask(way, who, request), Refusal)
        refusal = server.ask(way, who, request)
        assert isinstance(refusal, Refusal)
        seen[way] = replace(refusal, message=refusal.message.replace(who, "NAME"))
    assert seen == dict.fromkeys(WAYS, seen["short"])
    assert seen["short"].metadata == {"quota": "max_rps", "limit": "0.001"}


def test_each_way_knows_what_is_full(
    own_nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store whose owner has as many bytes as he may have takes nothing, whoever writes; it can be read."""
    monkeypatch.setattr(ownership, "_INTERVAL", 0.1)
    with serving(own_nats_server, tmp_path) as server:
        store, other = new_store(server, "hoarder"), new_store(server)
        for key in "abc":
            server.plain.with_token(token_of("hoarder")).set(store, key, "x" * 30_000)
        wait_for(lambda: all(isinstance(server.ask(way, "all", write(store=store)), Refusal) for way in WAYS))
        seen = {way: server.ask(way, "all", write(store=store)) for way in WAYS}
        assert seen == dict.fromkeys(WAYS, seen["short"])
        assert isinstance(seen["short"], Refusal)
        assert seen["short"].metadata["quota"] == "stored_bytes"
        for way in WAYS:
            assert not isinstance(server.ask(way, "hoarder", read(store=store)), Refusal)
            assert not isinstance(server.ask(way, "hoarder", write(store=other)), Refusal)


def test_the_ways(server: Server) -> None:
    """One takes a task, the others do not."""
    store = new_store(server)
    for way in WAYS:
        before = len(server.tasks)
        for request in (write(store=store), read(store=store)):
            assert not isinstance(server.ask(way, "all", request), Refusal)
        assert server.tasks[before:] == (["set", "get"] if way == "traced" else [])
