"""The attribute names of OpenTelemetry's semantic conventions, the only place that spells them.

Version 1.44.0, https://opentelemetry.io/docs/specs/semconv/. There `db`, `error`, `network` and `service` are
stable, `rpc` is a release candidate, and `messaging` is in development: its names may change with a later
version, and `SCHEMA_URL` with them.

Names that the conventions lack begin with ``windshift.``.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
SCOPE: Final = "windshift.server"
"""The name of the server's instrumentation scope."""
CLIENT_SCOPE: Final = "windshift.sdk"
"""That of the client library."""


class SpanKind(Enum):
    """The kinds of spans that the server has."""

    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"


# --- messaging ----------------------------------------------------------------------------------------

MESSAGING_SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION_NAME: Final = "messaging.destination.name"
CONSUMER_GROUP_NAME: Final = "messaging.consumer.group.name"
MESSAGE_ID: Final = "messaging.message.id"
BATCH_MESSAGE_COUNT: Final = "messaging.batch.message_count"
MESSAGE_BODY_SIZE: Final = "messaging.message.body.size"

NATS: Final = "nats"
WINDSHIFT: Final = "windshift"
"""The messaging system that a client sees."""

SEND: Final = "send"
PUBLISH: Final = "publish"
"""A client's name for sending; the server's `SEND` is the span that events refer to."""
PROCESS: Final = "process"
DELIVER: Final = "deliver"
"""Our name for delivering an event to a client; its type is `RECEIVE`."""
RECEIVE: Final = "receive"
SETTLE: Final = "settle"
"""The type of both `ACK` and `REJECT`."""
ACK: Final = "ack"
REJECT: Final = "reject"

# --- rpc -----------------------------------------------------------------------------------------------

RPC_SYSTEM_NAME: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_RESPONSE_STATUS_CODE: Final = "rpc.response.status_code"
NETWORK_PEER_ADDRESS: Final = "network.peer.address"
NETWORK_PEER_PORT: Final = "network.peer.port"

GRPC: Final = "grpc"

# --- db ------------------------------------------------------------------------------------------------

DB_SYSTEM_NAME: Final = "db.system.name"
DB_COLLECTION_NAME: Final = "db.collection.name"
DB_OPERATION_NAME: Final = "db.operation.name"

# --- of every kind -------------------------------------------------------------------------------------

ERROR_TYPE: Final = "error.type"

# --- our own -------------------------------------------------------------------------------------------

SUBJECT: Final = "windshift.subject"
"""The subject of an event. It may contain ids, so it is never part of a span's name."""
DELIVERY_ATTEMPT: Final = "windshift.delivery.attempt"
DUPLICATE: Final = "windshift.duplicate"
"""Whether an earlier publish with the same idempotency key had stored the event."""
OUTCOME: Final = "windshift.outcome"
"""What a client made of an event: ack, retry, dead_letter or drop."""
PERMANENTLY: Final = "windshift.reject.permanently"

# --- resource ------------------------------------------------------------------------------------------

SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
SERVICE_INSTANCE_ID: Final = "service.instance.id"
HOST_NAME: Final = "host.name"
PROCESS_PID: Final = "process.pid"
SDK_NAME: Final = "telemetry.sdk.name"
SDK_LANGUAGE: Final = "telemetry.sdk.language"
SDK_VERSION: Final = "telemetry.sdk.version"


def span_name(operation: str, target: str | None) -> str:
    """Name a span: the operation, and its target if that is known and of low cardinality."""
    return f"{operation} {target}" if target else operation
