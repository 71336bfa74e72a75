"""Look up the consumer that a client wants to consume from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from windshift.nats import NatsError
from windshift.nats.jetstream import ConsumerState, JetStream, JsonObject, PullOptions
from windshift.server.broker_errors import domain_error
from windshift.server.errors import ConsumerNotFound, UnsupportedCombination
from windshift.server.events.consumers import chosen_subjects
from windshift.server.events.consuming.pulls import LARGEST_LIMIT
from windshift.server.events.retries import RetryPolicy, stored_policy

_PULL_EXPIRES_NS: Final = round(PullOptions().expires * 10**9)


@dataclass(frozen=True, slots=True)
class Found:
    """A consumer that a call can consume from.

    Attributes:
        timeout: its processing timeout.
        policy: its retry policy.
        state: what else the broker knows of it.
    """

    timeout: timedelta
    policy: RetryPolicy
    state: ConsumerState

    @property
    def durable(self) -> bool:
        """Whether it has a name of its own."""
        return bool(self.state.config.get("durable_name"))

    @property
    def subjects(self) -> set[str]:
        """What it chooses."""
        return chosen_subjects(self.state.config)


async def find_consumer(api: JetStream, stream: str, consumer: str, window: int, deadline: float) -> Found:
    """Return a consumer that a call with a window of this size can consume from.

    Raises:
        StreamNotFound: there is no such stream.
        ConsumerNotFound: the stream has no such consumer.
        UnsupportedCombination: the consumer is of a kind that no call can consume from.
        BrokerUnavailable: the broker did not answer by `deadline`, a time of the running loop.
    """
    try:
        state = await api.consumer(stream, consumer, deadline)
    except NatsError as refusal:
        raise domain_error(refusal, stream=stream, consumer=consumer) from refusal
    if state is None:
        raise ConsumerNotFound(consumer)
    refuse_limits(consumer, state.config, window)
    return Found(processing_timeout(consumer, state.config), stored_policy(state.config), state)


def refuse_limits(consumer: str, config: JsonObject, window: int) -> None:
    """See whether a consumer takes the pull requests of a call. The broker would refuse all of them else.

    Raises:
        UnsupportedCombination: it does not.
    """
    needed = {"max_batch": window, "max_expires": _PULL_EXPIRES_NS, "max_bytes": LARGEST_LIMIT}
    tight = [name for name, least in needed.items() if 0 < int(config.get(name) or 0) < least]
    if config.get("priority_groups"):
        tight.append("priority_groups")
    if tight:
        raise UnsupportedCombination(
            f"consumer {consumer!r} was made by another program, with {tight[0]}, and refuses what this call "
            "would ask for; change that, or use another consumer"
        )


def processing_timeout(consumer: str, config: JsonObject) -> timedelta:
    """Read the processing timeout from JetStream's configuration of a consumer.

    Raises:
        UnsupportedCombination: it is a consumer that pushes, or whose events are not settled one by one.
    """
    if config.get("deliver_subject") or config.get("ack_policy") != "explicit":
        raise UnsupportedCombination(
            f"consumer {consumer!r} was made by another program, as one that pushes or needs no "
            "acknowledgement; use another consumer"
        )
    # With a list of backoffs the broker keeps the first, and so the shortest, as the timeout.
    return timedelta(microseconds=int(config["ack_wait"]) // 1000)
