"""The settings of telemetry.

The variables are OpenTelemetry's own:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
https://opentelemetry.io/docs/specs/otel/protocol/exporter/. They are read here, not by OpenTelemetry's
libraries, so that wrong values are reported at the start, and seconds mean seconds everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from windshift.server.config import parsers as p
from windshift.server.config.settings import Reader, Section, Setting, computed, optional, section, setting


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files, readable when the configuration was read.

    `certificate` and `key` are both there or both absent.
    """

    ca: Path | None = None
    """Authorities to verify the peer against. Absent: the system's for a client, nobody for a server."""
    certificate: Path | None = None
    key: Path | None = None


def tls_files(certificate: Setting[Path], key: str, ca: Setting[Path]) -> TlsFiles:
    """Declare the files of one side of TLS: the settings of two, and the name of the third."""
    return section(
        TlsFiles,
        certificate=replace(certificate, needs=(key,)),
        key=Setting(key, p.file, f"Private key of {certificate.name}.", needs=(certificate.name,)),
        ca=ca,
    )


class OtlpProtocol(StrEnum):
    """How telemetry is sent."""

    GRPC = "grpc"
    HTTP_PROTOBUF = "http/protobuf"


class OtlpCompression(StrEnum):
    """How telemetry is compressed on the wire."""

    NONE = "none"
    GZIP = "gzip"


class _Exporter(StrEnum):
    OTLP = "otlp"
    NONE = "none"


_Sampler = StrEnum(
    "_Sampler",
    "always_on always_off traceidratio parentbased_always_on parentbased_always_off parentbased_traceidratio",
)


# --- Where telemetry goes ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignalConfig:
    """Where one signal goes, and how. Without an endpoint: nowhere."""

    endpoint: str | None = optional(
        "OTEL_EXPORTER_OTLP_ENDPOINT", p.endpoint, "Where to send traces, metrics and logs. Absent: nowhere."
    )
    """Over HTTP the whole URL; over gRPC a URL, or ``host:port``."""
    timeout: timedelta = setting(
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        p.otel_seconds,
        "Seconds an export may take; here and in every _TIMEOUT, values from 1000 on are milliseconds.",
        "10",
    )
    protocol: OtlpProtocol = setting(
        "OTEL_EXPORTER_OTLP_PROTOCOL", p.choice(OtlpProtocol), "Protocol of OTLP exports.", "grpc"
    )
    headers: tuple[tuple[str, str], ...] = setting(
        "OTEL_EXPORTER_OTLP_HEADERS", p.pairs, "Headers of OTLP exports: key=value,key=value.", ""
    )
    compression: OtlpCompression = setting(
        "OTEL_EXPORTER_OTLP_COMPRESSION", p.choice(OtlpCompression), "Compression of OTLP exports.", "none"
    )
    tls: TlsFiles = tls_files(
        Setting("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", p.file, "Client certificate for the collector."),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        Setting("OTEL_EXPORTER_OTLP_CERTIFICATE", p.file, "CA certificates to verify the collector against."),
    )
    insecure: bool = setting(
        "OTEL_EXPORTER_OTLP_INSECURE", p.boolean, "No TLS to a gRPC endpoint that is not a URL.", "false"
    )

    @property
    def plaintext(self) -> bool:
        """Whether there is no TLS. The scheme of a URL takes precedence over `insecure`."""
        scheme, separator, _ = (self.endpoint or "").partition("://")
        return scheme.lower() == "http" if separator else self.insecure


_NOWHERE: Final = SignalConfig()
_SHARED: Final = Section.of(SignalConfig)
_PREFIX: Final = "OTEL_EXPORTER_OTLP_"
_DISABLED: Final = Setting(
    "OTEL_SDK_DISABLED", p.boolean, "Send no telemetry, whatever else is set.", "false"
)


def _read_otlp(
    reader: Reader, signal: Section[SignalConfig] = _SHARED, prefix: str = _PREFIX
) -> SignalConfig:
    config, own = signal.read(reader), reader.text(f"{prefix}ENDPOINT")
    if config.protocol is OtlpProtocol.HTTP_PROTOBUF and own == config.endpoint and own and "://" not in own:
        reader.problem(f"{prefix}ENDPOINT", p.URL_EXPECTED)
    return config


def _signal(kind: str, default: str) -> SignalConfig:
    """Declare the settings of one signal, which override the shared ones; `default` is its exporter."""
    prefix = f"{_PREFIX}{kind.upper()}_"

    def own(shared: Setting[Any]) -> Setting[Any]:
        name = shared.name.replace(_PREFIX, prefix)
        meaning = f"Overrides the setting without {kind.upper()}_, for {kind} alone."
        if name.endswith("_ENDPOINT"):
            meaning = f"Where to send {kind}; over HTTP the whole URL."
        needs = tuple(each.replace(_PREFIX, prefix) for each in shared.needs)
        return Setting(name, shared.parser, meaning, fallback=shared.read, needs=needs)

    def read(reader: Reader) -> SignalConfig:
        config = _read_otlp(reader, signal, prefix)
        if reader.value(exporter) is _Exporter.NONE or reader.value(_DISABLED):
            return _NOWHERE
        whole = config.protocol is OtlpProtocol.GRPC or reader.text(f"{prefix}ENDPOINT") is not None
        if config.endpoint is None or whole:
            return config
        if "://" not in config.endpoint:
            reader.problem(f"{_PREFIX}ENDPOINT", p.URL_EXPECTED)
        return replace(config, endpoint=f"{config.endpoint.rstrip('/')}/v1/{kind}")

    signal = _SHARED.with_settings(own)
    exporter = Setting(f"OTEL_{kind.upper()}_EXPORTER", p.choice(_Exporter), f"Exporter of {kind}.", default)
    return computed(read, exporter, *signal.settings)


# --- Spans ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    """Which traces are recorded."""

    parent_based: bool = True
    """Whether to follow the caller's decision where there is one, instead of `ratio`."""
    ratio: float = 1.0
    """The share of traces to record, from 0 to 1, decided by trace id."""


_SAMPLER: Final = Setting(
    "OTEL_TRACES_SAMPLER",
    p.choice(_Sampler),
    "Which traces to record; those with parentbased_ follow the caller where there is one.",
    "parentbased_always_on",
)
_SAMPLER_ARG: Final = Setting(
    "OTEL_TRACES_SAMPLER_ARG", p.ratio, "The share of traces that traceidratio records.", "1.0"
)


def _read_sampler(reader: Reader) -> SamplerConfig:
    name = str(reader.value(_SAMPLER))
    parent_based = name.startswith("parentbased_")
    if name.endswith("traceidratio"):
        return SamplerConfig(parent_based, reader.value(_SAMPLER_ARG) or 0.0)
    return SamplerConfig(parent_based, 1.0 if name.endswith("on") else 0.0)


_MAX_QUEUE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """How finished spans are batched for export."""

    delay: timedelta = setting(
        "OTEL_BSP_SCHEDULE_DELAY", p.milliseconds, "Milliseconds a finished span waits for others.", "5000"
    )
    queue_size: int = setting(
        "OTEL_BSP_MAX_QUEUE_SIZE", p.integer(1, _MAX_QUEUE), "Spans that may wait; more are dropped.", "2048"
    )
    batch_size: int = setting(
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", p.integer(1, _MAX_QUEUE), "Spans in one export.", "512"
    )
    """As many are exported without waiting."""
    timeout: timedelta = setting(
        "OTEL_BSP_EXPORT_TIMEOUT", p.otel_seconds, "Seconds the export of a batch may take.", "30"
    )


_LOG_SPANS: Final = Setting("OTEL_TRACING_LOG", p.boolean, "Log finished spans.", "false")


@dataclass(frozen=True, slots=True)
class SpanConfig:
    """Which spans are made, and what becomes of them."""

    sampler: SamplerConfig = computed(_read_sampler, _SAMPLER, _SAMPLER_ARG)
    batch: BatchConfig = section(BatchConfig)
    log: bool = computed(
        lambda reader: reader.value(_LOG_SPANS) is True and not reader.value(_DISABLED), _LOG_SPANS
    )


# --- The whole --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MetricExportConfig:
    """How often metrics are exported."""

    interval: timedelta = setting(
        "OTEL_METRIC_EXPORT_INTERVAL", p.otel_seconds, "Seconds between exports of metrics.", "60"
    )
    timeout: timedelta = setting(
        "OTEL_METRIC_EXPORT_TIMEOUT", p.otel_seconds, "Seconds an export of metrics may take.", "30"
    )


_ATTRIBUTES: Final = Setting(
    "OTEL_RESOURCE_ATTRIBUTES", p.pairs, "Attributes of this server: key=value,key=value.", ""
)


def _name_in_attributes(reader: Reader) -> str | None:
    attributes = reader.value(_ATTRIBUTES)
    return dict(attributes or ()).get("service.name")


@dataclass(frozen=True, slots=True)
class ResourceConfig:
    """How this server identifies itself in telemetry."""

    service_name: str = setting(
        "OTEL_SERVICE_NAME", p.text, "Name of this server.", "windshift", fallback=_name_in_attributes
    )
    attributes: tuple[tuple[str, str], ...] = computed(
        lambda reader: reader.value(_ATTRIBUTES) or (), _ATTRIBUTES
    )


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """What the server reports about its work."""

    otlp: SignalConfig = computed(_read_otlp, _DISABLED, *_SHARED.settings)
    """What applies to every signal that does not override it."""
    resource: ResourceConfig = section(ResourceConfig)
    propagators: tuple[str, ...] = setting(
        "OTEL_PROPAGATORS",
        p.propagators,
        "How trace context travels in gRPC metadata: tracecontext, baggage, none, or any installed.",
        "tracecontext,baggage",
    )
    traces: SignalConfig = _signal("traces", _Exporter.OTLP)
    metrics: SignalConfig = _signal("metrics", _Exporter.OTLP)
    logs: SignalConfig = _signal("logs", _Exporter.NONE)
    spans: SpanConfig = section(SpanConfig)
    metric_export: MetricExportConfig = section(MetricExportConfig)
