"""Consumers that the server makes for itself, to count events or to follow them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from windshift.nats import NotConnected
from windshift.nats.jetstream.api import API_PREFIX, JetStream, JsonObject, following_config
from windshift.nats.times import NANOSECONDS
from windshift.server.domain import names
from windshift.server.domain.broker_errors import follower_errors
from windshift.server.domain.names import INTERNAL


def own_config(name: str, filters: Sequence[str]) -> JsonObject:
    """Return what `following_config` does, for a consumer that no list shows."""
    return following_config(name, tuple(filters)) | {"metadata": {INTERNAL: ""}}


async def count_from(
    api: JetStream, stream: str, sequence: int, filters: Sequence[str], deadline: float
) -> int:
    """Count the events from an id on that match one of some subjects; without subjects all.

    JetStream counts only what a consumer has before it, so this makes one that lives for a second. Raise
    `UnsupportedCombination` where it takes none, see `follower_errors`.
    """
    name = names.generated_name()
    config = own_config(name, filters) | {
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": max(1, sequence),
        "inactive_threshold": NANOSECONDS,
    }
    with follower_errors(stream=stream):
        found = await api.create_hidden_consumer(stream, config, deadline)
    with suppress(NotConnected):  # it goes by itself
        api.connection.publish(f"{API_PREFIX}CONSUMER.DELETE.{stream}.{name}".encode())
    return found
