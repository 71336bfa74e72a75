"""The configuration of telemetry: every OpenTelemetry variable, and what comes before what."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.server.config.test_config import problems, read
from windshift.server.config.telemetry import (
    BatchConfig,
    OtlpCompression,
    OtlpProtocol,
    SamplerConfig,
    SignalConfig,
    TelemetryConfig,
    TlsFiles,
)


def telemetry(**environment: str) -> TelemetryConfig:
    """Read an environment, and give the part about telemetry."""
    return read(**environment).telemetry


def test_one_signal_comes_before_all() -> None:
    """What is set for one signal comes before what is set for all."""
    config = telemetry(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://all:4317",
        OTEL_EXPORTER_OTLP_TIMEOUT="5",
        OTEL_EXPORTER_OTLP_HEADERS="a=1",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="https://traces:4317",
        OTEL_EXPORTER_OTLP_TRACES_HEADERS="b=2",
        OTEL_EXPORTER_OTLP_TRACES_COMPRESSION="none",
        OTEL_EXPORTER_OTLP_METRICS_TIMEOUT="2500",
    )
    gzip = OtlpCompression.GZIP
    grpc, headers = OtlpProtocol.GRPC, (("a", "1"),)
    five = timedelta(seconds=5)
    assert config.traces == SignalConfig("https://traces:4317", five, grpc, (("b", "2"),))
    assert config.metrics == SignalConfig("http://all:4317", timedelta(seconds=2.5), grpc, headers, gzip)
    assert config.logs == SignalConfig()


def test_http_endpoints() -> None:
    """Over HTTP the endpoint of all signals gets each one's path; a signal's own is taken as it stands."""
    config = telemetry(
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://all:4318/",
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="http://metrics:4318/in",
    )
    assert config.traces.endpoint == "http://all:4318/v1/traces"
    assert config.metrics.endpoint == "http://metrics:4318/in"
    assert config.traces.protocol is OtlpProtocol.HTTP_PROTOBUF


def test_logs_are_sent_when_asked() -> None:
    """An endpoint alone sends no log records; OTEL_LOGS_EXPORTER does, by the same rules as other signals."""
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://all:4318"}
    http = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_LOGS_EXPORTER": "otlp"}
    assert telemetry(**endpoint, OTEL_EXPORTER_OTLP_LOGS_ENDPOINT="http://logs:4317").logs == SignalConfig()
    assert telemetry(**endpoint, **http).logs.endpoint == "http://all:4318/v1/logs"
    own = telemetry(**endpoint, **http, OTEL_EXPORTER_OTLP_LOGS_ENDPOINT="http://logs:4318/in")
    assert own.logs.endpoint == "http://logs:4318/in"
    assert telemetry(**endpoint, **http, OTEL_SDK_DISABLED="true").logs == SignalConfig()


def test_protocol_of_one_signal() -> None:
    """Signals may be sent by different protocols."""
    config = telemetry(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://all:4317",
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="http://metrics:4318/v1/metrics",
        OTEL_EXPORTER_OTLP_METRICS_PROTOCOL="http/protobuf",
    )
    assert (config.traces.protocol, config.traces.endpoint) == ("grpc", "http://all:4317")
    assert config.metrics.protocol is OtlpProtocol.HTTP_PROTOBUF


@pytest.mark.parametrize(
    ("endpoint", "insecure", "plaintext"),
    [
        ("http://collector:4317", "false", True),
        ("https://collector:4317", "true", False),
        ("collector:4317", "", False),
        ("collector:4317", "true", True),
        ("[::1]:4317", "true", True),
    ],
)
def test_plaintext(endpoint: str, insecure: str, *, plaintext: bool) -> None:
    """The scheme of a URL decides about TLS; `_INSECURE` does for an address alone."""
    config = telemetry(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_INSECURE=insecure)
    assert config.traces.plaintext is plaintext


@pytest.mark.parametrize("signals", [("",), ("TRACES_",), ("TRACES_", "METRICS_")])
def test_http_needs_a_url(signals: tuple[str, ...]) -> None:
    """An address alone is no endpoint for HTTP, of all signals or one; the text shows no credentials."""
    protocols = {f"OTEL_EXPORTER_OTLP_{signal}PROTOCOL": "http/protobuf" for signal in signals}
    (line,) = problems(OTEL_EXPORTER_OTLP_ENDPOINT="collector:4318", **protocols)
    assert line == (
        "OTEL_EXPORTER_OTLP_ENDPOINT: an endpoint must be a URL that begins with http:// or https://"
    )


def test_http_of_a_signal_that_is_not_sent_needs_no_url() -> None:
    """As long as no log records are sent, their protocol does not matter."""
    config = telemetry(
        OTEL_EXPORTER_OTLP_ENDPOINT="collector:4317", OTEL_EXPORTER_OTLP_LOGS_PROTOCOL="http/protobuf"
    )
    assert (config.traces.endpoint, config.logs.endpoint) == ("collector:4317", None)


@pytest.mark.parametrize("prefix", ["OTEL_EXPORTER_OTLP", "OTEL_EXPORTER_OTLP_TRACES"])
def test_tls_to_the_collector(tmp_path: Path, prefix: str) -> None:
    """Authority, certificate and key of the collector's TLS, for all signals or one."""
    file = tmp_path / "file"
    file.touch()
    names = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
    config = telemetry(**dict.fromkeys((f"{prefix}_{name}" for name in names), str(file)))
    assert config.traces.tls == TlsFiles(file, file, file)
    assert (config.metrics.tls == TlsFiles(file, file, file)) is (prefix == "OTEL_EXPORTER_OTLP")
    for lonely, missing in (("CLIENT_CERTIFICATE", "CLIENT_KEY"), ("CLIENT_KEY", "CLIENT_CERTIFICATE")):
        assert problems(**{f"{prefix}_{lonely}": str(file)}) == (
            f"{prefix}_{lonely}: needs {prefix}_{missing}; set it too",
        )


def test_headers_are_decoded_and_not_shown() -> None:
    """Headers are percent-encoded pairs; they are secrets."""
    config = telemetry(OTEL_EXPORTER_OTLP_HEADERS="Authorization=Bearer%20se%2Ccret, x-team=a=b")
    assert config.traces.headers == (("Authorization", "Bearer se,cret"), ("x-team", "a=b"))
    assert "cret" not in repr(config)
    (line,) = problems(OTEL_EXPORTER_OTLP_HEADERS="secret")
    assert "key=value" in line
    assert "secret" not in line


def test_resource() -> None:
    """Resource attributes are percent-encoded pairs; OTEL_SERVICE_NAME comes before the name among them."""
    assert telemetry().resource.service_name == "windshift"
    config = telemetry(OTEL_RESOURCE_ATTRIBUTES="service.name=orders,team=%C3%A4")
    assert (config.resource.service_name, dict(config.resource.attributes)["team"]) == ("orders", "ä")
    config = telemetry(OTEL_RESOURCE_ATTRIBUTES="service.name=orders", OTEL_SERVICE_NAME="events")
    assert config.resource.service_name == "events"


@pytest.mark.parametrize(
    ("name", "argument", "sampler"),
    [
        ("", "", SamplerConfig(parent_based=True, ratio=1.0)),
        ("always_on", "", SamplerConfig(parent_based=False, ratio=1.0)),
        ("always_off", "", SamplerConfig(parent_based=False, ratio=0.0)),
        ("traceidratio", "0.25", SamplerConfig(parent_based=False, ratio=0.25)),
        ("traceidratio", "", SamplerConfig(parent_based=False, ratio=1.0)),
        ("parentbased_always_on", "", SamplerConfig(parent_based=True, ratio=1.0)),
        ("parentbased_always_off", "0.5", SamplerConfig(parent_based=True, ratio=0.0)),
        ("parentbased_traceidratio", "0.01", SamplerConfig(parent_based=True, ratio=0.01)),
    ],
)
def test_samplers(name: str, argument: str, sampler: SamplerConfig) -> None:
    """The standard samplers, and the share of those that have one."""
    assert telemetry(OTEL_TRACES_SAMPLER=name, OTEL_TRACES_SAMPLER_ARG=argument).spans.sampler == sampler


@pytest.mark.parametrize("text", ["2", "-0.1", "half", "nan"])
def test_sampler_argument_must_be_a_share(text: str) -> None:
    """A share is a number from 0 to 1."""
    (line,) = problems(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG=text)
    assert line.endswith("use a number from 0 to 1")


def test_batches() -> None:
    """How spans are gathered."""
    config = telemetry(
        OTEL_BSP_SCHEDULE_DELAY="200",
        OTEL_BSP_MAX_QUEUE_SIZE="100",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="512",
        OTEL_BSP_EXPORT_TIMEOUT="3000",
    )
    assert config.spans.batch == BatchConfig(timedelta(milliseconds=200), 100, 512, timedelta(seconds=3))


def test_switched_off() -> None:
    """OTEL_SDK_DISABLED and the exporter `none` send nothing."""
    sent = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://all:4317", "OTEL_TRACING_LOG": "true"}
    config = telemetry(**sent, OTEL_SDK_DISABLED="true")
    assert (config.traces.endpoint, config.metrics.endpoint, config.logs.endpoint) == (None, None, None)
    assert not config.spans.log
    assert telemetry(**sent, OTEL_TRACES_EXPORTER="none").traces.endpoint is None
    assert telemetry(**sent, OTEL_METRICS_EXPORTER="none").metrics.endpoint is None
    assert telemetry(**sent).spans.log


def test_propagators() -> None:
    """Propagators are read in any case; those that are not built in must be installed."""
    assert telemetry(OTEL_PROPAGATORS="TraceContext, none").propagators == ("tracecontext", "none")
    (line,) = problems(OTEL_PROPAGATORS="b3")
    assert "opentelemetry-propagator-b3" in line
