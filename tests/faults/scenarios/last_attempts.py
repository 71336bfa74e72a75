"""Events on their last attempt, and dead letters that are replayed, while things are killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.faults import checks
from tests.faults.calls import Connection, Refused, ensure_consumer, ensure_stream
from tests.faults.history import ReplayCall, Told
from tests.faults.places import single
from tests.faults.processes import Node, Server
from tests.faults.run import Run, scenario
from tests.faults.scenarios.consuming import finish
from tests.faults.scenarios.publishing import check_stream, count_publishes
from tests.faults.subscribers import Behaviour, Consumption, Session, Subscriber, Target, acknowledge
from tests.faults.witness import ask, dead_letters, looking, read_stream
from tests.faults.workloads import Crowd, connections, crowd, in_background, publish_on, rounds, targets
from tests.support.client import text_of
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dl
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

SERVICE = dl.DESCRIPTOR.services_by_name["DeadLettersService"]
ATTEMPTS = 2
POLICY = {
    "max_attempts": ATTEMPTS,
    "initial_backoff": {"nanos": 10_000_000},
    "max_backoff": {"nanos": 50_000_000},
}
PATIENT = {**POLICY, "max_attempts": 1000}


def undecided(luck: random.Random) -> Behaviour:
    """Fail the first attempts; on the last one acknowledge, reject, reject for good, or never answer."""

    def behave(session: Session, event: pb.Event) -> None:
        if event.delivery_attempt < ATTEMPTS:
            session.settle("reject", event.id)
            return
        match luck.random():
            case chance if chance < 0.45:
                session.settle("ack", event.id)
            case chance if chance < 0.8:
                session.settle("reject", event.id)
            case chance if chance < 0.95:
                session.later(luck.uniform(0, 0.1), lambda: session.settle("reject", event.id))
            case _:
                pass  # its time runs out, and it is given up on when the broker would deliver it again

    return behave


@asynccontextmanager
async def _two_servers(
    run: Run, policy: dict[str, Any] = POLICY
) -> AsyncIterator[tuple[Node, list[Server], list[Target], list[Connection]]]:
    """Start two servers on one nats-server, with a consumer that gives up on its events."""
    async with (
        single(run, servers=2) as (node, servers),
        targets(run.history, servers) as places,
        connections(run.history, 4, *(server.address for server in servers)) as made,
    ):
        await ensure_stream(made[0], "orders")
        await ensure_consumer(made[0], "orders", timeout=1.0, retry_policy=policy)
        yield node, servers, places, made


@scenario(
    "last-attempts",
    "kill -9 of nats-server, then of two servers in turn, with events on their last attempt",
)
async def last_attempts(run: Run) -> None:
    """End each event acknowledged, or as a dead letter, exactly once."""
    async with _two_servers(run) as (node, servers, places, made):

        async def kill_nats(_: int) -> None:
            await _restart(run, node)

        async def kill_server(number: int) -> None:
            await _restart(run, servers[number % 2])

        # While nats-server is killed all consume from one server: it remembers what nats-server forgets.
        for who, strike, some in (("n", kill_nats, places[:1]), ("k", kill_server, places)):
            faults = rounds(run, run.scale(25, 1), 1.2, strike, strike.__name__)
            await _fail_through(run, who, faults, made, some, node)
        await _check_ends(run, made[0], node)


@scenario(
    "last-attempts-frozen",
    "two servers are frozen in turn, longer than an event's timeout, with events on their last attempt",
)
async def last_attempts_frozen(run: Run) -> None:
    """End each event acknowledged, or as a dead letter, exactly once."""
    async with _two_servers(run) as (node, servers, places, made):

        async def freeze(number: int) -> None:
            await servers[number % 2].freeze(1.5)
            run.count("freezes", 1)

        faults = rounds(run, run.scale(20, 2), 1.2, freeze, "freeze")
        await _fail_through(run, "f", faults, made, places, node)
        await _check_ends(run, made[0], node)


async def _restart(run: Run, victim: Node | Server) -> None:
    await victim.crash()
    run.count("kills", 1)


async def _fail_through(
    run: Run,
    who: str,
    faults: Awaitable[None],
    made: Sequence[Connection],
    places: Sequence[Target],
    node: Node,
) -> None:
    """Publish and fail while faults happen, until nothing is left to be settled."""
    consumption = Consumption(run.history, "orders", "c")
    subscribers = [
        Subscriber(
            f"{who}s{number}", consumption, [*places[number % 2 :], *places], undecided(run.more_luck())
        )
        for number in range(4)
    ]
    for subscriber in subscribers:
        subscriber.start()
    async with crowd() as workers:
        for number in range(8):
            workers.add(publish_on(workers, made[number % 4], f"{who}p{number}", "orders", pause=0.03))
        await faults
    await finish(run, consumption, subscribers, node.url)


async def _check_ends(run: Run, connection: Connection, node: Node) -> None:
    history = run.history
    stored = await read_stream(node.url, "orders")
    letters = await dead_letters(node.url)
    check_stream(run, "orders", stored)
    run.check(checks.wrongly_ended(stored, history.settlements, letters))
    again = checks.redelivered(history.deliveries, history.settlements, history.faults)
    run.check(again.violations)
    run.check(checks.unfaithful(history.deliveries, stored))
    run.check(checks.undocumented(history.failures))
    listed = await list_all(connection)
    run.demand(
        sorted(letter.event.id for letter in listed) == sorted(letters),
        "listed",
        f"{len(listed)} dead letters are listed, and {len(letters)} are there",
    )
    for letter in listed:
        run.demand(
            text_of(letter.event.data) == stored[letter.event.id].value,
            "unfaithful",
            f"{letter.id} is another event",
        )
    count_publishes(run)
    run.count("ended as a dead letter", len(letters))
    acked = {each.id for each in history.settlements if each.kind == "ack" and each.told is Told.CONFIRMED}
    run.count("ended acknowledged", len(acked))
    run.count("ended by an ack that could not be confirmed", len(stored.keys() - acked - set(letters)))
    run.count("under way when confirmed", again.crossed)


async def list_all(connection: Connection) -> list[dl.DeadLetter]:
    """List all dead letters, page by page."""
    letters: list[dl.DeadLetter] = []
    request = dl.ListRequest(page_size=100)
    while True:
        page = await connection.insist(SERVICE.methods_by_name["List"], request)
        letters += page.dead_letters
        if not page.next_page_token:
            return letters
        request.page_token = page.next_page_token


@scenario("replays", "all dead letters are replayed while nats-server and the server are killed in turn")
async def replays(run: Run) -> None:
    """Have every one acknowledged in the end, and none left over."""
    total, kills = run.scale(500, 60), run.scale(20, 2)
    async with single(run) as (node, servers), targets(run.history, servers) as places:
        made = places[0].connection
        await ensure_stream(made, "orders")
        await ensure_consumer(made, "orders", timeout=2.0, retry_policy=POLICY)
        publishes = [await made.publish("p", "orders.a", f"{n}", f"{n}") for n in range(total)]
        await _give_up_on_all(run, places, node)
        run.demand(len(await dead_letters(node.url)) == total, "dead letters", "not all became dead letters")
        run.count("dead letters", total)

        async def kill(number: int) -> None:
            await _restart(run, servers[0] if number % 2 else node)

        consumption = Consumption(run.history, "orders", "c", window=20)
        subscriber = Subscriber("replayed", consumption, places, _slowly(run.more_luck()))
        subscriber.start()
        async with in_background(rounds(run, kills, 1.0, kill, "kill")) as killing:
            await _replay_all(run, made, node)
            await killing
        await _replay_all(run, made, node)
        await finish(run, consumption, [subscriber], node.url)
        acked = {
            each.id
            for each in run.history.settlements
            if each.kind == "ack" and each.told is not Told.INVALID
        }
        missing = {each.id for each in publishes} - acked
        run.demand(not missing, "replays", f"{len(missing)} were never acknowledged")
        run.check(checks.undocumented(run.history.failures))
        run.count("deliveries of replays", len(run.history.deliveries) - total)


async def _give_up_on_all(run: Run, places: Sequence[Target], node: Node) -> None:
    consumption = Consumption(run.history, "orders", "c")

    def give_up(session: Session, event: pb.Event) -> None:
        reject = pb.EventsRequest.Reject(ids=[event.id], permanently=True, reason="no", error_type="Refused")
        session.send("reject", [event.id], pb.EventsRequest(reject=reject))

    subscriber = Subscriber("first", consumption, places, give_up)
    subscriber.start()
    await finish(run, consumption, [subscriber], node.url)


def _slowly(luck: random.Random) -> Behaviour:
    """Acknowledge after a while; reject some the first time."""

    def behave(session: Session, event: pb.Event) -> None:
        if event.delivery_attempt == 1 and luck.random() < 0.3:
            session.settle("reject", event.id)
        else:
            session.later(luck.uniform(0, 0.2), lambda: acknowledge(session, event))

    return behave


async def _replay_all(run: Run, connection: Connection, node: Node) -> None:
    """Ask for replays again and again, until no dead letter is left."""
    async with asyncio.timeout(run.scale(180, 60)):
        while letters := await dead_letters(node.url):
            run.progress(f"{len(letters)} dead letters are left, {run.counts.get('kills', 0)} kills")
            request = dl.ReplayRequest(filter=dl.Filter(stream="orders", consumer="c"), rate=1000)
            response: Any = await connection.attempt(SERVICE.methods_by_name["Replay"], request, 5)
            if not isinstance(response, Refused):
                run.count("replays", response.replayed)
            await asyncio.sleep(0.2)


# --- Replays that are cancelled -----------------------------------------------------------------------------


@scenario(
    "replays-cancelled",
    "replays are begun and cancelled, by id and by filter, while two servers are killed in turn",
)
async def replays_cancelled(run: Run) -> None:
    """Deliver what is not cancelled, once until it is acknowledged; what is cancelled stays a dead letter."""
    await _replay_and_cancel(run, lambda victim: _restart(run, victim))


@scenario(
    "replays-cancelled-frozen",
    "replays are begun and cancelled while two servers are frozen in turn, longer than an event's timeout",
    tested=False,
)
async def replays_cancelled_frozen(run: Run) -> None:
    """Decide once whether a replay is cancelled or its event acknowledged, by whoever wakes up."""

    async def freeze(victim: Server) -> None:
        await victim.freeze(1.5)
        run.count("freezes", 1)

    await _replay_and_cancel(run, freeze)


async def _replay_and_cancel(run: Run, strike: Callable[[Server], Awaitable[None]]) -> None:
    total, strikes, history = run.scale(1_500, 80), run.scale(20, 2), run.history
    async with _two_servers(run, PATIENT) as (node, servers, places, made):
        for number in range(total):
            await made[0].publish("p", "orders.a", f"{number}", f"{number}")
        await _give_up_on_all(run, places, node)
        letters = await list_all(made[0])
        run.demand(len(letters) == total, "dead letters", "not all became dead letters")
        run.count("dead letters", total)

        async def strike_one(number: int) -> None:
            await strike(servers[number % 2])

        consumption = Consumption(history, "orders", "c", window=1)
        subscribers = [
            Subscriber(
                f"replayed{number}", consumption, [*places[number:], *places], _slowly(run.more_luck())
            )
            for number in range(2)
        ]
        for subscriber in subscribers:
            subscriber.start()
        async with crowd() as workers:
            for number in range(20):
                some, luck = letters[number::20], run.more_luck()
                workers.add(_begin_and_cancel(run, workers, made[number % 4], some, luck))
            await rounds(run, strikes, 1.5, strike_one, "strike")
        await _no_replays(run, node)
        left = await dead_letters(node.url)
        run.check(checks.wrongly_cancelled(history.replay_calls, history.deliveries, left))
        await _replay_all(run, made[0], node)  # what was cancelled may be replayed
        await finish(run, consumption, subscribers, node.url)
        run.check(checks.wrongly_ended(await read_stream(node.url, "orders"), history.settlements, ()))
        again = checks.redelivered(history.deliveries, history.settlements, history.faults)
        run.check(again.violations)
        run.check(checks.undocumented(history.failures))
        for kind, told in (("replay", "replayed"), ("cancel", "cancelled"), ("cancel", "delivering")):
            calls = sum((each.kind, each.told) == (kind, told) for each in history.replay_calls)
            run.count(f"told {told}", calls)
        run.count("dead letters left by cancelled replays", len(left))
        run.count("deliveries of replays", len(history.deliveries) - total)
        run.count("under way when confirmed", again.crossed)


async def _begin_and_cancel(
    run: Run, workers: Crowd, connection: Connection, letters: Sequence[dl.DeadLetter], luck: random.Random
) -> None:
    """Have replays begun and cancelled, of one event at a time, until all are over or it is enough."""
    left = list(letters)
    while left and not workers.stopping:
        letter = luck.choice(left)
        begin = dl.ReplayRequest(ids=[letter.id])
        if not await _call(run, connection, "Replay", begin, letter, ("replayed", "already_replaying")):
            left.remove(letter)
            continue
        await asyncio.sleep(luck.uniform(0, 0.3))
        which = dl.Filter(stream="orders", consumer="c", event_ids=[letter.event.id])
        end = dl.CancelReplayRequest(filter=which) if luck.random() < 0.5 else dl.CancelReplayRequest()
        if not end.HasField("filter"):
            end.ids.append(letter.id)
        await _call(run, connection, "CancelReplay", end, letter, ("cancelled", "delivering"))
        await asyncio.sleep(luck.uniform(0, 0.5))  # what is over does not come in this time either


async def _call(
    run: Run, connection: Connection, method: str, request: Any, letter: dl.DeadLetter, fields: Sequence[str]
) -> str:
    """Make a call about one dead letter until it is answered; return which field of the answer counts it."""
    start = time.monotonic()
    answer = await connection.insist(SERVICE.methods_by_name[method], request)
    told = next((each for each in fields if getattr(answer, each)), "")
    kind = "replay" if method == "Replay" else "cancel"
    run.history.replay_calls.append(ReplayCall(kind, letter.event.id, start, time.monotonic(), told))
    return told


async def _no_replays(run: Run, node: Node) -> None:
    """Wait until no replay is outstanding."""
    async with asyncio.timeout(run.scale(180, 60)), looking(node.url) as client:
        while left := (await ask(client, "STREAM.INFO.WS_REPLAYS"))["state"]["messages"]:
            run.progress(f"{left} replays are outstanding")
            await asyncio.sleep(0.1)
