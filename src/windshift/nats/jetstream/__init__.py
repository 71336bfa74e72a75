"""JetStream on `windshift.nats`: its API, writing, reading, pulling and settling, and key-value buckets."""

from . import codes
from .api import ConsumerState, JetStream, JsonObject, StoredMessage, StreamState
from .batch_get import Batch, batch_get
from .kv import NEVER_WRITTEN, Buckets, Record
from .pulling import (
    ACK,
    PROGRESS,
    TERMINATE,
    AckSubject,
    Arrival,
    Ended,
    Notice,
    Puller,
    PullOptions,
    nak,
    read_ack_subject,
    split_ack_subject,
)
from .slots import Slots
from .writes import PubAck, Write, WriteOptions, Writes

__all__ = [
    "ACK",
    "NEVER_WRITTEN",
    "PROGRESS",
    "TERMINATE",
    "AckSubject",
    "Arrival",
    "Batch",
    "Buckets",
    "ConsumerState",
    "Ended",
    "JetStream",
    "JsonObject",
    "Notice",
    "PubAck",
    "PullOptions",
    "Puller",
    "Record",
    "Slots",
    "StoredMessage",
    "StreamState",
    "Write",
    "WriteOptions",
    "Writes",
    "batch_get",
    "codes",
    "nak",
    "read_ack_subject",
    "split_ack_subject",
]
