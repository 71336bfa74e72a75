"""Metrics of a real server process, as Prometheus gets them, and what dashboard and alerts want of them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from tests.support.client import EVENTS, Client, any_of, refused
from tests.support.collector import grpc_collector, http_collector
from tests.support.exposition import (
    OPENMETRICS,
    TARGET_LABELS,
    TARGET_METRICS,
    Exposition,
    Selector,
    alert_rules,
    dashboard_queries,
    placeholders,
    scrape,
    selectors,
)
from tests.support.windshift_process import WindshiftProcess, wait_for, windshift
from tests.wire.burying import ask
from tests.wire.consuming import ensure_consumer, subscribed
from tests.wire.management import ensure_stream
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift.rpc import libnghttp2_version
from windshift.server.telemetry.instruments import INSTRUMENTS, Instrument, InstrumentKind

METHOD = "windshift.events.v1alpha1.EventsService"


class Served(NamedTuple):
    """A server after some traffic, and what it said of it."""

    process: WindshiftProcess
    stream: str
    seen: Exposition


def traffic(client: Client, stream: str) -> None:
    """Do something of everything: 6 events stored, one twice, one refused; 5 of them delivered."""
    client.ensure_stream(stream)
    ensure_consumer(client, stream, "c", timeout=2)
    ensure_consumer(client, stream, "idle")
    for number in range(6):
        client.publish(f"{stream}.x", f"{number}", idempotency_key=f"{number}")
    client.publish(f"{stream}.x", "again", idempotency_key="0")
    with refused("FAILED_PRECONDITION", "UNBOUND_SUBJECT"):
        client.publish(f"{stream}_other.x")
    with subscribed(client, stream, 5) as call:
        acked, rejected, refused_for_good, expired, _ = [event.id for event in call.events(5)]
        call.ping(acked)
        call.ack(acked, 99)
        call.reject(refused_for_good, permanently=True)
        call.reject(rejected)
        for _ in range(4):
            call.told()
        wait_for(lambda: any(call.event().id == expired for _ in range(3)))
    policy = {"max_bytes": "1000000", "max_events": "100", "discard_policy": "DISCARD_POLICY_NEW"}
    ensure_stream(client, "LIMITED", retention_policy=policy)
    store = client.ensure_store(stream)
    client.set(store, "key")
    unknown: Any = client.channel.unary_unary("/nobody.knows/This")
    with pytest.raises(grpc.RpcError):
        unknown(b"")


def give_up(client: Client, stream: str) -> None:
    """Have one event become a dead letter, which is replayed, and one be dropped."""
    client.ensure_stream(stream)
    ensure_consumer(client, stream, "c")
    ids = [client.publish(f"{stream}.x") for _ in range(2)]
    with subscribed(client, stream) as call:
        call.events(2)
        call.reject(ids[0], action=events_pb.EventsRequest.REJECT_ACTION_DEAD_LETTER)
        call.reject(ids[1], action=events_pb.EventsRequest.REJECT_ACTION_DROP)
        call.told()
        call.told()
        which = pb.Filter(stream=stream)
        assert ask(client, "Replay", pb.ReplayRequest(filter=which)).replayed == 1
        call.reject(call.event(15).id, action=events_pb.EventsRequest.REJECT_ACTION_DEAD_LETTER)
        call.told()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Give one server some traffic, and scrape it once everything has settled."""
    stream = f"t{secrets.token_hex(6)}"
    with windshift(tmp_path_factory.mktemp("metrics")) as process:
        client = Client(process.address)
        traffic(client, stream)
        give_up(client, f"{stream}-failing")
        wait_for(lambda: scrape(process.health_port).value("windshift_subscriptions") == 0)
        wait_for(lambda: scrape(process.health_port).value("windshift_event_loop_lag_seconds_count") > 0)
        yield Served(process, stream, scrape(process.health_port))
        client.channel.close()


def test_numbers(served: Served) -> None:
    """What clients did is counted where it belongs."""
    seen, stream = served.seen, served.stream
    assert seen.value("windshift_build_info", libnghttp2=libnghttp2_version()) == 1
    assert seen.value("windshift_events_published_total") == 8
    assert seen.value("windshift_events_duplicates_total") == 1
    assert seen.value("windshift_publish_failures_total", reason="UNBOUND_SUBJECT") == 1
    assert seen.value("windshift_publish_failures_total") == 1
    delivered = seen.value("windshift_events_delivered_total")
    redelivered = seen.value("windshift_events_redelivered_total")
    assert delivered - redelivered >= 5
    assert redelivered >= 1
    settled = {kind: seen.value("windshift_events_settled_total", kind=kind) for kind in KINDS}
    assert (settled["ack"], settled["reject"], settled["terminate"], settled["ping"]) == (1, 1, 4, 1)
    assert settled["expired"] >= 1
    ended = sum(settled.values()) - settled["ping"]
    assert ended >= delivered  # those that were not handed over yet are given back too
    assert seen.value("windshift_confirmations_invalid_total") == 1
    assert seen.value("windshift_confirmations_failed_total") == 0
    assert seen.value("windshift_events_in_flight") == 0
    assert seen.value("windshift_stream_messages", stream=stream) == 6
    assert seen.value("windshift_stream_last_id", stream=stream) == 6
    assert not seen.has("windshift_stream_size_limit_bytes", stream=stream)
    assert seen.value("windshift_stream_size_limit_bytes", stream="LIMITED", discard="new") == 1_000_000
    assert seen.value("windshift_stream_messages_limit", stream="LIMITED", discard="new") == 100
    assert seen.value("windshift_consumer_pending", stream=stream, consumer="idle") == 6
    assert seen.value("windshift_consumer_oldest_age_seconds", stream=stream, consumer="idle") > 0


def test_malformed_events(tmp_path: Path) -> None:
    """They are publishes that fail, alone as in a batch; of one that is all or none, all its events are."""
    with windshift(tmp_path) as process:
        client = Client(process.address)
        stream = client.ensure_stream("S")
        good = events_pb.PublishEventRequest(subject=f"{stream}.x", data=any_of("text"))
        bad = events_pb.PublishEventRequest(subject=f"{stream}.x")
        publish, batch = (EVENTS.methods_by_name[name] for name in ("PublishEvent", "PublishBatch"))
        with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
            client.call(publish, bad)
        client.call(batch, events_pb.PublishBatchRequest(events=[good, bad]))
        with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
            client.call(batch, events_pb.PublishBatchRequest(events=[good, bad], atomic=True))
        client.channel.close()
        seen = scrape(process.health_port)
    assert seen.value("windshift_publish_failures_total", reason="INVALID_FIELD") == 4
    assert seen.value("windshift_publish_failures_total") == 4
    assert seen.value("windshift_events_published_total") == 1


def test_events_that_were_given_up_on(served: Served) -> None:
    """Dead letters, drops (one by `permanently`) and replays are counted; dead letters lie in a stream."""
    assert served.seen.value("windshift_dead_letters_total", cause="REJECTED") == 2
    assert served.seen.value("windshift_dead_letters_total") == 2
    assert served.seen.value("windshift_dead_letters_failures_total") == 0
    assert served.seen.value("windshift_events_dropped_total", cause="REJECTED") == 2
    assert served.seen.value("windshift_events_dropped_total") == 2
    assert served.seen.value("windshift_replays_total") == 1
    assert served.seen.value("windshift_stream_messages", stream="WS_DEAD_LETTERS") == 1
    whose = {"stream": "WS_REPLAYS", "consumer": f"{served.stream}-failing.c"}
    assert served.seen.has("windshift_consumer_pending", **whose)


KINDS = ("ack", "reject", "terminate", "ping", "expired", "released")


def test_latencies(served: Served) -> None:
    """Each consumer tells how long its events took; replays do not count, nor do further attempts."""
    seen, whose = served.seen, {"stream": served.stream, "consumer": "c"}
    assert 5 <= seen.value("windshift_consumer_delivery_latency_seconds_count", **whose) <= 6
    assert seen.value("windshift_consumer_settlement_latency_seconds_count", **whose) == 2
    expired = seen.value("windshift_events_settled_total", kind="expired")
    assert seen.value("windshift_consumer_expired_total", **whose) == expired
    delivery = seen.value("windshift_consumer_delivery_latency_seconds_sum", **whose)
    assert 0 < delivery < 60
    whose = {"stream": f"{served.stream}-failing", "consumer": "c"}
    assert seen.value("windshift_consumer_delivery_latency_seconds_count", **whose) == 2
    assert seen.value("windshift_consumer_settlement_latency_seconds_count", **whose) == 2
    assert not seen.has("windshift_consumer_delivery_latency_seconds_count", consumer="idle")
    assert seen.value("windshift_consumer_delivery_latency_seconds_count", consumer="(others)") == 0


def test_calls(served: Served) -> None:
    """Calls are told by method and code; a method that there is not has no label of its own."""
    count = "rpc_server_call_duration_seconds_count"
    assert served.seen.value(count, rpc_method=f"{METHOD}/PublishEvent", rpc_response_status_code="OK") == 9
    failed = {"rpc_method": f"{METHOD}/PublishEvent", "rpc_response_status_code": "FAILED_PRECONDITION"}
    assert served.seen.value(count, **failed) == 1
    assert not served.seen.has(count, **failed, error_type="FAILED_PRECONDITION")  # the client's mistake
    assert served.seen.value(count, rpc_method="_OTHER", error_type="UNIMPLEMENTED") == 1
    assert "nobody" not in served.seen.text
    cancelled = served.seen.value(count, rpc_method=f"{METHOD}/Events")
    assert cancelled == 2
    mean = served.seen.value("rpc_server_call_duration_seconds_sum", rpc_method=f"{METHOD}/PublishEvent") / 10
    assert 0.0001 < mean < 1
    assert served.seen.value("windshift_rpc_traffic_bytes_total", network_io_direction="receive") > 1000


def test_subjects_never_appear(served: Served) -> None:
    """No label holds a subject."""
    assert f"{served.stream}.x" not in served.seen.text


def test_every_instrument_appears(served: Served) -> None:
    """Every instrument of the table is there, with the kind, the help and the labels that it has there."""
    for instrument in INSTRUMENTS:
        family = served.seen.families[instrument.prometheus_family]
        assert family.type == TYPES[instrument.kind], instrument
        assert family.documentation == f"{instrument.description}."
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels == set(instrument.prometheus_labels), instrument


TYPES = {
    InstrumentKind.COUNTER: "counter",
    InstrumentKind.UP_DOWN: "gauge",
    InstrumentKind.GAUGE: "gauge",
    InstrumentKind.HISTOGRAM: "histogram",
}


def test_openmetrics(served: Served) -> None:
    """A client that asks for OpenMetrics gets it, with the same families and with units."""
    seen = scrape(served.process.health_port, OPENMETRICS)
    assert seen.content_type.startswith("application/openmetrics-text")
    assert seen.families.keys() == served.seen.families.keys()
    assert seen.families["rpc_server_call_duration_seconds"].unit == "seconds"


def check(seen: Exposition, selector: Selector) -> None:
    """Verify that a query finds what it selects."""
    if selector.name in TARGET_METRICS:
        return
    labels = seen.labels(selector.name)
    assert seen.has(selector.name), f"no metric {selector.name}"
    assert selector.labels - TARGET_LABELS <= labels.keys(), f"{selector.name} lacks a label"
    for label, value in selector.equal.items():
        assert value in labels[label] | {""}, f"{selector.name} has no {label}={value}"


@pytest.mark.parametrize(("title", "query", "legend"), dashboard_queries())
def test_dashboard(served: Served, title: str, query: str, legend: str) -> None:
    """Metrics and labels of the dashboard's queries and legends exist."""
    found = selectors(query)
    assert found
    for selector in found:
        check(served.seen, selector)
    labels = set().union(*(served.seen.labels(selector.name) for selector in found)) | TARGET_LABELS
    assert placeholders(legend) <= labels


@pytest.mark.parametrize("rule", alert_rules(), ids=lambda rule: str(rule["alert"]))
def test_alerts(served: Served, rule: dict[str, object]) -> None:
    """Metrics and labels of the rules exist, and each rule says what to do."""
    found = selectors(str(rule["expr"]))
    assert found
    for selector in found:
        check(served.seen, selector)
    annotations = rule["annotations"]
    assert isinstance(annotations, dict)
    assert len(annotations["runbook"]) > 40
    labels = set().union(*(served.seen.labels(selector.name) for selector in found)) | TARGET_LABELS
    assert placeholders(annotations["summary"]) - {"value"} <= labels


def test_dashboard_shows_every_instrument() -> None:
    """No instrument is missing on the dashboard."""
    shown = {selector.name for _, query, _ in dashboard_queries() for selector in selectors(query)}
    assert [each.name for each in INSTRUMENTS if not names(each) & shown] == []


def names(instrument: Instrument) -> set[str]:
    """Give the names of its series."""
    name = instrument.prometheus_name
    return (
        {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
        if instrument.kind is InstrumentKind.HISTOGRAM
        else {name}
    )


def test_switched_off(tmp_path: Path) -> None:
    """Without metrics there is no /metrics, and everything else works."""
    with windshift(tmp_path, WINDSHIFT_METRICS="false") as process:
        answer = process.probe("/metrics")
        assert answer.status == 404
        assert "WINDSHIFT_METRICS" in answer.body["error"]
        client = Client(process.address)
        client.ensure_stream("S")
        assert client.publish("S.x", data=any_of("text")) == 1
        client.channel.close()


@pytest.mark.parametrize(
    ("protocol", "interval"), [("grpc", "0.2"), ("http/protobuf", "0.2"), ("grpc", "1000"), ("grpc", None)]
)
def test_push(tmp_path: Path, protocol: str, interval: str | None) -> None:
    """The same instruments are pushed over OTLP, every so many seconds and once more at the end."""
    collect = grpc_collector if protocol == "grpc" else http_collector
    settings = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_TRACES_EXPORTER": "none"}
    if interval is not None:
        settings["OTEL_METRIC_EXPORT_INTERVAL"] = interval
    with (
        collect() as collector,
        windshift(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **settings) as process,
    ):
        client = Client(process.address)
        traffic(client, "S")
        client.channel.close()
        if interval is not None:
            wait_for(lambda: len(collector.metrics) > 1)
        seen = scrape(process.health_port)
        assert process.stop() == 0
        pushed = {
            metric.name: metric
            for resource in collector.metrics[-1].resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
    assert set(pushed) == {each.name for each in INSTRUMENTS if each.prometheus_family in seen.families}
    published = pushed["windshift.events.published"].sum.data_points[0].as_int
    assert published == seen.value("windshift_events_published_total") == 6
    points = pushed["windshift.consumer.settlement.latency"].histogram.data_points
    names = [{each.key: each.value.string_value for each in point.attributes} for point in points]
    assert {"stream": "S", "consumer": "c"} in names
    assert sum(point.count for point in points) == 2


def test_hanging_collector(tmp_path: Path) -> None:
    """A collector that takes everything and answers nothing holds up neither calls nor the end for long."""
    with (
        grpc_collector() as collector,
        windshift(
            tmp_path,
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=collector.endpoint,
            OTEL_METRIC_EXPORT_INTERVAL="0.1",
            WINDSHIFT_DRAIN_TIMEOUT="1",
        ) as process,
    ):
        collector.open.clear()
        wait_for(lambda: collector.attempts)
        client = Client(process.address)
        client.ensure_stream("S")
        for _ in range(10):
            client.publish("S.x")
        client.channel.close()
        begun = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - begun < 20
