"""Every instrument of the server: the list that both exporters and the documentation are made from.

Names follow OpenTelemetry's semantic conventions (1.44.0: rpc, process, cpython), and begin with
``windshift.`` where there is none. Prometheus gets its own forms: ``_total``, units spelled out, and for
process metrics the names that every Prometheus client library uses.

No label holds what a client chose, except names of streams and consumers, of which a bounded number is shown
(see `windshift.server.monitoring.snapshot`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final

RELOADED: Final = ("tls", "authorization")
"""What can be reloaded while the server runs."""

OTHER_METHOD: Final = "_OTHER"
"""All methods that the server does not have (semantic conventions, ``rpc.method``)."""

EPHEMERAL: Final = "(ephemeral)"
"""All consumers of a stream without a name. No consumer can have this name."""

OTHERS: Final = "(others)"
"""All consumers, or principals, that have no series of their own. None can have this name."""


class InstrumentKind(Enum):
    """The kinds of instruments in OpenTelemetry."""

    COUNTER = "counter"
    """A sum that only grows."""
    UP_DOWN = "up-down counter"
    """A sum that may shrink; add up those of several servers."""
    GAUGE = "gauge"
    """A reading; do not add up those of several servers."""
    HISTOGRAM = "histogram"


_UNITS: Final = {"s": "seconds", "By": "bytes"}


@dataclass(frozen=True, slots=True)
class Instrument:
    """One instrument.

    Attributes:
        kind: what its values mean.
        name: in OpenTelemetry.
        unit: in UCUM; counted things are in braces.
        description: one sentence without a full stop.
        labels: names of its attributes, in the order of their values.
        bounds: upper, inclusive bounds of a histogram.
        short: the Prometheus name without suffixes, if it does not follow from `name`.
    """

    kind: InstrumentKind
    name: str
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    short: str = ""

    @property
    def prometheus_unit(self) -> str:
        """The unit as Prometheus spells it; empty for counts."""
        return _UNITS.get(self.unit, "")

    @property
    def prometheus_family(self) -> str:
        """The name in Prometheus without ``_total``, ``_bucket``, ``_sum`` and ``_count``."""
        name = self.short or self.name.replace(".", "_")
        unit = self.prometheus_unit
        return f"{name}_{unit}" if unit and not name.endswith(f"_{unit}") else name

    @property
    def prometheus_name(self) -> str:
        """The name in Prometheus queries (of a histogram, without the suffix of its parts)."""
        return self.prometheus_family + ("_total" if self.kind is InstrumentKind.COUNTER else "")

    @property
    def prometheus_labels(self) -> tuple[str, ...]:
        """The names of the labels in Prometheus."""
        return tuple(re.sub("[^a-zA-Z0-9_]", "_", label) for label in self.labels)


_counter = partial(Instrument, InstrumentKind.COUNTER)
_up_down = partial(Instrument, InstrumentKind.UP_DOWN)
_gauge = partial(Instrument, InstrumentKind.GAUGE)
_histogram = partial(Instrument, InstrumentKind.HISTOGRAM)

# --- RPC --------------------------------------------------------------------------------------------------

CALL_DURATION: Final = _histogram(
    "rpc.server.call.duration",
    "s",
    "Duration of finished calls; streaming calls last as long as their client stays",
    ("rpc.system.name", "rpc.method", "rpc.response.status_code", "error.type"),
    # The conventions' bounds, and three below: most calls take one to five milliseconds.
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
)
ACTIVE_CALLS: Final = _up_down("windshift.rpc.active_calls", "{call}", "Calls in progress", ("rpc.method",))
CONNECTIONS: Final = _up_down(
    "windshift.rpc.connections", "{connection}", "Open HTTP/2 connections of clients"
)
CONNECTIONS_ENDED: Final = _counter(
    "windshift.rpc.ended_connections",
    "{connection}",
    "Connections that were refused or closed to protect others: too many (places, address), after useless "
    "work of the address (waiting), without authentication (anonymous: to make room, unauthenticated: in "
    "time), for useless work (useless) or memory (held), without an answer in time (handshake, stalled, "
    "silent)",
    ("reason",),
)
TRAFFIC: Final = _counter(
    "windshift.rpc.traffic", "By", "HTTP/2 bytes from and to clients, without TLS", ("network.io.direction",)
)
DENIALS: Final = _counter(
    "windshift.auth.denials",
    "{call}",
    "Calls that were denied, and streams that were ended, by the reason that the client got",
    ("reason",),
)
DENIED_COPIES: Final = _gauge(
    "windshift.auth.denied_copies",
    "{subject}",
    "What mirrors and aggregates copy though the principal that had them do so may not any more",
)
QUOTAS_EXCEEDED: Final = _counter(
    "windshift.auth.quotas_exceeded",
    "{call}",
    "Calls that were refused because a quota was used up, by quota",
    ("quota",),
)

PRINCIPAL_CALLS: Final = _counter(
    "windshift.principal.calls",
    "{call}",
    "Calls of a principal, whatever came of them; each further event of a batch or publish stream is one",
    ("principal",),
)
PRINCIPAL_DELIVERIES: Final = _counter(
    "windshift.principal.deliveries",
    "{event}",
    "Events that were delivered to a principal's consume calls, redeliveries included",
    ("principal",),
)
TOKEN_EXPIRY: Final = _gauge(
    "windshift.auth.token.expiry",
    "s",
    "When the last static token of a principal expires, if it has no other credential: seconds since 1970; "
    "+Inf: no others do",
    ("principal",),
)

# --- Events -----------------------------------------------------------------------------------------------

PUBLISHED: Final = _counter("windshift.events.published", "{event}", "Events that JetStream stored")
DUPLICATES: Final = _counter(
    "windshift.events.duplicates", "{event}", "Publishes whose idempotency key was already stored"
)
PUBLISH_FAILURES: Final = _counter(
    "windshift.publish.failures",
    "{publish}",
    "Publishes that failed, by the reason that the client got, but for denied ones; CANCELLED: the caller "
    "went away",
    ("reason",),
)
PUBLISHES_IN_FLIGHT: Final = _up_down(
    "windshift.publish.in_flight",
    "{publish}",
    "Writes that wait for JetStream's answer, each counted once more for each 16 KiB",
)
PUBLISHES_WAITING: Final = _up_down(
    "windshift.publish.waiting", "{publish}", "Writes that wait to be sent to JetStream"
)
DELIVERED: Final = _counter(
    "windshift.events.delivered", "{event}", "Deliveries to clients, including redeliveries"
)
REDELIVERED: Final = _counter(
    "windshift.events.redelivered", "{event}", "Those of them that were redeliveries"
)
SETTLED: Final = _counter(
    "windshift.events.settled",
    "{event}",
    "How deliveries ended: ack, reject, terminate (rejected for good) and ping (prolonged), once "
    "JetStream has stored it; expired (none of these in time); released (returned at the end of a call); "
    "lingered (kept for a client whose call was cut off); resumed (of those, held by another call now)",
    ("kind",),
)
IN_FLIGHT: Final = _up_down(
    "windshift.events.in_flight", "{event}", "Unsettled deliveries of this server's clients"
)
CONFIRMATIONS_FAILED: Final = _counter(
    "windshift.confirmations.failed",
    "{event}",
    "Ids in temporary_failed_ids: JetStream did not answer in time",
)
CONFIRMATIONS_INVALID: Final = _counter(
    "windshift.confirmations.invalid",
    "{event}",
    "Ids in invalid_ids: unknown to the call, already settled, or too late",
)
SUBSCRIPTIONS: Final = _up_down(
    "windshift.subscriptions", "{subscription}", "Clients of this server that consume"
)

# --- Events that were given up on -------------------------------------------------------------------------

DEAD_LETTERS: Final = _counter(
    "windshift.dead_letters", "{event}", "Events that became dead letters, by cause", ("cause",)
)
DEAD_LETTER_FAILURES: Final = _counter(
    "windshift.dead_letters.failures",
    "{event}",
    "Failures to write a dead letter; the event stays in its stream and is tried again",
)
DROPPED: Final = _counter(
    "windshift.events.dropped",
    "{event}",
    "Events given up on without a dead letter: as requested, or, GONE, because their stream had removed them",
    ("cause",),
)
DEAD_LETTERS_SIZE: Final = _gauge(
    "windshift.dead_letters.size", "By", "Bytes of dead letters, as of the last 30 seconds"
)
DEAD_LETTERS_LIMIT: Final = _gauge(
    "windshift.dead_letters.limit",
    "By",
    "Bytes of dead letters that there may be, or 0 for no limit; beyond it events are retried in place of "
    "becoming dead letters",
)
REPLAYS: Final = _counter("windshift.replays", "{event}", "Dead letters that were replayed")

# --- NATS -------------------------------------------------------------------------------------------------

NATS_CONNECTED: Final = _up_down(
    "windshift.nats.connected", "{connection}", "1 while connected to NATS, otherwise 0"
)
NATS_RECONNECTS: Final = _counter(
    "windshift.nats.reconnects",
    "{connection}",
    "Reconnects to NATS; a server has several connections, and the one with most counts",
)
NATS_CREDENTIALS_EXPIRY: Final = _gauge(
    "windshift.nats.credentials.expiry",
    "s",
    "When the JWT of NATS_CREDS, or the certificate of NATS_TLS_CERT if that is earlier, expires: seconds "
    "since 1970; 0: a file cannot be used; +Inf: never",
)
NATS_ROUND_TRIP: Final = _gauge(
    "windshift.nats.round_trip", "s", "Round-trip time of a message to NATS, at the last poll"
)

NATS_READS: Final = _up_down(
    "windshift.nats.reads", "By", "Bytes that the answers of NATS to requests under way may have at most"
)
NATS_READS_WAITING: Final = _up_down(
    "windshift.nats.reads.waiting", "{request}", "Requests that wait because others are answered first"
)
NATS_DELIVERIES: Final = _up_down(
    "windshift.nats.deliveries", "By", "Bytes of events that NATS may deliver by the pull requests it has"
)
NATS_DELIVERIES_WAITING: Final = _up_down(
    "windshift.nats.deliveries.waiting",
    "{call}",
    "Consume calls that wait because large events are delivered to others first",
)

# --- What JetStream holds, as polled ----------------------------------------------------------------------

STREAM_MESSAGES: Final = _gauge("windshift.stream.messages", "{event}", "Events in a stream", ("stream",))
STREAM_SIZE: Final = _gauge("windshift.stream.size", "By", "Bytes in a stream", ("stream",))
_LIMITED = ("stream", "discard")
STREAM_MESSAGES_LIMIT: Final = _gauge(
    "windshift.stream.messages.limit",
    "{event}",
    "Events that a stream may have, if that is limited; beyond it the old ones go, or new ones are refused",
    _LIMITED,
)
STREAM_SIZE_LIMIT: Final = _gauge(
    "windshift.stream.size.limit",
    "By",
    "Bytes that a stream may have, if that is limited; beyond it the old ones go, or new ones are refused",
    _LIMITED,
)
STREAM_LAST_ID: Final = _gauge(
    "windshift.stream.last_id", "{event}", "The last event id of a stream", ("stream",)
)
_CONSUMER = ("stream", "consumer")
CONSUMER_PENDING: Final = _gauge(
    "windshift.consumer.pending", "{event}", "Events not yet delivered by a consumer", _CONSUMER
)
CONSUMER_UNACKNOWLEDGED: Final = _gauge(
    "windshift.consumer.unacknowledged",
    "{event}",
    "Events delivered by a consumer but not settled",
    _CONSUMER,
)
CONSUMER_REDELIVERED: Final = _gauge(
    "windshift.consumer.redelivered",
    "{event}",
    "Unsettled events that were delivered more than once",
    _CONSUMER,
)
CONSUMER_OLDEST: Final = _gauge(
    "windshift.consumer.oldest.age",
    "s",
    "Age of a consumer's oldest unsettled event; 0 if there is none",
    _CONSUMER,
)
_LATENCIES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600)
DELIVERY_LATENCY: Final = _histogram(
    "windshift.consumer.delivery.latency",
    "s",
    "Time from when an event was stored to its first delivery to a client of this server",
    _CONSUMER,
    _LATENCIES,
)
SETTLEMENT_LATENCY: Final = _histogram(
    "windshift.consumer.settlement.latency",
    "s",
    "Time from when an event was stored to when a client of this server had acknowledged it or rejected it "
    "for good, whichever attempt that was",
    _CONSUMER,
    _LATENCIES,
)
CONSUMER_EXPIRED: Final = _counter(
    "windshift.consumer.expired",
    "{event}",
    "Deliveries that clients of a consumer neither settled nor prolonged in time",
    _CONSUMER,
)
CONSUMER_STALLS: Final = _counter(
    "windshift.consumer.stalls",
    "{stall}",
    "Times that a client of a consumer did not read what it was sent, so that it got no more",
    _CONSUMER,
)
POLL_OMITTED: Final = _gauge(
    "windshift.poll.omitted",
    "{series}",
    "Streams, consumers and ages of oldest events that the last poll of JetStream left out to stay bounded",
    ("kind",),
)
POLL_FAILURES: Final = _counter(
    "windshift.poll.failures", "{poll}", "Failed polls of JetStream; its gauges are absent meanwhile"
)

# --- The process ------------------------------------------------------------------------------------------

LOOP_LAG: Final = _histogram(
    "windshift.event_loop.lag",
    "s",
    "How late the event loop calls a timer, measured twice a second",
    (),
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
LOOP_STALLS: Final = _counter(
    "windshift.event_loop.stalls",
    "{stall}",
    "Times that the event loop was blocked for 5 seconds or more; the log has the stacks of all threads",
)
CPU_TIME: Final = _counter(
    "process.cpu.time", "s", "CPU time of the process", ("cpu.mode",), short="process_cpu"
)
MEMORY: Final = _up_down(
    "process.memory.usage", "By", "Resident memory of the process", short="process_resident_memory"
)
DESCRIPTORS: Final = _up_down(
    "process.unix.file_descriptor.count",
    "{file_descriptor}",
    "Open file descriptors of the process",
    short="process_open_fds",
)
RELOADS: Final = _counter(
    "windshift.reloads",
    "{reload}",
    "Reloads of files: ok, or failed (refused; the previous ones stay in use)",
    ("what", "result"),
)
RELOAD_FAILING: Final = _gauge(
    "windshift.reload.failing", "", "1 while the current files are refused, otherwise 0", ("what",)
)
CERTIFICATE_EXPIRY: Final = _gauge(
    "windshift.tls.certificate.expiry",
    "s",
    "When the certificate of the API, or the first of its chain, expires: seconds since 1970; +Inf: no TLS",
)
DISK_FREE: Final = _gauge(
    "windshift.disk.free", "By", "Free space on the disk of the embedded NATS server that it may use"
)
DISK_SIZE: Final = _gauge("windshift.disk.size", "By", "Size of that disk")
DISK_REFUSING: Final = _gauge(
    "windshift.disk.refusing", "", "1 while the embedded NATS server cannot store anything, otherwise 0"
)
UPTIME: Final = _gauge("process.uptime", "s", "Time since the server started")
GC_COLLECTIONS: Final = _counter(
    "cpython.gc.collections", "{collection}", "Runs of Python's garbage collector", ("cpython.gc.generation",)
)
BUILD_INFO: Final = _gauge(
    "windshift.build.info",
    "",
    "Always 1; the labels show the versions of Windshift, Python, and the libnghttp2 that is loaded",
    ("version", "python_version", "libnghttp2"),
)
SPANS_EXPORTED: Final = _counter(
    "windshift.spans.exported",
    "{span}",
    "Spans in batches that the collector accepted; it may have dropped some of them",
)
SPANS_DROPPED: Final = _counter(
    "windshift.spans.dropped", "{span}", "Lost spans: too many, or not accepted by the collector"
)
PUSH_FAILURES: Final = _counter(
    "windshift.metrics.push_failures", "{export}", "Failed exports of metrics over OTLP"
)

INSTRUMENTS: Final[tuple[Instrument, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, Instrument)
)
"""All of them, in the order above."""
