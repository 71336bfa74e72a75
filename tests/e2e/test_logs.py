"""What a server process writes to its log: a record for each failed call, and nothing that must not be."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from tests.support.client import EVENTS, Client
from tests.support.collector import Collector, grpc_collector, http_collector
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import LIMIT, Started, WindshiftProcess, starting, wait_for
from tests.wire.consuming import ensure_consumer, subscribed
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.server.auth.audit import AUDIT

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
UNSAMPLED = (("traceparent", f"00-{TRACE}-{CALLER}-00"),)

Record = dict[str, Any]


@pytest.fixture
def start(tmp_path: Path, nats_server: NatsServer) -> Iterator[Started]:
    """Start servers on the shared NATS, with what is given as their environment."""
    with starting(tmp_path, NATS_URL=nats_server.url) as start:
        yield start


def records(server: WindshiftProcess) -> list[Record]:
    """Read the log."""
    return [json.loads(line) for line in server.err.splitlines()]


def of_calls(server: WindshiftProcess) -> list[Record]:
    """Return the records about calls, but for those of the audit log."""
    return [record for record in records(server) if "code" in record and record["logger"] != AUDIT]


def unaudited(server: WindshiftProcess) -> list[str]:
    """Return the lines that are not of the audit log, which is written whatever the level is."""
    return [line for line in server.err.split("\n") if AUDIT not in line]


def delete_missing(client: Client, stream: str = "missing") -> str:
    """Make a call that fails, and return the code."""
    request = pb.DeleteConsumerRequest(stream=stream, id="missing")
    with pytest.raises(grpc.RpcError) as caught:
        client.call(EVENTS.methods_by_name["DeleteConsumer"], request, metadata=UNSAMPLED)
    code: grpc.StatusCode = caught.value.code()
    return code.name


def test_failed_call(start: Started) -> None:
    """At debug a failed call is one record, with its trace though nothing is traced."""
    server = start(LOG_LEVEL="debug")
    assert delete_missing(Client(server.address)) == "NOT_FOUND"
    server.wait_for(lambda: of_calls(server))
    (record,) = of_calls(server)
    assert record.pop("peer").startswith("127.0.0.1:")
    assert record.pop("time")
    assert record == {
        "level": "debug",
        "logger": "windshift.server.api.failures",
        "message": record["message"],
        "method": "/windshift.events.v1alpha1.EventsService/DeleteConsumer",
        "code": "NOT_FOUND",
        "reason": "STREAM_NOT_FOUND",
        "trace_id": TRACE,
        "span_id": CALLER,
    }


def test_levels(start: Started, unique: Callable[[], str]) -> None:
    """At info neither what clients do wrong nor events leave a trace; at error not even the stop does."""
    info, error = start(), start(LOG_LEVEL="error")
    before = unaudited(info)
    for server in (info, error):
        client = Client(server.address)
        delete_missing(client)
        _work(client, client.ensure_stream(unique()), 20)
    assert unaudited(info) == before
    assert info.stop() == error.stop() == 0
    assert unaudited(error) == [""]
    assert "drained" in info.err


def _work(client: Client, stream: str, count: int, text: str = "text") -> None:
    """Publish events, consume and acknowledge them."""
    ensure_consumer(client, stream)
    for _ in range(count):
        client.publish(f"{stream}.a", text)
    with subscribed(client, stream) as call:
        ids = [event.id for event in call.events(count)]
        call.ack(*ids)
        assert call.told() == ("ack", ids, [], [])


def test_nothing_for_each_event(start: Started, unique: Callable[[], str]) -> None:
    """Not at debug either: forty events write as much as one."""
    server = start(LOG_LEVEL="debug")
    client = Client(server.address)
    lengths = []
    for count in (1, 40):
        before = len(records(server))
        _work(client, client.ensure_stream(unique()), count)
        lengths.append(len(records(server)) - before)
    assert abs(lengths[1] - lengths[0]) <= 2


def test_broker_away(own_nats_server: NatsServer, start: Started) -> None:
    """Calls that meet no broker are warned of once, not once each."""
    server = start(NATS_URL=own_nats_server.url)
    client = Client(server.address)
    own_nats_server.kill()
    server.wait_for(lambda: server.probe("/readyz").status == 503)
    calls = 20
    with ThreadPoolExecutor(calls) as pool:
        codes = set(pool.map(lambda _: _fail_soon(client), range(calls)))
    assert codes <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}  # on a busy machine the answer may come too late
    server.wait_for(lambda: of_calls(server))
    assert len(of_calls(server)) in {1, 2}
    assert of_calls(server)[0]["level"] == "warning"
    assert of_calls(server)[0]["reason"] == "BROKER_UNAVAILABLE"


def _fail_soon(client: Client) -> str:
    request = pb.DeleteConsumerRequest(stream="stream", id="consumer")
    with pytest.raises(grpc.RpcError) as caught:
        client.call(EVENTS.methods_by_name["DeleteConsumer"], request, timeout=4)
    code: grpc.StatusCode = caught.value.code()
    return code.name


HOSTILE = 'a\nb\r{"level": "error"}\x1b[31m\u2028\x00'


@pytest.mark.parametrize("development", ["true", "false"])
def test_hostile_clients(start: Started, development: str) -> None:
    """Names, paths and metadata cannot begin a line, colour it or fill the disk."""
    server = start(LOG_LEVEL="debug", DEVELOPMENT=development)
    client = Client(server.address)
    before = len(server.err.splitlines())
    for text in (HOSTILE, HOSTILE * 1_000):
        assert delete_missing(client, text) == "INVALID_ARGUMENT"
        with pytest.raises(grpc.RpcError):
            client.publish(text, "text")
        with pytest.raises(grpc.RpcError):
            client.set(text, text, text)
    with pytest.raises(grpc.RpcError):
        _call_path(client, "/no.Such/" + "x" * 7_000)
    calls = 7
    server.wait_for(lambda: sum("code" in line for line in unaudited(server)) >= calls)
    written = server.err.split("\n")[before:]
    assert written.pop() == ""
    assert len([line for line in written if "code" in line and AUDIT not in line]) == calls
    assert all(line.isprintable() for line in written)
    assert sum(map(len, written)) < 20_000


def _call_path(client: Client, path: str) -> None:
    call: Any = client.channel.unary_unary(path, bytes, bytes)
    call(b"", timeout=LIMIT)


SECRETS = {
    "NATS password": "planted-nats-password",
    "header of the collector": "planted-otlp-header",
    "bearer token": "planted-bearer-token",
    "payload": "planted-payload",
    "value": "planted-value",
    "idempotency key": "planted-idempotency-key",
    "credential in the collector's URL": "planted-url-password",
}


@pytest.mark.parametrize("development", ["true", "false"])
def test_secrets_are_nowhere(
    start: Started, tmp_path: Path, unique: Callable[[], str], development: str
) -> None:
    """Passwords, tokens, payloads and keys are in no output, at debug, whether calls succeed or fail."""
    in_url = "credential in the collector's URL"
    nats = NatsServer(tmp_path, "--user", "me", "--pass", SECRETS["NATS password"])
    nats.start()
    try:
        server = start(
            NATS_URL=f"nats://me:{SECRETS['NATS password']}@127.0.0.1:{nats.port}",
            LOG_LEVEL="debug",
            DEVELOPMENT=development,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://me:{SECRETS[in_url]}@127.0.0.1:1",
            OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{SECRETS['header of the collector']}",
            OTEL_LOGS_EXPORTER="otlp",
            OTEL_TRACING_LOG="true",
            OTEL_BSP_SCHEDULE_DELAY="50",
            OTEL_METRIC_EXPORT_INTERVAL="0.5",
            OTEL_EXPORTER_OTLP_TIMEOUT="1",
        )
        client = Client(server.address)
        _use_secrets(client, unique())
        nats.kill()
        server.wait_for(lambda: server.probe("/readyz").status == 503)
        with pytest.raises(grpc.RpcError):
            client.publish("stream.a", SECRETS["payload"], timeout=0.5)
        told = [json.dumps(server.probe(path).body) for path in ("/readyz", "/healthz")]
        server.wait_for(lambda: "are being lost" in server.err)
        server.signal(signal.SIGTERM)
        server.wait()
        output = server.out + server.err + "".join(told)
        assert "code" in output
        assert [what for what, secret in SECRETS.items() if secret in output] == []
    finally:
        nats.kill()


def _use_secrets(client: Client, stream: str) -> None:
    """Make calls that carry secrets, and that succeed or fail."""
    client.ensure_stream(stream)
    client.ensure_store(f"store-{stream}")
    bearer = (("authorization", f"Bearer {SECRETS['bearer token']}"),)
    key, text = SECRETS["idempotency key"], SECRETS["payload"]
    for subject in (f"{stream}.a", "nobody.takes.this", "not a subject"):
        try:
            client.publish(subject, text, idempotency_key=key, metadata=bearer)
        except grpc.RpcError:
            pass
    for create_only in (True, True):
        try:
            client.set(f"store-{stream}", "key", SECRETS["value"], create_only=create_only)
        except grpc.RpcError:
            pass
    with pytest.raises(grpc.RpcError):
        client.get("missing", "key")


# OTLP


@pytest.fixture(params=["grpc", "http/protobuf"])
def collector(request: pytest.FixtureRequest) -> Iterator[tuple[Collector, dict[str, str]]]:
    """Run a collector, and give the environment that sends to it."""
    collect = grpc_collector if request.param == "grpc" else http_collector
    with collect() as collector:
        yield (
            collector,
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": request.param,
            },
        )


def arrived(collector: Collector) -> list[tuple[str, LogRecord]]:
    """Return the records that a collector got, with the names of their loggers."""
    return [
        (scoped.scope.name, record)
        for request in list(collector.logs)
        for group in request.resource_logs
        for scoped in group.scope_logs
        for record in scoped.log_records
    ]


def test_otlp(start: Started, collector: tuple[Collector, dict[str, str]]) -> None:
    """Records reach a collector when that is asked for, with severity, trace and conventional names."""
    collected, environment = collector
    server = start(LOG_LEVEL="debug", OTEL_LOGS_EXPORTER="otlp", **environment)
    delete_missing(Client(server.address))
    name = "windshift.server.api.failures"
    wait_for(lambda: name in [logger for logger, _ in arrived(collected)])
    (record,) = (record for logger, record in arrived(collected) if logger == name)
    attributes = {pair.key: pair.value for pair in record.attributes}
    assert record.severity_text == "DEBUG"
    assert (record.trace_id.hex(), record.span_id.hex()) == (TRACE, CALLER)
    assert attributes["rpc.method"].string_value == EVENTS.full_name + "/DeleteConsumer"
    assert attributes["rpc.response.status_code"].string_value == "NOT_FOUND"
    assert attributes["network.peer.address"].string_value == "127.0.0.1"
    assert attributes["network.peer.port"].int_value > 0
    assert attributes["windshift.reason"].string_value == "STREAM_NOT_FOUND"
    resource = {pair.key for pair in collected.logs[0].resource_logs[0].resource.attributes}
    assert {"service.name", "service.version", "service.instance.id"} <= resource
    assert server.stop() == 0
    wait_for(lambda: "stopped" in [record.body.string_value for _, record in arrived(collected)])


def test_no_otlp_unless_asked(start: Started, collector: tuple[Collector, dict[str, str]]) -> None:
    """An endpoint alone gets no records."""
    collected, environment = collector
    server = start(LOG_LEVEL="debug", **environment)
    delete_missing(Client(server.address))
    assert server.stop() == 0
    assert collected.logs == []


def test_collector_away(start: Started) -> None:
    """A collector that is not there costs one line, and no time at the end."""
    server = start(
        OTEL_LOGS_EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_LOGS_ENDPOINT="http://127.0.0.1:1",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    server.wait_for(lambda: "log records are being lost" in server.err)
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 9
    assert server.err.count("are being lost") == 1
