"""The consumer of a call: what it is, how long it lives, and whether its limit has room for delayed rejects.

JetStream ends an ephemeral consumer that nobody has pulled from for its ``inactive_threshold``. While there
are calls, that is an hour, because a call may pull nothing for long: its client may be slow, or hold all it
may. The server whose last call of a consumer ends lowers it, and tells the other servers: one that still has
calls raises it again. When a server dies without doing so, the consumer lives for the hour.

JetStream lets a consumer have ``max_ack_pending`` unsettled deliveries, and those rejected with a delay count
until the delay is over. With many long delays nothing else would be delivered, so the limit is raised in
time.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import Final, Self

from windshift.nats import NatsError, OutcomeUnknown
from windshift.nats.jetstream.api import ConsumerState, JetStream, JsonObject
from windshift.nats.jetstream.pulling import PullOptions
from windshift.server.domain.errors import UnsupportedCombination, WindshiftError
from windshift.server.events.consumers import (
    MAX_ACK_PENDING,
    ack_wait,
    chosen_subjects,
    is_durable,
    is_ephemeral,
    left_config,
    require_consumable,
    used_config,
)
from windshift.server.events.consuming.flow import LARGEST_LIMIT, LEAST_LIMIT, SLACK
from windshift.server.events.consuming.redelivery import Settled
from windshift.server.events.model import ConsumerKey
from windshift.server.events.notes import CONSUMER, Notes
from windshift.server.events.retries import RetryPolicy, stored_policy
from windshift.server.events.runs import Run
from windshift.server.events.streams import existing_consumer
from windshift.server.events.token_key import key_of, with_key
from windshift.server.ownership.amounts import owner_of

log = logging.getLogger(__name__)

_PULL_EXPIRES_NS: Final = round(PullOptions().expires * 10**9)
_LEFT_WITHIN: Final = 1.0
"""Seconds that the end of a call waits for its consumer to be kept no longer than it should."""


@dataclass(frozen=True, slots=True)
class ConsumerSnapshot:
    """A consumer that a call can consume from, as last seen.

    Attributes:
        timeout: its processing timeout.
        policy: its retry policy.
        info: what the broker told of it.
    """

    timeout: timedelta
    policy: RetryPolicy
    info: ConsumerState

    @classmethod
    def of(cls, info: ConsumerState) -> Self:
        """Read what the broker knows of a consumer."""
        return cls(ack_wait(info.config), stored_policy(info.config), info)

    @property
    def durable(self) -> bool:
        """Whether a client chose its name."""
        return is_durable(self.info.config)

    @property
    def owner(self) -> str:
        """The principal that owns it; empty = unknown."""
        return owner_of(self.info.config)

    @property
    def run(self) -> Run:
        """Its present run."""
        return Run.of(self.info)

    @property
    def subjects(self) -> set[str]:
        """Its filters."""
        return chosen_subjects(self.info.config)


async def find_consumer(
    api: JetStream, consumer: ConsumerKey, window: int, deadline: float
) -> ConsumerSnapshot:
    """Look up a consumer, and check that a call with a window of this size can consume from it.

    Raise `StreamNotFound`, `ConsumerNotFound`, `UnsupportedCombination` if it cannot, or `BrokerUnavailable`
    if the broker did not answer by `deadline`, a time of the running loop.
    """
    state = await existing_consumer(api, consumer, deadline)
    refuse_limits(consumer.name, state.config, window)
    require_consumable(consumer.name, state.config)
    return ConsumerSnapshot.of(state)


async def with_tokens(
    api: JetStream, notes: Notes, consumer: ConsumerKey, found: ConsumerSnapshot, deadline: float
) -> ConsumerSnapshot:
    """Give a consumer a key for tokens if it has none: another program or an older version made it.

    Return it as it is then. Never fail: then it goes on without.
    """
    if key_of(found.info.config):
        return found
    try:
        with suppress(OutcomeUnknown):  # it may be written
            await api.update_consumer(*consumer, with_key(found.info.config), deadline)
        notes.send(CONSUMER, *consumer)  # another server may have written another key at the same time
        state = await api.consumer(*consumer, deadline)
    except NatsError as error:
        log.debug("a consumer has no key for tokens: %s", type(error).__name__)
        return found
    if state is None or state.created != found.info.created:
        return found
    return ConsumerSnapshot.of(state)


def refuse_limits(consumer: str, config: JsonObject, window: int) -> None:
    """Raise `UnsupportedCombination` if the broker would refuse all pull requests of a call."""
    needed = {"max_batch": window, "max_expires": _PULL_EXPIRES_NS, "max_bytes": LEAST_LIMIT}
    tight = [name for name, least in needed.items() if 0 < int(config.get(name) or 0) < least]
    if config.get("priority_groups"):
        tight.append("priority_groups")
    if tight:
        raise UnsupportedCombination(
            f"consumer {consumer!r} was made by another program, with {tight[0]}, and refuses what this call "
            "would ask for",
            hint="change that, or use another consumer",
        )


def largest_pull(config: JsonObject) -> int:
    """Return the bytes that a pull request of a consumer may bring, without its slack."""
    largest = int(config.get("max_bytes") or 0)
    return LARGEST_LIMIT if largest <= 0 else min(LARGEST_LIMIT, int(largest / SLACK))


# --- How long an ephemeral consumer lives -------------------------------------------------------------------


async def keep_used(api: JetStream, consumer: ConsumerKey, state: ConsumerState, deadline: float) -> None:
    """Keep a consumer that has a subscriber for long, if it is an ephemeral one."""
    config = used_config(state.config)
    if config is not None:
        try:
            await api.update_consumer(*consumer, config, deadline)
        except NatsError as error:  # it is short-lived, no more
            log.debug("an ephemeral consumer is not kept: %s", type(error).__name__)


async def leave(
    api: JetStream,
    notes: Notes,
    consumer: ConsumerKey,
    settled: Settled,
    found: ConsumerState,
    kept: timedelta,
) -> None:
    """Keep an ephemeral consumer for as long as `kept` only, if this process has no more calls of it.

    Never fail: then it lives longer.
    """
    if settled.users or not is_ephemeral(found.config):
        return
    deadline = asyncio.get_running_loop().time() + _LEFT_WITHIN
    try:
        state = await api.consumer(*consumer, deadline)
        if state is None or state.created != found.created:
            return
        config = left_config(state.config, kept)
        if config is not None and not settled.users:
            await api.update_consumer(*consumer, config, deadline)
            notes.send(CONSUMER, *consumer)
    except (WindshiftError, NatsError) as error:
        log.debug("an ephemeral consumer is left as it is: %s", type(error).__name__)


# --- Room for what waits ----------------------------------------------------------------------------------

LONG_NS: Final = 1_000_000_000
"""Shorter delays are ignored."""

OFTEN: Final = 1_000
"""Delayed rejects after which the consumer is checked before `INTERVAL` is over."""

INTERVAL: Final = 5.0
"""Seconds between checks."""

GROWTH: Final = 4
LARGEST_ACK_PENDING: Final = 1_000_000
"""The limit up to which ``max_ack_pending`` is raised."""


@dataclass(slots=True, eq=False)
class DelayedRejects:
    """When to check whether a consumer's limit has room for its delayed rejects.

    Attributes:
        due: when `look` has something to do.
    """

    due: float = inf
    _until: float = -inf
    _count: int = 0

    def add(self, delay_ns: int, now: float) -> None:
        """Note a reject with a delay."""
        if delay_ns < LONG_NS:
            return
        self._until = max(self._until, now + delay_ns / 1e9)
        self._count += 1
        self.due = min(self.due, now if self._count % OFTEN == 0 else now + INTERVAL)

    def look(self, now: float) -> bool:
        """Whether to check the consumer now."""
        if now < self.due:
            return False
        self.due = now + INTERVAL if self._until > now else inf
        return True


def raised_limit(state: ConsumerState) -> int | None:
    """Return the value to raise a consumer's ``max_ack_pending`` to; None = leave it.

    A value below the default was chosen by somebody, and stays.
    """
    limit = int(state.config.get("max_ack_pending") or 0)
    if not MAX_ACK_PENDING <= limit < LARGEST_ACK_PENDING or state.unsettled * 2 < limit:
        return None
    return min(limit * GROWTH, LARGEST_ACK_PENDING)
