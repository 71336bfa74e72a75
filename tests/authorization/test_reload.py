"""The authorization file changes while the server runs, and so does who may do what."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import pytest

from tests.authorization.callers import bearer
from tests.authorization.policies import ALL, digest_of, principal, put, token_of
from tests.authorization.rows import ALLOWED, DENIED, UNKNOWN, invoke, method_of
from tests.authorization.served import Served, served
from tests.authorization.test_open_streams import forbidden
from tests.support.app import running_app
from tests.support.client import Refusal, any_of, refused
from tests.support.json_web_keys import AUDIENCE, ISSUER, Signer, claims, key_set
from tests.support.jwks_server import content, key_server
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import LIMIT, wait_for
from tests.wire.burying import consumer, kill_off, watching
from tests.wire.consuming import calling, subscribed
from tests.wire.management import ensure_consumer
from tests.wire.test_publish_streams import an_event, start
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.server.auth.access import ActivePolicy

PUBLISH = method_of("EventsService/Publish")
PUBLISHING = '[role.writer]\npublish = ["orders.>"]\n'
READING = """
[role.reader]
streams = { consume = ["ORDERS"], subjects = ["orders.>"] }
consumers = { use = ["ann-*"] }
dead_letters = { read = ["*"], consumers = ["*"] }
"""
ADMIN = ALL + principal("all")
USUAL = (
    ADMIN
    + PUBLISHING
    + READING
    + principal("writer")
    + principal("ann", "reader")
    + principal("bob", "reader")
)


@pytest.fixture(scope="module")
def server(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Share one process between the tests of this module."""
    with served(tmp_path_factory.mktemp("reload"), USUAL, NATS_URL=nats_server.url) as server:
        server.caller("all").ensure_stream("ORDERS", "orders.>")
        yield server


@pytest.fixture
def usual(server: Served) -> Served:
    """Begin with the usual rules, in a file that is a plain one."""
    if server.file.is_symlink():
        server.file.unlink()
    server.put(USUAL)
    return server


def new_consumer(server: Served) -> str:
    """Make a consumer of new events, which are not delivered anew before ten minutes are over."""
    name = f"ann-{time.monotonic_ns()}"
    more = {"subjects": ["orders.>"], "processing_timeout": "600s"}
    return ensure_consumer(server.caller("all"), "ORDERS", name=name, **more)


def may_publish(server: Served, who: str = "writer", version: int = 1) -> bool:
    """Tell whether a principal may publish."""
    request = pb.PublishEventRequest(subject="orders.x", data=any_of("x"))
    answer = invoke(server.caller(who, version), PUBLISH, request).answer
    assert answer in (ALLOWED, DENIED, UNKNOWN)
    return answer == ALLOWED


# What changes


def test_new_calls_follow_the_file(usual: Served) -> None:
    """A right that is taken away, or given, counts soon, without any signal."""
    assert may_publish(usual)
    put(usual.file, USUAL.replace('publish = ["orders.>"]', "publish = []"))
    wait_for(lambda: not may_publish(usual))
    put(usual.file, USUAL)
    wait_for(lambda: may_publish(usual))


def test_tokens_are_rotated_and_revoked(usual: Served) -> None:
    """A new token is known with the new file, the old one until it is gone from it."""
    old, new = digest_of("writer"), digest_of("writer", 2)
    assert (may_publish(usual), may_publish(usual, version=2)) == (True, False)
    usual.put(USUAL.replace(f'"{old}"', f'"{old}", "{new}"'))
    assert (may_publish(usual), may_publish(usual, version=2)) == (True, True)
    usual.put(USUAL.replace(f'"{old}"', f'"{new}"'))
    assert (may_publish(usual), may_publish(usual, version=2)) == (False, True)
    usual.put(USUAL.replace(principal("writer"), ""))
    assert (may_publish(usual), may_publish(usual, version=2)) == (False, False)


def released_to_another(server: Served, changed: str, answer: tuple[str, str]) -> Refusal:
    """See a stream ended by a change, and what it held with somebody else at once."""
    name = new_consumer(server)
    with subscribed(server.caller("ann"), "ORDERS", consumer=name) as call:
        held = server.caller("writer").publish("orders.held")
        assert call.event(LIMIT).id == held
        with subscribed(server.caller("bob"), "ORDERS", consumer=name) as other:
            put(server.file, changed)
            end = call.end(LIMIT)
            assert end is not None
            assert (end.code, end.reason) == answer
            event = other.event(LIMIT)
            assert (event.id, event.delivery_attempt) == (held, 2)
            other.ack(held)
            assert other.told(LIMIT) == ("ack", [held], [], [])
            return end


def test_open_streams_follow_the_file(usual: Served) -> None:
    """A stream of somebody who may no longer have it ends soon, and its events are with others at once."""
    changed = USUAL.replace(principal("ann", "reader"), principal("ann", "writer"))
    end = released_to_another(usual, changed, ("PERMISSION_DENIED", "PERMISSION_DENIED"))
    assert end.message.startswith("'ann' may not ")


def test_open_streams_of_who_is_gone(usual: Served) -> None:
    """So does that of somebody who is not known any more."""
    changed = USUAL.replace(principal("ann", "reader"), "")
    released_to_another(usual, changed, ("UNAUTHENTICATED", "UNAUTHENTICATED"))


def test_a_token_that_becomes_somebody_elses(usual: Served) -> None:
    """A stream does not go on as another principal, though that one may have it as well."""
    changed = USUAL.replace(principal("ann", "reader"), principal("ann", "reader").replace('"ann"', '"carl"'))
    # The name in the token is not the principal's now: nobody is known by it.
    released_to_another(usual, changed, ("UNAUTHENTICATED", "UNAUTHENTICATED"))


def test_a_principal_with_another_role(usual: Served) -> None:
    """Who may still have what he has keeps his stream, whatever his role is called."""
    name = new_consumer(usual)
    with subscribed(usual.caller("ann"), "ORDERS", consumer=name) as call:
        role = READING.replace("role.reader", "role.other").replace('"orders.>"', '"orders.>", "x.>"')
        usual.put(USUAL.replace(principal("ann", "reader"), role + principal("ann", "other")))
        usual.put(USUAL)
        event = usual.caller("writer").publish("orders.x")
        assert call.event(LIMIT).id == event
        call.ack(event)
        assert call.told(LIMIT) == ("ack", [event], [], [])


def test_a_quota_that_is_raised(usual: Served) -> None:
    """A stream of events that waits for its quota goes on when that is raised."""
    slow = principal("slow", "writer", more="max_rps = 0.001")
    usual.put(USUAL + slow)
    caller, requests = usual.caller("slow"), SimpleQueue[pb.PublishStreamRequest | None]()
    call = start(caller, iter(requests.get, None))
    call.initial_metadata()
    requests.put(pb.PublishStreamRequest(events=[an_event("orders.x")]))
    with refused("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"):
        caller.publish("orders.x")  # on the same connection, so the event is there as well
    usual.put(USUAL + slow.replace("0.001", "1000"))
    assert not next(call).errors
    requests.put(None)
    assert list(call) == []


def test_watches_follow_the_file(usual: Served) -> None:
    """A watch of dead letters ends like a consume call."""
    admin = usual.caller("all")
    admin.ensure_stream("BURIED")
    consumer(admin, "BURIED")
    letter = kill_off(admin, "BURIED")
    with watching(usual.caller("ann"), "BURIED", existing=True) as watch:
        assert watch.next(LIMIT).dead_letter.id == letter.id
        usual.put(USUAL.replace('read = ["*"], consumers', 'read = ["X"], consumers'))
        assert forbidden(watch.end(LIMIT))


def test_expiry(usual: Served) -> None:
    """An open stream ends when its token expires, and no call is let in with that any more."""
    name = new_consumer(usual)
    until = datetime.now(UTC) + timedelta(seconds=8)  # for the reload, the subscription and the event
    expiring = f'{{ sha256 = "{digest_of("ann")}", expires = {until.isoformat()} }}'
    usual.put(USUAL.replace(f'"{digest_of("ann")}"', expiring))
    with subscribed(usual.caller("ann"), "ORDERS", consumer=name) as call:
        held = usual.caller("writer").publish("orders.x")
        assert call.event(LIMIT).id == held
        end = call.end(LIMIT)
        assert datetime.now(UTC) >= until
        assert end is not None
        assert (end.code, end.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
        assert "expired" in end.message
    with subscribed(usual.caller("bob"), "ORDERS", consumer=name) as other:
        assert other.event(LIMIT).id == held
        other.ack(held)
        other.told(LIMIT)
    with refused("UNAUTHENTICATED", "UNAUTHENTICATED"):
        usual.caller("ann").publish("orders.x")


# What does not change


def test_a_broken_file(usual: Served) -> None:
    """Old rules stay, open streams too; the log says what is wrong and where, and metrics that it is."""
    name = new_consumer(usual)
    broken = {
        "syntax": USUAL + "\n[role.x\n",
        "an unknown key": USUAL + '\n[role.x]\npublsh = ["a"]\n',
        "an unknown role": USUAL + principal("eve", "nobody-knows"),
        "a token": USUAL
        + f'\n[[principals]]\nname = "eve"\ntoken_sha256 = ["{token_of("eve")}"]\nroles = ["all"]\n',
        "no text": "\0",
    }
    with subscribed(usual.caller("ann"), "ORDERS", consumer=name) as call:
        for what, text in broken.items():
            put(usual.file, text)
            usual.hang_up("failed")
            assert usual.seen().value("windshift_reload_failing", what="authorization") == 1
            error = [each for each in usual.records(level="error") if "cannot reload" in each["message"]][-1]
            assert "line " in error["message"], what
            assert str(usual.file) in error["message"]
            assert token_of("eve") not in usual.process.err
            assert (may_publish(usual), may_publish(usual, "ann")) == (True, False)
        event = usual.caller("writer").publish("orders.last")
        ids = [call.event(LIMIT).id]
        while ids[-1] != event:
            ids.append(call.event(LIMIT).id)
        call.ack(*ids)
        call.told(LIMIT)
    usual.put(USUAL)
    assert usual.seen().value("windshift_reload_failing", what="authorization") == 0


def test_a_file_that_is_gone(usual: Served) -> None:
    """The rules stay when the file is removed, and follow it when it is there again."""
    before = usual.reloads("failed")
    usual.file.unlink()  # and nobody says so
    usual.process.wait_for(lambda: usual.reloads("failed") > before)
    assert (may_publish(usual), may_publish(usual, "ann")) == (True, False)
    put(usual.file, USUAL.replace(principal("writer"), ""))
    usual.process.wait_for(lambda: not may_publish(usual))


# How a file is changed


def test_symbolic_links(usual: Served) -> None:
    """A link that is made to lead elsewhere is a change, also one on the way, as in a mounted secret."""
    directory = usual.file.parent / f"mounted-{time.monotonic_ns()}"
    for version, text in (("one", USUAL), ("two", USUAL.replace(principal("writer"), ""))):
        (directory / version).mkdir(parents=True)
        put(directory / version / "auth.toml", text)
    (directory / "data").symlink_to("one")
    usual.file.unlink()
    usual.file.symlink_to(directory / "data" / "auth.toml")
    usual.hang_up()
    assert may_publish(usual)
    (directory / "new").symlink_to("two")
    (directory / "new").replace(directory / "data")
    wait_for(lambda: not may_publish(usual))


def test_a_file_that_is_written_slowly(usual: Served) -> None:
    """Half of a file is never in force, though it may be one that could be used: the denies come last."""
    denied = USUAL.replace(PUBLISHING, "") + PUBLISHING + '[role.writer.deny]\npublish = ["orders.x"]\n'
    usual.put(denied)
    assert not may_publish(usual)
    size = len(denied) // 8 + 1
    pieces = [denied[start : start + size] for start in range(0, len(denied), size)]
    allowed: list[bool] = []
    done = Event()

    def ask() -> None:
        while not done.is_set():
            allowed.append(may_publish(usual))

    asking = Thread(target=ask)
    asking.start()
    try:
        before = usual.reloads()
        with usual.file.open("w") as file:
            for piece in pieces:
                file.write(piece)
                file.flush()
                done.wait(0.3)
        usual.process.wait_for(lambda: usual.reloads() > before)
    finally:
        done.set()
        asking.join()
    assert allowed
    assert not any(allowed)


def test_calls_that_wait_for_keys(nats_server: NatsServer, usual: Served) -> None:
    """A call that waited for its issuer's keys is judged by the rules of when it goes on."""
    signer, asked, answer = Signer("one"), Event(), Event()

    def slowly(request: Any) -> None:
        asked.set()
        answer.wait(LIMIT)
        content(key_set(signer))(request)

    with key_server(slowly) as keys:
        issuers = (
            f'[[issuers]]\nname = "corp"\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\n'
            f'jwks = "{keys.url}"\nalgorithms = ["ES256"]\n'
        )
        known = (
            issuers
            + '[[principals]]\nname = "ci"\nroles = ["reader"]\njwt = { issuer = "corp", sub = "ci" }\n'
        )
        usual.put(USUAL + known)
        wait_for(asked.is_set)
        name = new_consumer(usual)
        token = signer.token(claims(time.time(), sub="ci"))
        caller = usual.callers.with_metadata(bearer(token))
        with calling(caller) as call:
            call.say(subscribe=pb.EventsRequest.Subscribe(stream="ORDERS", consumer=name))
            usual.put(USUAL + known.replace('"reader"', '"writer"'))
            answer.set()
            assert forbidden(call.end(LIMIT))


def test_an_issuer_that_is_away(usual: Served) -> None:
    """A stream goes on when its token cannot be judged, and ends when the rules know its caller no longer."""
    signer = Signer("one")
    with key_server(content(key_set(signer))) as keys, key_server(content(b"", 503)) as broken:

        def known(url: str, sub: str = "ci") -> str:
            return (
                f'[[issuers]]\nname = "corp"\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\n'
                f'jwks = "{url}"\nalgorithms = ["ES256"]\n'
                '[[principals]]\nname = "ci"\nroles = ["reader"]\n'
                f'jwt = {{ issuer = "corp", sub = "{sub}" }}\n'
            )

        usual.put(USUAL + known(keys.url))
        name = new_consumer(usual)
        caller = usual.callers.with_token(signer.token(claims(time.time(), sub="ci")))
        with subscribed(caller, "ORDERS", consumer=name) as call:
            before = len(usual.records(issuer="corp"))
            usual.put(USUAL + known(broken.url))
            usual.process.wait_for(lambda: len(usual.records(issuer="corp")) > before)
            with refused("UNAVAILABLE", "IDENTITY_UNAVAILABLE"):
                ensure_consumer(caller, "ORDERS", name="other")
            event = usual.caller("writer").publish("orders.x")
            assert [each.id for each in call.events(1)] == [event]
            usual.put(USUAL + known(broken.url, sub="other"))
            end = call.end(LIMIT)
            assert end is not None
            assert end.code == "UNAUTHENTICATED"


def test_background_work_that_fails(
    nats_server: NatsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says so: nothing that depends on it happens any more."""
    monkeypatch.setattr(ActivePolicy, "expire", lambda *_: 1 / 0)
    with running_app(nats_server.url, WINDSHIFT_AUTH_FILE=str(put(tmp_path / "auth.toml", USUAL))):
        wait_for(lambda: "background work has failed" in caplog.text)
    assert "ZeroDivisionError" in caplog.text
