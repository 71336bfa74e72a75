"""JetStream's descriptions of streams and consumers as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from windshift.nats.times import Time, parse_rfc3339
from windshift.server.domain.names import EVERYTHING
from windshift.server.events import specs
from windshift.server.events.losses import source_filters


class SourceView(NamedTuple):
    """A stream that another one copies from.

    Attributes:
        lag: events that are not copied yet.
        heard: how long ago it was last heard from; None = never.
        error: what hinders the copying; empty = nothing.
    """

    name: str
    lag: int
    heard: timedelta | None
    error: str


class ReplicaView(NamedTuple):
    """A copy that is not the leader: the nats-server, whether it has all, and operations it is behind."""

    name: str
    current: bool
    lag: int


class StreamView(NamedTuple):
    """A stream, as its leader has it.

    Attributes:
        spec: what would make it.
        size: bytes it holds, headers counted.
        first_id: of the first event held; without events the next id that will be given.
        last_id: the last id ever given; 0 = none.
        first_time: when the first event held was stored; None = no events.
        last_time: when the last one ever was.
        subjects: how many it holds events of.
        consumers: how many it has, ephemeral ones included.
        leader: the nats-server that leads; None = the broker is no cluster, empty = none at this moment.
        replicas: the copies that do not lead.
    """

    spec: specs.StreamSpec
    created: Time
    events: int
    size: int
    first_id: int
    last_id: int
    first_time: Time | None
    last_time: Time | None
    subjects: int
    consumers: int
    sources: tuple[SourceView, ...]
    leader: str | None
    replicas: tuple[ReplicaView, ...]


def stream_view(info: Mapping[str, Any]) -> StreamView:
    """Read the answer to ``STREAM.INFO``."""
    state, config = info["state"], info["config"]
    cluster = info.get("cluster") or {}
    clustered = "name" in cluster
    copied = [info["mirror"]] if info.get("mirror") else info.get("sources") or ()
    return StreamView(
        stored_spec(config),
        _time(info["created"]) or Time(0, 0),
        state["messages"],
        state["bytes"],
        state["first_seq"],
        state["last_seq"],
        _time(state["first_ts"]) if state["messages"] else None,
        _time(state["last_ts"]),
        state.get("num_subjects", 0),
        state.get("consumer_count", 0),
        tuple(map(_source_view, copied)),
        cluster.get("leader", "") if clustered else None,
        tuple(
            ReplicaView(each["name"], bool(each.get("current")), each.get("lag", 0))
            for each in cluster.get("replicas") or ()
        ),
    )


def _source_view(source: Mapping[str, Any]) -> SourceView:
    active = source.get("active", -1)
    heard = None if active < 0 else timedelta(microseconds=active // 1000)
    error = source.get("error") or {}
    return SourceView(source["name"], source.get("lag", 0), heard, error.get("description", ""))


# --- A stored configuration as a spec ---------------------------------------------------------------------


def stored_spec(config: Mapping[str, Any]) -> specs.StreamSpec:
    """Return the spec that would make this stream: the inverse of `desired_config`."""
    size = config.get("max_msg_size", -1)
    window = config.get("duplicate_window", 0)
    source = _input(config)
    is_published_to = isinstance(source, specs.FromSubjects)  # of others batches cannot be asked for
    return specs.StreamSpec(
        config["name"],
        source,
        specs.RetentionSpec(
            _duration(config.get("max_age", 0)),
            _limit(config, "max_msgs"),
            _limit(config, "max_msgs_per_subject"),
            _limit(config, "max_bytes"),
            specs.DiscardPolicy(config.get("discard", "old")),
            bool(config.get("discard_new_per_subject")),
        ),
        specs.StorageType(config.get("storage", "file")),
        config.get("num_replicas") or 1,
        _duration(window),
        size if size > 0 else None,
        is_published_to and bool(config.get("allow_atomic")),
        is_published_to and bool(config.get("allow_batched")),
    )


def _limit(config: Mapping[str, Any], key: str) -> int | None:
    value = int(config.get(key, -1))
    return value if value > 0 else None


def _input(config: Mapping[str, Any]) -> specs.StreamInput:
    if config.get("mirror"):
        return specs.FromMirror(_source(config["mirror"]))
    if config.get("sources"):
        return specs.FromAggregate(tuple(map(_source, config["sources"])))
    return specs.FromSubjects(tuple(config.get("subjects") or ()))


def _source(source: Mapping[str, Any]) -> specs.SourceSpec:
    filters = source_filters(source)
    return specs.SourceSpec(source["name"], _start(source), () if filters == [EVERYTHING] else tuple(filters))


def _start(config: Mapping[str, Any]) -> specs.StartPosition:
    time = _time(config.get("opt_start_time") or "")
    if time is not None:
        return specs.AtTime(time.unix_ns)
    sequence = config.get("opt_start_seq")
    return specs.AtId(sequence) if sequence else specs.AtStart()


# --- Consumers --------------------------------------------------------------------------------------------


class ConsumerDetails(NamedTuple):
    """How far a consumer has come, beside what `Consumers` tells of it.

    Attributes:
        delivered_to: no event after this id was delivered.
        redelivered: unsettled events that were delivered more than once.
        last_delivery: when; None = none since the broker started.
        last_ack: when; None = none since the broker started.
        paused_until: None = not paused.
    """

    created: Time
    delivered_to: int
    redelivered: int
    last_delivery: Time | None
    last_ack: Time | None
    paused_until: Time | None


def consumer_details(info: Mapping[str, Any]) -> ConsumerDetails:
    """Read the answer to ``CONSUMER.INFO``."""
    delivered, floor = info["delivered"], info["ack_floor"]
    paused = _time(info["config"].get("pause_until") or "") if info.get("paused") else None
    return ConsumerDetails(
        _time(info["created"]) or Time(0, 0),
        delivered["stream_seq"],
        info.get("num_redelivered", 0),
        _time(delivered.get("last_active") or ""),
        _time(floor.get("last_active") or ""),
        paused,
    )


@lru_cache(maxsize=1024)
def _time(text: str) -> Time | None:
    """Read a time of the broker; None for its zero, 1 January of the year 1."""
    time = parse_rfc3339(text) if text else None
    return None if time is None or time.seconds < 0 else time


def _duration(nanoseconds: int) -> timedelta | None:
    return timedelta(microseconds=nanoseconds // 1000) if nanoseconds > 0 else None
