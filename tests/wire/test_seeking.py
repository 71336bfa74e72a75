"""Moving consumers to other events, beside calls that consume on several servers."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.app import running_app
from tests.support.client import Client, refused
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import windshift
from tests.wire.burying import jetstream, listed, replay
from tests.wire.consuming import Call, calling, subscribed
from tests.wire.looking import ask
from tests.wire.management import delete_consumer, ensure_consumer
from tests.wire.test_servers import wait_for_servers

Unique = Callable[[], str]
UNCONFIRMED = "not all servers have confirmed"


def seek(client: Client, stream: str, consumer: str = "c", **to: Any) -> Any:
    """Move a consumer."""
    dry_run = to.pop("dry_run", False)
    return ask(client, "SeekConsumer", stream=stream, consumer=consumer, to=to, dry_run=dry_run)


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Give a stream of five events, and its consumer `c` of all of them."""
    name = client.ensure_stream(unique())
    ensure_consumer(client, name, name="c", **{"from": {"start": True}})
    for _ in range(5):
        client.publish(f"{name}.a")
    return name


@pytest.fixture
def other_client(own_nats_server: NatsServer, own_client: Client) -> Iterator[Client]:
    """Give a client of a second server; both servers know of each other."""
    with running_app(own_nats_server.url) as address:
        other = Client(address)
        ids = {ask(each, "GetServer").server.id for each in (own_client, other)}
        for each in (own_client, other):
            wait_for_servers(each, ids)
        yield other
        other.channel.close()


def ids_of(call: Call, count: int) -> list[int]:
    """Give the ids of the next events, which all are first attempts."""
    events = [call.event(20) for _ in range(count)]
    assert {event.delivery_attempt for event in events} == {1}
    return [event.id for event in events]


# --- One call ---------------------------------------------------------------------------------------------


def test_back_to_the_start(client: Client, stream: str) -> None:
    """What was settled is delivered anew; what was held is invalid, and delivered anew as a first attempt."""
    with subscribed(client, stream) as call:
        assert ids_of(call, 5) == [1, 2, 3, 4, 5]
        call.ack(1, 2)
        assert call.told() == ("ack", [1, 2], [], [])
        sought = seek(client, stream, start=True)
        assert (sought.next_id, sought.was, sought.pending) == (1, 3, 5)
        assert ids_of(call, 5) == [1, 2, 3, 4, 5]
        call.ack(1, 2, 3, 4, 5)
        assert call.told() == ("ack", [1, 2, 3, 4, 5], [], [])
        call.nothing()


def test_what_was_held_is_invalid(client: Client, stream: str) -> None:
    """An id that was delivered before the move, and not again since, is unknown."""
    with subscribed(client, stream, window=3) as call:
        assert ids_of(call, 3) == [1, 2, 3]
        seek(client, stream, offset=4)
        assert ids_of(call, 2) == [4, 5]
        call.ack(1)
        assert call.told() == ("ack", [], [1], [])
        call.ping(2)
        assert call.told() == ("ping", [], [2], [])
        call.reject(3)
        assert call.told() == ("reject", [], [3], [])
        call.ack(4, 5)
        assert call.told() == ("ack", [4, 5], [], [])
    assert ask(client, "ListConsumers", stream=stream).consumers[0].consumer.pending == 0


def test_to_the_end_and_to_where_it_was(client: Client, stream: str) -> None:
    """What is before is skipped; `was` leads back to the first event that was not settled."""
    with subscribed(client, stream, window=2) as call:
        assert ids_of(call, 2) == [1, 2]
        call.ack(1)
        call.told()
        assert ids_of(call, 1) == [3]
        sought = seek(client, stream, end=True)
        assert (sought.next_id, sought.was, sought.pending) == (6, 2, 0)
        call.nothing()
        assert client.publish(f"{stream}.a") == 6
        assert ids_of(call, 1) == [6]
        back = seek(client, stream, offset=sought.was)
        assert (back.next_id, back.was, back.pending) == (2, 6, 5)
        assert ids_of(call, 2) == [2, 3]


def test_to_a_time(client: Client, stream: str) -> None:
    """The first event that was stored then or later comes first; after the last one, only what is new."""
    fourth = ask(client, "GetEvent", stream=stream, id=4).event.stored
    assert seek(client, stream, time=fourth.ToJsonString()).next_id == 4
    assert seek(client, stream, time="2100-01-01T00:00:00Z").next_id == 6
    assert seek(client, stream, time="1970-01-01T00:00:00Z").next_id == 1
    with subscribed(client, stream) as call:
        assert ids_of(call, 5) == [1, 2, 3, 4, 5]


def test_a_dry_run(client: Client, stream: str) -> None:
    """It says what would come of it, and changes nothing."""
    with subscribed(client, stream) as call:
        assert ids_of(call, 5) == [1, 2, 3, 4, 5]
        call.ack(1)
        call.told()
        told = seek(client, stream, offset=2, dry_run=True)
        assert (told.next_id, told.was, told.pending) == (2, 2, 4)
        call.nothing()
        call.ack(2, 3, 4, 5)
        assert call.told() == ("ack", [2, 3, 4, 5], [], [])


def test_a_dry_run_counts_what_the_consumer_chooses(client: Client, stream: str) -> None:
    """Other subjects do not count."""
    ensure_consumer(client, stream, name="d", subjects=[f"{stream}.b"], **{"from": {"start": True}})
    client.publish(f"{stream}.b")
    assert seek(client, stream, "d", start=True, dry_run=True).pending == 1
    assert seek(client, stream, "d", start=True).pending == 1


def test_again_and_again(client: Client, stream: str) -> None:
    """Each move begins anew."""
    with subscribed(client, stream) as call:
        for _ in range(5):
            assert ids_of(call, 5) == [1, 2, 3, 4, 5]
            call.ack(1, 2, 3, 4, 5)
            assert call.told() == ("ack", [1, 2, 3, 4, 5], [], [])
            seek(client, stream, start=True)
        assert ids_of(call, 5) == [1, 2, 3, 4, 5]


def test_two_at_once(client: Client, stream: str) -> None:
    """One comes after the other."""
    with subscribed(client, stream) as call:
        ids_of(call, 5)
        threads = [
            threading.Thread(target=seek, args=(client, stream), kwargs={"offset": 3}) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        while (event := call.event()).id != 3:
            pass
        assert event.delivery_attempt == 1


# --- What is in flight ------------------------------------------------------------------------------------


def test_retries_in_flight(client: Client, stream: str) -> None:
    """What waits for another attempt does not come as such any more."""
    with subscribed(client, stream, window=2) as call:
        assert ids_of(call, 2) == [1, 2]
        call.reject(1, 2, delay={"nanos": 300_000_000})
        call.told()
        assert ids_of(call, 2) == [3, 4]
        seek(client, stream, offset=5)
        assert ids_of(call, 1) == [5]
        call.nothing(0.8)


def test_dead_letters_end_anew(client: Client, unique: Unique) -> None:
    """What had become a dead letter is delivered anew, and may be acknowledged, or given up on again."""
    stream = client.ensure_stream(unique())
    policy = {"max_attempts": 1, "dead_letters": True}
    ensure_consumer(client, stream, name="c", retry_policy=policy, **{"from": {"start": True}})
    for _ in range(3):
        client.publish(f"{stream}.a")
    with subscribed(client, stream) as call:
        assert ids_of(call, 3) == [1, 2, 3]
        call.reject(1, 2, 3, reason="first")
        assert call.told() == ("reject", [1, 2, 3], [], [])
        assert len(listed(client, stream)) == 3
        seek(client, stream, start=True)
        assert sorted(ids_of(call, 3)) == [1, 2, 3]
        call.ack(1)
        assert call.told() == ("ack", [1], [], [])
        call.reject(2, reason="second")
        assert call.told() == ("reject", [2], [], [])
        reasons = {letter.event.id: letter.reason for letter in listed(client, stream)}
        assert reasons == {1: "first", 2: "second", 3: "first"}
        call.nothing()


def test_replays_go_on(client: Client, unique: Unique) -> None:
    """A replay that is held stays the client's, and one that waits comes."""
    stream = client.ensure_stream(unique())
    policy = {"max_attempts": 1, "dead_letters": True}
    ensure_consumer(client, stream, name="c", retry_policy=policy, **{"from": {"start": True}})
    for _ in range(3):
        client.publish(f"{stream}.a")
    with subscribed(client, stream) as call:
        assert ids_of(call, 3) == [1, 2, 3]
        call.reject(1, 2)
        assert call.told() == ("reject", [1, 2], [], [])
        call.ack(3)
        call.told()
        (first, second) = sorted(letter.id for letter in listed(client, stream))
        replay(client, first)
        assert call.event().id == 1
        info = ask(client, "ListConsumers", stream=stream).consumers[0]
        assert info.waiting_replays == 1
        seek(client, stream, end=True)
        call.ack(1)
        assert call.told() == ("ack", [1], [], [])
        assert [letter.id for letter in listed(client, stream)] == [second]
        replay(client, second)
        assert call.event().id == 2
        call.ack(2)
        assert call.told() == ("ack", [2], [], [])
        assert listed(client, stream) == []
        assert ask(client, "ListConsumers", stream=stream).consumers[0].waiting_replays == 0


TWICE = {"max_attempts": 2, "dead_letters": True}


@pytest.fixture
def burying(client: Client, stream: str) -> str:
    """Give that stream; event 1 is a dead letter of its consumer, which makes two attempts, and is paused."""
    ensure_consumer(client, stream, name="c", retry_policy=TWICE)
    with subscribed(client, stream) as call:
        assert ids_of(call, 5) == [1, 2, 3, 4, 5]
        call.reject(1, permanently=True)
        assert call.told() == ("reject", [1], [], [])
    pause(client, stream)
    return stream


def pause(client: Client, stream: str) -> None:
    """Pause the consumer for good."""
    ask(client, "PauseConsumer", stream=stream, consumer="c", until="2100-01-01T00:00:00Z")


def resume(client: Client, stream: str) -> None:
    """Have the consumer go on."""
    ask(client, "PauseConsumer", stream=stream, consumer="c")


def begin_replay(client: Client, call: Call, stream: str) -> None:
    """Have a call hold a replay of event 1."""
    replay(client, *(letter.id for letter in listed(client, stream)))
    assert call.event().id == 1


def give_up(call: Call, event: int) -> None:
    """Reject an event for good."""
    call.reject(event, permanently=True)


@pytest.mark.parametrize("settle", [Call.ack, give_up])
def test_the_end_of_a_replay_is_no_end_of_the_event(
    client: Client, burying: str, settle: Callable[[Call, int], None]
) -> None:
    """What is replayed beside a move is delivered anew all the same, whatever becomes of the replay."""
    with subscribed(client, burying) as call:
        begin_replay(client, call, burying)
        seek(client, burying, start=True)
        settle(call, 1)
        assert call.told()[1:] == ([1], [], [])
    with subscribed(client, burying) as call:
        resume(client, burying)
        assert sorted(ids_of(call, 5)) == [1, 2, 3, 4, 5]
        call.reject(1, permanently=True, reason="anew")
        assert call.told() == ("reject", [1], [], [])
        assert [letter.reason for letter in listed(client, burying)] == ["anew"]


def test_the_end_of_a_replay_is_no_end_of_a_retry(client: Client, burying: str) -> None:
    """Nor is the next attempt taken for settled."""
    with subscribed(client, burying) as call:
        begin_replay(client, call, burying)
        seek(client, burying, start=True)
        call.ack(1)
        assert call.told() == ("ack", [1], [], [])
        resume(client, burying)
        assert sorted(ids_of(call, 5)) == [1, 2, 3, 4, 5]
        call.reject(1)
        assert call.told() == ("reject", [1], [], [])
        again = call.event()
        assert (again.id, again.delivery_attempt) == (1, 2)


def test_the_end_of_a_replay_to_a_consumer_that_is_made_anew(client: Client, burying: str) -> None:
    """It is no end of the event for that consumer either."""
    delete_consumer(client, burying, "c")
    ensure_consumer(client, burying, name="c", retry_policy=TWICE, **{"from": {"start": True}})
    pause(client, burying)
    with subscribed(client, burying) as call:
        begin_replay(client, call, burying)
        call.ack(1)
        assert call.told() == ("ack", [1], [], [])
    with subscribed(client, burying) as call:
        resume(client, burying)
        assert sorted(ids_of(call, 5)) == [1, 2, 3, 4, 5]


def test_a_pause_stays(client: Client, stream: str) -> None:
    """A paused consumer is moved, and stays paused until it is resumed."""
    until = ask(
        client, "PauseConsumer", stream=stream, consumer="c", until="2100-01-01T00:00:00Z"
    ).paused_until
    seek(client, stream, offset=4)
    assert ask(client, "ListConsumers", stream=stream).consumers[0].paused_until == until
    with subscribed(client, stream) as call:
        call.nothing()
        ask(client, "PauseConsumer", stream=stream, consumer="c")
        assert ids_of(call, 2) == [4, 5]


def test_nobody_is_paused_afterwards(client: Client, stream: str) -> None:
    """The pause of a move ends with it."""
    seek(client, stream, start=True)
    assert not ask(client, "ListConsumers", stream=stream).consumers[0].HasField("paused_until")


# --- Several servers --------------------------------------------------------------------------------------


def test_calls_on_other_servers(own_client: Client, other_client: Client) -> None:
    """All drop what they hold, and share what is delivered anew."""
    stream = own_client.ensure_stream("S")
    ensure_consumer(own_client, stream, name="c", **{"from": {"start": True}})
    with (
        subscribed(own_client, stream, window=2) as here,
        subscribed(other_client, stream, window=2) as there,
    ):
        for _ in range(4):
            own_client.publish(f"{stream}.a")
        before = {call: ids_of(call, 2) for call in (here, there)}
        assert sorted(before[here] + before[there]) == [1, 2, 3, 4]
        begun = time.monotonic()
        seek(own_client, stream, start=True)
        assert time.monotonic() - begun < 20
        after = {call: ids_of(call, 2) for call in (here, there)}
        assert sorted(after[here] + after[there]) == [1, 2, 3, 4]
        for call in (here, there):
            call.ack(*after[call])
            assert call.told() == ("ack", sorted(after[call]), [], [])
            call.nothing()


def test_servers_that_do_not_answer(
    own_nats_server: NatsServer, own_client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that hangs is waited for, and named in the log; one that was killed has nothing under way."""
    stream = own_client.ensure_stream("S")
    ensure_consumer(own_client, stream, name="c", **{"from": {"start": True}})
    with windshift(tmp_path, NATS_URL=own_nats_server.url) as process:
        other = Client(process.address)
        ids = {ask(each, "GetServer").server.id for each in (own_client, other)}
        other.channel.close()
        wait_for_servers(own_client, ids)
        process.signal(signal.SIGSTOP)
        seek(own_client, stream, start=True)
        assert UNCONFIRMED in caplog.text
        caplog.clear()
        process.kill()
        assert ask(own_client, "ListServers").missing
        seek(own_client, stream, start=True)
        assert UNCONFIRMED not in caplog.text


# --- What cannot be ---------------------------------------------------------------------------------------


def test_before_the_start_of_a_consumer_from_the_end(client: Client, stream: str) -> None:
    """The broker does not move it there; the error says what to do, and nothing has changed."""
    ensure_consumer(client, stream, name="late", **{"from": {"end": True}})
    beginnings: tuple[dict[str, Any], ...] = ({"start": True}, {"offset": 5})
    for to in beginnings:
        with refused("FAILED_PRECONDITION", "SEEK_NOT_POSSIBLE") as caught:
            seek(client, stream, "late", **to)
        assert "make another consumer" in caught[0].message
    assert seek(client, stream, "late", offset=6).next_id == 6
    assert seek(client, stream, "late", end=True).next_id == 6


def test_a_consumer_of_another_program(client: Client, stream: str, nats_server: NatsServer) -> None:
    """One that the broker moves nowhere is refused before anybody has dropped anything."""
    config = {"name": "new", "durable_name": "new", "ack_policy": "explicit", "deliver_policy": "new"}
    jetstream(nats_server, f"CONSUMER.CREATE.{stream}.new", {"stream_name": stream, "config": config})
    with refused("FAILED_PRECONDITION", "SEEK_NOT_POSSIBLE"):
        seek(client, stream, "new", start=True)


def test_what_is_malformed_or_not_there(client: Client, stream: str) -> None:
    """Each is told apart."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "to"),
        ({"offset": 0}, "to.offset"),
        ({"offset": 7}, "to.offset"),
    ]
    for to, field in wrong:
        with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
            seek(client, stream, **to)
        assert caught[0].metadata == {"field": field}
    with refused("NOT_FOUND", "CONSUMER_NOT_FOUND"):
        seek(client, stream, "nobody", start=True)
    with refused("NOT_FOUND", "STREAM_NOT_FOUND"):
        seek(client, "nowhere", start=True)
    for name in ("", "a.b", "*"):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
            seek(client, stream, name, start=True)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        seek(client, "WS_DEAD_LETTERS", start=True)


def test_a_consumer_that_is_made_anew(client: Client, stream: str) -> None:
    """It has nothing of the one before."""
    seek(client, stream, start=True)
    delete_consumer(client, stream, "c")
    ensure_consumer(client, stream, name="c", **{"from": {"start": True}})
    with subscribed(client, stream) as call:
        assert ids_of(call, 5) == [1, 2, 3, 4, 5]


def test_tokens_of_before_are_worth_nothing(client: Client, stream: str) -> None:
    """A call that broke before the move goes on with nothing of what it held."""
    with calling(client) as call:
        call.subscribe(stream, "c", 2, linger=30)
        tokens = [event.token for event in call.events(2)]
        assert all(tokens)
    seek(client, stream, start=True)
    with calling(client) as call:
        call.subscribe(stream, "c", 5, resume=tokens, linger=30)
        assert ids_of(call, 5) == [1, 2, 3, 4, 5]
