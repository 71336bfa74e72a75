"""Consuming by handler and by iterator, against a real server, with connections and servers that go away."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import windshift as ws
from tests.support.cutting_proxy import CuttingProxy
from tests.support.older_server import older_server
from tests.support.ports import new_port
from tests.support.windshift_process import windshift
from windshift.protos import state, test
from windshift.sdk.client import caller_of

Text = test.StringValue
LIMIT = 30.0
"""Seconds that anything may take on a busy machine."""


async def worker(client: ws.Client, **options: Any) -> ws.Consumer:
    """Make a stream and a consumer of it that begins at its start."""
    stream = await client.streams.ensure("s", subjects=["s.>"])
    return await stream.consumers.ensure("w", start=ws.START, **options)


def texts(count: int) -> list[test.StringValue]:
    """Make messages."""
    return [Text(value=str(number)) for number in range(count)]


async def test_an_iterator_hands_out_and_settles(client: ws.Client) -> None:
    """A block acknowledges its delivery; an exception in it rejects it and goes no further."""
    consumer = await worker(client, retry=ws.RetryPolicy(initial=0.001, maximum=0.001))
    await client.publish_many(texts(3), subject="s.x", in_flight=1)
    seen: list[tuple[int, int]] = []
    async with consumer.subscribe() as deliveries:
        async for delivery in deliveries:
            seen.append((delivery.event.id, delivery.event.attempt))
            async with delivery:
                if seen[-1] == (2, 1):
                    raise ValueError("not this time")
            if len(seen) == 4:
                break
    assert sorted(seen) == [(1, 1), (2, 1), (2, 2), (3, 1)]
    await consumer.idle(LIMIT)


async def test_an_older_server_delivers_events_one_by_one(server: str, unique: Callable[[], str]) -> None:
    """It does not know `max_batch`; an iterator and a handler get all events, and settle them."""
    namespace, handled = unique(), list[int]()

    async def handle(delivery: ws.Delivery[Any]) -> None:
        handled.append(delivery.event.id)

    async with ws.connect(server, namespace=namespace) as client:
        iterated = await worker(client)
        other = await client.stream("s").consumers.ensure("other", start=ws.START)
        await client.publish_many(texts(300), subject="s.x")
        async with (
            older_server(server) as (service, address),
            ws.connect(address, namespace=namespace) as older,
        ):
            ids: list[int] = []
            async with older.stream("s").consumer("w").subscribe(concurrency=100) as deliveries:
                async for delivery in deliveries:
                    ids.append(delivery.event.id)
                    await delivery.ack()
                    if len(ids) == 300:
                        break
            async with older.stream("s").consumer("other").running(handle):
                await other.idle(LIMIT)
        await iterated.idle(LIMIT)
    assert sorted(ids) == sorted(handled) == list(range(1, 301))
    assert Counter(service.responses)["event"] == 600
    assert "batch" not in service.responses


async def test_a_block_that_runs_out_of_time_rejects_its_delivery(client: ws.Client) -> None:
    """The event comes again, and the iteration goes on."""
    consumer = await worker(client, retry=ws.RetryPolicy(initial=0.001, maximum=0.001))
    await client.publish_many(texts(2), subject="s.x", in_flight=1)
    seen: list[tuple[int, int]] = []
    async with asyncio.timeout(LIMIT), consumer.subscribe() as deliveries:
        async for delivery in deliveries:
            seen.append((delivery.event.id, delivery.event.attempt))
            if len(seen) == 1:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01), delivery:
                        await asyncio.sleep(600)
                continue
            await delivery.ack()
            if len(seen) == 3:
                break
    assert sorted(seen) == [(1, 1), (1, 2), (2, 1)]
    await consumer.idle(LIMIT)


async def test_a_handler_whose_block_runs_out_of_time_rejects_its_delivery(client: ws.Client) -> None:
    """Also if it handles the timeout and returns."""
    consumer = await worker(client, retry=ws.RetryPolicy(initial=0.001, maximum=0.001))
    await client.publish_many(texts(1), subject="s.x")
    attempts: list[int] = []

    async def handle(delivery: ws.Delivery[Any]) -> None:
        attempts.append(delivery.event.attempt)
        if len(attempts) == 1:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), delivery:
                    await asyncio.sleep(600)

    async with consumer.running(handle):
        await consumer.idle(LIMIT)
    assert attempts == [1, 2]


async def test_settling_by_hand_waits_for_the_confirmation(client: ws.Client) -> None:
    """Each outcome is stored when its method returns; a second one is refused."""
    consumer = await worker(client, retry=ws.RetryPolicy(max_attempts=5))
    await client.publish_many(texts(4), subject="s.x", in_flight=1)
    async with consumer.subscribe(concurrency=4) as deliveries:
        held = {}
        async for delivery in deliveries:
            held[delivery.event.id] = delivery
            if len(held) == 4:
                break
        held[1].ping()
        await held[1].ack()
        await held[2].dead_letter("no use")
        await held[3].drop("nobody cares")
        assert (await consumer.info()).unsettled == 1
        await held[4].retry("again", delay=0.001)
        again = await anext(deliveries)
        assert (again.event.id, again.event.attempt) == (4, 2)
        await again.ack()
        with pytest.raises(ws.LeaseLost) as caught:
            await again.ack()
        assert caught.value.id == 4
    await consumer.idle(LIMIT)
    (letter,) = [letter async for letter in client.dead_letters.list(stream="s")]
    assert (letter.event.id, letter.reason, letter.cause) == (2, "no use", "rejected")


async def test_a_handler_says_what_becomes_of_an_event(client: ws.Client) -> None:
    """Return, exception, `RetryLater`, `GiveUp` and `Drop`; reasons and kinds of failures are kept."""
    consumer = await worker(client, retry=ws.RetryPolicy(max_attempts=3, initial=0.001, maximum=0.001))
    attempts: Counter[str] = Counter()

    async def handle(delivery: ws.Delivery[Any]) -> None:
        value = delivery.event.data.value
        attempts[value] += 1
        if value == "fails":
            raise OSError("not now")
        if value == "late" and delivery.event.attempt == 1:
            raise ws.RetryLater("busy", delay=0.001)
        if value == "given up":
            raise ws.GiveUp("no number") from ValueError("x")
        if value == "dropped":
            raise ws.Drop

    values = ["fine", "fails", "late", "given up", "dropped"]
    await client.publish_many([Text(value=value) for value in values], subject="s.x")
    async with consumer.running(handle):
        await consumer.idle(LIMIT)
    assert attempts == {"fine": 1, "fails": 3, "late": 2, "given up": 1, "dropped": 1}
    letters = [letter async for letter in client.dead_letters.list(stream="s", consumer="w")]
    told = {letter.event.data.value: (letter.cause, letter.reason, letter.error_type) for letter in letters}
    assert told == {
        "fails": ("max_attempts", "not now", "OSError"),
        "given up": ("rejected", "no number", "ValueError"),
    }


async def test_reasons_are_whatever_a_handler_has(client: ws.Client) -> None:
    """Objects, texts that are no UTF-8, delays that are none: no event is stuck, and no worker ends."""
    consumer = await worker(client, retry=ws.RetryPolicy(max_attempts=2, initial=0.001, maximum=0.001))
    wrong: list[Callable[[], Exception]] = [
        lambda: OSError(2, "No such file", "\udcff.txt"),
        lambda: ws.GiveUp(ValueError("an object")),
        lambda: ws.GiveUp("\ud800"),
        lambda: ws.RetryLater(delay=-1),
        lambda: ws.RetryLater(delay=float("nan")),
        lambda: ws.RetryLater(delay=timedelta(days=60_000)),
    ]

    async def handle(delivery: ws.Delivery[Any]) -> None:
        make = wrong[int(delivery.event.data.value)]
        raise make()

    await client.publish_many(texts(len(wrong)), subject="s.x", in_flight=1)
    async with consumer.running(handle):
        await consumer.idle(LIMIT)
    letters = [letter async for letter in client.dead_letters.list(stream="s", consumer="w")]
    reasons = {letter.event.data.value: letter.reason for letter in letters}
    assert reasons["0"] == r"[Errno 2] No such file: '\udcff.txt'"
    assert (reasons["1"], reasons["2"]) == ("an object", r"\ud800")
    assert all(reasons[number].startswith("a delay is from 0 to ") for number in ("3", "5"))
    assert reasons["4"] == "a duration is a number of seconds, not nan"
    await client.publish("s.x", Text(value="by hand"))
    async with consumer.subscribe() as deliveries:
        delivery = await anext(deliveries)
        with pytest.raises(ValueError, match="a delay is from 0"):
            await delivery.retry(delay=-1)
        await delivery.drop("\ud800")
    await consumer.idle(LIMIT)


async def test_a_function_around_a_coroutine_function_is_waited_for(client: ws.Client) -> None:
    """What it returns is awaited before the event is acknowledged; a generator would never run."""
    consumer = await worker(client, retry=ws.RetryPolicy(initial=0.001))
    seen: list[tuple[str, int]] = []

    async def book(delivery: ws.Delivery[Any]) -> None:
        await asyncio.sleep(0)
        seen.append((delivery.event.data.value, delivery.event.attempt))
        if delivery.event.attempt == 1:
            raise OSError("not now")

    def handle(delivery: ws.Delivery[Any]) -> Awaitable[None]:
        return book(delivery)

    await client.publish("s.x", Text(value="a"))
    async with consumer.running(handle):
        await consumer.idle(LIMIT)
    assert seen == [("a", 1), ("a", 2)]

    async def each(delivery: ws.Delivery[Any]) -> AsyncIterator[None]:
        yield

    for wrong in (each, functools.partial(each), lambda _: (yield)):
        with pytest.raises(TypeError, match="does not yield"):
            await consumer.run(wrong)


async def test_a_handler_that_its_program_cancels_has_failed(client: ws.Client) -> None:
    """Its event comes again at once, and is not held until `max_lease`."""
    consumer = await worker(client, retry=ws.RetryPolicy(initial=0.001))
    attempts: list[int] = []

    async def handle(delivery: ws.Delivery[Any]) -> None:
        attempts.append(delivery.event.attempt)
        task = asyncio.current_task()
        assert task is not None
        if delivery.event.attempt == 1:
            task.cancel()
        await asyncio.sleep(0)

    await client.publish("s.x", Text())
    async with consumer.running(handle):
        await consumer.idle(LIMIT)
    assert attempts == [1, 2]


async def test_a_client_that_is_closed_beside_long_calls(server: str, unique: Callable[[], str]) -> None:
    """Who consumes or tails is told so."""
    begun = asyncio.Event()

    async def handle(delivery: ws.Delivery[Any]) -> None:
        begun.set()

    async with ws.connect(server, namespace=unique()) as client:
        consumer = await worker(client)
        running = asyncio.ensure_future(consumer.run(handle))
        tail = client.stream("s").events.tail(start=ws.START)
        await client.publish("s.x", Text())
        await begun.wait()
        await anext(tail)
    with pytest.raises(ws.ClientClosed):
        await running
    with pytest.raises(ws.ClientClosed):
        async for _ in tail:
            pass


async def test_a_wrong_grace_is_told_before_anything_runs(client: ws.Client) -> None:
    """At the end of the block it would be too late: nothing would stop the subscription."""
    consumer = await worker(client)
    before = asyncio.all_tasks()

    async def handle(delivery: ws.Delivery[Any]) -> None: ...

    for grace in ("soon", float("nan")):
        with pytest.raises(ValueError, match=r"soon|not nan"):
            async with consumer.running(handle, grace=grace):  # type: ignore[arg-type] # that is the point
                pass
        with pytest.raises(ValueError, match=r"soon|not nan"):
            await consumer.run(handle, grace=grace)  # type: ignore[arg-type] # that is the point
    assert asyncio.all_tasks() <= before


async def test_options_that_are_none(client: ws.Client) -> None:
    """No window is left to the server's default by a number that is none."""
    consumer = client.stream("s").consumer("w")
    for options in ({"concurrency": 0}, {"prefetch": -1}, {"max_lease": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            async with consumer.subscribe(**options):
                pass


async def test_an_iterator_ends_with_its_block(client: ws.Client) -> None:
    """Who still iterates when the block is left gets no more, and is not cancelled."""
    consumer = await worker(client)
    async with consumer.subscribe() as deliveries:
        waiting = asyncio.ensure_future(anext(deliveries, None))
        await asyncio.sleep(0)
    assert await asyncio.wait_for(waiting, LIMIT) is None
    assert [delivery async for delivery in deliveries] == []


async def test_dead_letters_are_watched_replayed_and_purged(client: ws.Client) -> None:
    """A replay goes to the consumer that gave up; a watch shows what is there and what comes."""
    consumer = await worker(client)
    mended = False

    async def handle(delivery: ws.Delivery[Any]) -> None:
        if not mended:
            raise ws.GiveUp("broken")

    await client.publish_many(texts(3), subject="s.x")
    async with consumer.running(handle):
        await consumer.idle(LIMIT)
        letters: list[ws.DeadLetter] = []
        async with asyncio.timeout(LIMIT):
            async for letter in client.dead_letters.watch(stream="s", existing=True):
                letters.append(letter)
                if len(letters) == 3:
                    break
        async with asyncio.timeout(LIMIT):
            async for letter in client.dead_letters.watch(stream="s", position=letters[0].position):
                assert letter.id == letters[1].id
                break
        assert (await client.dead_letters.get(letters[0].id)).reason == "broken"
        assert (await client.dead_letters.replay(stream="s", dry_run=True)).replayed == 3
        mended = True
        result = await client.dead_letters.replay(ids=[letters[0].id, letters[1].id])
        assert (result.replayed, result.missing_ids) == (2, [])
        async with asyncio.timeout(LIMIT):
            while len([letter async for letter in client.dead_letters.list(stream="s")]) > 1:  # noqa: ASYNC110 -- it is at the server
                await asyncio.sleep(0.02)
    assert (await client.dead_letters.purge(stream="s")).purged == 1
    with pytest.raises(ws.DeadLetterNotFound):
        await client.dead_letters.get(letters[2].id)
    with pytest.raises(ValueError, match="everything=True"):
        await client.dead_letters.purge()


async def test_other_types_and_broken_payloads_become_dead_letters(client: ws.Client) -> None:
    """Only payloads of the given types reach the handler, decoded."""
    consumer = await worker(client)
    seen: list[object] = []

    async def handle(delivery: ws.Delivery[test.StringValue]) -> None:
        seen.append(delivery.event.data)

    await client.publish("s.x", Text(value="text"))
    await client.publish("s.x", state.SetResponse(revision=1))
    async with consumer.running(handle, types=[Text]):
        await consumer.idle(LIMIT)
    assert seen == [Text(value="text")]
    (letter,) = [letter async for letter in client.dead_letters.list(stream="s")]
    assert letter.error_type == "UnknownType"


async def test_a_function_runs_in_a_thread(client: ws.Client) -> None:
    """As many at once as `concurrency` says, and none in the event loop's own thread."""
    consumer = await worker(client)
    barrier, threads = threading.Barrier(12), set[int]()

    def handle(delivery: ws.Delivery[Any]) -> None:
        barrier.wait(LIMIT)
        threads.add(threading.get_ident())

    await client.publish_many(texts(12), subject="s.x")
    async with consumer.running(handle, concurrency=12):
        await consumer.idle(LIMIT)
    assert len(threads) == 12
    assert threading.get_ident() not in threads


async def test_a_long_handler_keeps_its_lease(client: ws.Client) -> None:
    """An event may be held for longer than the timeout, also one that waits for its turn."""
    consumer = await worker(client, timeout=1.4)
    runs: Counter[int] = Counter()

    async def handle(delivery: ws.Delivery[Any]) -> None:
        runs[delivery.event.id] += 1
        await asyncio.sleep(1.5)

    await client.publish_many(texts(2), subject="s.x", in_flight=1)
    async with consumer.running(handle, concurrency=1, prefetch=1):
        await consumer.idle(LIMIT)
    assert runs == {1: 1, 2: 1}


async def test_a_handler_that_takes_too_long_is_cancelled(client: ws.Client) -> None:
    """At `max_lease` the handler is cancelled, and the event rejected; the handler may say how."""
    consumer = await worker(client, timeout=1.2, retry=ws.RetryPolicy(max_attempts=1))
    ends: list[int] = []

    async def handle(delivery: ws.Delivery[Any]) -> None:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            ends.append(delivery.event.id)
            if delivery.event.id == 1:
                raise ws.GiveUp("stuck") from None
            raise

    await client.publish_many(texts(2), subject="s.x", in_flight=1)
    async with consumer.running(handle, max_lease=0.5):
        await consumer.idle(LIMIT)
    assert set(ends) == {1, 2}
    letters = {letter.event.id: letter.reason async for letter in client.dead_letters.list(stream="s")}
    assert letters.keys() == {1, 2}


async def test_a_delivery_that_is_forgotten_comes_again(client: ws.Client) -> None:
    """At `max_lease` who iterates has lost it; this process may get its next attempt."""
    consumer = await worker(client, timeout=2, retry=ws.RetryPolicy(initial=0.001, maximum=0.001))
    await client.publish_many(texts(1), subject="s.x")
    async with asyncio.timeout(LIMIT), consumer.subscribe(max_lease=1) as deliveries:
        forgotten = await anext(deliveries)
        again = await anext(deliveries)
        await again.ack()
        assert (again.event.id, again.event.attempt) == (1, 2)
        assert forgotten.lost
        with pytest.raises(ws.LeaseLost):
            await forgotten.ack()


async def test_workers_stopped_in_a_row_burn_no_attempt(client: ws.Client) -> None:
    """A worker that is stopped finishes what it holds; nobody gets a second attempt."""
    consumer = await worker(client, retry=ws.RetryPolicy(max_attempts=3))
    attempts: Counter[int] = Counter()

    async def handle(delivery: ws.Delivery[Any]) -> None:
        await asyncio.sleep(0.02)
        attempts[delivery.event.attempt] += 1

    await client.publish_many(texts(200), subject="s.x")
    async with asyncio.timeout(LIMIT):
        while (await consumer.info()).settled_to < 200:
            async with consumer.running(handle, concurrency=8):
                await asyncio.sleep(0.1)
    assert attempts == {1: 200}


async def test_a_stop_before_the_server_has_answered_burns_no_attempt(client: ws.Client) -> None:
    """Deliveries may be on their way by then: they are waited for, and handled."""
    consumer = await worker(client)
    await client.publish_many(texts(20), subject="s.x")
    attempts: Counter[int] = Counter()

    async def handle(delivery: ws.Delivery[Any]) -> None:
        attempts[delivery.event.attempt] += 1

    async with asyncio.timeout(LIMIT):
        for turns in range(10):
            async with consumer.running(handle):
                for _ in range(turns):
                    await asyncio.sleep(0)
        async with consumer.running(handle):
            await consumer.idle(LIMIT)
    assert attempts == {1: 20}


async def test_a_stop_does_not_wait_for_a_server_that_is_not_there(unused_address: str) -> None:
    """A call that no server has seen is cancelled."""
    async with ws.connect(unused_address) as client:
        consumer = client.stream("s").consumer("w")
        async with asyncio.timeout(LIMIT):
            for pause in (0, 0.2):
                async with consumer.running(lambda _: None, grace=600):
                    await asyncio.sleep(pause)


async def test_a_cancelled_run_drains(client: ws.Client) -> None:
    """`run` finishes what it holds, acknowledges it, and then is cancelled; beyond its grace it releases."""
    consumer = await worker(client)
    begun, finished = asyncio.Event(), []

    async def handle(delivery: ws.Delivery[Any]) -> None:
        begun.set()
        await asyncio.sleep(0.2 if delivery.event.id == 1 else 60)
        finished.append(delivery.event.id)

    await client.publish("s.x", Text())
    task = asyncio.create_task(consumer.run(handle))
    async with asyncio.timeout(LIMIT):
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    assert (finished, (await consumer.info()).settled_to) == ([1], 1)
    await client.publish("s.x", Text())
    begun.clear()
    task = asyncio.create_task(consumer.run(handle, grace=0.1))
    async with asyncio.timeout(LIMIT):
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
    assert (finished, (await consumer.info()).settled_to) == ([1], 1)


async def test_a_stop_tells_what_was_decided_while_there_was_no_server(
    server: str, unique: Callable[[], str]
) -> None:
    """A stop while the call is broken waits within its grace for the next one, which takes the verdicts."""
    proxy = CuttingProxy(int(server.rpartition(":")[2]))
    await proxy.start()
    begun, go_on, handled = asyncio.Semaphore(0), asyncio.Event(), asyncio.Semaphore(0)

    async def handle(_: ws.Delivery[Any]) -> None:
        begun.release()
        await go_on.wait()
        handled.release()

    space, port = unique(), int(proxy.url.rpartition(":")[2])
    async with (
        ws.connect(server, namespace=space) as direct,
        ws.connect(f"127.0.0.1:{port}", namespace=space) as client,
        asyncio.timeout(3 * LIMIT),
    ):
        consumer = await worker(direct)
        await direct.publish_many(texts(3), subject="s.x")
        running = client.stream("s").consumer("w").run(handle, grace=2 * LIMIT, linger=LIMIT)
        task = asyncio.create_task(running)
        for _ in range(3):
            await begun.acquire()
        await proxy.stop()
        with caller_of(client).channels().for_stream() as channel:
            while channel.connections:  # noqa: ASYNC110 -- it tells nobody
                await asyncio.sleep(0.01)
            go_on.set()
            for _ in range(3):
                await handled.acquire()
            task.cancel()
            while not (channel.last_failure or task.done()):  # noqa: ASYNC110 -- nor does that
                await asyncio.sleep(0.01)
        await proxy.start(port)
        await asyncio.wait({task})
        assert (await consumer.info()).settled_to == 3
    await proxy.stop()


async def test_what_another_call_would_meet_too_ends_a_subscription(client: ws.Client) -> None:
    """A consumer that does not exist, or not any more, is an error of the iterator and of `run`."""
    consumer = await worker(client)
    none = client.stream("s").consumer("none")
    with pytest.raises(ws.ConsumerNotFound):
        async with none.subscribe() as deliveries:
            await anext(deliveries)

    async def handle(delivery: ws.Delivery[Any]) -> None:
        await consumer.delete()

    await client.publish("s.x", Text())
    with pytest.raises(ws.ConsumerNotFound):
        async with asyncio.timeout(LIMIT):
            await consumer.run(handle)


async def test_a_subscription_waits_for_a_token(server: str, unique: Callable[[], str]) -> None:
    """A token function that fails for a while ends no worker."""
    space, failures, handled = unique(), 2, asyncio.Event()

    async def fetch() -> ws.Token:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError("away")
        return ws.Token("any")

    async def handle(delivery: ws.Delivery[Any]) -> None:
        handled.set()

    async with (
        ws.connect(server, namespace=space) as direct,
        ws.connect(server, namespace=space, token=fetch) as client,
    ):
        await worker(direct)
        await direct.publish("s.x", Text())
        async with asyncio.timeout(LIMIT), client.stream("s").consumer("w").running(handle):
            await handled.wait()


async def test_cut_connections_run_no_handler_twice(server: str, unique: Callable[[], str]) -> None:
    """Events that come again are adopted by their handlers, or settled from memory."""
    proxy = CuttingProxy(int(server.rpartition(":")[2]))
    await proxy.start()
    runs: Counter[int] = Counter()

    async def handle(delivery: ws.Delivery[Any]) -> None:
        await asyncio.sleep(0.05)
        runs[delivery.event.id] += 1

    space = unique()
    async with (
        ws.connect(server, namespace=space) as direct,
        ws.connect(proxy.url.removeprefix("nats://"), namespace=space) as client,
    ):
        await direct.ready()
        await worker(direct)
        await direct.publish_many(texts(300), subject="s.x")
        consumer = client.stream("s").consumer("w")
        async with consumer.running(handle, concurrency=16):
            for number in range(5):
                proxy.cut_after("down", 300 + 200 * number)
                async with asyncio.timeout(LIMIT):
                    while proxy.cuts <= number and len(runs) < 300:  # noqa: ASYNC110 -- neither tells
                        await asyncio.sleep(0.01)
            await direct.stream("s").consumer("w").idle(LIMIT)
    await proxy.stop()
    assert len(runs) == 300
    assert set(runs.values()) == {1}
    assert proxy.cuts >= 2


async def test_killed_servers_lose_nothing_and_run_no_handler_twice(tmp_path: Path) -> None:
    """Server and broker are killed three times, while events are published and handled."""
    port = new_port()
    runs: Counter[str] = Counter()

    async def handle(delivery: ws.Delivery[Any]) -> None:
        await asyncio.sleep(0.01)
        runs[delivery.event.data.value] += 1

    with windshift(tmp_path, GRPC_PORT=str(port), WINDSHIFT_NATS_SYNC="1s") as process:
        async with ws.connect(process.address, timeout=LIMIT) as client:
            consumer = await worker(client, timeout=2)
            async with consumer.running(handle):
                publishing = asyncio.create_task(client.publish_many(texts(1000), subject="s.x", in_flight=4))
                for _ in range(3):
                    await asyncio.sleep(0.2)
                    await asyncio.to_thread(process.kill)
                    await asyncio.to_thread(process.start)
                await publishing
                await consumer.idle(LIMIT)
    assert len(runs) == 1000
    assert set(runs.values()) == {1}
