"""Pauses consumers, and has them go on at once."""

from __future__ import annotations

import asyncio
from typing import Final

from windshift.nats import retry
from windshift.nats.jetstream.api import ConsumerState, JetStream, JsonObject
from windshift.nats.times import Time, parse_rfc3339
from windshift.server.auth.access import require_of
from windshift.server.auth.actions import ControlConsumer
from windshift.server.auth.policy import Principal
from windshift.server.domain.broker_errors import broker_errors
from windshift.server.domain.errors import BrokerUnavailable, OutcomeUnknown
from windshift.server.events.consumers import name_in_rules
from windshift.server.events.model import ConsumerKey
from windshift.server.events.notes import CONSUMER, Notes
from windshift.server.events.positions import rfc3339
from windshift.server.events.streams import existing_consumer

_SOON: Final = 1.0
"""Seconds in which a consumer's leader learns of a pause."""


class ConsumerPause:
    """Pauses and resumes consumers."""

    def __init__(self, api: JetStream, notes: Notes) -> None:
        self._api = api
        self._notes = notes

    async def set(
        self, consumer: ConsumerKey, until_ns: int | None, deadline: float, caller: Principal | None = None
    ) -> Time | None:
        """Pause a consumer until a time in nanoseconds since 1970, or resume it; return until when it is.

        It is so when this returns, unless somebody else has paused or resumed it at the same time. Calls that
        consume from it are told, and ask for events anew: nats-server (2.15) does not serve requests that
        waited through a pause before something else happens.
        Raise `StreamNotFound`, `ConsumerNotFound`, `BrokerUnavailable` or `OutcomeUnknown`, and
        `PermissionDenied` unless the caller, if one is given, may do this; `deadline` is the loop's time.
        """
        until = None if until_ns is None else rfc3339(until_ns)
        request: JsonObject = {} if until is None else {"pause_until": until}
        wanted = None if until is None else parse_rfc3339(until)
        state = await existing_consumer(self._api, consumer, deadline)
        require_control(caller, consumer, state)
        before = pause_of(state)
        answer: JsonObject = {}
        try:
            async for _ in retry(deadline):
                operation = f"CONSUMER.PAUSE.{consumer.stream}.{consumer.name}"
                with broker_errors(stream=consumer.stream, consumer=consumer.name):
                    answer = await self._api.change(operation, request, deadline)
                if await self._known(consumer, before, wanted, deadline):
                    break
            else:
                raise OutcomeUnknown
        except BrokerUnavailable as error:
            if not answer:
                raise
            raise OutcomeUnknown from error
        finally:  # it may be done
            self._notes.send(CONSUMER, *consumer)
        return parse_rfc3339(answer["pause_until"]) if answer.get("paused") else None

    async def _known(
        self, consumer: ConsumerKey, before: Time | None, wanted: Time | None, deadline: float
    ) -> bool:
        """Wait until the consumer's leader knows; false if nothing has changed for a while."""
        async for _ in retry(min(deadline, asyncio.get_running_loop().time() + _SOON)):
            present = pause_of(await existing_consumer(self._api, consumer, deadline))
            if present == wanted or present != before:  # somebody else may have changed it since
                return True
        return False


def require_control(caller: Principal | None, consumer: ConsumerKey, state: ConsumerState) -> None:
    """Raise `PermissionDenied` unless the caller may control a consumer, by what it is."""
    if caller is not None:
        name = name_in_rules(caller, consumer.name, state.config)
        require_of(caller, ControlConsumer(consumer.stream, name))


def pause_of(state: ConsumerState) -> Time | None:
    """Return until when a consumer is paused, or was; None = it was not since it was resumed."""
    until = state.config.get("pause_until")
    return parse_rfc3339(until) if until else None
