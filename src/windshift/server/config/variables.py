"""Every environment variable of the server: what it means and what holds when it is absent.

The only list: `windshift serve --help` prints it, and the documents' tables are made from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable. An empty value counts as an absent one."""

    name: str
    meaning: str
    default: str = ""
    """As a person would say it; empty when absence has no value to name."""


def _signal(kind: str, exporter: str = "otlp") -> tuple[Variable, ...]:
    """Give the variables of one kind of telemetry, which come before those of all kinds."""
    prefix, lower = f"OTEL_EXPORTER_OTLP_{kind}", kind.lower()
    return (
        Variable(f"OTEL_{kind}_EXPORTER", f"otlp, or none: send no {lower}.", exporter),
        Variable(f"{prefix}_ENDPOINT", f"Where {lower} go; over HTTP the whole URL."),
        *(
            Variable(f"{prefix}_{what}", f"OTEL_EXPORTER_OTLP_{what} for {lower} alone.")
            for what in _OF_ONE_KIND
        ),
    )


_OF_ONE_KIND: Final = (
    "PROTOCOL",
    "TIMEOUT",
    "HEADERS",
    "COMPRESSION",
    "INSECURE",
    "CERTIFICATE",
    "CLIENT_CERTIFICATE",
    "CLIENT_KEY",
)

VARIABLES: Final[tuple[Variable, ...]] = (
    Variable("DEVELOPMENT", "Development mode: readable logs, debug level.", "false"),
    Variable("LOG_LEVEL", "What is logged: debug, info, warning or error.", "info"),
    Variable(
        "NATS_URL",
        "URL of the NATS server, or several separated by commas; with user and password, or a token. "
        "Absent: an embedded server is started.",
    ),
    Variable("NATS_CREDS", "Credentials file for NATS: a JWT and the seed of its key."),
    Variable("NATS_NKEY", "File with the seed of an nkey for NATS; not together with NATS_CREDS."),
    Variable(
        "NATS_TLS_CA", "Certificates of the authorities that NATS servers are checked against; asks for TLS."
    ),
    Variable("NATS_TLS_CERT", "Client certificate for NATS; needs NATS_TLS_KEY."),
    Variable("NATS_TLS_KEY", "Key of NATS_TLS_CERT."),
    Variable("NATS_TLS_FIRST", "TLS before the first word, for a nats-server with handshake_first.", "false"),
    Variable(
        "NATS_PUBLISH_ASYNC_MAX_PENDING",
        "Publishes that may wait for the broker's answer at once, 1 to 10,000; more wait their turn.",
        "256",
    ),
    Variable("GRPC_PORT", "Port of the API; 0 means any free one.", "8080"),
    Variable("GRPC_HOST", "Address of the API.", "127.0.0.1"),
    Variable("GRPC_TLS_CERT", "Certificate of the API; needs GRPC_TLS_KEY. Absent: plain text."),
    Variable("GRPC_TLS_KEY", "Key of GRPC_TLS_CERT."),
    Variable(
        "GRPC_TLS_CLIENT_CA", "Authorities that client certificates are checked against; needs GRPC_TLS_CERT."
    ),
    Variable(
        "GRPC_TLS_CLIENT_AUTH",
        "Whether clients must show a certificate: require, or optional. Needs GRPC_TLS_CLIENT_CA.",
        "require",
    ),
    Variable(
        "GRPC_MAX_CONNECTIONS",
        "Connections at once, 1 to 1,000,000, as far as the limit of open files lets; more are dropped.",
        "10000",
    ),
    Variable(
        "GRPC_MAX_CONNECTIONS_PER_ADDRESS",
        "The same for one client address (of IPv6: for one /64 network); 0: no limit of its own.",
        "0",
    ),
    Variable("GRPC_MAX_CONCURRENT_STREAMS", "Calls at once on one connection, 1 to 10,000.", "256"),
    Variable(
        "GRPC_KEEPALIVE_INTERVAL",
        "Seconds of silence after which a client is asked whether it is there; 0: never.",
        "30",
    ),
    Variable("GRPC_KEEPALIVE_TIMEOUT", "Seconds in which it must answer.", "10"),
    Variable(
        "GRPC_HANDSHAKE_TIMEOUT",
        "Seconds that a client has for TLS, and then to begin its first call.",
        "10",
    ),
    Variable(
        "GRPC_MAX_HELD_MB",
        "Megabytes of messages that are not whole and of answers that are not read, of all clients together; "
        "when it is more, the connections that hold most are dropped.",
        "a quarter of the memory",
    ),
    Variable("HEALTH_PORT", "Port of /healthz, /readyz and /metrics; 0 means any free one.", "8088"),
    Variable("HEALTH_HOST", "Address of /healthz, /readyz and /metrics.", "GRPC_HOST"),
    Variable("WINDSHIFT_DATA_DIR", "Data of the embedded server.", "windshift under the user's data home"),
    Variable("WINDSHIFT_NATS_SERVER", "Another nats-server program to embed.", "the installed wheel's"),
    Variable(
        "WINDSHIFT_NATS_SYNC",
        "How often the embedded server flushes to disk, such as 500ms or 2m, or always: before every answer.",
        "1s",
    ),
    Variable(
        "WINDSHIFT_DEFAULT_REPLICAS",
        "Replicas of streams and stores where a request says nothing, 1 to 5; above 1 only with NATS_URL.",
        "1",
    ),
    Variable("WINDSHIFT_DRAIN_TIMEOUT", "Seconds that a stop waits for work in flight.", "10"),
    Variable(
        "WINDSHIFT_AUTH_FILE",
        "Who may do what: a TOML file. Absent: everybody may do everything.",
    ),
    Variable(
        "WINDSHIFT_INSECURE",
        "Serve other addresses than loopback without authorization: everybody may do everything.",
        "false",
    ),
    Variable("WINDSHIFT_METRICS", "Take readings, for /metrics and for OTLP; false: neither.", "true"),
    Variable("OTEL_SDK_DISABLED", "Send no telemetry, whatever the rest says.", "false"),
    Variable("OTEL_SERVICE_NAME", "Name of this server in telemetry.", "windshift"),
    Variable("OTEL_RESOURCE_ATTRIBUTES", "More about this server: key=value pairs separated by commas."),
    Variable(
        "OTEL_PROPAGATORS",
        "How trace context travels in gRPC metadata: tracecontext, baggage, none, or what is installed.",
        "tracecontext,baggage",
    ),
    Variable("OTEL_EXPORTER_OTLP_ENDPOINT", "Where traces, metrics and logs go. Absent: nowhere."),
    Variable("OTEL_EXPORTER_OTLP_PROTOCOL", "How they are sent: grpc or http/protobuf.", "grpc"),
    Variable(
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "Seconds that one export may take; here and in every _TIMEOUT, from 1000 on milliseconds.",
        "10",
    ),
    Variable("OTEL_EXPORTER_OTLP_HEADERS", "Sent along: key=value pairs separated by commas."),
    Variable("OTEL_EXPORTER_OTLP_COMPRESSION", "none or gzip.", "none"),
    Variable("OTEL_EXPORTER_OTLP_INSECURE", "No TLS to a gRPC endpoint that is no URL.", "false"),
    Variable("OTEL_EXPORTER_OTLP_CERTIFICATE", "Authorities that the collector is checked against."),
    Variable("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "Client certificate for the collector."),
    Variable("OTEL_EXPORTER_OTLP_CLIENT_KEY", "Key of OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE."),
    *_signal("TRACES"),
    *_signal("METRICS"),
    *_signal("LOGS", "none"),
    Variable(
        "OTEL_TRACES_SAMPLER",
        "Which traces are recorded: always_on, always_off, traceidratio, or one of them with parentbased_ "
        "before it, which keeps to what the caller decided.",
        "parentbased_always_on",
    ),
    Variable("OTEL_TRACES_SAMPLER_ARG", "The share that traceidratio records, from 0 to 1.", "1.0"),
    Variable("OTEL_BSP_SCHEDULE_DELAY", "Milliseconds that a finished span waits for others.", "5000"),
    Variable("OTEL_BSP_MAX_QUEUE_SIZE", "Spans that may wait; further ones are dropped.", "2048"),
    Variable("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "Spans that are sent at once.", "512"),
    Variable("OTEL_BSP_EXPORT_TIMEOUT", "Seconds that sending them may take.", "30"),
    Variable("OTEL_TRACING_LOG", "Write finished spans to the log.", "false"),
    Variable("OTEL_METRIC_EXPORT_INTERVAL", "Seconds between exports of metrics.", "60"),
    Variable("OTEL_METRIC_EXPORT_TIMEOUT", "Seconds that an export of metrics may take.", "30"),
)
