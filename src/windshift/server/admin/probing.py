"""Temporary consumers that the server creates to count events or to follow them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from windshift.nats import NotConnected
from windshift.nats.jetstream.api import API_PREFIX, JetStream, JsonObject
from windshift.nats.times import NANOSECONDS
from windshift.server.domain import names
from windshift.server.domain.broker_errors import follower_errors
from windshift.server.domain.names import INTERNAL


def probe_config(name: str, filters: Sequence[str]) -> JsonObject:
    """Return the configuration of a consumer that needs no acknowledgements and lives in memory, briefly.

    It has no replicas, unless the stream removes what its consumers have: there the broker wants as many.
    """
    return {
        "name": name,
        "ack_policy": "none",
        "mem_storage": True,
        "inactive_threshold": NANOSECONDS,
        "filter_subjects": list(filters),
        "metadata": {INTERNAL: ""},
    }


async def count_from(
    api: JetStream, stream: str, sequence: int, filters: Sequence[str], deadline: float
) -> int:
    """Count the events from an id on that match one of some subjects; without subjects all.

    JetStream counts only what a consumer has before it, so this makes one that lives for a second. Raise
    `UnsupportedCombination` where it takes none, see `follower_errors`.
    """
    name = names.generated_name()
    start = {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, sequence)}
    request = {"stream_name": stream, "config": probe_config(name, filters) | start, "action": "create"}
    with follower_errors(stream=stream):
        answer = await api.change(f"CONSUMER.CREATE.{stream}.{name}", request, deadline, hidden=True)
    with suppress(NotConnected):  # it goes by itself
        api.connection.publish(f"{API_PREFIX}CONSUMER.DELETE.{stream}.{name}".encode())
    return int(answer["num_pending"])
