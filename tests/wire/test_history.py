"""The last hour in numbers, as servers remember it: with steps of half a second instead of ten."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.authorization.callers import callers_of
from tests.authorization.policies import ALL, principal, put, token_of
from tests.support.app import running_app
from tests.support.broker import connect
from tests.support.client import Client, refused
from tests.support.nats_server import NatsServer
from tests.wire.burying import consumer
from tests.wire.consuming import delete_consumer, ensure_consumer, subscribed
from tests.wire.looking import ask, ask_all
from tests.wire.management import ensure_consumer as ensure_ephemeral
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as pb
from windshift.server.admin import history
from windshift.server.admin.history import History
from windshift.server.process import app

STEP = 0.5
KINDS = pb.GetHistoryResponse.Kind


@pytest.fixture(autouse=True)
def _short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "History", partial(History, step=STEP))


@contextmanager
def serving(broker: NatsServer, **environment: str) -> Iterator[Client]:
    """Run a server for as long as the block lasts; give a client of it."""
    with running_app(broker.url, **environment) as address:
        client = Client(address)
        yield client
        client.channel.close()


def told(client: Client, **fields: Any) -> dict[tuple[str, str], Any]:
    """Ask; give the series by name and kind."""
    answer = ask(client, "GetHistory", **fields)
    return {(each.name, KINDS.Name(each.kind).removeprefix("KIND_")): each for each in answer.series}


def last(client: Client, name: str, kind: str) -> float | None:
    """Ask for a stream, or for a consumer; give the last value of a series, None where there is none."""
    found = told(client, **{"consumers" if "/" in name else "streams": [name]}).get((name, kind))
    return None if found is None else found.values[-1]


def steps(client: Client) -> int:
    """Ask for the stream S; give how many steps are told."""
    found = told(client, streams=["S"]).get(("S", "EVENTS"))
    return 0 if found is None else len(found.values)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something has been seen."""
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_what_a_stream_held(own_nats_server: NatsServer) -> None:
    """Any server tells what was stored and how fast, step by step, though only some of them look."""
    with serving(own_nats_server) as client, serving(own_nats_server), serving(own_nats_server) as third:
        client.ensure_stream("S")
        wait_for(lambda: last(client, "S", "EVENTS") == 0)
        for _ in range(10):
            client.publish("S.a")
        wait_for(lambda: last(third, "S", "EVENTS") == 10)
        found = told(third, streams=["S", "T", "S"])
        assert [kind for _, kind in found] == ["RATE", "EVENTS", "BYTES"]
        _, events, size = found.values()
        assert events.step.ToNanoseconds() == STEP * 1e9
        assert events.start.ToNanoseconds() % (STEP * 1e9) == 0
        assert 0 <= time.time() - events.start.ToNanoseconds() / 1e9 < 60
        assert events.values[0] == 0
        assert size.values[-1] == ask(client, "GetStream", name="S").stream.bytes

        def has_rate() -> bool:  # whoever looked before there was the stream knows of none at first
            client.publish("S.a")
            return any(value > 0 for value in told(third, streams=["S"])["S", "RATE"].values)

        wait_for(has_rate)


def test_how_far_a_consumer_was(own_nats_server: NatsServer) -> None:
    """Of a consumer there is what it has yet to receive, what is in flight, and its dead letters."""
    with serving(own_nats_server) as client, serving(own_nats_server) as other:
        client.ensure_stream("S")
        consumer(client, "S", "c", attempts=2)
        for _ in range(5):
            client.publish("S.a")
        wait_for(lambda: last(other, "S/c", "LAG") == 5)
        with subscribed(client, "S", window=2) as call:
            call.events(2)
            wait_for(lambda: (last(other, "S/c", "LAG"), last(other, "S/c", "IN_FLIGHT")) == (3, 2))
            call.reject(1, permanently=True)
            call.told()
            wait_for(lambda: last(other, "S/c", "DEAD_LETTERS") == 1)
        assert {kind for _, kind in told(client, consumers=["S/c"])} == {"LAG", "IN_FLIGHT", "DEAD_LETTERS"}


@pytest.mark.parametrize("what", ["consumer", "stream"])
def test_a_consumer_that_is_deleted(own_nats_server: NatsServer, what: str) -> None:
    """What it was ends there, also when it was the only one of its stream, or its stream is deleted."""
    with serving(own_nats_server) as client:
        for stream in ("S", "OTHER"):
            client.ensure_stream(stream)
        ensure_consumer(client, "S", "c")
        client.publish("S.a")
        wait_for(lambda: (last(client, "S/c", "LAG"), last(client, "OTHER", "EVENTS")) == (1, 0))
        if what == "consumer":
            delete_consumer(client, "S", "c")
        else:
            ask(client, "DeleteStream", name="S")

        def has_ended() -> bool:
            found = told(client, streams=["OTHER"], consumers=["S/c"])
            return end(found["OTHER", "EVENTS"]) - end(found["S/c", "LAG"]) > 3 * STEP

        wait_for(has_ended)


def end(series: Any) -> float:
    """Return when the last step of a series ends, in seconds since 1970."""
    start, step = (each.ToNanoseconds() / 1e9 for each in (series.start, series.step))
    return float(start + step * len(series.values))


def test_a_stream_at_rest(own_nats_server: NatsServer) -> None:
    """What nothing changes in is looked at once it is asked for; what is deleted is shown until then."""
    with serving(own_nats_server) as client:
        client.ensure_stream("S")
        client.publish("S.a")
    with serving(own_nats_server) as client:
        assert not told(client, streams=["S"])
        wait_for(lambda: last(client, "S", "EVENTS") == 1)
        ask(client, "DeleteStream", name="S")
        ends = [told(client, streams=["S"])["S", "EVENTS"] for _ in (1, 2)]
        assert ends[0].values[-1] == 1
        assert not told(client, streams=["T"])


def test_names_of_what_is_not_there(own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them somebody asks for, what is there is looked at when it is asked for."""
    monkeypatch.setattr(history, "MOST_STREAMS", 3)
    monkeypatch.setattr(history, "MOST_CONSUMERS", 3)
    with serving(own_nats_server) as client:
        for stream in ("S", "T"):
            client.ensure_stream(stream)
            client.publish(f"{stream}.a")
            ensure_consumer(client, stream, "c")
    with serving(own_nats_server) as client:
        client.ensure_stream("NEW")
        wait_for(lambda: last(client, "NEW", "EVENTS") == 0)

        def are_told() -> bool:
            told(client, streams=[f"X{n}" for n in range(9)], consumers=[f"T/x{n}" for n in range(9)])
            return (last(client, "S", "EVENTS"), last(client, "S/c", "LAG")) == (1, 1)

        wait_for(are_told)


def test_what_is_remembered_outlives_a_server(own_nats_server: NatsServer) -> None:
    """Two servers remember the same: when one of them stops, nothing is lost."""
    with serving(own_nats_server) as client:
        with serving(own_nats_server) as other:
            client.ensure_stream("S")
            client.publish("S.a")
            for each in (client, other):
                wait_for(lambda each=each: last(each, "S", "EVENTS") == 1)  # type: ignore[misc]
            wait_for(lambda: steps(client) > 4)
            before = told(client, streams=["S"])["S", "EVENTS"]
        after = told(client, streams=["S"])["S", "EVENTS"]
        assert after.start.ToNanoseconds() - before.start.ToNanoseconds() <= 2e9
        count = len(after.values)
        wait_for(lambda: steps(client) > count)


def test_a_clock_that_is_set_back(own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen before is forgotten, and what is seen from then on is told."""
    with serving(own_nats_server) as client:
        client.ensure_stream("S")
        client.publish("S.a")
        wait_for(lambda: last(client, "S", "EVENTS") == 1)
        monkeypatch.setattr(history, "time", SimpleNamespace(time=lambda: time.time() - 3600))
        client.publish("S.a")
        wait_for(lambda: last(client, "S", "EVENTS") == 2)
        count = steps(client)
        wait_for(lambda: steps(client) > count)
        start = told(client, streams=["S"])["S", "EVENTS"].start.ToSeconds()
        assert start < time.time() - 3000


def test_longer_steps(own_nats_server: NatsServer) -> None:
    """Fewer points are longer steps; what was before a time is left out."""
    with serving(own_nats_server) as client:
        client.ensure_stream("S")
        client.publish("S.a")
        wait_for(lambda: steps(client) >= 4)
        (whole,) = {len(each.values) for each in told(client, streams=["S"], points=1).values()}
        assert whole == 1
        assert told(client, streams=["S"], points=1)["S", "RATE"].step.ToSeconds() == 360 * STEP
        start = told(client, streams=["S"])["S", "EVENTS"].start
        later = told(client, streams=["S"], since=f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}")
        assert all(each.start.ToNanoseconds() >= start.ToNanoseconds() for each in later.values())
        assert not told(client, streams=["S"], since="2100-01-01T00:00:00Z")
        assert told(client, streams=["S"], since="1970-01-01T00:00:00Z")


async def test_a_server_that_hangs(own_nats_server: NatsServer) -> None:
    """A server that was there a moment ago and does not answer is named; odd answers are left out."""
    with serving(own_nats_server) as client:
        client.ensure_stream("S")
        client.publish("S.a")
        wait_for(lambda: last(client, "S", "EVENTS") == 1)
        async with connect(own_nats_server.url) as broker:
            broker.connection.publish(b"_WS.here.0123", b"+")
            await broker.requests.round_trip(broker.requests.loop.time() + 10)
            wait_for(lambda: list(ask(client, "GetHistory", streams=["S"]).missing) == ["0123"])

            def answer(message: Any) -> None:
                odd = [
                    {"name": "S", "kind": "events", "start": 2**70, "values": "AACAPw=="},
                    {"name": "S", "kind": "events", "start": 0, "values": "AACAPw=="},
                    {"name": "S", "kind": "events", "start": now, "values": "AAC"},
                    {"name": "S", "kind": "events", "start": now, "values": 5},
                    {"name": "S", "kind": "events", "start": now},
                    {"name": "S", "kind": "odd", "start": now, "values": "AACAPw=="},
                    {"name": "X", "kind": "events", "start": now, "values": "AACAPw=="},
                    {"name": 7, "kind": [], "start": now, "values": "AACAPw=="},
                ]
                part = {"id": "0123", "entries": odd, "last": True}
                broker.connection.publish(message.reply, json.dumps(part).encode())

            now = int(time.time() / STEP)
            broker.connection.subscribe(b"_WS.ask.history", answer)
            await broker.requests.round_trip(broker.requests.loop.time() + 10)
            found = await asyncio.to_thread(ask_all, client, "GetHistory", streams=["S"])
            assert {each.name for each in found.series} == {"S"}
            for question in (
                b"",
                b"[]",
                b'{"since": "x"}',
                b'{"since": 1, "streams": 7, "consumers": [7, ""]}',
            ):
                broker.connection.publish(b"_WS.ask.history", question, reply=b"nobody")
            assert (await asyncio.to_thread(ask, client, "GetHistory", streams=["S"])).series


def test_what_a_caller_may_see(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """What the caller may not see is left out, as if it did not exist.

    Those are streams with their consumers, and the ephemeral consumers of others.
    """
    rules = ALL + '[role.viewer]\nstreams.view = ["SEEN"]\n[role.nothing]\n'
    rules += '[role.reader]\nstreams = { consume = ["SEEN"], ephemeral = ["SEEN"], subjects = [">"] }\n'
    rules += "".join(map(principal, ("all", "viewer", "nothing", "reader")))
    file = put(tmp_path / "auth.toml", rules)
    with (
        running_app(own_nats_server.url, WINDSHIFT_AUTH_FILE=str(file)) as address,
        callers_of(address) as callers,
    ):
        admin, viewer, nothing, reader = (
            callers.with_token(token_of(who)) for who in ("all", "viewer", "nothing", "reader")
        )
        for stream in ("SEEN", "HIDDEN"):
            admin.ensure_stream(stream)
            ensure_consumer(admin, stream, "c")
            admin.publish(f"{stream}.a")
        own = f"SEEN/{ensure_ephemeral(reader, 'SEEN')}"
        which = {
            "streams": ["SEEN", "HIDDEN", "ABSENT"],
            "consumers": ["HIDDEN/c", "SEEN/c", own, f"SEEN/{'0' * 24}", f"ABSENT/{'0' * 24}"],
        }
        wait_for(lambda: len(told(admin, **which)) == 15)
        assert {name for name, _ in told(viewer, **which)} == {"SEEN", "SEEN/c"}
        assert {name for name, _ in told(reader, **which)} == {"SEEN", "SEEN/c", own}
        assert not told(nothing, **which)


def test_malformed_requests(own_client: Client) -> None:
    """Each field says what is wrong with it."""
    for field, fields in (
        ("streams", {}),
        ("streams", {"streams": ["S"] * 101}),
        ("streams[1]", {"streams": ["S", "a.b"]}),
        ("streams[0]", {"streams": ["WS_DEAD_LETTERS"]}),
        ("consumers", {"consumers": ["S/c"] * 101}),
        ("consumers[0]", {"consumers": ["S"]}),
        ("consumers[0]", {"consumers": ["/c"]}),
        ("consumers[0]", {"consumers": ["S/"]}),
        ("consumers[0]", {"consumers": ["S/c/d"]}),
        ("points", {"streams": ["S"], "points": 361}),
    ):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
            ask(own_client, "GetHistory", **fields)
        assert caught[0].fields == (field,)


def test_the_largest_answer(own_nats_server: NatsServer) -> None:
    """As many names as there may be, on two servers, are told whole: in several messages of NATS."""
    streams = [f"S{number}" for number in range(100)]
    with serving(own_nats_server) as client, serving(own_nats_server) as other:
        for stream in streams:
            client.ensure_stream(stream)
            ensure_consumer(client, stream, "c")
        which = {"streams": streams, "consumers": [f"{stream}/c" for stream in streams]}
        wait_for(lambda: len(told(other, **which)) == 600)
        assert [name for name, _ in told(other, **which)][::3] == which["streams"] + which["consumers"]
