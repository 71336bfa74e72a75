"""What a subscription does with its handlers, without a server."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import windshift as ws
from windshift.protos import events
from windshift.sdk.fakes import FakeCaller
from windshift.sdk.runtime.jobs import Arrival
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


async def test_events_that_were_settled_too_late_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """The first is told at once, the others of an interval together: after a fault there are hundreds."""
    subscription = Subscription(FakeCaller(), "orders", "accounting", None, Handling())
    jobs = [subscription.jobs.deliver(events.Event(id=number), 1, 0.0)[0] for number in range(1, 301)]
    first = "event 1 was settled too late: another worker may handle it again"
    with caplog.at_level(logging.WARNING, "windshift"):
        for job in jobs:
            subscription.settled(job, lost=True)
        assert caplog.messages == [first]
        subscription._more_too_late()  # as the timer does after the interval
        subscription.settled(jobs[0], lost=True)
        subscription._more_too_late()
    assert caplog.messages == [
        first,
        "299 more events of orders were settled too late in the last 5 s",
        first,
    ]


async def test_a_delivery_that_was_settled_by_hand_gives_its_place_back_once() -> None:
    """Also if its handler is cancelled while it waits for the confirmation."""

    async def handle(delivery: ws.Delivery[Any]) -> None:
        await delivery.ack()

    subscription = Subscription(FakeCaller(), "orders", "accounting", handle, Handling(concurrency=1))
    job, _ = subscription.jobs.deliver(events.Event(id=1), 1, 0.0)
    subscription.arrived(job)
    subscription.begin()
    await asyncio.sleep(0)
    assert job.verdict == ws.Verdict(ws.Outcome.ACK)
    subscription._gives_up = True  # as `stop` does after its grace
    (task,) = subscription._tasks.values()
    task.cancel()
    await asyncio.wait({task}, timeout=30)
    assert not subscription._running


async def test_a_delivery_that_is_held_for_too_long_gives_its_place_back() -> None:
    """Who iterates may have forgotten it: it is rejected, and comes again as another attempt."""
    subscription = Subscription(FakeCaller(), "orders", "accounting", None, Handling(concurrency=1))
    first, second = (subscription.jobs.deliver(events.Event(id=each), 1, 0.0)[0] for each in (1, 2))
    subscription.arrived(first)
    subscription.arrived(second)
    subscription.begin()
    held = await subscription.next()
    assert subscription._ready.empty()
    first.expired = True  # as `Jobs.leases` marks it
    subscription._expire(first)
    assert held.lost
    assert first.verdict == ws.Verdict(ws.Outcome.RETRY, "took longer than max_lease", "TimeoutError")
    assert (await subscription.next()).event.id == 2
    assert subscription._running == {second}
    with pytest.raises(ws.LeaseLost):
        await held.ack()
    again, arrival = subscription.jobs.deliver(events.Event(id=1), 1, 1.0)
    assert (again is first, arrival) == (False, Arrival.NEW)


async def test_a_delivery_that_was_lost_and_forgotten_gives_its_place_back() -> None:
    """Nothing is said of it: no call holds it, and somebody else may."""
    subscription = Subscription(FakeCaller(), "orders", "accounting", None, Handling(concurrency=1))
    job, _ = subscription.jobs.deliver(events.Event(id=1, token=b"t"), 1, 0.0)
    subscription.arrived(job)
    subscription.begin()
    await subscription.next()
    subscription.jobs.call_ended(1, 1.0)
    subscription.jobs.resume([job], 2, 2.0)
    subscription.lost(job)
    later = asyncio.get_running_loop().time() + 90.0
    assert subscription.jobs.leases(2, later, 30.0, 60.0) == ([], [job])
    subscription._expire(job)
    assert not subscription.busy
    assert not subscription.jobs.current(job)


async def test_the_time_of_a_delivery_begins_when_it_is_handed_out() -> None:
    """What waits for who iterates is not rejected unseen, and handled twice."""
    subscription = Subscription(FakeCaller(), "orders", "accounting", None, Handling(concurrency=2))
    jobs = [subscription.jobs.deliver(events.Event(id=each), 1, 0.0)[0] for each in (1, 2)]
    for job in jobs:
        subscription.arrived(job)
    subscription.begin()
    for job in jobs:
        await subscription.next()
        later = asyncio.get_running_loop().time() + 90.0
        assert subscription.jobs.leases(1, later, 30.0, 60.0)[1] == [job]


@pytest.mark.parametrize("token", [b"t", b""], ids=["lease_over", "released"])
async def test_what_was_lost_before_it_is_handed_out_is_left_to_others(token: bytes) -> None:
    """If it comes again, it is handed out once."""
    subscription = Subscription(FakeCaller(), "orders", "accounting", None, Handling(concurrency=1))
    jobs = subscription.jobs
    waits, _ = jobs.deliver(events.Event(id=1, token=token), 1, 0.0)
    subscription.arrived(waits)
    subscription.begin()
    subscription.released(jobs.call_ended(1, 1.0))
    jobs.resume([waits], 2, 2.0)
    if token:
        subscription.lost(waits)
    assert not jobs.current(waits)
    for event in (events.Event(id=2), events.Event(id=1)):
        job, arrival = jobs.deliver(event, 2, 3.0)
        assert arrival is Arrival.NEW
        subscription.arrived(job)
    subscription.begin()
    async with asyncio.timeout(30):
        assert (await subscription.next()).event.id == 2
    assert subscription._running == {jobs.get(2)}
    assert list(subscription._deliveries) == [jobs.get(2)]


async def test_a_delivery_whose_id_means_another_event_gives_its_place_back() -> None:
    """Who iterates hears of it when it settles, and gets the next one."""
    subscription = Subscription(FakeCaller(), "orders", "accounting", None, Handling(concurrency=1))
    subscription.arrived(subscription.jobs.deliver(events.Event(id=1, subject="a"), 1, 0.0)[0])
    subscription.begin()
    held = await subscription.next()
    subscription.arrived(subscription.jobs.deliver(events.Event(id=1, subject="b"), 1, 1.0)[0])
    subscription.begin()
    assert subscription._ready.empty()
    async with asyncio.timeout(30):
        with pytest.raises(ws.LeaseLost):
            await held.ack()
    assert (await subscription.next()).event.subject == "b"


@pytest.mark.parametrize("left", [False, True])
async def test_a_cancelled_block_rejects_its_delivery(left: bool) -> None:
    """Not if the block of the subscription is left as well, which releases what is held."""
    subscription = Subscription(FakeCaller(), "orders", "accounting", None, Handling(concurrency=1))
    job, _ = subscription.jobs.deliver(events.Event(id=1), 1, 0.0)
    subscription.arrived(job)
    subscription.begin()
    with pytest.raises(asyncio.CancelledError):
        async with await subscription.next():
            raise asyncio.CancelledError
    if left:
        subscription._stopping.set()  # as `stop` does before anything else
    await asyncio.sleep(0)
    assert (job.verdict is None) is left
    assert subscription.busy is left


@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_handler_that_survives_its_cancelled_block_rejects_its_delivery(
    goes_on: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its block did not come to its end: that it returns, at once or later, acknowledges nothing."""

    async def handle(delivery: ws.Delivery[Any]) -> None:
        with pytest.raises(asyncio.CancelledError):
            async with delivery:
                raise asyncio.CancelledError
        if goes_on:
            await asyncio.sleep(0.01)

    subscription = Subscription(FakeCaller(), "orders", "accounting", handle, Handling(concurrency=1))
    job, _ = subscription.jobs.deliver(events.Event(id=1), 1, 0.0)
    subscription.arrived(job)
    subscription.begin()
    (task,) = subscription._tasks.values()
    with caplog.at_level(logging.WARNING, "windshift"):
        await asyncio.wait({task}, timeout=30)
        await asyncio.sleep(0)
    assert job.verdict == ws.Verdict(ws.Outcome.RETRY, "", "CancelledError")
    assert caplog.messages == ["event 1 on , attempt 0: retry: CancelledError"]


async def test_a_stop_does_not_wait_for_what_was_lost() -> None:
    """A delivery that waits for its turn may be somebody else's by now."""
    subscription = Subscription(FakeCaller(), "orders", "accounting", lambda _: None, Handling())
    job, _ = subscription.jobs.deliver(events.Event(id=1), 1, 0.0)
    subscription.arrived(job)
    stopping = asyncio.create_task(subscription.stop(600))
    await asyncio.sleep(0)
    subscription.lost(job)
    subscription.begin()
    async with asyncio.timeout(30):
        await stopping
