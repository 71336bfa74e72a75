"""Trying the handlers of an app on one event, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from windshift.protos import events
from windshift.rpc import in_thread
from windshift.sdk.client import Client
from windshift.sdk.deliveries import ACK, Delivery, Verdict, log_failure
from windshift.sdk.errors import LeaseLost
from windshift.sdk.events import Event
from windshift.sdk.fakes import FakeCaller, Published
from windshift.sdk.runtime.subscription import THREADS
from windshift.sdk.times import timestamp

from .consumer import AppConsumer, Next

R = TypeVar("R")


class Trial:
    """An app without a server, made by `App.test`.

    Attributes:
        client: the client that handlers get. It records what is published, and has stores in memory.
        published: what was published so far.
    """

    def __init__(self, client: Client, caller: FakeCaller, handlers: Mapping[AppConsumer, Next]) -> None:
        self.client = client
        self.published: list[Published] = caller.published
        self._caller = caller
        self._handlers = handlers
        self._deliveries = 0

    async def deliver(
        self,
        subject: str,
        message: object,
        *,
        consumer: AppConsumer | None = None,
        attempt: int = 1,
        key: str | None = None,
        time: datetime | None = None,
    ) -> Verdict:
        """Have an event handled, with middleware, and return what is to become of it.

        Args:
            subject: its subject.
            message: its payload.
            consumer: the consumer that it is delivered to; None = the only one that takes the subject.
            attempt: how often it was delivered, this time included.
            key: its idempotency key.
            time: when it happened; None = now.

        Raises:
            ValueError: no consumer takes the subject, or several do and none is named.
        """
        consumer = consumer or self._only(subject)
        self._deliveries += 1
        proto = events.Event(
            id=self._deliveries,
            subject=subject,
            data=self._caller.payloads.pack(message),
            headers=events.Headers(timestamp=timestamp(time or datetime.now(UTC)), idempotency_key=key),
            delivery_attempt=attempt,
        )
        kind = self._caller.payloads.filter(consumer.types).find(proto.data)
        event: Event[Any] = Event(proto, self._caller.names, self._caller.payloads, kind)
        settler = _Settler(event.id)
        try:
            if kind is not None:
                _ = event.data  # what cannot be decoded goes no further
            await self._handlers[consumer](Delivery(event, settler, None))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the test is being cancelled; otherwise whatever a handler raises is a verdict
            if settler.verdict is None:
                settler.verdict = consumer.decide(error)
            log_failure(event, settler.verdict, error)
        return settler.verdict or settler.given_back or ACK

    def _only(self, subject: str) -> AppConsumer:
        found = [consumer for consumer in self._handlers if consumer.takes(subject)]
        if len(found) != 1:
            names = ", ".join(consumer.name for consumer in found)
            raise ValueError(
                f"{subject!r} goes to several consumers, name one: {names}"
                if found
                else f"no consumer takes {subject!r}"
            )
        return found[0]


class _Settler:
    """Keeps what a handler settles by hand."""

    def __init__(self, event_id: int) -> None:
        self.verdict: Verdict | None = None
        self.given_back: Verdict | None = None
        self._event_id = event_id

    async def settle(self, job: None, verdict: Verdict) -> None:
        """Keep the verdict; the first one counts."""
        if self.verdict is not None:
            raise LeaseLost(self._event_id)
        self.verdict = verdict

    def give_back(self, job: None, verdict: Verdict) -> None:
        """Keep the verdict of a block that was cancelled, for a handler that goes on all the same."""
        self.given_back = verdict

    def ping(self, job: None) -> None:
        """Do nothing: there is no lease."""

    async def in_thread(self, job: None, function: Callable[[], R]) -> R:
        """Run a function in a thread, with the same context."""
        return await in_thread(function, THREADS)
