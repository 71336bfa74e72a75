"""Consumers on JetStream's API: look up, create, update, delete.

Configurations stay JSON objects, as with streams.
"""

from __future__ import annotations

from dataclasses import dataclass

from windshift.server.nats.jetstream import CONSUMER_NOT_FOUND, JetStreamApi, JsonObject, RefusedByBroker


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """A consumer's configuration, and how far it has come.

    Attributes:
        config: as the broker stores it.
        created: when it was made, as the broker writes times. One that was deleted and made anew has another.
        pending: messages that it has yet to deliver for the first time.
        unsettled: messages that were delivered and not settled, those that wait for another attempt included.
        settled_to: every message up to this sequence of the stream is settled.
        delivered_to: no message after this sequence of the stream was delivered.
    """

    config: JsonObject
    created: str
    pending: int
    unsettled: int
    settled_to: int
    delivered_to: int


class ConsumerApi:
    """The consumers of one broker. Every `deadline` is a time of the running loop.

    All methods raise `RefusedByBroker` for what the broker answers (a missing stream included),
    `BrokerUnavailable` when it cannot be reached, and those that write `OutcomeUnknown` when it may have
    heard but did not answer in time.
    """

    def __init__(self, api: JetStreamApi) -> None:
        self._api = api

    async def find(self, stream: str, name: str, deadline: float) -> JsonObject | None:
        """Return the stored configuration of a consumer; `None` if the stream has no such consumer."""
        state = await self.state(stream, name, deadline)
        return None if state is None else state.config

    async def state(self, stream: str, name: str, deadline: float) -> ConsumerState | None:
        """Return what the broker knows of a consumer; `None` if the stream has no such consumer."""
        try:
            info = await self._api.call(f"CONSUMER.INFO.{stream}.{name}", None, deadline)
        except RefusedByBroker as refusal:
            if refusal.err_code == CONSUMER_NOT_FOUND:
                return None
            raise
        return ConsumerState(
            info["config"],
            info["created"],
            info["num_pending"],
            info["num_ack_pending"],
            info["ack_floor"]["stream_seq"],
            info["delivered"]["stream_seq"],
        )

    async def create(self, stream: str, name: str, config: JsonObject, deadline: float) -> None:
        """Create a consumer. Succeed too when it exists with this very configuration."""
        await self._tell("create", stream, name, config, deadline)

    async def update(self, stream: str, name: str, config: JsonObject, deadline: float) -> None:
        """Replace the configuration of an existing consumer; the broker keeps its position."""
        await self._tell("update", stream, name, config, deadline)

    async def delete(self, stream: str, name: str, deadline: float) -> bool:
        """Delete a consumer; false if the stream has no such consumer."""
        if await self.find(stream, name, deadline) is None:
            return False
        try:
            await self._api.change(f"CONSUMER.DELETE.{stream}.{name}", None, deadline)
        except RefusedByBroker as refusal:
            if refusal.err_code != CONSUMER_NOT_FOUND:
                raise
            # An earlier request of ours was not answered, or somebody else was faster.
        return True

    async def _tell(self, action: str, stream: str, name: str, config: JsonObject, deadline: float) -> None:
        # No filter in the subject of the request: the broker would then refuse several of them.
        request = {"stream_name": stream, "config": config, "action": action}
        await self._api.change(f"CONSUMER.CREATE.{stream}.{name}", request, deadline)
