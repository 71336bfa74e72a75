"""Consumers: what the broker is to be told so that a consumer is as a client wants it.

`new_config` and `changed_config` decide, without I/O; `Consumers` asks, decides and tells. As with streams,
the configuration of an existing consumer stays the broker's own JSON object, with all that others set in it.
"""

from __future__ import annotations

import asyncio
import secrets
from datetime import timedelta
from typing import Final

from windshift.server.errors import (
    BrokerUnavailable,
    ConsumerNotFound,
    StreamNotFound,
    UnsupportedCombination,
)
from windshift.server.events.positions import nanoseconds, start_keys
from windshift.server.events.specs import AtStart, AtTime, ConsumerSpec
from windshift.server.nats.consumers import ConsumerApi
from windshift.server.nats.jetstream import JsonObject, RefusedByBroker, domain_error
from windshift.server.nats.streams import StreamApi, StreamState

KEPT_UNUSED: Final = timedelta(days=30)
"""How long a consumer with a name is kept while nobody subscribes."""

EPHEMERAL_KEPT_UNUSED: Final = timedelta(hours=1)

MAX_WAITING: Final = 10_000
"""Pull requests that may wait at once. The broker's default of 512 drops what comes on top without a word,
and the number of a consumer cannot be changed later."""

MAX_ACK_PENDING: Final = 20_000
"""Events that may be with subscribers at once, all of them together. Delayed rejects count too."""

EVERYTHING: Final = ">"
"""The filter that chooses all. An existing consumer is given it in place of none: left without any filter,
it is no longer told of new events by nats-server (2.15), and pulls that wait stay unanswered."""

_ATTEMPTS: Final = 20
_PAUSE: Final = 0.02


class Consumers:
    """The consumers of one broker."""

    def __init__(self, streams: StreamApi, consumers: ConsumerApi) -> None:
        self._streams = streams
        self._consumers = consumers

    async def ensure(self, spec: ConsumerSpec, deadline: float) -> str:
        """Create the consumer, or give the existing one these subjects and this timeout; return its id.

        An existing consumer keeps its position, whatever the spec says. Any number of callers may do this at
        once. Raise the errors of the contract; `deadline` is a time of the running loop.
        """
        name = spec.name or secrets.token_hex(12)
        for attempt in range(_ATTEMPTS):
            try:
                await self._ensure(name, spec, deadline, is_new=not spec.name and attempt == 0)
            except RefusedByBroker as refusal:
                if refusal.err_code not in _OVERTAKEN:
                    raise refusal_error(refusal, spec) from refusal
            else:
                return name
            await asyncio.sleep(_PAUSE * attempt)
        raise BrokerUnavailable(f"consumer {name!r} kept being changed by others; try again")

    async def _ensure(self, name: str, spec: ConsumerSpec, deadline: float, *, is_new: bool) -> None:
        stored = None if is_new else await self._consumers.find(spec.stream, name, deadline)
        if stored is None:
            await self._create(name, spec, deadline)
            return
        wanted = changed_config(stored, spec)
        if wanted != stored:
            await self._consumers.update(spec.stream, name, wanted, deadline)

    async def _create(self, name: str, spec: ConsumerSpec, deadline: float) -> None:
        stream = await self._streams.find(spec.stream, deadline)
        if stream is None:
            raise StreamNotFound(spec.stream)
        config = new_config(name, spec, stream)
        try:
            await self._consumers.create(spec.stream, name, config, deadline)
        except RefusedByBroker as refusal:
            if refusal.err_code != _TOO_MANY_PENDING:
                raise
            # The account allows fewer. Which number, only its text says; without one the broker takes what it
            # allows.
            del config["max_ack_pending"]
            await self._consumers.create(spec.stream, name, config, deadline)

    async def delete(self, stream: str, name: str, deadline: float) -> None:
        """Delete a consumer; calls that consume from it end. Raise `ConsumerNotFound` or `StreamNotFound`."""
        try:
            existed = await self._consumers.delete(stream, name, deadline)
        except RefusedByBroker as refusal:
            raise domain_error(refusal, stream=stream, consumer=name) from refusal
        if not existed:
            raise ConsumerNotFound(name)


# --- Deciding ---------------------------------------------------------------------------------------------


def new_config(name: str, spec: ConsumerSpec, stream: StreamState) -> JsonObject:
    """Return the JetStream configuration of a consumer that does not exist yet."""
    config: JsonObject = {
        "name": name,
        "ack_policy": "explicit",
        "ack_wait": nanoseconds(spec.processing_timeout),
        "max_deliver": -1,
        "replay_policy": "instant",
        "max_waiting": MAX_WAITING,
    }
    if spec.name:
        config["durable_name"] = name
    kept = KEPT_UNUSED if spec.name else EPHEMERAL_KEPT_UNUSED
    limits = stream.config.get("consumer_limits") or {}
    config["inactive_threshold"] = _within(nanoseconds(kept), limits.get("inactive_threshold"))
    config["max_ack_pending"] = _within(MAX_ACK_PENDING, limits.get("max_ack_pending"))
    return config | _start(spec, stream) | _subjects(spec)


def changed_config(stored: JsonObject, spec: ConsumerSpec) -> JsonObject:
    """Return the configuration of an existing consumer with this spec's subjects and timeout.

    Everything else stays, the position above all. Raise `UnsupportedCombination` when the consumer is of a
    kind that cannot serve a consume call: another program made it.
    """
    if stored.get("deliver_subject") or stored.get("ack_policy") != "explicit":
        raise UnsupportedCombination(
            f"consumer {stored.get('name')!r} was made by another program, as one that pushes or needs no "
            "acknowledgement; use another name"
        )
    is_same_choice = _filters(stored) == (set(spec.subjects) or {EVERYTHING})
    # A list of backoffs would override the timeout.
    dropped = {"backoff"} if is_same_choice else {"backoff", "filter_subject", "filter_subjects"}
    config = {key: value for key, value in stored.items() if key not in dropped}
    config["ack_wait"] = nanoseconds(spec.processing_timeout)
    if is_same_choice:
        return config
    return config | (_subjects(spec) or {"filter_subject": EVERYTHING})


def _within(value: int, limit: int | None) -> int:
    """Keep to the limit that the stream sets for its consumers, where it sets one."""
    return min(value, limit) if limit and limit > 0 else value


def _start(spec: ConsumerSpec, stream: StreamState) -> JsonObject:
    """Return where a new consumer starts. The end becomes an id: what starts at "new" cannot be reset."""
    keys = start_keys(spec.start, stream.last_id)
    match spec.start:
        case AtStart():
            return {"deliver_policy": "all"}
        case AtTime():
            return {"deliver_policy": "by_start_time"} | keys
        case _:
            return {"deliver_policy": "by_start_sequence"} | keys


def _subjects(spec: ConsumerSpec) -> JsonObject:
    if len(spec.subjects) == 1:
        return {"filter_subject": spec.subjects[0]}
    return {"filter_subjects": list(spec.subjects)} if spec.subjects else {}


def _filters(stored: JsonObject) -> set[str]:
    return set(stored.get("filter_subjects") or [stored.get("filter_subject") or EVERYTHING])


# --- What the broker refuses ------------------------------------------------------------------------------

_OVERTAKEN: Final = frozenset({10013, 10148, 10149})
"""Another caller created or deleted the consumer between our question and our order."""

_TOO_MANY_PENDING: Final = 10121


def refusal_error(refusal: RefusedByBroker, spec: ConsumerSpec) -> Exception:
    """Say in the contract's terms why the broker refused a consumer (codes: nats-server's errors.json)."""
    if refusal.err_code in (10099, 10100, 10101):
        return UnsupportedCombination(
            f"stream {spec.stream!r} is a work queue: its consumers have to start at its first event "
            "(from.start) and to share no subjects"
        )
    error = domain_error(refusal, stream=spec.stream, consumer=spec.name or "")
    if isinstance(error, RefusedByBroker) and error.code == 400:
        return UnsupportedCombination(f"the broker refuses this consumer: {refusal.description}")
    return error
