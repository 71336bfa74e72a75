"""Streams on JetStream's API: look up, create, update.

Configurations go through as the JSON objects they are. A class per configuration would drop the fields that
it does not know, and an update would then reset what another program had set.
"""

from __future__ import annotations

from dataclasses import dataclass

from windshift.server.nats.jetstream import STREAM_NOT_FOUND, JetStreamApi, JsonObject, RefusedByBroker


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream's configuration, and the last id it ever gave to an event: 0 for none, kept by a purge."""

    config: JsonObject
    last_id: int


class StreamApi:
    """The streams of one broker. Every `deadline` is a time of the running loop.

    All methods raise `RefusedByBroker` for what the broker answers, `BrokerUnavailable` when it cannot be
    reached, and those that write `OutcomeUnknown` when it may have heard but did not answer in time.
    """

    def __init__(self, api: JetStreamApi) -> None:
        self._api = api

    async def find(self, name: str, deadline: float) -> StreamState | None:
        """Look a stream up; `None` if there is none."""
        try:
            info = await self._api.stream_info(name, deadline)
        except RefusedByBroker as refusal:
            if refusal.err_code == STREAM_NOT_FOUND:
                return None
            raise
        return StreamState(info["config"], info["state"]["last_seq"])

    async def create(self, config: JsonObject, deadline: float) -> None:
        """Create a stream. Succeed too when it exists with this very configuration."""
        await self._api.change(f"STREAM.CREATE.{config['name']}", config, deadline)

    async def update(self, config: JsonObject, deadline: float) -> None:
        """Replace the configuration of an existing stream."""
        await self._api.change(f"STREAM.UPDATE.{config['name']}", config, deadline)
