"""The error codes of JetStream that matter here (nats-server 2.15, ``errors.json``).

Sets are named after what to do about them.
"""

from __future__ import annotations

import re
from typing import Final

from windshift.nats.errors import JetStreamError, NatsError

RESOURCES_EXCEEDED: Final = 10002  # of the account
CLUSTER_INCOMPLETE: Final = 10004
NO_SUITABLE_PEERS: Final = 10005
CLUSTER_NOT_AVAILABLE: Final = 10008
CLUSTER_NOT_ASSIGNED: Final = 10007
CLUSTER_NOT_LEADER: Final = 10009
CONSUMER_CREATE_FAILED: Final = 10012
CONSUMER_NAME_EXISTS: Final = 10013
CONSUMER_NOT_FOUND: Final = 10014
INSUFFICIENT_RESOURCES: Final = 10023
MAXIMUM_CONSUMERS: Final = 10026  # of the stream, or of the account
MAXIMUM_STREAMS: Final = 10027  # of the account
MEMORY_EXCEEDED: Final = 10028
ACCOUNT_NOT_FOUND: Final = 10035
MESSAGE_NOT_FOUND: Final = 10037
JETSTREAM_NOT_ENABLED_FOR_ACCOUNT: Final = 10039
SEQUENCE_NOT_FOUND: Final = 10043
STORAGE_EXCEEDED: Final = 10047
STREAM_CREATE_FAILED: Final = 10049
INVALID_CONFIG: Final = 10052
MESSAGE_TOO_LARGE: Final = 10054
MIRROR_IMMUTABLE: Final = 10055
MESSAGE_DELETE_FAILED: Final = 10057  # whatever the cause
STREAM_NAME_EXISTS: Final = 10058
STREAM_NOT_FOUND: Final = 10059
OTHER_STREAM: Final = 10060
"""Another stream than the expected one took the message."""
SUBJECTS_OVERLAP: Final = 10065
WRONG_LAST_SEQUENCE: Final = 10071
REPLICAS_NOT_SUPPORTED: Final = 10074
JETSTREAM_NOT_ENABLED: Final = 10076
STORE_FAILED: Final = 10077
HEADER_TOO_LARGE: Final = 10097
WORKQUEUE_FILTERED_NOT_UNIQUE: Final = 10099
WORKQUEUE_NOT_UNIQUE: Final = 10100
WORKQUEUE_DELIVER_POLICY: Final = 10101
CONSUMER_STORE_FAILED: Final = 10104
SEALED: Final = 10109
PURGE_FAILED: Final = 10110  # whatever the cause
ROLLUP_NOT_ALLOWED: Final = 10111
MAX_BYTES_REQUIRED: Final = 10113
STREAM_OFFLINE: Final = 10118
CONSUMER_OFFLINE: Final = 10119
NO_LIMITS: Final = 10120  # of the account, for this many replicas
MAX_ACK_PENDING_EXCESS: Final = 10121
MAX_BYTES_EXCEEDED: Final = 10122
STREAM_MOVING: Final = 10124
OVERLAPPING_FILTERS: Final = 10138
SOURCE_OVERLAPPING_FILTERS: Final = 10147
CONSUMER_ALREADY_EXISTS: Final = 10148
CONSUMER_DOES_NOT_EXIST: Final = 10149
MIRROR_OVERLAPPING_FILTERS: Final = 10152
DUPLICATE_IN_PROCESS: Final = 10158
LEADER_NOT_CURRENT: Final = 10163
WRONG_LAST_SEQUENCE_UNTOLD: Final = 10164
"""`WRONG_LAST_SEQUENCE` of a cluster that had another write to the subject under way: which sequence is the
last is not told."""
TTL_NOT_ENABLED: Final = 10166
TOO_MANY_REQUESTS: Final = 10167
BATCHES_NOT_ENABLED: Final = 10174
BATCH_INCOMPLETE: Final = 10176
"""The leader does not have all messages of a batch: it was elected meanwhile, or had no room for them."""
LEADER_CHANGING: Final = 10194
CONSUMER_OFFLINE_REASON: Final = 10195
BATCH_TOO_LARGE: Final = 10199
DUPLICATE_IN_BATCH: Final = 10201
"""A message of a batch has an id that is known, or that another one of it has."""
SERVERS_CHANGING: Final = 10202
CONSUMER_INVALID_RESET: Final = 10204
FAST_BATCHES_NOT_ENABLED: Final = 10205
FAST_BATCH_PATTERN: Final = 10206
FAST_BATCH_ID: Final = 10207
FAST_BATCH_UNKNOWN: Final = 10208
TOO_MANY_BATCHES: Final = 10210
TOO_MANY_FAST_BATCHES: Final = 10211
STREAM_RECONFIGURED: Final = 10226

TEMPORARY: Final = frozenset(
    {
        CLUSTER_INCOMPLETE,
        CLUSTER_NOT_ASSIGNED,
        CLUSTER_NOT_AVAILABLE,
        CLUSTER_NOT_LEADER,
        STREAM_OFFLINE,
        LEADER_NOT_CURRENT,
        TOO_MANY_REQUESTS,
        LEADER_CHANGING,
        CONSUMER_OFFLINE,
        CONSUMER_OFFLINE_REASON,
        STREAM_MOVING,
        SERVERS_CHANGING,
        STREAM_RECONFIGURED,
    }
)
"""No leader, an election, a stream that is being moved: the same request may succeed in a moment."""
NO_FAST_BATCH: Final = frozenset(
    {
        FAST_BATCHES_NOT_ENABLED,
        FAST_BATCH_PATTERN,
        FAST_BATCH_ID,
        FAST_BATCH_UNKNOWN,
        TOO_MANY_FAST_BATCHES,
    }
)
"""A message was refused because of the batch of fast ingest that it came in, not for itself."""
OUT_OF_SPACE: Final = frozenset(
    {RESOURCES_EXCEEDED, INSUFFICIENT_RESOURCES, MEMORY_EXCEEDED, STORAGE_EXCEEDED}
)
"""The account or the server has no room left for what was asked."""
OTHER_SIZE_WANTED: Final = OUT_OF_SPACE | {MAX_BYTES_REQUIRED, MAX_BYTES_EXCEEDED}
"""A stream may not be as large as that, or not without a limit."""
NOT_ENABLED: Final = frozenset({ACCOUNT_NOT_FOUND, JETSTREAM_NOT_ENABLED_FOR_ACCOUNT, JETSTREAM_NOT_ENABLED})
TOO_FEW_SERVERS: Final = frozenset({NO_SUITABLE_PEERS, REPLICAS_NOT_SUPPORTED, NO_LIMITS})
FILTERS_OVERLAP: Final = frozenset(
    {OVERLAPPING_FILTERS, SOURCE_OVERLAPPING_FILTERS, MIRROR_OVERLAPPING_FILTERS}
)
WORKQUEUE: Final = frozenset({WORKQUEUE_FILTERED_NOT_UNIQUE, WORKQUEUE_NOT_UNIQUE, WORKQUEUE_DELIVER_POLICY})
"""A consumer that does not fit a work queue, or the consumers that it has."""
STREAM_OVERTAKEN: Final = frozenset({STREAM_NAME_EXISTS, STREAM_NOT_FOUND})
"""Somebody else created the stream otherwise, or deleted it, between a question and an order."""
CONSUMER_OVERTAKEN: Final = frozenset(
    {CONSUMER_NAME_EXISTS, CONSUMER_ALREADY_EXISTS, CONSUMER_DOES_NOT_EXIST}
)
"""The same of a consumer."""
MESSAGE_GONE: Final = frozenset({MESSAGE_NOT_FOUND, SEQUENCE_NOT_FOUND, STREAM_NOT_FOUND})
"""A message that was to be deleted: an earlier request was not answered, or somebody else was faster."""

_LIMIT_REACHED: Final = re.compile("maximum .* exceeded")
_CREATE_FAILED: Final = frozenset({CONSUMER_CREATE_FAILED, STREAM_CREATE_FAILED, CONSUMER_STORE_FAILED})


def is_full(error: NatsError) -> bool:
    """Whether a stream has no room for a message."""
    if error.err_code == STORE_FAILED:  # of a limit that is reached, or of a broken disk
        return _LIMIT_REACHED.search(error.description) is not None
    return error.err_code == SEALED


def forbids_removal(error: NatsError) -> bool:
    """Whether a stream lets nothing be removed: it is sealed, or denies that, which only its text says."""
    if error.err_code in (MESSAGE_DELETE_FAILED, PURGE_FAILED):
        return "not permitted" in error.description
    return error.err_code == SEALED


def is_broken_disk(error: NatsError) -> bool:
    """Whether the server could not make the files of a stream or a consumer. Only its text says that."""
    return error.err_code in _CREATE_FAILED and "creating store" in error.description


_ACTUAL: Final = re.compile(r"wrong last sequence: (\d+)")


def actual_last_sequence(error: JetStreamError) -> int | None:
    """Return which sequence was the last one where another was expected; None if that is not told."""
    found = _ACTUAL.match(error.description)
    return None if found is None else int(found[1])
