"""Several processes that serve one port: to clients, probes and signals they are one server."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.authorization.callers import Caller, bearer
from tests.authorization.policies import ALL, principal, put, token_of
from tests.authorization.test_principals import ended, listed
from tests.support.client import Client
from tests.support.exposition import Exposition, scrape
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import LIMIT, WindshiftProcess, lives, wait_for, windshift
from tests.wire.consuming import Call, calling, ensure_consumer, subscribed
from tests.wire.looking import ask, ask_all
from tests.wire.management import get_consumer

WORKERS = {1, 2}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WindshiftProcess]:
    """Run a server with two workers, and a broker of its own."""
    with windshift(tmp_path, "--workers", "2") as process:
        yield process


@contextmanager
def on_each_worker(server: WindshiftProcess, who: str = "") -> Iterator[dict[int, Client]]:
    """Connect until both workers are reached: the kernel chooses one for each connection."""
    found: dict[int, Client] = {}
    try:
        while found.keys() != WORKERS:
            client: Client = Caller(server.address, bearer(token_of(who)) if who else ())
            with suppress(grpc.RpcError):
                found.setdefault(ask(client, "GetServer").server.worker, client)
            if client not in found.values():
                client.channel.close()
        yield found
    finally:
        for client in found.values():
            client.channel.close()


def ids_by_worker(client: Client) -> dict[int, str]:
    """Return the id of each worker, as this client's has heard of them."""
    return {each.server.worker: each.server.id for each in ask(client, "ListServers").servers}


def all_of(call: Call, count: int) -> set[int]:
    """Acknowledge what comes, until so many events have; return their ids."""
    ids: set[int] = set()
    while len(ids) < count:
        event = call.event(within=LIMIT)
        ids.add(event.id)
        call.ack(event.id)
    return ids


def published(server: WindshiftProcess) -> float:
    """Count the events that all workers have published."""
    return metrics(server).value("windshift_events_published_total")


def metrics(server: WindshiftProcess) -> Exposition:
    """Scrape the server."""
    return scrape(server.health_port)


def records(server: WindshiftProcess) -> list[dict[str, Any]]:
    """Read the log."""
    return [json.loads(line) for line in server.err.splitlines()]


def test_they_are_one_server(server: WindshiftProcess) -> None:
    """One /metrics and one log have what all of them do, and each tells of all; one signal stops all."""
    with on_each_worker(server) as clients:
        one, two = clients[1], clients[2]
        one.ensure_stream("S")
        ensure_consumer(one, "S")
        assert sorted(client.publish("S.a") for client in (one, two, two)) == [1, 2, 3]
        with subscribed(one, "S", 10) as here, subscribed(two, "S", 10) as there:
            wait_for(lambda: ids_by_worker(one).keys() == ids_by_worker(two).keys() == WORKERS)
            told = ask_all(two, "ListSubscriptions", stream="S").subscriptions
            assert {each.server for each in told} == set(ids_by_worker(one).values())
            found = metrics(server)
            assert found.value("windshift_subscriptions") == 2
            assert found.value("windshift_events_published_total") == 3
            assert found.value("windshift_stream_messages", stream="S") == 3
            assert found.value("windshift_nats_connected") == 1
            assert found.value("windshift_disk_refusing") == 0
            assert server.probe("/readyz").status == 200
            here.call.cancel()
            assert all_of(there, 3) == {1, 2, 3}
            children, broker = server.workers, server.nats_pid
            assert server.stop() == 0
            wait_for(there.call.done)
            assert there.call.code() is grpc.StatusCode.UNAVAILABLE
    assert broker is not None
    assert not any(map(lives, {*children, broker}))
    assert {each["worker"] for each in records(server) if "worker" in each} == WORKERS
    assert "drained: all calls ended" in server.err


def test_subscribers_of_one_consumer(server: WindshiftProcess) -> None:
    """Those at different workers share its events: each gets some, and no event comes twice."""
    with on_each_worker(server) as clients:
        clients[1].ensure_stream("S")
        ensure_consumer(clients[1], "S", timeout=600)
        with subscribed(clients[1], "S", 1) as one, subscribed(clients[2], "S", 1) as two:
            came: list[int] = []
            for _ in range(10):
                for client in clients.values():
                    client.publish("S.a")
                events = [call.event(within=LIMIT) for call in (one, two)]  # each holds no more than one
                assert {event.delivery_attempt for event in events} == {1}
                for call, event in zip((one, two), events, strict=True):
                    call.ack(event.id)
                    assert call.told() == ("ack", [event.id], [], [])
                came += (event.id for event in events)
            assert sorted(came) == [*range(1, 21)]
            found = get_consumer(clients[1], "S", "c")
            assert (found.pending, found.unsettled, found.settled_to) == (0, 0, 20)
            assert not one.has_event
            assert not two.has_event


def test_another_one_takes_the_place_of_one_that_was_killed(server: WindshiftProcess) -> None:
    """Its calls end with UNAVAILABLE, those of the other go on, and nothing that was counted is forgotten."""
    with on_each_worker(server) as clients:
        clients[1].ensure_stream("S")
        for client in clients.values():
            ensure_consumer(client, "S", timeout=1)
            client.publish("S.a")
        assert published(server) == 2
        before = server.workers
        with subscribed(clients[1], "S", 10) as one, subscribed(clients[2], "S", 10) as two:
            os.kill(min(before), signal.SIGKILL)
            wait_for(lambda: one.call.done() or two.call.done())
            number, kept, lost = (1, two, one) if one.call.done() else (2, one, two)
            assert lost.call.code() is grpc.StatusCode.UNAVAILABLE
            assert clients[3 - number].publish("S.b") == 3
            assert published(server) == 3
            wait_for(lambda: len(server.workers - before) == 1)
            with on_each_worker(server) as anew:
                assert anew[number].publish("S.c") == 4
            assert all_of(kept, 4) == {1, 2, 3, 4}
            assert published(server) == 4
            assert not kept.call.done()
        assert server.probe("/readyz").status == 200
    assert server.stop() == 0


def test_a_loss_of_nats_is_counted_once(server: WindshiftProcess) -> None:
    """Each worker has two connections, and all of them come back."""
    assert metrics(server).value("windshift_nats_reconnects_total") == 0
    broker = server.nats_pid
    assert broker is not None
    os.kill(broker, signal.SIGKILL)

    def found() -> tuple[float, bool]:
        now = metrics(server)
        return now.value("windshift_nats_connected"), now.value("windshift_nats_reconnects_total") > 0

    wait_for(lambda: found() == (1, True))
    assert metrics(server).value("windshift_nats_reconnects_total") == 1


def test_nothing_is_left_of_a_server_that_was_killed(server: WindshiftProcess) -> None:
    """Neither workers nor the broker outlive it."""
    left = {*server.workers, server.nats_pid or 0}
    assert len(left) == 3
    server.kill()
    wait_for(lambda: not any(map(lives, left)))


def test_a_worker_that_hangs(tmp_path: Path, nats_server: NatsServer) -> None:
    """Probes tell of it; a second signal ends it with the others, at once."""
    environment = {"NATS_URL": nats_server.url, "WINDSHIFT_DRAIN_TIMEOUT": "600"}
    with windshift(tmp_path, "--workers", "2", **environment) as server:
        children = server.workers
        os.kill(min(children), signal.SIGSTOP)
        wait_for(lambda: server.probe("/readyz").status == 503)
        assert server.probe("/readyz").body["reason"] == "a worker does not answer"
        assert server.probe("/healthz").status == 200
        os.kill(min(children), signal.SIGCONT)
        wait_for(lambda: server.probe("/readyz").status == 200)
        os.kill(min(children), signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        wait_for(lambda: "SIGTERM: stopping" in server.err)
        server.signal(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM
        wait_for(lambda: not any(map(lives, children)))


@contextmanager
def half_started(tmp_path: Path, nats: NatsServer) -> Iterator[tuple[WindshiftProcess, int]]:
    """Start a server until one of its workers serves; give it with the other one, which hangs."""
    server = WindshiftProcess(tmp_path, "--workers", "2", NATS_URL=nats.url, WINDSHIFT_DRAIN_TIMEOUT="600")
    try:
        server.launch()
        server.wait_for(lambda: len(server.workers) == 2)
        hanging = max(server.workers)
        os.kill(hanging, signal.SIGSTOP)
        server.wait_for(lambda: listens(server.api_port))
        yield server, hanging
    finally:
        server.kill()


def listens(port: int) -> bool:
    """Tell whether a connection can be made."""
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_a_signal_while_they_start(tmp_path: Path, nats_server: NatsServer) -> None:
    """Those that serve already drain and end by themselves, as the others do."""
    with half_started(tmp_path, nats_server) as (server, hanging):
        server.signal(signal.SIGTERM)
        server.wait_for(lambda: "SIGTERM: stopping" in server.err)
        os.kill(hanging, signal.SIGCONT)
        assert server.wait() == 0
        assert {each.get("worker") for each in records(server) if each["message"] == "stopped"} > WORKERS


def test_a_second_signal_while_they_start(tmp_path: Path, nats_server: NatsServer) -> None:
    """It ends them all, in whatever state they are."""
    with half_started(tmp_path, nats_server) as (server, _):
        children = server.workers
        server.signal(signal.SIGTERM)
        server.wait_for(lambda: "SIGTERM: stopping" in server.err)
        server.signal(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM
        wait_for(lambda: not any(map(lives, children)))


def test_they_know_the_same_rules(tmp_path: Path, nats_server: NatsServer) -> None:
    """Quotas are for all together, and SIGHUP has all load the file; what cannot start says why, once."""
    rules = put(
        tmp_path / "rules.toml", ALL + principal("all") + principal("ann", "all", more="max_streams = 2")
    )
    environment = {"NATS_URL": nats_server.url, "WINDSHIFT_AUTH_FILE": str(rules), "WINDSHIFT_WORKERS": "2"}
    with windshift(tmp_path, **environment) as server:
        admin = Caller(server.address, bearer(token_of("all")))
        with on_each_worker(server, "ann") as clients:
            stream = f"t{secrets.token_hex(6)}"
            clients[1].ensure_stream(stream)
            ensure_consumer(clients[1], stream)
            with subscribed(clients[1], stream) as one, subscribed(clients[2], stream) as two:
                for client in clients.values():
                    with calling(client) as third:
                        refusal = third.end(LIMIT)
                        assert refusal is not None
                        assert refusal.reason == "QUOTA_EXCEEDED"
                wait_for(lambda: listed(admin)["ann"].connections == 2)
                assert listed(admin)["ann"].open_streams == 2
                assert ended(admin, "ann") == 2
                for call in (one, two):
                    wait_for(call.call.done)
                    assert call.call.code() is grpc.StatusCode.UNAVAILABLE
        admin.channel.close()
        server.signal(signal.SIGHUP)
        reloads = {"what": "authorization", "result": "ok"}
        wait_for(lambda: metrics(server).value("windshift_reloads_total", **reloads) == 2)
        put(rules, "[role.all")
        server.signal(signal.SIGHUP)
        wait_for(lambda: metrics(server).value("windshift_reload_failing", what="authorization") == 1)
        (tmp_path / "second").mkdir()
        port = {"GRPC_PORT": str(server.api_port)}
        second = WindshiftProcess(tmp_path / "second", **environment | port)
        for expected in ("the port is in use", "WINDSHIFT_AUTH_FILE"):
            second.launch()
            assert second.wait() == 1
            assert expected in second.err.splitlines()[-1]
            second.environment["GRPC_PORT"] = "0"
        assert server.stop() == 0
