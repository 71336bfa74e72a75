"""Replayed events: delivered once more, to the consumer that gave up on them and to nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.support.app import running_app
from tests.support.client import Client, any_of, text_of
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for, windshift
from tests.wire.burying import (
    DROP,
    RETRY,
    ack,
    ask,
    consumer,
    jetstream,
    kill_off,
    listed,
    reject,
    replay,
    store,
    watching,
)
from tests.wire.consuming import Call, subscribed
from tests.wire.management import delete_consumer, ensure_consumer
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift.server.background.pacing import paced
from windshift.server.events.consuming import work_runner

Unique = Callable[[], str]

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream with a consumer ``c`` of two attempts and dead letters."""
    name = client.ensure_stream(unique())
    consumer(client, name)
    return name


def test_a_replay(client: Client, stream: str) -> None:
    """The event comes as it was, with attempts counted anew; acknowledged, its dead letter is gone."""
    letter = kill_off(client, stream, idempotency_key="k", metadata=(("traceparent", PARENT),))
    with subscribed(client, stream) as call:
        call.nothing(0.1)
        replay(client, letter.id)
        event = call.event(15)
        assert event.delivery_attempt == 1
        event.delivery_attempt = letter.event.delivery_attempt
        assert event == letter.event
        assert listed(client, stream)[0].replaying
        ack(call, event.id)
        assert listed(client, stream) == []
        call.nothing()
        assert ask(client, "Replay", pb.ReplayRequest(ids=[letter.id])).missing_ids == [letter.id]


def test_a_replay_without_a_subscriber(client: Client, stream: str) -> None:
    """It waits for one."""
    letter = kill_off(client, stream)
    replay(client, letter.id)
    with subscribed(client, stream) as call:
        assert call.event(15).id == letter.event.id
        ack(call, letter.event.id)
    assert listed(client, stream) == []


def test_only_the_consumer_that_failed(client: Client, stream: str) -> None:
    """Others of the same stream see nothing of a replay, whether they had the event or gave up on it too."""
    for name in ("had", "failed"):
        consumer(client, stream, name)
    letter = kill_off(client, stream)
    with (
        subscribed(client, stream, consumer="had") as had,
        subscribed(client, stream, consumer="failed") as b,
    ):
        assert had.event().id == b.event().id == 1
        ack(had, 1)
        reject(b, 1, permanently=True)
        with subscribed(client, stream) as call:
            replay(client, letter.id)
            assert call.event(15).id == 1
            had.nothing()
            b.nothing()
            ack(call, 1)
    assert [each.consumer for each in listed(client, stream)] == ["failed"]


def test_at_the_same_time(client: Client, stream: str) -> None:
    """However many ask for a replay at once, the event is delivered once."""
    letter = kill_off(client, stream)
    request = pb.ReplayRequest(ids=[letter.id])
    with subscribed(client, stream) as call:
        threads = [Thread(target=ask, args=(client, "Replay", request)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert call.event(15).id == 1
        call.nothing(0.5)
        ack(call, 1)
    assert listed(client, stream) == []


def test_a_timeout_that_was_raised(client: Client, unique: Unique) -> None:
    """A replayed event may be worked on as long as its consumer says at that moment."""
    stream = client.ensure_stream(unique())
    consumer(client, stream, processing_timeout="1s")
    letters = [kill_off(client, stream) for _ in range(2)]
    with subscribed(client, stream) as call:
        replay(client, letters[0].id)
        ack(call, call.event(15).id)
        ensure_consumer(client, stream, name="c", processing_timeout="60s")
        replay(client, letters[1].id)
        event = call.event(15)
        call.nothing(1.5)
        ack(call, event.id)
    assert listed(client, stream) == []


def test_a_replay_that_fails(client: Client, stream: str) -> None:
    """The dead letter comes back under its id, says how often that was, and can be replayed again."""
    letter = kill_off(client, stream)
    with watching(client, stream) as watch, subscribed(client, stream) as call:
        for count in (1, 2):
            replay(client, letter.id)
            assert call.event(15).delivery_attempt == 1
            reject(call, 1, reason="again", action=RETRY)
            assert call.event(15).delivery_attempt == 2
            reject(call, 1, reason=f"replay {count}")
            (again,) = listed(client, stream)
            assert (again.id, again.replay_count, again.attempts) == (letter.id, count, 2)
            assert (again.reason, again.cause) == (f"replay {count}", pb.CAUSE_MAX_ATTEMPTS)
            assert text_of(again.event.data) == "poison"
            assert watch.next().dead_letter == again
            wait_for(lambda: not listed(client, stream)[0].replaying)
        call.nothing()


def test_a_replay_that_is_dropped(client: Client, stream: str) -> None:
    """The subscriber does not want it kept, so the dead letter goes."""
    letter = kill_off(client, stream)
    with subscribed(client, stream) as call:
        replay(client, letter.id)
        call.event(15)
        reject(call, 1, action=DROP)
    assert listed(client, stream) == []


def test_a_replay_whose_subscriber_goes_away(client: Client, stream: str) -> None:
    """The next one gets it, as the next attempt."""
    letter = kill_off(client, stream)
    with subscribed(client, stream) as call:
        replay(client, letter.id)
        assert call.event(15).delivery_attempt == 1
    with subscribed(client, stream) as call:
        assert call.event(15).delivery_attempt == 2
        ack(call, 1)
    assert listed(client, stream) == []


def test_a_purge_before_the_replay_is_delivered(client: Client, stream: str) -> None:
    """Then there is nothing to deliver."""
    letter = kill_off(client, stream)
    replay(client, letter.id)
    assert ask(client, "Purge", pb.PurgeRequest(ids=[letter.id])).purged == 1
    with subscribed(client, stream) as call:
        call.nothing(1)


def test_an_event_that_its_stream_has_removed(client: Client, stream: str) -> None:
    """A dead letter does not need the stream's copy."""
    letter = kill_off(client, stream)
    client.ensure_stream(stream, retention_policy={"max_events": 1})
    seq = client.publish(f"{stream}.x", "next")
    replay(client, letter.id)
    with subscribed(client, stream) as call:
        texts = {event.id: text_of(event.data) for event in (call.event(15), call.event(15))}
        assert texts == {letter.event.id: "poison", seq: "next"}
        ack(call, letter.event.id)
        ack(call, seq)
    assert listed(client, stream) == []


def test_pings_and_timeouts_of_replays(client: Client, unique: Unique) -> None:
    """A replayed event may be pinged, and comes again when it is not settled in time."""
    stream = client.ensure_stream(unique())
    consumer(client, stream, processing_timeout="1s")
    letter = kill_off(client, stream)
    replay(client, letter.id)
    with subscribed(client, stream) as call:
        assert call.event(15).delivery_attempt == 1
        call.ping(1)
        assert call.told() == ("ping", [1], [], [])
        assert call.event(15).delivery_attempt == 2
        ack(call, 1)
    assert listed(client, stream) == []


def test_replays_go_beside_the_others(client: Client, stream: str) -> None:
    """New events are delivered all the while, and all that was replayed is."""
    letters = [kill_off(client, stream) for _ in range(10)]
    with subscribed(client, stream) as call:
        replay(client, *(letter.id for letter in letters))
        new = [client.publish(f"{stream}.x", "new") for _ in range(10)]
        seen: list[int] = []
        while len(seen) < 20:
            event = call.event(15)
            ack(call, event.id)
            seen.append(event.id)
        assert sorted(seen) == sorted([*new, *(letter.event.id for letter in letters)])
    assert listed(client, stream) == []


def test_ephemeral_consumers(client: Client, unique: Unique) -> None:
    """They have dead letters too, as long as somebody wants them."""
    stream = client.ensure_stream(unique())
    client.publish(f"{stream}.x")
    fields: Any = {"from": {"start": True}, "retry_policy": {"max_attempts": 1}}
    name = ensure_consumer(client, stream, **fields)
    with subscribed(client, stream, consumer=name) as call:
        call.event()
        reject(call, 1)
        (letter,) = listed(client, stream)
        assert letter.consumer == name
        replay(client, letter.id)
        assert call.event(15).id == 1
        ack(call, 1)


def test_unknown_types(client: Client, stream: str) -> None:
    """Data that nobody could decode is kept and replayed as it is."""
    data = any_of("")
    data.type_url, data.value = "type.googleapis.com/acme.v1.Unknown", b"\xff\x00\xfe"
    seq = client.publish(f"{stream}.x", data=data)
    with subscribed(client, stream) as call:
        call.event()
        reject(call, seq, permanently=True)
        (letter,) = listed(client, stream)
        assert letter.event.data == data
        replay(client, letter.id)
        assert call.event(15).data == data


def test_replays_that_fail_at_once(client: Client, unique: Unique) -> None:
    """A call that replays all does not take on those again that come back while it goes on."""
    stream = client.ensure_stream(unique())
    consumer(client, stream, attempts=1)
    for _ in range(10):
        kill_off(client, stream)
    done: list[pb.ReplayResponse] = []
    request = pb.ReplayRequest(filter=pb.Filter(stream=stream), rate=10)
    thread = Thread(target=lambda: done.append(ask(client, "Replay", request)))
    with subscribed(client, stream) as call:
        thread.start()
        for _ in range(10):
            reject(call, call.event(15).id)
        thread.join()
        call.nothing(0.3)
    assert done == [pb.ReplayResponse(replayed=10)]
    assert [letter.replay_count for letter in listed(client, stream)] == [1] * 10


def test_two_servers(client: Client, nats_server: NatsServer, stream: str) -> None:
    """What one server keeps the other tells of at once, and replays to a subscriber of the first."""
    with running_app(nats_server.url) as address:
        other = Client(address)
        with subscribed(client, stream) as call, watching(other, stream) as watch:
            client.publish(f"{stream}.x", "poison")
            call.event()
            reject(call, 1, permanently=True)
            letter = watch.next().dead_letter
            replay(other, letter.id)
            assert text_of(call.event(15).data) == "poison"
            ack(call, 1)
        assert listed(other, stream) == []
        other.channel.close()


def test_more_consumers_than_a_stream_may_have(own_client: Client, own_nats_server: NatsServer) -> None:
    """Replays need no consumers of JetStream, so that its limits for them do not matter."""
    config = {
        "name": "WS_REPLAYS",
        "subjects": ["_WS.replay.>"],
        "retention": "workqueue",
        "max_msgs_per_subject": 1,
        "max_consumers": 1,
    }
    jetstream(own_nats_server, "STREAM.CREATE.WS_REPLAYS", config)
    stream = own_client.ensure_stream("S")
    own_client.publish(f"{stream}.x")
    names = [f"c{number}" for number in range(4)]
    with ExitStack() as stack:
        calls = {}
        for name in names:
            consumer(own_client, stream, name)
            calls[name] = call = stack.enter_context(subscribed(own_client, stream, consumer=name))
            call.event()
            reject(call, 1, permanently=True)
        assert ask(own_client, "Replay", pb.ReplayRequest(filter=pb.Filter(stream=stream))).replayed == 4
        for call in calls.values():
            assert call.event(15).id == 1
        state = jetstream(own_nats_server, "STREAM.INFO.WS_REPLAYS", None)["state"]
        assert (state["messages"], state["consumer_count"]) == (4, 0)
        for call in calls.values():
            ack(call, 1)
    assert listed(own_client, stream) == []
    assert jetstream(own_nats_server, "STREAM.INFO.WS_REPLAYS", None)["state"]["messages"] == 0


def test_a_consumer_that_is_deleted(client: Client, stream: str) -> None:
    """Replays to it end. Its dead letters stay, and can be replayed to one of the same name."""
    letter = kill_off(client, stream)
    replay(client, letter.id)
    delete_consumer(client, stream, "c")
    assert not listed(client, stream)[0].replaying
    consumer(client, stream)
    with subscribed(client, stream) as call:
        assert call.event().delivery_attempt == 1  # by its stream
        ack(call, 1)
        call.nothing()
        replay(client, letter.id)
        assert call.event(15).id == 1
        ack(call, 1)
    assert listed(client, stream) == []


def test_a_server_that_dies(own_nats_server: NatsServer, own_client: Client, tmp_path: Path) -> None:
    """What its subscriber held comes to another server's, as the next attempt, when its time is over."""
    stream = own_client.ensure_stream("S")
    consumer(own_client, stream, processing_timeout="1.5s")
    letter = kill_off(own_client, stream)
    replay(own_client, letter.id)
    with windshift(tmp_path, NATS_URL=own_nats_server.url) as process:
        with subscribed(Client(process.address), stream) as call:
            assert call.event(15).delivery_attempt == 1
            process.kill()
        with subscribed(own_client, stream) as call:
            event = call.event(15)
            assert (event.id, event.delivery_attempt) == (1, 2)
            ack(call, 1)
    assert listed(own_client, stream) == []


def test_a_subscriber_that_lost_a_replay(client: Client, nats_server: NatsServer, stream: str) -> None:
    """What somebody else was given meanwhile is not its own any more, and it is told so."""
    letters = [kill_off(client, stream) for _ in range(3)]
    with subscribed(client, stream) as call:
        replay(client, *(letter.id for letter in letters))
        ids = [call.event(15).id for _ in letters]
        for letter in letters:  # as another server writes it that takes over
            headers = {"WS-Writer": "other", "WS-Attempts": "2", "WS-Held": "30000000000"}
            store(nats_server, f"_WS.replay.{letter.id}", b"1", headers)
        call.ping(ids[0])
        assert call.told() == ("ping", [], [ids[0]], [])
        call.reject(ids[1], action=RETRY)
        assert call.told() == ("reject", [], [ids[1]], [])
        call.ack(ids[2])  # which the dead letter decides
        assert call.told() == ("ack", [ids[2]], [], [])
        call.ack(ids[0], ids[1])
        assert call.told() == ("ack", [], sorted(ids[:2]), [])
    assert sorted(letter.event.id for letter in listed(client, stream)) == sorted(ids[:2])


def test_a_ping_that_is_overtaken(
    client: Client, nats_server: NatsServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is invalid where the event is acknowledged first and forgotten since, and the call goes on."""
    held: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def behind(gate: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
        await gate.wait()
        await work

    def hold_first(work: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
        if held or getattr(work, "__name__", "") != "_settle_replay":
            return paced(work)
        held.append((asyncio.get_running_loop(), asyncio.Event()))
        return behind(held[0][1], work)

    monkeypatch.setattr(work_runner, "paced", hold_first)
    letters = [kill_off(client, stream) for _ in range(2)]
    pointer = {"subjects_filter": f"_WS.replay.{letters[0].id}"}
    with subscribed(client, stream) as call:
        replay(client, letters[0].id)
        first = call.event(15).id
        call.ping(first)
        wait_for(lambda: held)
        call.ack(first)
        wait_for(
            lambda: not jetstream(nats_server, "STREAM.INFO.WS_REPLAYS", pointer)["state"].get("subjects")
        )
        replay(client, letters[1].id)
        second = call.event(15).id
        loop, gate = held[0]
        loop.call_soon_threadsafe(gate.set)
        assert call.told() == ("ping", [], [first], [])
        assert call.told() == ("ack", [first], [], [])
        ack(call, second)


def test_many_subscribers_of_two_servers(client: Client, nats_server: NatsServer, stream: str) -> None:
    """They share the replays, and each event is delivered once."""
    ids = [client.publish(f"{stream}.x") for _ in range(60)]
    with subscribed(client, stream, window=60) as call:
        for _ in ids:
            call.event()
        reject(call, *ids, permanently=True)
    with running_app(nats_server.url) as address, ExitStack() as stack:
        other = Client(address)
        clients = (client, other, client, other)
        calls = [stack.enter_context(subscribed(each, stream, window=3)) for each in clients]
        seen: list[int] = []

        def work(call: Call) -> None:
            while len(seen) < len(ids):
                try:
                    event = call.event(0.2)
                except AssertionError:
                    continue
                assert event.delivery_attempt == 1
                seen.append(event.id)
                ack(call, event.id)

        threads = [Thread(target=work, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        assert ask(client, "Replay", pb.ReplayRequest(filter=pb.Filter(stream=stream))).replayed == 60
        for thread in threads:
            thread.join(60)
        assert sorted(seen) == ids
        other.channel.close()
    assert listed(client, stream) == []
