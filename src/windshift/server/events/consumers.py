"""Ensures consumers: which configuration JetStream gets so that a consumer is as a client wants it.

`new_config` and `changed_config` decide, without I/O; `Consumers` reads, decides and writes. As with streams,
the configuration of an existing consumer stays JetStream's JSON object, with all that others set in it. The
retry policy, which JetStream has no field for, is in its metadata.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from weakref import WeakValueDictionary

from windshift.nats import NatsError, OutcomeUnknown, retry
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import ConsumerState, JetStream, JsonObject, StreamState, metadata_of
from windshift.nats.times import nanoseconds
from windshift.server.auth.access import require_of
from windshift.server.auth.actions import Consume, RejectForGood
from windshift.server.auth.policy import Principal
from windshift.server.auth.subjects import SubjectPatterns
from windshift.server.domain import names
from windshift.server.domain.broker_errors import domain_error, is_invalid
from windshift.server.domain.errors import (
    BrokerUnavailable,
    ConsumerNotFound,
    UnsupportedCombination,
    WindshiftError,
)
from windshift.server.domain.names import EVERYTHING
from windshift.server.events.dead_letters.replay_queue import ReplayQueue
from windshift.server.events.dead_letters.store import DeadLetterStore
from windshift.server.events.model import ConsumerKey
from windshift.server.events.notes import CONSUMER, Notes
from windshift.server.events.positions import start_config
from windshift.server.events.retries import METADATA_KEY, RetryPolicy, policy_metadata, stored_policy
from windshift.server.events.runs import Run, with_run
from windshift.server.events.specs import ConsumerSpec
from windshift.server.events.streams import (
    OVERTAKEN_BACKOFF,
    existing_consumer,
    existing_stream,
    refuse_long_choice,
)
from windshift.server.events.token_key import with_key
from windshift.server.ownership.amounts import owner_of
from windshift.server.ownership.ownership import Ownership

log = logging.getLogger(__name__)

KEPT_UNUSED: Final = timedelta(days=30)
"""How long a consumer with a name is kept while nobody subscribes."""

EPHEMERAL_KEPT_UNUSED: Final = timedelta(hours=1)
"""How long a consumer without a name is kept while nobody has subscribed yet, or when the server of its
subscribers died. It ends sooner when its last subscriber leaves."""

KEPT_UNUSED_KEY: Final = "windshift.kept_unused"
"""Where in its ``metadata`` lies for how many nanoseconds an ephemeral consumer is kept unused."""

MAX_WAITING: Final = 10_000
"""Pull requests that may wait at once. The broker's default of 512 drops what comes on top without a word,
and the number of a consumer cannot be changed later."""

MAX_ACK_PENDING: Final = 20_000
"""Events that may be with subscribers at once, all of them together. Delayed rejects count too."""

_FRESH: Final = 5.0
"""Seconds for which what was read of a consumer is written back."""


class _Stale(Exception):
    """What was read of a consumer was read too long ago."""


@dataclass(frozen=True, slots=True)
class ConsumerView:
    """What a consumer is, and how far it has come.

    Attributes:
        stream: its stream.
        id: its name, or its generated id.
        durable: whether it has a name of its own.
        owner: the principal that made it; empty = unknown.
        subjects: its filters; none are everything.
        processing_timeout: how long a subscriber may take over one event.
        retry_policy: what happens to events that are not acknowledged.
        pending: events that it has yet to hand over for the first time.
        unsettled: events that are with subscribers, or wait for another attempt.
        settled_to: every event up to this id is settled.
        dead_letters: how many it has.
    """

    stream: str
    id: str
    durable: bool
    owner: str
    subjects: tuple[str, ...]
    processing_timeout: timedelta
    retry_policy: RetryPolicy
    pending: int
    unsettled: int
    settled_to: int
    dead_letters: int


@dataclass(eq=False)
class Consumers:
    """The consumers of one broker. Where there are rules, `Ownership` knows who has what."""

    _api: JetStream
    _dead_letters: DeadLetterStore
    _notes: Notes
    _replays: ReplayQueue
    _ownership: Ownership | None = None
    _turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def ensure(self, spec: ConsumerSpec, deadline: float, caller: Principal | None = None) -> str:
        """Create a consumer, or give the existing one the spec's subjects, timeout and policy; return its id.

        An existing consumer keeps its position, whatever the spec says. Any number of callers may do this at
        once. Raise the errors of the contract; `deadline` is a time of the running loop.

        Not guaranteed: the broker has no compare-and-swap for consumers. When two servers change one at the
        same moment, one by its policy and the other by its subjects, one of the changes may be lost. What was
        read a while ago is not written back, and a write that is not answered is not sent again as it was: by
        then somebody may have moved the consumer, whose run is in its configuration.
        """
        name = spec.name or names.generated_name()
        async with self._turn(spec.stream, name, deadline):
            return await self._ensure_in_turn(name, spec, deadline, caller)

    @asynccontextmanager
    async def _turn(self, stream: str, name: str, deadline: float) -> AsyncIterator[None]:
        """Let one task of this process at a time read a consumer and change what it has read."""
        lock = self._turns.setdefault((stream, name), asyncio.Lock())
        try:
            async with asyncio.timeout_at(deadline):
                await lock.acquire()
        except TimeoutError:
            raise BrokerUnavailable from None
        try:
            yield
        finally:
            lock.release()

    async def _ensure_in_turn(
        self, name: str, spec: ConsumerSpec, deadline: float, caller: Principal | None
    ) -> str:
        unanswered: NatsError | None = None
        try:
            async for attempt in retry(deadline, OVERTAKEN_BACKOFF):
                try:
                    await self._ensure(name, spec, deadline, caller, is_new=not spec.name and attempt == 1)
                except OutcomeUnknown as error:
                    unanswered = error
                except _Stale:
                    pass
                except NatsError as refusal:
                    if refusal.err_code not in codes.CONSUMER_OVERTAKEN:
                        raise refusal_error(refusal, spec) from refusal
                else:
                    return name
        except BrokerUnavailable:
            if unanswered is None:
                raise
        finally:
            if unanswered is not None:  # it may be done: the next attempt finds nothing to change
                self._notes.send(CONSUMER, spec.stream, name)
        overtaken = BrokerUnavailable(f"consumer {name!r} kept being changed by others")
        raise (overtaken if unanswered is None else refusal_error(unanswered, spec)) from unanswered

    async def _ensure(
        self, name: str, spec: ConsumerSpec, deadline: float, caller: Principal | None, *, is_new: bool
    ) -> None:
        loop, state = asyncio.get_running_loop(), None
        read_at = loop.time()
        if not is_new:
            state = await self._api.consumer(spec.stream, name, deadline)
        if state is None:
            await self._create(name, spec, deadline, caller)
            return
        wanted = self._wanted(state, spec, caller)
        if stored_policy(wanted).dead_letters:
            stream = await existing_stream(self._api, spec.stream, deadline)
            await self._dead_letters.ensure(stream.config.get("num_replicas"), deadline)
            if wanted != state.config:  # another server may have changed or moved it meanwhile
                begins = not stored_policy(state.config).dead_letters
                position = await self._dead_letters.last_position(deadline) if begins else None
                read_at = loop.time()
                state = await self._api.consumer(spec.stream, name, deadline)
                if state is None:
                    raise _Stale
                wanted = self._wanted(state, spec, caller)
                if position is not None and Run.of(state).position is None:
                    wanted = with_run(wanted, Run(position=position))
        if wanted != state.config:
            if loop.time() > read_at + _FRESH:
                raise _Stale
            await self._api.update_consumer(spec.stream, name, wanted, deadline)
            self._notes.send(CONSUMER, spec.stream, name)

    def _wanted(self, state: ConsumerState, spec: ConsumerSpec, caller: Principal | None) -> JsonObject:
        """Return the configuration that an existing consumer should have; raise `PermissionDenied`."""
        wanted = changed_config(state.config, spec)
        if caller is not None and self._ownership is not None:
            wanted = self._ownership.changed_consumer(caller, state.config, wanted)
            require_rights(caller, spec.stream, state.config, wanted)
        return wanted

    async def _create(self, name: str, spec: ConsumerSpec, deadline: float, caller: Principal | None) -> None:
        stream = await existing_stream(self._api, spec.stream, deadline)
        config = with_key(new_config(name, spec, stream))
        if caller is None or self._ownership is None:
            await self._tell(spec, config, stream, deadline)
            return
        async with self._ownership.consumer(caller, spec.stream, config, deadline) as owned:
            await self._tell(spec, owned, stream, deadline)

    async def _tell(
        self, spec: ConsumerSpec, config: JsonObject, stream: StreamState, deadline: float
    ) -> None:
        name = config["name"]
        if stored_policy(config).dead_letters:
            await self._dead_letters.ensure(stream.config.get("num_replicas"), deadline)
            position = await self._dead_letters.last_position(deadline)
            config = with_run(config, Run(position=position))
        try:
            await self._api.create_consumer(spec.stream, name, config, deadline)
        except NatsError as refusal:
            if refusal.err_code != codes.MAX_ACK_PENDING_EXCESS:
                raise
            # The account allows fewer. Which number, only its text says; without one the broker takes what it
            # allows.
            del config["max_ack_pending"]
            await self._api.create_consumer(spec.stream, name, config, deadline)

    async def get(self, stream: str, name: str, deadline: float) -> ConsumerView:
        """Say what a consumer is and how far it has come. Raise `ConsumerNotFound` or `StreamNotFound`."""
        state = await existing_consumer(self._api, ConsumerKey(stream, name), deadline)
        return view(stream, name, state, await self._dead_letters.count(stream, name, deadline))

    async def delete(self, stream: str, name: str, deadline: float) -> None:
        """Delete a consumer; calls that consume from it end, and so do replays to it.

        Raise `ConsumerNotFound` or `StreamNotFound`.
        """
        upto = await self._replays.position(deadline)  # later ones are for a consumer that is made anew
        try:
            existed = await self._api.delete_consumer(stream, name, deadline)
        except NatsError as refusal:
            raise domain_error(refusal, stream=stream, consumer=name) from refusal
        if self._ownership is not None:
            self._ownership.consumer_deleted(stream, name)
        if not existed:
            raise ConsumerNotFound(name)
        if upto:
            await self._end_replays(ConsumerKey(stream, name), upto, deadline)

    async def _end_replays(self, consumer: ConsumerKey, upto: int, deadline: float) -> None:
        try:
            await self._replays.forget(consumer, upto, deadline)
        except (WindshiftError, NatsError) as error:  # somebody will see that the consumer is gone
            log.debug("replays to %s are left over: %s", consumer.name, type(error).__name__)


# --- Deciding ---------------------------------------------------------------------------------------------


def new_config(name: str, spec: ConsumerSpec, stream: StreamState) -> JsonObject:
    """Return the JetStream configuration of a consumer that does not exist yet.

    Raise `InvalidField` for subjects that are too long together.
    """
    refuse_long_choice("subjects", {}, _subjects(spec))
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
    if not spec.name:
        config["metadata"] = {KEPT_UNUSED_KEY: str(config["inactive_threshold"])}
    config["max_ack_pending"] = _within(MAX_ACK_PENDING, limits.get("max_ack_pending"))
    start = start_config(spec.start, stream.last_sequence)
    return config | start | _subjects(spec) | _metadata(config, spec)


def is_durable(stored: JsonObject) -> bool:
    """Whether somebody chose a consumer's name."""
    return bool(stored.get("durable_name"))


def is_ephemeral(stored: JsonObject) -> bool:
    """Whether a consumer is one without a name that Windshift made."""
    return KEPT_UNUSED_KEY in metadata_of(stored) and not is_durable(stored)


def name_in_rules(caller: Principal, name: str, stored: JsonObject) -> str | None:
    """Return the name by which rules know a consumer; None = its id is enough for this caller."""
    return caller.consumer_in_rules(name, durable=is_durable(stored), owner=owner_of(stored))


def used_config(stored: JsonObject) -> JsonObject | None:
    """Return the configuration of an ephemeral consumer that has subscribers; `None`: it stays as it is."""
    kept = stored["metadata"][KEPT_UNUSED_KEY] if is_ephemeral(stored) else ""
    if not kept.isdecimal() or stored.get("inactive_threshold") == int(kept):
        return None
    return stored | {"inactive_threshold": int(kept)}


def left_config(stored: JsonObject, kept: timedelta) -> JsonObject | None:
    """Return the configuration of an ephemeral consumer that its last subscriber left; `None`: no change.

    It is kept for as long as `kept`, for subscribers that come back.
    """
    threshold = _within(nanoseconds(kept), stored.get("inactive_threshold"))
    if not is_ephemeral(stored) or threshold == stored.get("inactive_threshold"):
        return None
    return stored | {"inactive_threshold": threshold}


def require_rights(caller: Principal, stream: str, stored: JsonObject, wanted: JsonObject) -> None:
    """Raise `PermissionDenied` unless the caller may change a consumer like this that somebody else owns.

    Another retry policy may give events up sooner, and a filter less skips some: its owner loses them.
    """
    name = wanted["name"]
    if owner_of(wanted) == caller.name:
        return
    if stored_policy(wanted) != stored_policy(stored):
        phrase = f"change the retry policy of consumer {name!r}, which somebody else made (consumers.reject)"
        require_of(caller, RejectForGood(stream, name), phrase)
    kept = SubjectPatterns(chosen_subjects(wanted))
    for subject in sorted(chosen_subjects(stored)):
        if not kept.takes(subject):
            phrase = f"have consumer {name!r}, which somebody else made, choose {subject!r} no longer"
            require_of(caller, Consume(stream, subject, name), phrase)


def require_consumable(name: str, config: JsonObject) -> None:
    """Raise `UnsupportedCombination` unless the events of a consumer are pulled, and settled one by one."""
    if config.get("deliver_subject") or config.get("ack_policy") != "explicit":
        raise UnsupportedCombination(
            f"consumer {name!r} was made by another program, and is a push consumer or acknowledges in "
            "another way than one by one",
            hint="use another name",
        )


def ack_wait(config: JsonObject) -> timedelta:
    """Read the processing timeout from JetStream's configuration of a consumer; 0 = it has none."""
    # With a list of backoffs the broker keeps the first, and so the shortest, as the timeout.
    return timedelta(microseconds=int(config.get("ack_wait") or 0) // 1000)


def changed_config(stored: JsonObject, spec: ConsumerSpec) -> JsonObject:
    """Return the configuration of an existing consumer with this spec's subjects, timeout and retry policy.

    Everything else stays, the position above all; but JetStream's own limit of deliveries would skip events
    before the policy has a say. Raise `InvalidField` for subjects that are too long together, and
    `UnsupportedCombination` when the consumer is of a kind that cannot serve a consume call: another program
    made it.
    """
    require_consumable(str(stored.get("name")), stored)
    is_same_choice = chosen_subjects(stored) == (set(spec.subjects) or {EVERYTHING})
    # A list of backoffs would override the timeout.
    dropped = {"backoff"} if is_same_choice else {"backoff", "filter_subject", "filter_subjects"}
    config = {key: value for key, value in stored.items() if key not in dropped}
    config["ack_wait"] = nanoseconds(spec.processing_timeout)
    config |= _metadata(stored, spec)
    if spec.retry_policy is not None:
        config["max_deliver"] = -1
    if is_same_choice:
        return config
    refuse_long_choice("subjects", stored, _subjects(spec))
    # Left without any filter, it would no longer be told of new events by nats-server (2.15), and pulls that
    # wait would stay unanswered.
    return config | (_subjects(spec) or {"filter_subject": EVERYTHING})


def _within(value: int, limit: int | None) -> int:
    """Keep to the limit that the stream sets for its consumers, where it sets one."""
    return min(value, limit) if limit and limit > 0 else value


def _subjects(spec: ConsumerSpec) -> JsonObject:
    if len(spec.subjects) == 1:
        return {"filter_subject": spec.subjects[0]}
    return {"filter_subjects": list(spec.subjects)} if spec.subjects else {}


def chosen_subjects(stored: JsonObject) -> set[str]:
    """Return the filters in JetStream's configuration of a consumer; `EVERYTHING` where there are none."""
    return set(stored.get("filter_subjects") or [stored.get("filter_subject") or EVERYTHING])


def _metadata(stored: JsonObject, spec: ConsumerSpec) -> JsonObject:
    """Return the metadata with this spec's retry policy in it, as far as it has one."""
    if spec.retry_policy is None:
        return {}
    return {"metadata": {**metadata_of(stored), METADATA_KEY: policy_metadata(spec.retry_policy)}}


def view(stream: str, name: str, state: ConsumerState, dead_letters: int) -> ConsumerView:
    """Read what the broker knows of a consumer, whoever made it."""
    config = state.config
    chosen = config.get("filter_subjects") or [config.get("filter_subject") or EVERYTHING]
    return ConsumerView(
        stream,
        name,
        is_durable(config),
        owner_of(config),
        () if chosen == [EVERYTHING] else tuple(chosen),
        ack_wait(config),
        stored_policy(config),
        state.pending,
        state.unsettled,
        state.settled_to,
        dead_letters,
    )


# --- What the broker refuses ------------------------------------------------------------------------------


def refusal_error(refusal: NatsError, spec: ConsumerSpec) -> Exception:
    """Say in the contract's terms why the broker refused a consumer."""
    if refusal.err_code in codes.WORKQUEUE:
        return UnsupportedCombination(
            f"stream {spec.stream!r} is a work queue: its consumers have to start at its first event "
            "(from.start) and to share no subjects"
        )
    error = domain_error(refusal, stream=spec.stream, consumer=spec.name or "")
    if is_invalid(error):
        return UnsupportedCombination(f"the broker refuses this consumer: {error.description}")
    return error
