"""What an attachment knows of its consumer, and how it keeps up with what becomes of that.

A consumer can be changed, deleted, or deleted and made anew under its name. A call sees that when the broker
or another server says so, when nothing is heard any more, and after each reconnect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import timedelta
from time import monotonic
from typing import Any, Final

from windshift.nats import Backoff, NatsError, retry
from windshift.nats.jetstream import JetStream
from windshift.server.errors import BrokerUnavailable, ConsumerNotFound, WindshiftError
from windshift.server.events.consuming.lookup import Found, find_consumer
from windshift.server.events.consuming.parties import Gate
from windshift.server.events.consuming.slots import enough_slots
from windshift.server.events.consuming.triage import Triage
from windshift.server.events.consuming.window import Window
from windshift.server.events.model import ConsumerKey
from windshift.server.telemetry.seldom import Seldom

_PAUSES: Final = Backoff(timedelta(milliseconds=250), timedelta(milliseconds=500))
"""Pauses before the broker is asked again what has to be known."""
_REMEMBERED: Final = 256
"""How many subjects that the client may have are remembered; then all of them are forgotten."""

log = logging.getLogger(__name__)

_stale = Seldom(10.0)


class Following:
    """Keeps up with the consumer of one attachment.

    Attributes:
        found: the consumer, as it was seen last.
        stale: whether something has to be learned before deliveries may be asked for.
        gate: what the client may consume; None = everything.

    Args:
        api: where consumers are looked up.
        consumer: what names this one.
        found: how it was found just now.
        window: what the client holds; it follows the timeout.
        triage: decides about deliveries; it follows the policy.
        patience: seconds that the broker has for an answer.
        start: runs something beside the attachment.
        end: called with why the call is to end.
    """

    __slots__ = (
        "_api",
        "_consumer",
        "_deleted",
        "_doubt",
        "_end",
        "_let_through",
        "_looking_up",
        "_patience",
        "_refreshing",
        "_start",
        "_triage",
        "_window",
        "found",
        "gate",
        "stale",
    )

    def __init__(
        self,
        api: JetStream,
        consumer: ConsumerKey,
        found: Found,
        window: Window,
        triage: Triage,
        patience: float,
        start: Callable[[Coroutine[Any, Any, None]], None],
        end: Callable[[Exception], None],
    ) -> None:
        self._api = api
        self._consumer = consumer
        self._window = window
        self._triage = triage
        self._patience = patience
        self._start = start
        self._end = end
        self._doubt = self._deleted = self._looking_up = self._refreshing = False
        self.found = found
        self.stale = found.policy.dead_letters
        self.gate: Gate | None = None
        self._let_through: set[str] = set()
        triage.policy, triage.timeout = found.policy, found.timeout

    def check(self, found: Found) -> None:
        """Raise `PermissionDenied` unless the client may have what the consumer chooses."""
        if self.gate is not None:
            self._let_through.clear()
            self.gate.consume(*self._consumer, durable=found.durable, subjects=found.subjects)

    def let_through(self, subject: str) -> None:
        """Raise `PermissionDenied` unless the client may have an event of this subject.

        The consumer may have been changed since it was seen last, and what it chose earlier may be replayed.
        """
        if self.gate is None or subject in self._let_through:
            return
        self.gate.receive(*self._consumer, subject, durable=self.found.durable)
        if len(self._let_through) >= _REMEMBERED:
            self._let_through.clear()
        self._let_through.add(subject)

    def doubt(self, *, deleted: bool = False) -> None:
        """Look the consumer up with the next `tick`: it may be gone, or another."""
        self._doubt = True
        self._deleted |= deleted

    def tick(self) -> None:
        """Begin to look up what is in doubt, and to learn what has to be known."""
        if self._doubt and not self._looking_up:
            self._looking_up = True
            self._doubt = False
            self._start(self._look_up())
        if self.stale and not self._refreshing:
            self._refreshing = True
            self._start(self._refresh())

    async def _look_up(self) -> None:
        """See whether the consumer still is there, and end the call when it is not."""
        try:
            await self._find()
            if self._deleted:  # and made again since
                self._end(ConsumerNotFound(self._consumer.name))
        except BrokerUnavailable:
            pass  # the next request will bring the doubt back
        except Exception as failure:  # noqa: BLE001 - whatever it is, the call ends with it
            self._end(failure)
        finally:
            self._looking_up = False

    async def _refresh(self) -> None:
        try:
            async for _ in retry(None, _PAUSES):
                self.stale = not await self._learn()
                if not self.stale:
                    return
                self._tell_stale()
        except Exception as failure:  # noqa: BLE001 - whatever it is, the call ends with it
            self._end(failure)
        finally:
            self._refreshing = False

    def _tell_stale(self) -> None:
        if _stale.passes(monotonic()):
            log.warning(
                "a consume call waits: the broker does not say what the consumer has given up on",
                extra={"stream": self._consumer.stream, "consumer": self._consumer.name},
            )

    async def _learn(self) -> bool:
        """Learn what has to be known; false when the broker cannot tell now."""
        try:
            await self._find()
            await self._triage.recall(self.found.state, self._deadline())
        except BrokerUnavailable:
            return False
        return True

    async def _find(self) -> None:
        """Look the consumer up, and follow what was changed."""
        deadline = self._deadline()
        found = await find_consumer(self._api, *self._consumer, self._window.size, deadline)
        if found.state.created != self.found.state.created:
            raise ConsumerNotFound(self._consumer.name)
        self.check(found)
        self.stale |= found.policy.dead_letters and not self._triage.policy.dead_letters
        self.found = found
        self._window.set_timeout(found.timeout.total_seconds())
        self._triage.policy, self._triage.timeout = found.policy, found.timeout
        wanted = enough_slots(found.state)
        if wanted is not None:
            await self._raise_slots(found, wanted, deadline)

    async def _raise_slots(self, found: Found, wanted: int, deadline: float) -> None:
        config = found.state.config | {"max_ack_pending": wanted}
        try:
            await self._api.update_consumer(*self._consumer, config, deadline)
        except (WindshiftError, NatsError):
            log.warning(
                "events that wait for another attempt hold most places of a consumer, and it gets no more",
                extra={"stream": self._consumer.stream, "consumer": self._consumer.name},
            )

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._patience
