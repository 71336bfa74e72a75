"""The audit log of a real process: who was denied what, and who managed or read what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.authorization.callers import Caller, bearer
from tests.authorization.policies import ALL, digest_of, principal, token_of
from tests.authorization.rows import DENIED, UNKNOWN, invoke, method_of, path_of
from tests.authorization.served import Served, records, served
from tests.support.client import any_of
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import windshift
from tests.wire.burying import watching
from tests.wire.consuming import subscribed
from tests.wire.looking import tail
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin_pb
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb

Record = dict[str, Any]

POLICY = (
    ALL
    + '[role.none]\n[role.some]\npublish = ["audit.>"]\ndeny.publish = ["audit.secret"]\n'
    + "".join([principal("all"), principal("ann", "some"), principal("few", "all", more="max_rps = 0.001")])
)


@pytest.fixture(scope="module")
def server(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a process that logs as little as can be."""
    directory = tmp_path_factory.mktemp("audit")
    with served(directory, POLICY, NATS_URL=nats_server.url, LOG_LEVEL="error") as server:
        yield server


class Since:
    """The records that were written from a moment on."""

    def __init__(self, server: Served) -> None:
        self._server = server
        self._before = len(server.records())

    def records(self, count: int = 1) -> list[Record]:
        """Wait for as many records, see that they are of the audit log, and give them without their time."""
        server, before = self._server, self._before
        server.process.wait_for(lambda: len(server.records()) >= before + count)
        found = server.records()[before:]
        assert len(found) == count, found
        for record in found:
            assert record["logger"] == "windshift.audit"
            assert record.pop("time")
            assert record.pop("peer").startswith("127.0.0.1:")
            del record["logger"]
        return found


def credential(who: str) -> str:
    """Return how the log names a token."""
    return f"token {digest_of(who)[:8]}"


def ensure_consumer(stream: str, name: str) -> pb.EnsureConsumerRequest:
    """Ask for a consumer of all events."""
    return pb.EnsureConsumerRequest(stream=stream, name=name)


def test_denied(server: Served) -> None:
    """A call that the rules deny is one record: who, how known, what, on what, and by which rule."""
    since = Since(server)
    request = pb.PublishEventRequest(subject="audit.secret", data=any_of("x"))
    assert invoke(server.caller("ann"), method_of("EventsService/Publish"), request).answer == DENIED
    (record,) = since.records()
    line = POLICY.splitlines().index('deny.publish = ["audit.secret"]') + 1
    assert record == {
        "level": "warning",
        "message": "denied: 'ann' may not publish to 'audit.secret'",
        "event": "denied",
        "reason": "PERMISSION_DENIED",
        "method": "/windshift.events.v1alpha1.EventsService/Publish",
        "principal": "ann",
        "credential": credential("ann"),
        "verb": "publish",
        "resource": "audit.secret",
        "rule": f'role some, deny.publish "audit.secret" (line {line})',
    }


def test_one_record_for_each_denied_call(server: Served) -> None:
    """Calls of every kind, however much they ask for, are denied once each."""
    calls = {
        "EventsService/EnsureStream": pb.EnsureStreamRequest(name="a", subjects={"subjects": ["b", "c"]}),
        "EventsService/EnsureConsumer": pb.EnsureConsumerRequest(stream="a", subjects=["b", "c"]),
        "EventsService/Events": pb.EventsRequest(subscribe={"stream": "a", "consumer": "b"}),
        "StateService/Get": state_pb.GetRequest(store="a", key="b"),
        "DeadLettersService/Watch": dead_letters_pb.WatchRequest(),
        "DeadLettersService/Purge": dead_letters_pb.PurgeRequest(ids=["a.b.1.1", "a.c.1.1"]),
    }
    for name, request in calls.items():
        since = Since(server)
        assert invoke(server.caller("ann"), method_of(name), request).answer == DENIED
        (record,) = since.records()
        assert record["method"] == path_of(method_of(name))
        assert (record["event"], record["principal"]) == ("denied", "ann")


def test_nobody(server: Served) -> None:
    """Who is not known is denied with a reason that only the log has, and without anything secret."""
    request = pb.PublishEventRequest(subject="audit.x", data=any_of("x"))
    told = set()
    for metadata in (
        (),
        (("authorization", "Basic x"),),
        bearer(token_of("ann", 2)),
        bearer(token_of("eve")),
    ):
        since = Since(server)
        caller = server.callers.with_metadata(metadata)
        outcome = invoke(caller, method_of("EventsService/Publish"), request)
        assert outcome.answer == UNKNOWN
        assert outcome.refusal is not None
        (record,) = since.records()
        why = record.pop("why")
        told.add(why)
        assert why not in outcome.refusal.message
        assert record == {
            "level": "warning",
            "message": f"denied: {why}",
            "event": "denied",
            "reason": "UNAUTHENTICATED",
            "method": "/windshift.events.v1alpha1.EventsService/Publish",
        }
    assert len(told) == 4


def test_floods_hide_no_guess(server: Served) -> None:
    """Whoever tries a token that names a principal is seen, however many others call without any."""
    publish, request = method_of("EventsService/Publish"), pb.PublishEventRequest(subject="audit.x")
    stranger, guess = server.callers.with_metadata(()), server.callers.with_token(token_of("few", 2))
    for _ in range(310):
        invoke(stranger, publish, request)
    invoke(guess, publish, request)
    server.process.wait_for(
        lambda: any("names 'few'" in each["why"] for each in server.records(reason="UNAUTHENTICATED"))
    )


def test_managed(server: Served) -> None:
    """Each call that manages something is one record, with the status that it ended with."""
    admin = server.caller("all")
    stream = pb.EnsureStreamRequest(name="MANAGED", subjects={"subjects": ["managed.>"]})
    delete = pb.DeleteConsumerRequest(stream="MANAGED", id="c")
    purge = dead_letters_pb.PurgeRequest(filter={"stream": "MANAGED"})
    calls: list[tuple[str, Any, str, str]] = [
        ("EventsService/EnsureStream", stream, "MANAGED", "OK"),
        ("EventsService/EnsureStream", pb.EnsureStreamRequest(name="x"), "x", "INVALID_ARGUMENT"),
        ("EventsService/EnsureConsumer", ensure_consumer("MANAGED", "c"), "MANAGED > c", "OK"),
        ("EventsService/DeleteConsumer", delete, "MANAGED c", "OK"),
        ("EventsService/DeleteConsumer", delete, "MANAGED c", "NOT_FOUND"),
        ("StateService/EnsureStore", state_pb.EnsureStoreRequest(store="managed"), "managed", "OK"),
        ("DeadLettersService/Purge", purge, "MANAGED *", "OK"),
        ("DeadLettersService/Replay", dead_letters_pb.ReplayRequest(filter={}), "* *", "OK"),
    ]
    for name, request, resource, code in calls:
        since = Since(server)
        assert (invoke(admin, method_of(name), request).answer.code) == code
        (record,) = since.records()
        assert record == {
            "level": "info",
            "message": f"managed: {name.partition('/')[2]}",
            "event": "managed",
            "method": path_of(method_of(name)),
            "principal": "all",
            "credential": credential("all"),
            "resource": resource,
            "code": code,
        }


def test_read(server: Served) -> None:
    """Each call that reads events without a consumer, or dead letters, is one record, as it begins."""
    admin = server.caller("all")
    admin.ensure_stream("READ", "read.>")
    admin.publish("read.a")
    both = admin_pb.ReadEventsRequest(stream="READ", subjects=["read.a", "read.b"])
    calls: list[tuple[str, Any, str, str]] = [
        ("AdminService/GetEvent", admin_pb.GetEventRequest(stream="READ", id=1), "READ > (ephemeral)", "OK"),
        (
            "AdminService/GetEvent",
            admin_pb.GetEventRequest(stream="READ", id=9),
            "READ > (ephemeral)",
            "NOT_FOUND",
        ),
        ("AdminService/ReadEvents", both, "READ read.a (ephemeral), READ read.b (ephemeral)", "OK"),
        ("DeadLettersService/List", dead_letters_pb.ListRequest(filter={"stream": "READ"}), "READ *", "OK"),
        ("DeadLettersService/Get", dead_letters_pb.GetRequest(id="READ.c.1.1"), "READ c", "NOT_FOUND"),
    ]
    for name, request, resource, code in calls:
        since = Since(server)
        assert invoke(admin, method_of(name), request).answer.code == code
        assert since.records() == [read(name, resource)]
    since = Since(server)
    responses = tail(admin, "READ", subjects=["read.a"], begin={"start": True})
    assert next(responses).event.event.id == 1
    assert since.records() == [read("AdminService/TailEvents", "READ read.a (ephemeral)")]
    responses.cancel()
    since = Since(server)
    with watching(admin, "READ"):
        assert since.records() == [read("DeadLettersService/Watch", "READ *")]


def read(name: str, resource: str) -> Record:
    """Return the record of a call that reads."""
    return {
        "level": "info",
        "message": f"read: {name.partition('/')[2]}",
        "event": "read",
        "method": path_of(method_of(name)),
        "principal": "all",
        "credential": credential("all"),
        "resource": resource,
    }


def test_allowed_calls_leave_no_trace(server: Served) -> None:
    """Events, keys and looking at what holds no events are not recorded when they are allowed."""
    admin = server.caller("all")
    admin.ensure_stream("AUDIT", "audit.>")
    store = admin.ensure_store("audit")
    invoke(admin, method_of("EventsService/EnsureConsumer"), ensure_consumer("AUDIT", "t"))
    since = Since(server)
    for _ in range(20):
        server.caller("ann").publish("audit.x")
    with subscribed(admin, "AUDIT", consumer="t") as call:
        call.ack(*(event.id for event in call.events(20)))
        call.told()
    admin.set(store, "a")
    admin.get(store, "a")
    invoke(admin, method_of("EventsService/GetConsumer"), pb.GetConsumerRequest(stream="AUDIT", id="t"))
    invoke(admin, method_of("DeadLettersService/Summarize"), dead_letters_pb.SummarizeRequest())
    delete = pb.DeleteConsumerRequest(stream="AUDIT", id="t")
    invoke(admin, method_of("EventsService/DeleteConsumer"), delete)
    assert [record["event"] for record in since.records()] == ["managed"]  # the last one


def test_streams_that_are_ended(server: Served) -> None:
    """A stream that a change of the rules ends is denied, too."""
    admin = server.caller("all")
    admin.ensure_stream("AUDIT", "audit.>")
    invoke(admin, method_of("EventsService/EnsureConsumer"), ensure_consumer("AUDIT", "e"))
    server.put(POLICY + principal("gone", "all"))
    with subscribed(server.caller("gone"), "AUDIT", consumer="e") as call:
        before = len(server.records(event="denied"))
        server.put(POLICY)
        assert call.end(20) is not None
        server.process.wait_for(lambda: len(server.records(event="denied")) > before)
    (record,) = server.records(event="denied")[before:]
    assert (record["principal"], record["reason"]) == ("gone", "UNAUTHENTICATED")
    assert record["method"] == path_of(method_of("EventsService/Events"))


def test_quotas_are_told_seldom(server: Served) -> None:
    """Calls beyond a quota may come by the thousand: a record counts those before it."""
    caller, request = server.caller("few"), pb.PublishEventRequest(subject="audit.x", data=any_of("x"))
    since = Since(server)
    for _ in range(30):
        invoke(caller, method_of("EventsService/Publish"), request)
    (record,) = since.records()
    assert (record["reason"], record["quota"], record["limit"]) == ("QUOTA_EXCEEDED", "max_rps", 0.001)
    assert server.seen().value("windshift_auth_denials_total", reason="QUOTA_EXCEEDED") == 29
    assert server.seen().value("windshift_auth_quotas_exceeded_total", quota="max_rps") == 29
    assert server.seen().value("windshift_auth_quotas_exceeded_total", quota="streams") == 0


@pytest.mark.parametrize("level", ["debug", "warning"])
def test_without_authorization(tmp_path: Path, nats_server: NatsServer, level: str) -> None:
    """What manages something is recorded, whoever it was; nobody is denied anything."""
    with windshift(tmp_path, NATS_URL=nats_server.url, LOG_LEVEL=level) as process:
        caller = Caller(process.address)
        caller.ensure_stream("UNGUARDED", "unguarded.>")
        caller.publish("unguarded.x")
        process.wait_for(lambda: records(process, logger="windshift.audit"))
        (record,) = records(process, logger="windshift.audit")
        assert (record["event"], record["resource"], record["code"]) == ("managed", "UNGUARDED", "OK")
        assert "principal" not in record
        caller.channel.close()
