"""Consuming: what is confirmed stays settled, and what a client leaves behind comes to another one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence

from tests.faults import checks
from tests.faults.calls import ensure_consumer, ensure_stream
from tests.faults.checks import Violation
from tests.faults.history import Stored, Told
from tests.faults.places import single
from tests.faults.processes import Server, Worker
from tests.faults.proxy import running_proxy
from tests.faults.run import Run, scenario
from tests.faults.subscribers import Consumption, Session, Subscriber, Target, mixed, together
from tests.faults.witness import ask, fill, looking, read_stream
from tests.faults.workloads import connections, crowd, in_background, publish_on, rounds, targets
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb


async def finish(
    run: Run, consumption: Consumption, subscribers: Sequence[Subscriber], url: str, within: float = 90.0
) -> None:
    """Wait until the broker says that everything is settled, then stop the subscribers."""
    give_up = time.monotonic() + within
    async with looking(url) as client:
        while True:
            info = await ask(client, f"CONSUMER.INFO.{consumption.stream}.{consumption.consumer}")
            left = info["num_pending"] + info["num_ack_pending"]
            for subscriber in subscribers:
                subscriber.look()
            if not left:
                break
            if time.monotonic() > give_up:
                run.check([Violation("in vain", f"{left} events to be settled after {within:.0f} s")])
                break
            run.progress(f"{left:,} events to be settled")
            await asyncio.sleep(0.1)
    for subscriber in subscribers:
        await subscriber.stop()


def check_consuming(run: Run, stored: Mapping[int, Stored]) -> None:
    """Check all that must hold of one consumer of all events, and put the figures down."""
    history = run.history
    again = checks.redelivered(history.deliveries, history.settlements, history.faults)
    run.check(again.violations)
    run.check(checks.skipped(stored, history.deliveries, history.settlements))
    run.check(checks.unfaithful(history.deliveries, stored))
    run.check(checks.undocumented(history.failures))
    run.count("deliveries", len(history.deliveries))
    run.count(
        "confirmed acks", sum(e.kind == "ack" and e.told is Told.CONFIRMED for e in history.settlements)
    )
    run.count("acks that failed for now", sum(each.told is Told.FAILED for each in history.settlements))
    run.count("under way when confirmed", again.crossed)
    run.count("forgotten by a killed nats-server", again.forgotten)


async def consume_through(
    run: Run, servers: Sequence[Server], url: str, faults: Awaitable[None], timeout: float = 3.0
) -> None:
    """Let publishers and subscribers work while faults happen, until everything is settled; then check."""
    addresses = [server.address for server in servers]
    async with connections(run.history, 4, *addresses) as made, targets(run.history, servers) as places:
        await ensure_stream(made[0], "orders")
        await ensure_consumer(made[0], "orders", timeout=timeout)
        consumption = Consumption(run.history, "orders", "c")
        subscribers = [
            Subscriber(f"s{number}", consumption, places[number % 2 :] + places, behave(run.more_luck()))
            for number, behave in enumerate((mixed, mixed, together, together))
        ]
        for subscriber in subscribers:
            subscriber.start()
        async with crowd() as workers:
            for number in range(8):
                workers.add(publish_on(workers, made[number % 4], f"p{number}", "orders", pause=0.005))
            await faults
        await finish(run, consumption, subscribers, url)
    stored = await read_stream(url, "orders")
    check_consuming(run, stored)


@scenario(
    "acks-nats-kills",
    "kill -9 of an unreplicated nats-server under subscribers that ack, reject, ping and drop",
    tested=False,  # acks-both-kills
)
async def acks_nats_kills(run: Run) -> None:
    """Whatever was confirmed does not come again, and nothing is skipped."""
    kills = run.scale(20, 2)
    async with single(run) as (node, servers):
        faults = rounds(run, kills, run.scale(2, 1), lambda _: node.crash(), "kill")
        await consume_through(run, servers, node.url, faults)
        run.count("kills", kills)


@scenario(
    "acks-server-kills",
    "kill -9 of the server under subscribers that ack, reject, ping and drop",
    tested=False,  # acks-both-kills
)
async def acks_server_kills(run: Run) -> None:
    """Whatever was confirmed does not come again, and nothing is skipped."""
    kills = run.scale(20, 2)
    async with single(run, servers=2) as (node, servers):
        faults = rounds(run, kills, run.scale(2, 1), lambda number: servers[number % 2].crash(), "kill")
        await consume_through(run, servers, node.url, faults)
        run.count("kills", kills)
        waits = checks.waits_after_kills(run.history.deliveries, run.history.settlements, run.history.faults)
        run.count("events that a killed server's clients held", len(waits))
        run.bar("slowest to come again (timeout 3 s), s", round(max(waits, default=0.0), 2), 4.0)


@scenario(
    "acks-both-kills",
    "kill -9 of an unreplicated nats-server and of one of two servers at once, under such subscribers",
)
async def acks_both_kills(run: Run) -> None:
    """Nothing is skipped; what comes again was confirmed just before, and is counted."""
    kills = run.scale(20, 2)
    async with single(run, servers=2) as (node, servers):

        async def kill(number: int) -> None:
            victims = (node, servers[number % 2])
            await asyncio.gather(*(victim.kill() for victim in victims))
            for victim in victims:
                await victim.start()

        await consume_through(run, servers, node.url, rounds(run, kills, run.scale(2, 1), kill, "kill"))
        run.count("kills", kills)


@scenario(
    "acks", "100,000 events are acknowledged, and ten times their timeout passes; acks that must be refused"
)
async def acks(run: Run) -> None:
    """Nothing that was confirmed comes again; what names no delivery of the call is invalid."""
    total = run.scale(100_000, 500)
    async with single(run) as (node, servers), targets(run.history, servers) as places:
        made = places[0].connection
        await ensure_stream(made, "orders")
        await ensure_consumer(made, "orders", timeout=2.0)
        await fill(node.url, "orders", "orders.a", total)
        consumption = Consumption(run.history, "orders", "c", window=1000)
        subscribers = [Subscriber(f"s{number}", consumption, places) for number in range(2)]
        for subscriber in subscribers:
            subscriber.start()
        await run.until(
            lambda: len(consumption.settled) >= total,
            300,
            "all settled",
            lambda: f"{len(consumption.settled):,} settled",
        )
        seen = len(run.history.deliveries)
        await asyncio.sleep(run.scale(20, 3))  # several times the timeout
        run.demand(len(run.history.deliveries) == seen, "redelivered", "something came after all was settled")
        await _invalid(run, subscribers[0].session, total)
        await finish(run, consumption, subscribers, node.url, 10)
        check_consuming(run, await read_stream(node.url, "orders"))


async def _invalid(run: Run, session: Session | None, total: int) -> None:
    """Ack, ping and reject what was acknowledged before, here or elsewhere, and what does not exist."""
    assert session is not None
    before = len(run.history.settlements)
    for kind in ("ack", "ping", "reject"):
        session.settle(kind, 1, total // 2, total, total + 1, 2**40)
    await run.until(lambda: len(run.history.settlements) >= before + 15, 10, "15 answers")
    told = {each.told for each in run.history.settlements[before:]}
    run.demand(told == {Told.INVALID}, "invalid ids", f"stale and unknown ids were {told}")
    run.count("acks, pings and rejects that must be invalid", len(run.history.settlements) - before)


@scenario("client-kills", "kill -9 of clients that hold events; one that vanishes without a word")
async def client_kills(run: Run) -> None:
    """Another subscriber has their events at once; those of the silent one after keepalive has noticed."""
    async with single(run) as (node, servers), targets(run.history, servers) as places:
        made = places[0].connection
        await ensure_stream(made, "orders")
        await ensure_consumer(made, "orders", timeout=120.0)
        consumption = Consumption(run.history, "orders", "c", window=200)
        worst = 0.0
        for number in range(run.scale(20, 3)):
            worst = max(worst, await _kill_holder(run, consumption, servers[0], places[0], number))
            run.count("kills", 1)
        run.bar("slowest hand-over after a kill, s", round(worst, 3), 1.0)
        if not run.options.short:
            took = await _vanish(run, consumption, servers[0], places[0])
            run.bar("hand-over after a client vanished silently, s", round(took, 1), 45.0)
        check_consuming(run, await read_stream(node.url, "orders"))


async def _publish(run: Run, target: Target, what: str, count: int) -> list[int]:
    publishes = [
        await target.connection.publish("p", "orders.a", f"{what}.{each}", f"{what}.{each}")
        for each in range(count)
    ]
    return [publish.id for publish in publishes]


async def _kill_holder(
    run: Run, consumption: Consumption, server: Server, target: Target, number: int
) -> float:
    """Let one client take 50 events and kill it; return how long another one waits for all of them."""
    run.progress(f"kill {number + 1}")
    worker = Worker(f"worker{number}", run.history, server.address, "orders", "c", "50")
    try:
        ids = await _publish(run, target, f"k{number}", 50)
        run.demand(sorted(await worker.lines(50)) == ids, "held", "the worker holds other events")
    finally:
        start = time.monotonic()
        await worker.kill()
    return await _hand_over(run, consumption, target, ids, start, 30)


async def _vanish(run: Run, consumption: Consumption, server: Server, target: Target) -> float:
    """Let one client take events by way of a proxy that then passes nothing on any more."""
    run.progress("a client vanishes")
    host, _, port = server.address.rpartition(":")
    async with running_proxy(host, int(port)) as proxy:
        worker = Worker("vanishing", run.history, proxy.address, "orders", "c", "50")
        try:
            ids = await _publish(run, target, "vanish", 50)
            await worker.lines(50)
            proxy.stall()
            return await _hand_over(run, consumption, target, ids, time.monotonic(), 130)
        finally:
            await worker.kill()


async def _hand_over(
    run: Run, consumption: Consumption, target: Target, ids: Sequence[int], start: float, within: float
) -> float:
    subscriber = Subscriber("heir", consumption, [target])
    subscriber.start()
    await run.until(lambda: consumption.settled >= set(ids), within, "the events of the client that is gone")
    took = max((e.at for e in run.history.deliveries if e.id in set(ids)), default=start) - start
    await subscriber.stop()
    return took


@scenario("delays", "rejects with delays, and an event that is held by pings for ten times its timeout")
async def delays(run: Run) -> None:
    """Events come again when their delay is over and not before; attempts are counted exactly."""
    async with single(run) as (node, servers), targets(run.history, servers) as places:
        made = places[0].connection
        await ensure_stream(made, "orders")
        await ensure_consumer(made, "orders", timeout=run.scale(10, 17) / 10)
        consumption = Consumption(run.history, "orders", "c")
        delays_ = [0.1, 0.5, 2.0] if run.options.short else [0.1, 0.5, 2.0, 2.5, 2.5]
        pinging = Pinging(run.scale(100, 35))

        def behave(session: Session, event: pb.Event) -> None:
            if event.id == 1:
                pinging.take(session, event)
            elif event.delivery_attempt <= len(delays_):
                reject = pb.EventsRequest.Reject(ids=[event.id])
                reject.delay.FromMilliseconds(int(delays_[event.delivery_attempt - 1] * 1000))
                session.send("reject", [event.id], pb.EventsRequest(reject=reject))
            else:
                session.settle("ack", event.id)

        subscriber = Subscriber("s", consumption, places, behave)
        subscriber.start()
        await subscriber.ready()
        await _publish(run, places[0], "d", run.scale(50, 10))
        await finish(run, consumption, [subscriber], node.url)
        _check_delays(run, delays_)
        run.check(checks.attempts_wrong(run.history.deliveries))
        check_consuming(run, await read_stream(node.url, "orders"))


class Pinging:
    """Pings an event every tenth of a second, so often, then acknowledges it."""

    def __init__(self, times: int) -> None:
        self._left = times

    def take(self, session: Session, event: pb.Event) -> None:
        """Ping, and come back."""
        if self._left:
            self._left -= 1
            session.settle("ping", event.id)
            session.later(0.1, lambda: self.take(session, event))
        else:
            session.settle("ack", event.id)


def _check_delays(run: Run, wanted: Sequence[float]) -> None:
    seen: dict[int, list[float]] = {}
    for delivery in run.history.deliveries:
        seen.setdefault(delivery.id, []).append(delivery.at)
    pinged = seen.pop(1)
    run.demand(len(pinged) == 1, "ping", f"an event that was pinged in time came {len(pinged)} times")
    late = 0.0
    for id_, times in seen.items():
        for wait, before, after in zip(wanted, times, times[1:], strict=False):
            took = after - before
            run.demand(took >= wait - 0.005, "delay", f"{id_} came again after {took:.3f} s, not {wait} s")
            late = max(late, took - wait)
    run.count("rejects with a delay", len(seen) * len(wanted))
    run.bar("latest after its delay, s", round(late, 3), 0.25)


@scenario(
    "order",
    "one publisher, one subscriber; without faults, and through kill -9 of an unreplicated nats-server",
)
async def order(run: Run) -> None:
    """Each event is seen for the first time in the order of ids, but what a killed broker had not sent."""
    total = run.events(1_000_000, 1000)
    async with single(run) as (node, servers), targets(run.history, servers) as places:
        made = places[0].connection
        await ensure_stream(made, "orders")
        await ensure_consumer(made, "orders", timeout=5.0)
        await fill(node.url, "orders", "orders.a", total)
        order = checks.Order()
        await _consume_in_order(run, places, node.url, "c", order, total, run.scale(900, 60))
        run.count("events in order", total)
        await ensure_consumer(made, "orders", "k", timeout=5.0)
        pause = run.scale(20, 4) / 10
        async with in_background(rounds(run, 20, pause, lambda _: node.crash(), "kill")):
            order = checks.Order(killed=True)
            await _consume_in_order(run, places, node.url, "k", order, total, run.scale(900, 60))
        run.count("events in order through kills", total)
        run.count("kills", sum(fault.kind == "kill" for fault in run.history.faults))
        run.check(checks.undocumented(run.history.failures))


async def _consume_in_order(
    run: Run,
    places: Sequence[Target],
    url: str,
    consumer: str,
    order: checks.Order,
    total: int,
    within: float,
) -> None:
    """Let one subscriber settle the first events, and check their order as they come."""
    consumption = Consumption(
        run.history, "orders", consumer, 1000, keep=False, watch=lambda each: run.check(order.see(each))
    )
    subscriber = Subscriber(consumer, consumption, places)
    subscriber.start()
    await run.until(
        lambda: len(consumption.delivered) >= total,
        within,
        f"{total:,} events",
        lambda: f"{len(consumption.delivered):,} of {total:,} events in order",
    )
    await finish(run, consumption, [subscriber], url)
