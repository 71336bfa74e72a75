"""Names that lead to where nobody should get (S1): every call refuses them, and nothing happens in NATS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from string import punctuation
from typing import Final

import pytest
from google.protobuf.message import Message

from tests.hardening.target import (
    CONSUME,
    DEAD_LETTERS,
    EVENTS,
    STATE,
    call,
    delimited,
    publish_request,
    target,
)
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb
from windshift.rpc import StatusCode

CONTROL: Final = [
    "$",
    "$JS",
    "$JS.API.>",
    "$JS.API.INFO",
    "$JS.API.STREAM.DELETE.VICTIM",
    "$JS.API.STREAM.PURGE.VICTIM",
    "$JS.API.STREAM.UPDATE.VICTIM",
    "$JS.API.STREAM.MSG.DELETE.VICTIM",
    "$JS.API.STREAM.SNAPSHOT.VICTIM",
    "$JS.API.CONSUMER.DELETE.VICTIM.c",
    "$JS.API.CONSUMER.MSG.NEXT.VICTIM.c",
    "$JS.API.DIRECT.GET.VICTIM",
    "$JS.ACK.VICTIM.c.1.1.1.1.1",
    "$JS.FC.VICTIM.c",
    "$JSC.R.x",
    "$KV.victim.key",
    "$KV.>",
    "$O.victim.C.x",
    "$SYS.REQ.SERVER.PING",
    "$SYS.>",
    "$SRV.PING",
    "$MQTT.sub.x",
    "$NRG.V.x",
    "$G",
    "_INBOX",
    "_INBOX.>",
    "_INBOX.abc.def",
    "_INBOXES",
    "_R_",
    "_R_.a.b",
    "_R_x",
    "_WS",
    "_WS.notes",
    "_WSa.b",
]
"""What NATS or Windshift listens to."""

ODD: Final = [
    "",
    ".",
    "..",
    "...",
    ".a",
    "a.",
    "a..b",
    " ",
    " a",
    "a ",
    "a b",
    "a\tb",
    "a\0",
    "\0",
    "a\r\nPUB $JS.API.STREAM.DELETE.VICTIM 0\r\n\r\n",
    "a\nb",
    "a\r\n",
    "a\x7f",
    "a\x1b[0m",
    "ä",
    "a\u202eb",
    "\ufeffa",
    "\uff04JS.API.INFO",
    "\U0001f525",
    "a\u0301",
    "../VICTIM",
    "a/b",
    "%24JS.API.INFO",
    "x" * 256,
    "x" * 4097,
    "x" * 70_000,
    *(f"a{mark}b" for mark in punctuation if mark not in "-_.*>"),
]
"""What is no name and no subject."""

MISPLACED: Final = ["a*", "*a", "a.*b", "a.b*", "a>", ">a", "a.>b", "a.>.b", "a.>.>", "a.**", "a.>>"]
"""Wildcards that are none."""
WILD: Final = ["*", ">", "a.*", "*.a", "a.>", "*.*", "*.>", "a.*.b", "VICTIM.>"]
"""Wildcards where there may be none."""
LEADING: Final = ["*", ">", "*.a", "*.*", "*.>"]

SUBJECTS: Final = [*CONTROL, *ODD, *MISPLACED]
NAMES: Final = [*ODD, *MISPLACED, *WILD, "a.b", "$", "$JS", "$G", "VICTIM.c", "VICTIM.>"]
STREAMS: Final = [*NAMES, "KV_", "KV_victim", "OBJ_", "OBJ_a", "WS_", "WS_DEAD_LETTERS", "WS_REPLAYS"]
STORES: Final = [*NAMES, "WS_", "WS_a", "x" * 253]

Place = tuple[str, list[str], Callable[[str], Message]]
"""A method, what it must refuse, and the request that has that in one of its fields."""


def _stream(name: str = "s", **fields: object) -> pb.EnsureStreamRequest:
    return pb.EnsureStreamRequest(name=name, **fields)  # type: ignore[arg-type] # of any field


def _source(name: str = "VICTIM", *filters: str) -> pb.EnsureStreamRequest.StreamSource:
    return pb.EnsureStreamRequest.StreamSource(name=name, filter_subjects=filters)


def _sources(source: pb.EnsureStreamRequest.StreamSource) -> pb.EnsureStreamRequest.StreamSources:
    return pb.EnsureStreamRequest.StreamSources(sources=[_source("VICTIM"), source])


def _subjects(*subjects: str) -> pb.EnsureStreamRequest.Subjects:
    return pb.EnsureStreamRequest.Subjects(subjects=subjects)


def _subscribe(stream: str, consumer: str) -> pb.EventsRequest:
    return pb.EventsRequest(subscribe=pb.EventsRequest.Subscribe(stream=stream, consumer=consumer))


def _filter(stream: str, consumer: str = "") -> letters_pb.Filter:
    return letters_pb.Filter(stream=stream, consumer=consumer)


NOT_EMPTY: Final = [name for name in STREAMS if name]
CONSUMERS_NOT_EMPTY: Final = [name for name in NAMES if name]

PLACES: Final[dict[str, Place]] = {
    "publish": (EVENTS + "Publish", [*SUBJECTS, *WILD], publish_request),
    "publish event": (EVENTS + "PublishEvent", [*SUBJECTS, *WILD], publish_request),
    "stream": (EVENTS + "EnsureStream", STREAMS, lambda n: _stream(n, subjects=_subjects("a"))),
    "stream's subject": (
        EVENTS + "EnsureStream",
        [*SUBJECTS, *LEADING],
        lambda n: _stream(subjects=_subjects("a", n)),
    ),
    "mirror": (EVENTS + "EnsureStream", STREAMS, lambda n: _stream(mirror=_source(n))),
    "mirror's filter": (EVENTS + "EnsureStream", SUBJECTS, lambda n: _stream(mirror=_source("VICTIM", n))),
    "aggregate": (EVENTS + "EnsureStream", STREAMS, lambda n: _stream(aggregate=_sources(_source(n)))),
    "aggregate's filter": (
        EVENTS + "EnsureStream",
        SUBJECTS,
        lambda n: _stream(aggregate=_sources(_source("VICTIM", "a", n))),
    ),
    "consumer's stream": (
        EVENTS + "EnsureConsumer",
        STREAMS,
        lambda n: pb.EnsureConsumerRequest(stream=n, name="c"),
    ),
    "consumer": (
        EVENTS + "EnsureConsumer",
        NAMES,
        lambda n: pb.EnsureConsumerRequest(stream="VICTIM", name=n),
    ),
    "consumer's filter": (
        EVENTS + "EnsureConsumer",
        SUBJECTS,
        lambda n: pb.EnsureConsumerRequest(stream="VICTIM", subjects=[n]),
    ),
    "stream of a consumer to look at": (
        EVENTS + "GetConsumer",
        STREAMS,
        lambda n: pb.GetConsumerRequest(stream=n, id="c"),
    ),
    "consumer to look at": (
        EVENTS + "GetConsumer",
        NAMES,
        lambda n: pb.GetConsumerRequest(stream="VICTIM", id=n),
    ),
    "stream of a consumer to delete": (
        EVENTS + "DeleteConsumer",
        STREAMS,
        lambda n: pb.DeleteConsumerRequest(stream=n, id="c"),
    ),
    "consumer to delete": (
        EVENTS + "DeleteConsumer",
        NAMES,
        lambda n: pb.DeleteConsumerRequest(stream="VICTIM", id=n),
    ),
    "stream to consume": (CONSUME, STREAMS, lambda n: _subscribe(n, "c")),
    "consumer to consume with": (EVENTS + "Events", NAMES, lambda n: _subscribe("VICTIM", n)),
    "store": (STATE + "EnsureStore", STORES, lambda n: state_pb.EnsureStoreRequest(store=n)),
    "store to get from": (STATE + "Get", STORES, lambda n: state_pb.GetRequest(store=n, key="a")),
    "key to get": (STATE + "Get", [*SUBJECTS, *WILD], lambda n: state_pb.GetRequest(store="victim", key=n)),
    "store to set in": (STATE + "Set", STORES, lambda n: _set(n, "a")),
    "key to set": (STATE + "Set", [*SUBJECTS, *WILD], lambda n: _set("victim", n)),
    "store to delete from": (STATE + "Delete", STORES, lambda n: state_pb.DeleteRequest(store=n, key="a")),
    "key to delete": (
        STATE + "Delete",
        [*SUBJECTS, *WILD],
        lambda n: state_pb.DeleteRequest(store="victim", key=n),
    ),
    "stream of dead letters": (
        DEAD_LETTERS + "List",
        NOT_EMPTY,
        lambda n: letters_pb.ListRequest(filter=_filter(n)),
    ),
    "consumer of dead letters": (
        DEAD_LETTERS + "List",
        CONSUMERS_NOT_EMPTY,
        lambda n: letters_pb.ListRequest(filter=_filter("VICTIM", n)),
    ),
    "dead letters to watch": (
        DEAD_LETTERS + "Watch",
        NOT_EMPTY,
        lambda n: letters_pb.WatchRequest(filter=_filter(n)),
    ),
    "dead letter": (DEAD_LETTERS + "Get", SUBJECTS, lambda n: letters_pb.GetRequest(id=n)),
    "dead letters to replay": (
        DEAD_LETTERS + "Replay",
        SUBJECTS,
        lambda n: letters_pb.ReplayRequest(ids=[n]),
    ),
    "stream of dead letters to replay": (
        DEAD_LETTERS + "Replay",
        NOT_EMPTY,
        lambda n: letters_pb.ReplayRequest(filter=_filter(n)),
    ),
    "dead letters to purge": (DEAD_LETTERS + "Purge", SUBJECTS, lambda n: letters_pb.PurgeRequest(ids=[n])),
    "stream of dead letters to purge": (
        DEAD_LETTERS + "Purge",
        NOT_EMPTY,
        lambda n: letters_pb.PurgeRequest(filter=_filter(n)),
    ),
}


def _set(store: str, key: str) -> state_pb.SetRequest:
    request = state_pb.SetRequest(store=store, key=key)
    request.value.type_url = "x.Y"
    return request


def test_the_lists_are_long_enough() -> None:
    """Sixty of each kind at least, none of them twice."""
    for names in (SUBJECTS, NAMES, STREAMS, STORES):
        assert len(set(names)) >= 60


async def _witness(broker: Broker) -> dict[str, object]:
    """Say what there is in NATS: streams, what is in them, and who reads from them."""
    listed = await broker.api.call("STREAM.LIST", {"offset": 0}, in_seconds(30))
    return {
        stream["config"]["name"]: (stream["config"]["subjects"], stream["state"]["messages"],
                                   stream["state"]["last_seq"], stream["state"]["consumer_count"])
        for stream in listed["streams"]
    }  # fmt: skip


@pytest.mark.timeout(120)
async def test_no_name_leads_where_nobody_should_get(
    own_nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every one of them is INVALID_ARGUMENT in every field, and NATS holds what it held before."""
    directory = tmp_path_factory.mktemp("server")
    with target(directory, "plaintext", NATS_URL=own_nats_server.url) as server:
        async with connect(own_nats_server.url) as broker, await server.peer() as peer:
            await broker.stream("VICTIM", "victim.>")
            await broker.stream("KV_victim", "$KV.victim.>")
            for stream in ("VICTIM", "KV_victim"):
                config = {"durable_name": "c", "ack_policy": "explicit"}
                request = {"stream_name": stream, "config": config}
                await broker.api.call(f"CONSUMER.DURABLE.CREATE.{stream}.c", request, in_seconds(30))
            for _ in range(10):
                assert (await call(peer, EVENTS + "Publish", publish_request("victim.a"))).status == 0
                assert (await call(peer, STATE + "Set", _set("victim", "key"))).status == 0
            before = await _witness(broker)
            wrong = {}
            for place, (path, names, build) in PLACES.items():
                for name in names:
                    response = await call(peer, path, build(name))
                    if response.status != StatusCode.INVALID_ARGUMENT:
                        wrong[place, name[:80]] = (response.status, response.message)
                peer.responses.clear()
            assert wrong == {}
            assert await _witness(broker) == before
            assert server.metric("windshift_nats_reconnects_total") == 0
        assert server.faults() == []


async def test_names_that_are_no_text(own_nats_server: NatsServer, tmp_path: Path) -> None:
    """Bytes that are no UTF-8 do not get as far as a name."""
    with target(tmp_path, "plaintext", NATS_URL=own_nats_server.url) as server:
        async with await server.peer() as peer:
            for raw in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\x80"):
                for path in ("Publish", "EnsureStream", "EnsureConsumer", "GetConsumer", "DeleteConsumer"):
                    response = await call(peer, EVENTS + path, delimited(1, raw))
                    assert response.status == StatusCode.INVALID_ARGUMENT
        assert server.faults() == []
