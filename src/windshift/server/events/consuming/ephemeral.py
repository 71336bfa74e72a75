"""How long an ephemeral consumer lives: long while it has a subscriber, and a little while afterwards.

JetStream ends a consumer that nobody has pulled from for its ``inactive_threshold``. While there are calls,
that is an hour, because a call may pull nothing for long: its client may be slow, or hold all it may. The
server whose last call of a consumer ends lowers it, and tells the other servers: one that still has calls
raises it again. When a server dies without doing so, the consumer lives for the hour.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from windshift.nats import NatsError
from windshift.nats.jetstream.api import ConsumerState, JetStream
from windshift.server.domain.errors import WindshiftError
from windshift.server.events.consumers import is_ephemeral, left_config, used_config
from windshift.server.events.consuming.redelivery import Settled
from windshift.server.events.model import ConsumerKey
from windshift.server.events.notes import CONSUMER, Notes

log = logging.getLogger(__name__)

_TIMEOUT = 1.0
"""Seconds that the end of a call waits for this."""


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
    deadline = asyncio.get_running_loop().time() + _TIMEOUT
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
