"""How much of their owners' quotas streams, stores and consumers use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from windshift.nats.jetstream.api import JsonObject, metadata_of, with_metadata
from windshift.nats.times import NANOSECONDS

OWNER: Final = "windshift.owner"
"""Where the name of the principal lies that made something, in the ``metadata`` of its configuration."""

BUCKET: Final = "KV_"
"""How the names of streams begin that are stores."""

Key: TypeAlias = tuple[str, str]
"""A stream and a consumer of it. The stream itself has an empty one."""
Amounts: TypeAlias = Mapping[str, int]
"""How much of each quota something takes."""

GROWING: Final = ("memory_bytes", "stored_bytes")
"""Quotas of which something takes more and more when nobody changes it."""

SET_ASIDE: Final = "memory_bytes"
"""The one of these that has `max_bytes` in it, of what has that."""

_END: Final = 2
"""How many times such a quota somebody may have, in several streams and stores; then all of them are full."""

CONSUMER_QUOTAS: Final = frozenset({"consumers", "ephemeral_consumers"})


class Held(NamedTuple):
    """Something that somebody has.

    Attributes:
        owner: the name of the principal.
        amounts: what it takes of which quota.
        endless: the subjects by which a stream grows that has no `max_bytes`; None = it has that.
    """

    owner: str
    amounts: Amounts
    endless: tuple[str, ...] | None = ()


def owner_of(config: Mapping[str, Any]) -> str:
    """Return the name of the principal that made something; empty when that is not known."""
    return str(metadata_of(config).get(OWNER, ""))


def owned(config: JsonObject, owner: str) -> JsonObject:
    """Return a configuration with the name of its owner in it."""
    return with_metadata(config, OWNER, owner)


def of_stream(config: Mapping[str, Any], stored: int = 0) -> dict[str, int]:
    """Return what a stream counts towards quotas. `stored` is its bytes in all replicas; 0 counts as 1."""
    stored = stored or 1
    if config["name"].startswith(BUCKET):
        return {"stores": 1, "stored_bytes": stored}
    reserved = max(0, config.get("max_bytes") or 0) * replicas(config)
    copied = sources(config) + bool(config.get("mirror"))
    made = {"streams": 1, "all_sources": copied} if copied else {"streams": 1}
    if config.get("storage") == "memory":
        return {**made, "memory_streams": 1, "memory_bytes": reserved or stored}
    return {**made, "reserved_bytes": reserved, "stored_bytes": stored}


def endless(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return by which subjects a stream grows that has no `max_bytes`; None = it has that."""
    return None if (config.get("max_bytes") or 0) > 0 else tuple(config.get("subjects") or ())


def level(sizes: Iterable[int], limit: int) -> int:
    """Return up to which size things may grow that share a limit. The largest are cut down first.

    The sizes, those above the level cut down to it, add up to no more than the limit. In truth nothing is
    cut: the sum may pass the limit while the smaller ones grow up to the level. That ends at twice the limit,
    where the level is 0. In it no size counts as more than the limit: one alone never brings it about.
    """
    ordered = sorted(sizes)
    if sum(min(size, limit) for size in ordered) > _END * limit:
        return 0
    left = limit
    for number, size in enumerate(ordered):
        share = left // (len(ordered) - number)
        if size > share:
            return share
        left -= size
    return max(ordered, default=0)


def of_consumer(config: Mapping[str, Any]) -> Amounts:
    """Say what a consumer takes."""
    return {"consumers" if config.get("durable_name") else "ephemeral_consumers": 1}


def sources(config: Mapping[str, Any]) -> int:
    """Count the sources of an aggregate."""
    return len(config.get("sources") or ())


def replicas(config: Mapping[str, Any]) -> int:
    """Count the replicas of a stream."""
    return int(config.get("num_replicas") or 1)


def deduplication_seconds(config: Mapping[str, Any]) -> int:
    """Return how long a stream remembers idempotency keys, a second begun as a whole one."""
    return -(-int(config.get("duplicate_window") or 0) // NANOSECONDS)


def subjects(config: Mapping[str, Any]) -> int:
    """Count the subjects of a stream and the filters of its sources, or the filters of a consumer."""
    sources = [config.get("mirror") or {}, *(config.get("sources") or ())]
    of_sources = (
        len(each.get("subject_transforms") or ()) or bool(each.get("filter_subject")) for each in sources
    )
    return len(config.get("subjects") or ()) + len(config.get("filter_subjects") or ()) + sum(of_sources)
