"""From the environment to the part of the tree that is about telemetry.

The variables are OpenTelemetry's own:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
https://opentelemetry.io/docs/specs/otel/protocol/exporter/. They are read here and not by OpenTelemetry's
libraries, so that wrong ones are told at the start, and so that seconds mean seconds wherever they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from importlib.metadata import entry_points
from typing import Final

from windshift.server.config.reader import Reader
from windshift.server.config.tree import (
    BatchConfig,
    OtlpCompression,
    OtlpProtocol,
    SamplerConfig,
    SignalConfig,
    TelemetryConfig,
    TlsFiles,
)

_PROPAGATORS: Final = ("tracecontext", "baggage", "none")
_PROPAGATOR_GROUP: Final = "opentelemetry_propagator"
_LARGEST_QUEUE: Final = 1_000_000
_FILES: Final = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")


class _Exporter(StrEnum):
    OTLP = "otlp"
    NONE = "none"


class _Sampler(StrEnum):
    ALWAYS_ON = "always_on"
    ALWAYS_OFF = "always_off"
    RATIO = "traceidratio"
    PARENT_ON = "parentbased_always_on"
    PARENT_OFF = "parentbased_always_off"
    PARENT_RATIO = "parentbased_traceidratio"


@dataclass(frozen=True, slots=True)
class _Otlp:
    """The values of one prefix, ``OTEL_EXPORTER_OTLP`` or that of one kind of telemetry."""

    prefix: str
    protocol: OtlpProtocol
    endpoint: str | None
    timeout: timedelta
    headers: tuple[tuple[str, str], ...]
    compression: OtlpCompression
    tls: TlsFiles
    insecure: bool


def read_telemetry(reader: Reader) -> TelemetryConfig:
    """Read everything that is about telemetry."""
    resource = dict(reader.pairs("OTEL_RESOURCE_ATTRIBUTES"))
    every = _otlp(reader, "OTEL_EXPORTER_OTLP", _DEFAULTS)
    enabled = not reader.boolean("OTEL_SDK_DISABLED")
    traces, metrics = _signal(reader, "TRACES", every), _signal(reader, "METRICS", every)
    logs = _signal(reader, "LOGS", every, _Exporter.NONE)
    return TelemetryConfig(
        service_name=reader.text("OTEL_SERVICE_NAME") or resource.pop("service.name", "windshift"),
        resource=tuple((key, value) for key, value in resource.items() if key != "service.name"),
        propagators=reader.parsed(
            "OTEL_PROPAGATORS", ("tracecontext", "baggage"), _propagators, _propagators_allowed()
        ),
        traces=traces if enabled else SignalConfig(),
        metrics=metrics if enabled else SignalConfig(),
        logs=logs if enabled else SignalConfig(),
        sampler=_sampler(reader),
        batch=_batch(reader),
        metric_interval=reader.telemetry_seconds("OTEL_METRIC_EXPORT_INTERVAL", timedelta(seconds=60)),
        metric_timeout=reader.telemetry_seconds("OTEL_METRIC_EXPORT_TIMEOUT", timedelta(seconds=30)),
        log_spans=reader.boolean("OTEL_TRACING_LOG") and enabled,
    )


# --- Where telemetry goes ---------------------------------------------------------------------------------

_DEFAULTS: Final = _Otlp(
    "", OtlpProtocol.GRPC, None, timedelta(seconds=10), (), OtlpCompression.NONE, TlsFiles(), insecure=False
)


def _otlp(reader: Reader, prefix: str, default: _Otlp) -> _Otlp:
    """Read the values of one prefix. What it lacks is that of `default`."""
    protocol = reader.choice(f"{prefix}_PROTOCOL", default.protocol)
    endpoint = reader.endpoint(f"{prefix}_ENDPOINT", bare=protocol is OtlpProtocol.GRPC)
    return _Otlp(
        prefix if endpoint else default.prefix,
        protocol,
        endpoint or default.endpoint,
        reader.telemetry_seconds(f"{prefix}_TIMEOUT", default.timeout),
        reader.pairs(f"{prefix}_HEADERS") or default.headers,
        reader.choice(f"{prefix}_COMPRESSION", default.compression),
        _tls(reader, prefix, default.tls),
        reader.boolean(f"{prefix}_INSECURE", default=default.insecure),
    )


def _tls(reader: Reader, prefix: str, default: TlsFiles) -> TlsFiles:
    authority, certificate, key = (reader.file(f"{prefix}_{each}") for each in _FILES)
    if certificate is not None and key is None:
        reader.problem(f"{prefix}_CLIENT_CERTIFICATE", f"needs {prefix}_CLIENT_KEY; set it too")
    if key is not None and certificate is None:
        reader.problem(f"{prefix}_CLIENT_KEY", f"needs {prefix}_CLIENT_CERTIFICATE; set it too")
    if certificate is None:
        certificate, key = default.certificate, default.key
    return TlsFiles(authority or default.ca, certificate, key)


def _signal(reader: Reader, kind: str, every: _Otlp, exporter: _Exporter = _Exporter.OTLP) -> SignalConfig:
    """Read one kind's own values, which come before those of all kinds; `exporter` holds without any."""
    own = _otlp(reader, f"OTEL_EXPORTER_OTLP_{kind}", every)
    wanted = reader.choice(f"OTEL_{kind}_EXPORTER", exporter) is _Exporter.OTLP
    return _resolved(own, kind.lower()) if wanted else SignalConfig()


def _resolved(values: _Otlp, kind: str) -> SignalConfig:
    """Give one kind its URL: over HTTP the endpoint of all kinds gets the kind's path, its own is whole."""
    endpoint = values.endpoint
    if endpoint and values.protocol is OtlpProtocol.HTTP_PROTOBUF and values.prefix == "OTEL_EXPORTER_OTLP":
        endpoint = f"{endpoint.rstrip('/')}/v1/{kind}"
    return SignalConfig(
        endpoint,
        values.timeout,
        values.protocol,
        values.headers,
        values.compression,
        values.tls,
        values.insecure,
    )


# --- Which spans, and how -----------------------------------------------------------------------------------


def _sampler(reader: Reader) -> SamplerConfig:
    sampler = reader.choice("OTEL_TRACES_SAMPLER", _Sampler.PARENT_ON)
    parent_based = sampler.startswith("parentbased_")
    if sampler in (_Sampler.RATIO, _Sampler.PARENT_RATIO):
        return SamplerConfig(parent_based, reader.ratio("OTEL_TRACES_SAMPLER_ARG", 1.0))
    return SamplerConfig(parent_based, 1.0 if sampler.endswith("on") else 0.0)


def _batch(reader: Reader) -> BatchConfig:
    default = BatchConfig()
    queue = reader.integer("OTEL_BSP_MAX_QUEUE_SIZE", default.queue_size, 1, _LARGEST_QUEUE)
    return BatchConfig(
        reader.milliseconds("OTEL_BSP_SCHEDULE_DELAY", default.delay),
        queue,
        min(reader.integer("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", default.batch_size, 1, _LARGEST_QUEUE), queue),
        reader.telemetry_seconds("OTEL_BSP_EXPORT_TIMEOUT", default.timeout),
    )


def _propagators(value: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in value.split(",") if name.strip())
    if not names or not all(name in _PROPAGATORS or _installed(name) for name in names):
        raise ValueError
    return names


def _propagators_allowed() -> str:
    known = ", ".join(_PROPAGATORS)
    return (
        f"some of {known}, separated by commas; others, such as b3, can be used once the package that has "
        "them is installed (opentelemetry-propagator-b3 for b3 and b3multi)"
    )


def _installed(name: str) -> bool:
    return bool(entry_points(group=_PROPAGATOR_GROUP, name=name))
