"""What a subscription does with its handlers, without a server."""

from __future__ import annotations

import asyncio
from typing import Any

import windshift as ws
from windshift.protos import events
from windshift.sdk.fakes import FakeCaller
from windshift.sdk.runtime.subscription import Handling, Subscription


async def test_an_event_whose_time_is_over_before_its_handler_began() -> None:
    """A handler that is cancelled at `max_lease` before its first step gives its place back."""

    async def handle(_: ws.Delivery[Any]) -> None:
        await asyncio.sleep(600)

    subscription = Subscription(FakeCaller(), "orders", "accounting", handle, Handling(concurrency=1))
    job, _ = subscription.jobs.deliver(events.Event(id=1), 1, 0.0)
    subscription.arrived(job)
    subscription.begin()
    job.expired = True  # as `Jobs.leases` marks it
    subscription._expire(job)
    (task,) = subscription._tasks.values()
    await asyncio.wait({task}, timeout=30)
    assert not subscription.busy
    assert job.verdict == ws.Verdict(ws.Outcome.RETRY, "took longer than max_lease", "TimeoutError")
