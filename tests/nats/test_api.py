"""JetStream's API: streams, consumers and stored messages of a real server."""

from __future__ import annotations

import asyncio
import gc
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.nats.waiting import eventually
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer, running_nats
from windshift.nats import JetStreamError, Message, OutcomeUnknown, Unanswered, Unavailable
from windshift.nats import headers as h
from windshift.nats.budget import Budget, Share
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import (
    JetStream,
    JsonObject,
    StreamState,
    _Attempts,
    data_of,
    following_config,
    leave_subjects,
    read_answer,
    read_list,
    read_message,
    subject_pages,
    to_json,
)

Unique = Callable[[], str]


async def store(broker: Broker, subject: str, body: bytes = b"", headers: bytes = b"") -> None:
    """Store a message."""
    stored = await broker.requests.request(subject.encode(), body, headers, in_seconds(20))
    assert isinstance(stored, bytes)
    assert b'"seq"' in stored


def stream_config(name: str, **more: object) -> JsonObject:
    """Word a small stream."""
    return {"name": name, "subjects": [f"{name}.>"], "storage": "memory", **more}


# --- Streams ----------------------------------------------------------------------------------------------


async def test_streams_are_created_and_found(broker: Broker, unique: Unique) -> None:
    """A stream that was made is found by its name and by its subjects."""
    name = unique()
    assert await broker.api.find_stream(name, in_seconds(20)) is None
    assert await broker.api.stream_names(f"{name}.a", in_seconds(20)) == []
    await broker.api.create_stream(stream_config(name, description="ours"), in_seconds(20))
    await broker.api.create_stream(stream_config(name, description="ours"), in_seconds(20))
    assert await broker.api.stream_names(f"{name}.a", in_seconds(20)) == [name]
    state = await broker.api.find_stream(name, in_seconds(20))
    assert isinstance(state, StreamState)
    assert (state.config["description"], state.last_sequence) == ("ours", 0)
    await store(broker, f"{name}.a")
    state = await broker.api.find_stream(name, in_seconds(20))
    assert state is not None
    assert state.last_sequence == 1
    assert (await broker.api.stream_info(name, in_seconds(20)))["state"]["messages"] == 1


async def test_streams_are_changed(broker: Broker, unique: Unique) -> None:
    """An update replaces the configuration; another configuration is no reason to create a stream anew."""
    name = unique()
    await broker.api.create_stream(stream_config(name), in_seconds(20))
    await broker.api.update_stream(stream_config(name, max_msgs=5), in_seconds(20))
    state = await broker.api.find_stream(name, in_seconds(20))
    assert state is not None
    assert state.config["max_msgs"] == 5
    with pytest.raises(JetStreamError) as caught:
        await broker.api.create_stream(stream_config(name, max_msgs=6), in_seconds(20))
    assert caught.value.err_code == codes.STREAM_NAME_EXISTS
    with pytest.raises(JetStreamError) as caught:
        await broker.api.update_stream(stream_config(unique()), in_seconds(20))
    assert caught.value.err_code == codes.STREAM_NOT_FOUND


async def test_what_the_server_refuses(broker: Broker, unique: Unique) -> None:
    """The server's number, its kind and its words are told."""
    name = await broker.stream(unique())
    with pytest.raises(JetStreamError) as caught:
        await broker.api.create_stream({**stream_config(unique()), "subjects": [f"{name}.a"]}, in_seconds(20))
    assert (caught.value.err_code, caught.value.code) == (codes.SUBJECTS_OVERLAP, 400)
    assert caught.value.description == "subjects overlap with an existing stream"
    with pytest.raises(JetStreamError) as caught:
        await broker.api.stream_info(unique(), in_seconds(20))
    assert (caught.value.err_code, caught.value.code) == (codes.STREAM_NOT_FOUND, 404)


async def test_without_jetstream(tmp_path: Path) -> None:
    """An account that has none is told so, at once."""
    config = tmp_path / "config"
    config.write_text("accounts { A: {users: [{user: a, password: a}]} }")
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with connect(f"nats://a:a@127.0.0.1:{server.port}") as broker:
            with pytest.raises(JetStreamError) as caught:
                await broker.api.call("INFO", None, in_seconds(60))
            assert caught.value.err_code in codes.NOT_ENABLED


async def test_a_question_that_is_too_large(broker: Broker) -> None:
    """A request that is larger than a message may be is refused; nothing waits for the deadline."""
    with pytest.raises(JetStreamError) as caught:
        await broker.api.call("INFO", {"x": "y" * broker.connection.max_payload}, in_seconds(60))
    assert caught.value.code == 400


# --- Subjects ---------------------------------------------------------------------------------------------


async def all_subjects(broker: Broker, stream: str, pattern: str) -> list[list[str]]:
    """List a stream's subjects, page by page."""
    return [page async for page in broker.api.subjects(stream, pattern, in_seconds(40))]


async def test_subjects(broker: Broker, unique: Unique) -> None:
    """Subjects that match and have messages are listed, each once."""
    stream = await broker.stream(unique())
    assert await all_subjects(broker, stream, ">") == []
    for subject in ("a", "b.c", "b.d", "a", "b.c"):
        await store(broker, f"{stream}.{subject}")
    [page] = await all_subjects(broker, stream, ">")
    assert sorted(page) == [f"{stream}.{subject}" for subject in ("a", "b.c", "b.d")]
    [page] = await all_subjects(broker, stream, f"{stream}.b.*")
    assert sorted(page) == [f"{stream}.b.c", f"{stream}.b.d"]
    assert await all_subjects(broker, stream, "other.>") == []
    with pytest.raises(JetStreamError):
        await all_subjects(broker, unique(), ">")


@pytest.mark.timeout(120)
async def test_more_subjects_than_one_answer_has(own_broker: Broker) -> None:
    """All subjects of a stream are listed, also where they are more than 100,000."""
    stream = await own_broker.stream("S")
    for stored in range(0, 100_200, 600):  # a server that has more to do answers no ping in time
        for number in range(stored, stored + 600):
            own_broker.connection.publish(f"S.{number}".encode())
        async with asyncio.timeout(60):
            while await own_broker.messages(stream) < stored + 600:  # noqa: ASYNC110 - only the server knows
                await asyncio.sleep(0.01)
    pages = await all_subjects(own_broker, stream, "S.>")
    assert max(len(page) for page in pages) <= 1_000
    assert {subject for page in pages for subject in page} == {f"S.{number}" for number in range(100_200)}


# --- Messages ---------------------------------------------------------------------------------------------


async def test_messages_are_read(broker: Broker, unique: Unique) -> None:
    """A stored message is read exactly as it is, by its sequence or its subject; there may be none."""
    stream = await broker.stream(unique())
    begun = datetime.now(UTC).timestamp()
    lines = ((b"One", b"1"), (b"Two", b""), (b"One", b"\xff3"))
    await store(broker, f"{stream}.a", b"\x00\xff\r\n", h.block(lines))
    await store(broker, f"{stream}.b")
    first = await broker.api.message(stream, {"seq": 1}, in_seconds(20))
    assert first is not None
    assert (first.subject, first.sequence, first.headers, first.body) == (
        *(f"{stream}.a", 1, lines, b"\x00\xff\r\n"),
    )
    assert begun - 1 < first.unix_ns / 1e9 < datetime.now(UTC).timestamp() + 1
    second = await broker.api.message(stream, {"last_by_subj": f"{stream}.b"}, in_seconds(20))
    assert second is not None
    assert (second.subject, second.sequence, second.headers, second.body) == (f"{stream}.b", 2, (), b"")
    assert await broker.api.message(stream, {"seq": 2, "next_by_subj": ">"}, in_seconds(20)) == second
    for nothing in ({"seq": 3}, {"last_by_subj": f"{stream}.c"}, {"seq": 3, "next_by_subj": ">"}):
        assert await broker.api.message(stream, nothing, in_seconds(20)) is None
    with pytest.raises(JetStreamError):
        await broker.api.message(unique(), {"seq": 1}, in_seconds(20))


@pytest.mark.parametrize("storage", ["memory", "file"])
async def test_messages_are_deleted(broker: Broker, unique: Unique, storage: str) -> None:
    """A message that was there is deleted; of one that is not there that is said, also without its stream."""
    stream = await broker.stream(unique(), storage=storage)
    await store(broker, f"{stream}.a")
    assert await broker.api.delete_message(stream, 1, in_seconds(20)) is True
    assert await broker.api.message(stream, {"seq": 1}, in_seconds(20)) is None
    assert await broker.api.delete_message(stream, 1, in_seconds(20)) is False
    assert await broker.api.delete_message(stream, 7, in_seconds(20)) is False
    assert await broker.api.delete_message(unique(), 1, in_seconds(20)) is False


@pytest.mark.parametrize("storage", ["memory", "file"])
async def test_messages_that_may_not_be_deleted(broker: Broker, unique: Unique, storage: str) -> None:
    """Where a stream lets nobody delete, the server's refusal is not taken for the message's end."""
    stream = await broker.stream(unique(), storage=storage, deny_delete=True)
    await store(broker, f"{stream}.a")
    with pytest.raises(JetStreamError, match="message delete not permitted"):
        await broker.api.delete_message(stream, 1, in_seconds(20))
    assert await broker.api.message(stream, {"seq": 1}, in_seconds(20)) is not None


# --- Consumers --------------------------------------------------------------------------------------------


async def test_consumers(broker: Broker, unique: Unique) -> None:
    """A consumer is made, looked at, changed and deleted by its name."""
    stream, api = await broker.stream(unique()), broker.api
    config = {
        "durable_name": "c",
        "ack_policy": "explicit",
        "filter_subjects": [f"{stream}.a", f"{stream}.b"],
    }
    assert await api.consumer(stream, "c", in_seconds(20)) is None
    assert await api.delete_consumer(stream, "c", in_seconds(20)) is False
    await api.create_consumer(stream, "c", config, in_seconds(20))
    await api.create_consumer(stream, "c", config, in_seconds(20))
    for subject in ("a", "b", "c"):
        await store(broker, f"{stream}.{subject}")
    state = await api.consumer(stream, "c", in_seconds(20))
    async with asyncio.timeout(20):
        while state is not None and state.pending < 2:  # it counts a moment later
            await asyncio.sleep(0.01)
            state = await api.consumer(stream, "c", in_seconds(20))
    assert state is not None
    assert state.config["filter_subjects"] == config["filter_subjects"]
    assert (state.pending, state.unsettled, state.settled_to, state.delivered_to) == (2, 0, 0, 0)
    await api.update_consumer(stream, "c", {**config, "max_deliver": 3}, in_seconds(20))
    changed = await api.consumer(stream, "c", in_seconds(20))
    assert changed is not None
    assert changed.config["max_deliver"] == 3
    assert changed.created == state.created
    assert await api.delete_consumer(stream, "c", in_seconds(20)) is True
    assert await api.consumer(stream, "c", in_seconds(20)) is None


async def test_changes_that_lists_show(broker: Broker, unique: Unique) -> None:
    """They are counted; a consumer that only follows its stream is none."""
    stream = unique()
    await broker.stream(stream)
    before = broker.api.changes
    config = following_config("hidden", ())
    request = {"stream_name": stream, "config": config, "action": "create"}
    await broker.api.change(f"CONSUMER.CREATE.{stream}.hidden", request, in_seconds(20), hidden=True)
    assert broker.api.changes == before
    await broker.api.create_consumer(stream, "shown", config | {"name": "shown"}, in_seconds(20))
    assert broker.api.changes == before + 1


async def test_consumers_that_cannot_be(broker: Broker, unique: Unique) -> None:
    """Creating one that is otherwise, changing one that is not, and a stream that is not are refused."""
    stream, api = await broker.stream(unique()), broker.api
    config = {"durable_name": "c", "ack_policy": "explicit"}
    with pytest.raises(JetStreamError) as caught:
        await api.update_consumer(stream, "c", config, in_seconds(20))
    assert caught.value.err_code == codes.CONSUMER_DOES_NOT_EXIST
    await api.create_consumer(stream, "c", config, in_seconds(20))
    with pytest.raises(JetStreamError) as caught:
        await api.create_consumer(stream, "c", {**config, "max_deliver": 3}, in_seconds(20))
    assert caught.value.err_code == codes.CONSUMER_ALREADY_EXISTS
    for ask in (api.consumer, api.delete_consumer):
        with pytest.raises(JetStreamError) as caught:
            await ask(unique(), "c", in_seconds(20))
        assert caught.value.err_code == codes.STREAM_NOT_FOUND


# --- Patience ---------------------------------------------------------------------------------------------


async def test_a_server_that_is_away_for_a_while(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """Questions and changes wait for it, within their deadline, whether it comes back or wakes up."""
    own_nats_server.kill()
    await own_broker.lost()
    asking = asyncio.create_task(own_broker.api.call("INFO", None, in_seconds(30)))
    changing = asyncio.create_task(own_broker.api.create_stream(stream_config("S"), in_seconds(30)))
    await asyncio.sleep(0.2)
    assert not asking.done()
    own_nats_server.start()
    assert "memory" in await asking
    await changing
    own_nats_server.freeze()
    asking = asyncio.create_task(own_broker.api.stream_info("S", in_seconds(30)))
    changing = asyncio.create_task(
        own_broker.api.update_stream(stream_config("S", max_msgs=5), in_seconds(30))
    )
    await asyncio.sleep(0.2)
    assert not asking.done()
    own_nats_server.thaw()
    await changing
    assert (await asking)["config"]["name"] == "S"


async def test_a_server_that_stays_away(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """At the deadline it is said what is known: nothing was done, or it may have been."""
    own_nats_server.freeze()
    asking = own_broker.api.call("INFO", None, in_seconds(0.2))
    changing = own_broker.api.create_stream(stream_config("S"), in_seconds(0.2))
    asked, changed = await asyncio.gather(asking, changing, return_exceptions=True)
    assert type(asked) is Unanswered
    assert type(changed) is OutcomeUnknown
    own_nats_server.thaw()
    own_nats_server.kill()
    await own_broker.lost()
    asking = own_broker.api.call("INFO", None, in_seconds(0.2))
    changing = own_broker.api.create_stream(stream_config("S"), in_seconds(0.2))
    asked, changed = await asyncio.gather(asking, changing, return_exceptions=True)
    assert type(asked) is Unavailable
    assert type(changed) is Unavailable


Answers = dict[int, JsonObject]
"""What the attempts are told, by their numbers; others are not answered."""
DONE: JsonObject = {"success": True}
MISSING: JsonObject = {"error": {"code": 404, "err_code": codes.STREAM_NOT_FOUND, "description": "none"}}


@asynccontextmanager
async def answering(
    tmp_path: Path, subject: bytes, answers: Answers, attempt_timeout: float = 0.1, delay: float = 0.0
) -> AsyncIterator[tuple[JetStream, list[Message]]]:
    """Answer some attempts of a change, in place of JetStream; give what sends them, and all that came."""
    config = tmp_path / "config"
    config.write_text(
        'accounts { A: {users: [{user: a, password: a}], mappings: {"$JS.API.>": "answered.>"}} }'
    )
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        url = f"nats://a:a@127.0.0.1:{server.port}"
        async with connect(url) as broker, connect(url) as answerer:
            asked, loop = list[Message](), asyncio.get_running_loop()

            def hear(message: Message) -> None:
                asked.append(message)
                if (answer := answers.get(len(asked))) is not None:
                    answer_it = partial(answerer.connection.publish, message.reply, to_json(answer))
                    loop.call_later(delay, answer_it)

            answerer.connection.subscribe(b"answered." + subject, hear)
            await answerer.requests.round_trip(in_seconds(30))
            yield JetStream(broker.requests, timedelta(seconds=attempt_timeout)), asked


async def test_deleting_a_stream_takes_long(tmp_path: Path) -> None:
    """A server that is still deleting it knows the stream no more: so a further attempt means success."""
    async with answering(tmp_path, b"STREAM.DELETE.S", {2: MISSING}) as (api, asked):
        await api.delete_stream("S", in_seconds(60))
        assert len(asked) >= 2
        assert api.changes == 1


async def test_deleting_a_stream_that_is_not_there(tmp_path: Path) -> None:
    """The answer to the only attempt is what it says."""
    async with answering(tmp_path, b"STREAM.DELETE.S", {1: MISSING}, 60) as (api, _):
        with pytest.raises(JetStreamError, match="none"):
            await api.delete_stream("S", in_seconds(60))


@pytest.mark.parametrize("which", [{}, {"keep": 1}, {"filter": "S.a"}])
async def test_a_purge_without_a_bound_is_sent_once(tmp_path: Path, which: JsonObject) -> None:
    """A second one would remove what was stored in between, and tell another number."""
    async with answering(tmp_path, b"STREAM.PURGE.S", {2: DONE | {"purged": 0}}) as (api, asked):
        with pytest.raises(OutcomeUnknown):
            await api.purge_stream("S", which, in_seconds(1))
        assert len(asked) == 1


async def test_a_consumer_s_configuration_is_sent_once(tmp_path: Path) -> None:
    """A second time, it would take back what somebody else has changed in between."""
    async with answering(tmp_path, b"CONSUMER.CREATE.S.c", {2: DONE}) as (api, asked):
        with pytest.raises(OutcomeUnknown):
            await api.update_consumer("S", "c", {"name": "c"}, in_seconds(60))
        assert len(asked) == 1


async def test_a_purge_up_to_a_message_is_repeated(tmp_path: Path) -> None:
    """That may be done any number of times."""
    async with answering(tmp_path, b"STREAM.PURGE.S", {2: DONE | {"purged": 7}}) as (api, asked):
        assert await api.purge_stream("S", {"seq": 9}, in_seconds(60)) == 7
        assert len(asked) >= 2


async def test_a_list_of_subjects_may_take_longer_than_an_attempt(tmp_path: Path) -> None:
    """A server that sorts a million for each answer is given twice as long each time."""
    some = {"state": {"messages": 1, "bytes": 9, "subjects": {"S.a": 1}}, "total": 1}
    answers = dict.fromkeys(range(1, 100), some)
    async with answering(tmp_path, b"STREAM.INFO.S", answers, delay=0.25) as (api, asked):
        api.attempt_timeout = 60.0
        assert await api.stream_info("S", in_seconds(60))
        api.attempt_timeout = 0.1
        query = {"subjects_filter": ">"}
        answer = await api.call("STREAM.INFO.S", query, in_seconds(60))
        assert answer == some
        assert len(asked) > 2


async def test_a_list_may_take_longer_than_an_attempt(tmp_path: Path) -> None:
    """A cluster waits for leaders that do not answer, then gives the rest: the first answer is waited for."""
    async with answering(tmp_path, b"STREAM.LIST", {1: _list(1)}, delay=0.5) as (api, _):
        assert [each async for each in api.listed("STREAM.LIST", "streams", in_seconds(20))]


async def test_what_is_missing_in_a_list(tmp_path: Path) -> None:
    """Its names are told, of those without a state too, and the next page begins behind it."""
    a, b, c, nameless = (
        each | {"name": name} for each, name in zip(_list(4)["streams"], [*"abc", ""], strict=True)
    )
    answers: Answers = {
        1: {"total": 7, "consumers": [a, nameless], "missing": ["n", "o"]},
        2: {"total": 7, "missing": ["p", "q"]},
        3: {"total": 7, "consumers": [b, c], "missing": ["b"]},
    }
    async with answering(tmp_path, b"CONSUMER.LIST.S", answers) as (api, asked):
        pages = [tuple(page) async for page in api.pages("CONSUMER.LIST.S", "consumers", in_seconds(60))]
        assert [json.loads(each.body)["offset"] for each in asked] == [0, 3, 5]
    assert pages == [([a], 7, {"n", "o"}), ([], 7, {"p", "q"}), ([c], 7, {"b"})]
    known, offline = _list(2)["streams"]
    answers = {1: {"total": 2, "streams": [known, offline], "missing": [offline["config"]["name"]]}}
    async with answering(tmp_path, b"STREAM.LIST", answers) as (api, _):
        assert [each async for each in api.listed("STREAM.LIST", "streams", in_seconds(60))] == [known]


async def test_a_lost_list_of_subjects_is_asked_for_again_after_an_outage(tmp_path: Path) -> None:
    """Attempts that were answered at once, if only that nobody leads, make no later one more patient."""
    away = {"error": {"code": 503, "err_code": codes.CLUSTER_NOT_AVAILABLE, "description": "none"}}
    some = {"state": {"messages": 1, "bytes": 9, "subjects": {"S.a": 1}}, "total": 1}
    answers = dict.fromkeys(range(1, 11), away) | {12: some}
    async with answering(tmp_path, b"STREAM.INFO.S", answers) as (api, asked):
        query = {"subjects_filter": ">"}
        assert await api.call("STREAM.INFO.S", query, in_seconds(60)) == some
        assert len(asked) == 12


async def test_of_several_answers_the_oldest_counts() -> None:
    """Later attempts find done what the first one does."""

    async def attempt(outcome: JsonObject | Exception) -> JsonObject:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    outcomes: list[JsonObject | Exception] = [
        OutcomeUnknown(),
        {"purged": 5},
        {"purged": 0},
        JetStreamError(codes.STREAM_NOT_FOUND, 404, ""),
    ]
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told["message"]))
    attempts = _Attempts()
    attempts.open += [asyncio.ensure_future(attempt(each)) for each in outcomes]
    assert await attempts.answer(None) == {"purged": 5}
    gc.collect()
    assert complaints == []  # such as that nobody looked at the other outcomes


async def test_what_may_not_be_asked_twice(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """It is not asked again once it may have arrived: when the connection ends that is said at once."""
    own_nats_server.freeze()
    asking = asyncio.create_task(own_broker.api.call("INFO", None, in_seconds(60), repeatable=False))
    await asyncio.sleep(0)
    own_nats_server.kill()
    with pytest.raises(OutcomeUnknown):
        await asking


def test_subjects_are_read_some_at_a_time() -> None:
    """An answer with many is never parsed as a whole; whatever they hold, each is told as it is."""
    many = {f"s.{number}": 1 for number in range(2_500)} | {'s."}{\\,:1': 2, "s.\u00e4<&>": 3}
    answer = {
        "type": "io.nats.jetstream.api.v1.stream_info_response",
        "total": 2_502,
        "config": {"subjects": ["s.>"], "description": '"subjects":{"no":1}', "metadata": {"total": "7"}},
        "state": {"messages": 3_000, "subjects": many},
        "ts": "2026-11-28T00:00:00Z",
    }
    for escaped in (True, False):
        body = json.dumps(answer, separators=(",", ":"), ensure_ascii=escaped).encode()
        read = leave_subjects(body)
        pages = list(subject_pages(read))
        assert read["total"] == 2_502
        assert [len(page) for page in pages] == [1_000, 1_000, 502]
        assert [each for page in pages for each in page] == list(many.items())


@pytest.mark.parametrize("body", [b'{"state":{"subjects":{"a":1', b'{"state":{"subjects":{"a":"b"}}}'])
def test_subjects_that_are_none(body: bytes) -> None:
    """What is cut off, or something else, is not taken for the end."""
    with pytest.raises(JetStreamError):
        list(subject_pages(leave_subjects(body)))


def test_no_subjects() -> None:
    """An answer without any, and an error, are read as always."""
    assert list(subject_pages(leave_subjects(b'{"state":{"messages":0}}'))) == []
    assert list(subject_pages(leave_subjects(b'{"state":{"subjects":{}}}'))) == []
    with pytest.raises(JetStreamError, match="10059"):
        leave_subjects(b'{"error":{"code":404,"err_code":10059,"description":"no"}}')


# --- Data that is long -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, 49_000, 49_152, 49_153, 300_000])
async def test_data_of_any_length(size: int) -> None:
    """It is decoded whole, and what stands around it is read."""
    data = bytes(number % 251 for number in range(size))
    message = {"subject": 'a"data":"b', "seq": 7, "data": b64encode(data).decode(), "time": "2026"}
    answer = read_message(json.dumps({"type": "x", "message": message}, separators=(",", ":")).encode())
    assert (answer["message"]["subject"], answer["message"]["seq"]) == ('a"data":"b', 7)
    assert data_of(answer) == data


class Watched(Budget):
    """A budget that tells what becomes of its shares."""

    def __init__(self) -> None:
        super().__init__(100_000_000)
        self.given_back = asyncio.Event()
        self.left = asyncio.Event()
        self.sizes: list[int] = []
        self.asked: list[int] = []

    async def take(self, size: int, deadline: float) -> Share:
        self.asked.append(size)
        return await super().take(size, deadline)

    def arrived(self, share: Share, size: int) -> None:
        self.sizes.append(size)
        super().arrived(share, size)

    def give_back(self, share: Share) -> None:
        super().give_back(share)
        self.given_back.set()

    def leave(self, share: Share) -> None:
        super().leave(share)
        self.left.set()


async def test_a_change_that_takes_long_leaves_its_share(tmp_path: Path) -> None:
    """So that the reads of its caller go on, one at a time or not; its answer counts all the same."""
    async with answering(tmp_path, b"STREAM.PURGE.S", {}) as (api, asked):
        api.budget = share = Watched()
        purging = asyncio.create_task(api.purge_stream("S", {}, in_seconds(60)))
        await share.left.wait()
        await eventually(lambda: bool(asked))
        assert not share.given_back.is_set()
        api.connection.publish(asked[0].reply, to_json(DONE | {"purged": 7}))
        assert await purging == 7
        assert share.given_back.is_set()
        assert len(asked) == 1


async def test_long_data_counts_until_it_is_decoded(broker: Broker, unique: Unique) -> None:
    """Else any number of answers could wait for their turn to be read, however few may be asked for."""
    stream, share = await broker.stream(unique()), Watched()
    await store(broker, f"{stream}.a", bytes(1_000_000))
    api = JetStream(broker.requests, budget=share)
    reading = asyncio.ensure_future(api.message(stream, {"seq": 1}, in_seconds(20)))
    await share.given_back.wait()
    assert reading.done()
    (size,) = share.sizes
    assert size > 1_000_000
    message = await reading
    assert message is not None
    assert message.body == bytes(1_000_000)


async def test_a_batch_tells_the_budget_its_size(broker: Broker, unique: Unique) -> None:
    """Whoever reads much by batches has one of them under way at a time, as with single messages."""
    stream, share = await broker.stream(unique(), allow_direct=True), Watched()
    for _ in range(3):
        await store(broker, f"{stream}.a", bytes(400_000))
    api = JetStream(broker.requests, budget=share)
    query = {"seq": 1, "next_by_subj": ">", "batch": 3}
    batch = await api.batch(stream, query, in_seconds(20))
    assert [len(message.body) for message in batch.messages] == [400_000] * 3
    assert share.sizes == [1_200_000]


async def test_a_list_of_short_subjects_takes_little_of_the_budget(broker: Broker, unique: Unique) -> None:
    """Else a list of 100,000 dead letters, each as long as can be, would leave nothing for other reads."""
    stream, share = await broker.stream(unique()), Watched()
    for number in range(3):
        await store(broker, f"{stream}.{number}", bytes(10_000))
    api = JetStream(broker.requests, budget=share)
    for longest in (20, 600):
        share.asked.clear()
        assert [page async for page in api.subjects(stream, ">", in_seconds(20), longest)]
        assert 3 * longest < share.asked[-1] < 3 * longest + 20_000


def _list(count: int) -> JsonObject:
    streams = [{"config": {"name": f'"streams":[{number}]', "subjects": ["é"]}} for number in range(count)]
    return {"total": count, "offset": 0, "streams": streams, "missing": []}


def _compact(value: JsonObject) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


async def test_a_long_list_lets_others_run() -> None:
    """Two thousand elements take more than a hundred turns of the loop, and are those that were sent."""
    body = _compact(_list(2_000))
    turns, work = 0, asyncio.ensure_future(read_list(body, "streams"))
    while not work.done():
        await asyncio.sleep(0)
        turns += 1
    assert await work == _list(2_000)
    assert turns > 100


@pytest.mark.parametrize(
    "body",
    [
        _compact(_list(3)),
        _compact(_list(0)),
        json.dumps(_list(2_000)).encode(),
        json.dumps(_list(2_000), separators=(", ", ":")).encode(),
        _compact({"streams": None, "text": " " * 70_000}),
        _compact({"error": {"err_code": 1}, "text": " " * 70_000}),
        _compact(_list(2_000))[:-2],
        _compact(_list(2_000))[:100_000],
        _compact(_list(2_000)) + b"\xff",
    ],
    ids=["short", "empty", "spaces", "some spaces", "none", "error", "cut off", "cut off in it", "no text"],
)
async def test_lists_of_any_kind(body: bytes) -> None:
    """They are read as by one piece, with the same result, or error."""
    try:
        expected = read_answer(body)
    except (ValueError, JetStreamError) as error:
        with pytest.raises(type(error)):
            await read_list(body, "streams")
    else:
        assert await read_list(body, "streams") == expected


@pytest.mark.parametrize(
    "body",
    [
        b'{"message":{"seq":1}}',
        b'{"message":{"data":"' + b"QUFB" * 20_000,
        b'{"message":{"data":"' + b"QU\\u0046B" * 20_000 + b'"}}',
        b'{"text":"' + b" " * 70_000 + b'"}',
    ],
    ids=["short", "cut off", "escaped", "other"],
)
async def test_what_has_no_plain_data_is_read_as_a_whole(body: bytes) -> None:
    """With the same result, or error."""
    try:
        expected = read_answer(body)
    except ValueError as error:
        with pytest.raises(type(error)):
            read_message(body)
    else:
        assert read_message(body) == expected
