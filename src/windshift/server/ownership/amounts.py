"""How much of their owners' quotas streams, stores and consumers use."""

from __future__ import annotations

from collections.abc import Mapping
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


CONSUMER_QUOTAS: Final = frozenset({"consumers", "ephemeral_consumers"})


class Held(NamedTuple):
    """Something that somebody has.

    Attributes:
        owner: the name of the principal.
        amounts: what it takes of which quota.
        endless: the subjects by which a stream grows that has no `max_bytes`.
    """

    owner: str
    amounts: Amounts
    endless: tuple[str, ...] = ()


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
    most = max(0, config.get("max_bytes") or 0) * replicas(config)
    if config.get("storage") == "memory":
        return {"streams": 1, "memory_streams": 1, "memory_bytes": most or stored}
    return {"streams": 1, "reserved_bytes": most, "stored_bytes": stored}


def endless(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the subjects of a stream that nothing but its owner's quotas keeps from growing."""
    return () if (config.get("max_bytes") or 0) > 0 else tuple(config.get("subjects") or ())


def of_consumer(config: Mapping[str, Any]) -> Amounts:
    """Say what a consumer takes."""
    return {"consumers" if config.get("durable_name") else "ephemeral_consumers": 1}


def sources(config: Mapping[str, Any] | None) -> int:
    """Count the sources of an aggregate."""
    return len((config or {}).get("sources") or ())


def replicas(config: Mapping[str, Any] | None) -> int:
    """Count the replicas of a stream."""
    return int((config or {}).get("num_replicas") or 1)


def deduplication_seconds(config: Mapping[str, Any] | None) -> int:
    """Return how long a stream remembers idempotency keys, a second begun as a whole one."""
    return -(-int((config or {}).get("duplicate_window") or 0) // NANOSECONDS)


def subjects(config: Mapping[str, Any] | None) -> int:
    """Count the subjects of a stream and the filters of its sources, or the filters of a consumer."""
    config = config or {}
    sources = [config.get("mirror") or {}, *(config.get("sources") or ())]
    of_sources = (
        len(each.get("subject_transforms") or ()) or bool(each.get("filter_subject")) for each in sources
    )
    return len(config.get("subjects") or ()) + len(config.get("filter_subjects") or ()) + sum(of_sources)
