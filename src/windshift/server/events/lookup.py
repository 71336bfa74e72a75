"""Look up the consumer that a client wants to consume from."""

from __future__ import annotations

from datetime import timedelta

from windshift.server.errors import ConsumerNotFound, UnsupportedCombination
from windshift.server.nats.consumers import ConsumerApi
from windshift.server.nats.jetstream import JsonObject, RefusedByBroker, domain_error


async def find_timeout(consumers: ConsumerApi, stream: str, consumer: str, deadline: float) -> timedelta:
    """Return a consumer's processing timeout.

    Raises:
        StreamNotFound: there is no such stream.
        ConsumerNotFound: the stream has no such consumer.
        UnsupportedCombination: the consumer is of a kind that no call can consume from.
        BrokerUnavailable: the broker did not answer by `deadline`, a time of the running loop.
    """
    try:
        config = await consumers.find(stream, consumer, deadline)
    except RefusedByBroker as refusal:
        raise domain_error(refusal, stream=stream, consumer=consumer) from refusal
    if config is None:
        raise ConsumerNotFound(consumer)
    return processing_timeout(consumer, config)


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
