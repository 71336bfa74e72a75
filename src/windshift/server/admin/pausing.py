"""Pauses consumers, and has them go on at once."""

from __future__ import annotations

from windshift.nats import retry
from windshift.nats.jetstream.api import ConsumerState, JetStream, JsonObject
from windshift.nats.times import Time, parse_rfc3339
from windshift.server.domain.broker_errors import broker_errors
from windshift.server.domain.errors import BrokerUnavailable, ConsumerNotFound
from windshift.server.events.model import ConsumerKey
from windshift.server.events.notes import CONSUMER, Notes
from windshift.server.events.positions import rfc3339


class ConsumerPause:
    """Pauses and resumes consumers."""

    def __init__(self, api: JetStream, notes: Notes) -> None:
        self._api = api
        self._notes = notes

    async def set(self, consumer: ConsumerKey, until_ns: int | None, deadline: float) -> Time | None:
        """Pause a consumer until a time in nanoseconds since 1970, or resume it; return until when it is.

        It is so when this returns. Calls that consume from it are told, and ask for events anew: nats-server
        (2.15) does not serve requests that waited through a pause before something else happens.
        Raise `StreamNotFound`, `ConsumerNotFound` or `BrokerUnavailable`; `deadline` is the loop's time.
        """
        until = None if until_ns is None else rfc3339(until_ns)
        request: JsonObject = {} if until is None else {"pause_until": until}
        with broker_errors(stream=consumer.stream, consumer=consumer.name):
            answer = await self._api.change(
                f"CONSUMER.PAUSE.{consumer.stream}.{consumer.name}", request, deadline
            )
            await self._known(consumer, None if until is None else parse_rfc3339(until), deadline)
        self._notes.send(CONSUMER, *consumer)
        return parse_rfc3339(answer["pause_until"]) if answer.get("paused") else None

    async def _known(self, consumer: ConsumerKey, until: Time | None, deadline: float) -> None:
        """Wait until the consumer's leader knows."""
        async for _ in retry(deadline):
            state = await self._api.consumer(*consumer, deadline)
            if state is None:
                raise ConsumerNotFound(consumer.name)
            if pause_of(state) == until:
                return
        raise BrokerUnavailable


def pause_of(state: ConsumerState) -> Time | None:
    """Return until when a consumer is paused, or was; None = it was not since it was resumed."""
    until = state.config.get("pause_until")
    return parse_rfc3339(until) if until else None
