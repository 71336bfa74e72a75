"""How a server process says that it is well: over HTTP, over gRPC, and by `windshift health`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue

import grpc
import pytest

from tests.support.nats_server import NatsServer
from tests.support.unfinished_call import unfinished_call
from tests.support.windshift_process import LIMIT, WindshiftProcess, windshift
from windshift.rpc._gen.grpc.health.v1 import health_pb2

SERVICES = (
    "",
    "windshift.deadletters.v1alpha1.DeadLettersService",
    "windshift.events.v1alpha1.EventsService",
    "windshift.state.v1alpha1.StateService",
)
NOTICED = 30.0
"""Seconds in which a broker that is frozen must be noticed: 15, and as many for a busy machine."""
BACK = 20.0
"""Seconds in which one that goes on must be: 5, and what a busy machine needs."""


@pytest.fixture
def server(own_nats_server: NatsServer, tmp_path: Path) -> Iterator[WindshiftProcess]:
    """Run a server in front of a broker that the test may stop."""
    with windshift(tmp_path, NATS_URL=own_nats_server.url) as process:
        yield process


class Watch:
    """What `grpc.health.v1.Health/Watch` says of one service, from now on."""

    def __init__(self, channel: grpc.Channel, service: str) -> None:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        self._call = watch(health_pb2.HealthCheckRequest(service=service))
        self._said: SimpleQueue[str] = SimpleQueue()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for answer in self._call:
                self._said.put(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
        except grpc.RpcError as error:
            self._said.put(error.code().name)

    def next(self) -> str:
        return self._said.get(timeout=LIMIT)

    def cancel(self) -> None:
        self._call.cancel()
        self._thread.join(LIMIT)


def ask(port: int, *options: str) -> tuple[int, str]:
    """Run `windshift health`; return its status and its line."""
    done = subprocess.run(
        [sys.executable, "-m", "windshift", "health", *options],
        env={"HEALTH_PORT": str(port), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return done.returncode, done.stdout.strip()


def moment(text: str) -> datetime:
    """Read a time, which must be RFC 3339 in UTC."""
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def test_well(server: WindshiftProcess) -> None:
    """A server that is well says so, and since when."""
    for path in ("/healthz", "/readyz"):
        before = datetime.now(UTC)
        probe = server.probe(path)
        after, apart = datetime.now(UTC), timedelta(seconds=2)
        assert probe.status == 200
        assert probe.body["status"] == "ok"
        ago = timedelta(seconds=float(probe.body["seconds"]))
        assert before - apart < moment(probe.body["since"]) + ago < after + apart
    status, line = ask(server.health_port)
    assert status == 0
    assert line.startswith("ok, since 2")
    assert ask(server.health_port, "--live")[0] == 0
    said = json.loads(ask(server.health_port, "-o", "json")[1])
    assert said["ready"] is True
    assert said["since"].endswith("Z")


def test_frozen_broker(server: WindshiftProcess, own_nats_server: NatsServer) -> None:
    """A broker that is frozen is noticed within 15 s by every probe but /healthz, and its return within 5."""
    with grpc.insecure_channel(server.address) as channel:
        watches = [Watch(channel, service) for service in SERVICES]
        try:
            assert [watch.next() for watch in watches] == ["SERVING"] * len(SERVICES)
            own_nats_server.freeze()
            frozen, frozen_at = time.monotonic(), datetime.now(UTC)
            server.wait_for(lambda: server.probe("/readyz").status == 503)
            assert time.monotonic() - frozen < NOTICED
            assert [watch.next() for watch in watches] == ["NOT_SERVING"] * len(SERVICES)
            probe = server.probe("/readyz")
            assert probe.body["reason"] == "no connection to NATS"
            assert probe.body["detail"]
            assert frozen_at < moment(probe.body["since"]) < datetime.now(UTC)
            assert server.probe("/healthz").status == 200
            status, line = ask(server.health_port)
            assert (status, ask(server.health_port, "--live")[0]) == (1, 0)
            assert line.startswith("windshift: no connection to NATS (")
            own_nats_server.thaw()
            thawed, thawed_at = time.monotonic(), datetime.now(UTC)
            server.wait_for(lambda: server.probe("/readyz").status == 200)
            assert time.monotonic() - thawed < BACK
            assert moment(server.probe("/readyz").body["since"]) >= thawed_at - timedelta(milliseconds=5)
            assert [watch.next() for watch in watches] == ["SERVING"] * len(SERVICES)
        finally:
            for watch in watches:
                watch.cancel()


def test_drain(server: WindshiftProcess) -> None:
    """A server that drains is not ready, says since when, and goes on to live."""
    with (
        unfinished_call(server.api_port),
        grpc.insecure_channel(server.address) as channel,
    ):
        watch = Watch(channel, SERVICES[1])
        assert watch.next() == "SERVING"
        asked = datetime.now(UTC)
        server.signal(signal.SIGTERM)
        server.wait_for(lambda: server.probe("/readyz").status == 503)
        body = server.probe("/readyz").body
        assert body["reason"] == "draining"
        assert asked - timedelta(seconds=1) < moment(body["since"]) < datetime.now(UTC)
        assert server.probe("/healthz").status == 200
        assert watch.next() == "NOT_SERVING"
        watch.cancel()


def test_nothing_answers(server: WindshiftProcess) -> None:
    """`windshift health` of a server that is gone, or frozen, is a failure in the time it was given."""
    server.signal(signal.SIGSTOP)
    started = time.monotonic()
    status, line = ask(server.health_port, "--timeout", "0.5")
    assert (status, line.rpartition(": ")[2]) == (1, "it did not answer in time")
    assert time.monotonic() - started < 20
    server.signal(signal.SIGCONT)
    assert server.stop() == 0
    status, line = ask(server.health_port)
    assert (status, line.rpartition(": ")[2]) == (1, "nothing answers")
