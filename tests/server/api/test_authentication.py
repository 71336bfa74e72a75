"""Calls are judged before their handlers begin, without holding up others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from tests.authorization.policies import principal, token_of
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.rpc import Service
from windshift.rpc.service import snake_case
from windshift.server.api.auditing import audit_calls
from windshift.server.api.authentication import AuthInterceptor
from windshift.server.api.callers import admission_of
from windshift.server.api.dead_letters import DEAD_LETTERS
from windshift.server.api.events import EVENTS
from windshift.server.api.policies import MOST_ACTIONS
from windshift.server.auth.access import ActivePolicy
from windshift.server.auth.audit import Audit
from windshift.server.auth.authenticate import Authenticator
from windshift.server.auth.policy_file import parse_policy
from windshift.server.domain.errors import InvalidField, PermissionDenied, QuotaExceeded
from windshift.server.events.counts import Counts

PURGE = "/windshift.deadletters.v1alpha1.DeadLettersService/Purge"
PUBLISH = "/windshift.events.v1alpha1.EventsService/PublishEvent"
PUBLISH_BATCH = "/windshift.events.v1alpha1.EventsService/PublishBatch"
ENSURE_CONSUMER = "/windshift.events.v1alpha1.EventsService/EnsureConsumer"
ENSURE_STREAM = "/windshift.events.v1alpha1.EventsService/EnsureStream"


def rules(more: str = "", of_ann: str = "") -> Authenticator:
    """Let somebody make a stream of what begins with ``a``."""
    role = '[role.ann]\nstreams = { manage = ["S"], bind = ["a.>"] }\n'
    return Authenticator(parse_policy(role + more + principal("ann", more=of_ann)))


def a_connection() -> Any:
    """Return what a call comes over."""
    return SimpleNamespace(state=(), account=None, on_closed=None)


@dataclass
class Call:
    """A call that has come whole."""

    method: str = ENSURE_STREAM
    peer: str = "127.0.0.1:1"
    started: float = 0
    state: Any = None
    connection: Any = field(default_factory=a_connection)
    work: Callable[[], Awaitable[Any]] | None = None

    def go_on(self, work: Callable[[], Awaitable[Any]]) -> None:
        self.work = work

    def raw_header(self, _: bytes) -> bytes:
        return f"Bearer {token_of('ann')}".encode()


class Behind:
    """What stands behind the interceptor."""

    def __init__(self, more: str = "") -> None:
        self.access, self.audit = ActivePolicy(rules(of_ann=more)), Audit()
        self.handled = 0
        handlers = dict.fromkeys(map(snake_case, EVENTS.methods_by_name), self.handle)
        method = Service(EVENTS, SimpleNamespace(**handlers)).methods[ENSURE_STREAM]
        self.method = AuthInterceptor(self.access, self.audit, Counts()).intercept(method)

    async def handle(self, *_: Any) -> None:
        self.handled += 1

    def begin(self, call: Any, subjects: int, name: str = "S") -> None:
        """Begin a call for a stream of so many subjects."""
        call.started = asyncio.get_running_loop().time()
        assert self.method.on_headers is not None
        assert self.method.on_headers(call) is None
        request = pb.EnsureStreamRequest(name=name)
        request.subjects.subjects.extend(f"a.{number}" for number in range(subjects))
        self.method.handler(request, call)

    async def ensure(self, subjects: int) -> None:
        """Make one, and do its work."""
        call: Any = Call()
        self.begin(call, subjects)
        await call.work()


async def turns(work: asyncio.Task[None]) -> int:
    """Wait for the work, and count the turns that others have meanwhile."""
    count = 0
    while not work.done():
        await asyncio.sleep(0)
        count += 1
    await work
    return count


async def test_a_few_things() -> None:
    """What asks for little is judged in one turn of the loop."""
    behind = Behind()
    assert await turns(asyncio.create_task(behind.ensure(3))) <= 2
    assert behind.handled == 1


async def test_thousands_of_things() -> None:
    """Other calls have their turns while a request is judged that asks for thousands of things."""
    behind = Behind()
    assert await turns(asyncio.create_task(behind.ensure(4000))) > 50
    assert behind.handled == 1


async def test_what_asks_for_too_much_is_refused_in_turns_as_well() -> None:
    """Nothing is made of all that a request asks for at once."""
    behind = Behind()
    begun = asyncio.create_task(behind.ensure(MOST_ACTIONS))  # and the stream itself
    for _ in range(20):
        await asyncio.sleep(0)
    assert not begun.done()
    with pytest.raises(InvalidField, match=r"^the request needs more than 16384 permissions"):
        await begun
    assert behind.handled == 0


async def test_rules_that_change_meanwhile() -> None:
    """All that is asked for is allowed by the same rules: those that are in force when the handler begins."""
    behind = Behind()
    work = asyncio.create_task(behind.ensure(4000))
    for _ in range(20):
        await asyncio.sleep(0)
    behind.access.replace(rules('deny.streams.bind = ["a.1"]\n'), asyncio.get_running_loop().time())
    with pytest.raises(PermissionDenied):
        await work
    assert behind.handled == 0


async def test_connections_of_a_principal_share_an_account() -> None:
    """Of the loop's time; and keep it from call to call."""
    method, connections = Behind().method, [a_connection(), a_connection()]
    assert method.on_headers is not None
    accounts = []
    for connection in (*connections, *connections):
        method.on_headers(Call(connection=connection))
        accounts.append(connection.account)
    assert all(account is accounts[0] for account in accounts)


async def test_connections_beyond_the_quota_share_the_account_as_well() -> None:
    """The one that is refused costs its caller; one that ends is given back, once."""
    behind = Behind("quotas = { connections = 1 }")
    first, second = a_connection(), a_connection()
    on_headers = behind.method.on_headers
    assert on_headers is not None
    for _ in range(2):
        on_headers(Call(connection=first))
        with pytest.raises(QuotaExceeded):
            on_headers(Call(connection=second))
    assert second.account is first.account
    assert second.on_closed is None
    assert behind.audit.denials["QUOTA_EXCEEDED"] == 2
    first.on_closed()
    on_headers(Call(connection=second))
    with pytest.raises(QuotaExceeded):
        on_headers(Call(connection=a_connection()))


@pytest.mark.parametrize("more", ["", "max_rps = 1"], ids=["forbidden", "too many"])
async def test_a_publish_that_is_denied_takes_no_task(more: str) -> None:
    """It is refused in place: tasks of busy callers wait, and a flood of such calls would fill the line."""
    policy = parse_policy('[role.ann]\npublish = ["a.>"]\n' + principal("ann", more=more))
    access, audit, published = ActivePolicy(Authenticator(policy)), Audit(), list[str]()

    def handle(request: pb.PublishEventRequest, _: Any) -> None:
        published.append(request.subject)

    handlers = dict.fromkeys(map(snake_case, EVENTS.methods_by_name), handle)
    publish = Service(EVENTS, SimpleNamespace(**handlers)).methods[PUBLISH]
    publish = AuthInterceptor(access, audit, Counts()).intercept(publish)
    call: Any = Call(PUBLISH)
    assert publish.on_headers is not None
    assert publish.on_headers(call) is None
    publish.handler(pb.PublishEventRequest(subject="a.b"), call)
    denied = QuotaExceeded if more else PermissionDenied
    with pytest.raises(denied):
        publish.handler(pb.PublishEventRequest(subject="a.b" if more else "b.a"), call)
    assert (published, audit.denials[denied.reason]) == (["a.b"], 1)


@pytest.mark.parametrize("more", ["", "max_rps = 0.001"], ids=["forbidden", "too many"])
async def test_other_calls_that_are_denied_take_no_task(more: str) -> None:
    """The same."""
    behind = Behind(more)
    await behind.ensure(3)
    call: Any = Call()
    denied = QuotaExceeded if more else PermissionDenied
    with pytest.raises(denied):
        behind.begin(call, 3, "S" if more else "T")
    assert (behind.handled, call.work, behind.audit.denials[denied.reason]) == (1, None, 1)


async def test_a_call_judged_by_rules_that_are_replaced_before_it_begins() -> None:
    """It is judged once more: its task may have waited for long."""
    behind = Behind()
    call: Any = Call()
    behind.begin(call, 3)
    behind.access.replace(rules('deny.streams.bind = ["a.1"]\n'), asyncio.get_running_loop().time())
    with pytest.raises(PermissionDenied):
        await call.work()
    assert behind.handled == 0


async def test_a_batch_whose_caller_is_gone_meanwhile() -> None:
    """It is answered all the same: its events may be stored, and an error would say that none is."""
    behind, stored = Behind(), asyncio.Event()

    async def handle(request: pb.PublishBatchRequest, call: Any) -> pb.PublishBatchResponse:
        assert admission_of(call) is not None
        await stored.wait()
        return pb.PublishBatchResponse(ids=[1])

    handlers = dict.fromkeys(map(snake_case, EVENTS.methods_by_name), handle)
    batch = Service(EVENTS, SimpleNamespace(**handlers)).methods[PUBLISH_BATCH]
    batch = AuthInterceptor(behind.access, behind.audit, Counts()).intercept(batch)
    call: Any = Call(PUBLISH_BATCH, started=asyncio.get_running_loop().time())
    assert batch.on_headers is not None
    assert batch.on_headers(call) is None
    batch.handler(pb.PublishBatchRequest(), call)
    work = asyncio.ensure_future(call.work())
    while not behind.access.open:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    behind.access.replace(Authenticator(parse_policy(principal("bob", "bob") + "[role.bob]\n")), call.started)
    stored.set()
    assert await work == pb.PublishBatchResponse(ids=[1])
    assert not any(behind.audit.denials.values())


# What the audit log names


async def managed(caplog: pytest.LogCaptureFixture, method: str, request: Any) -> str:
    """Have a call recorded, and return what it managed by that."""

    async def handle(*_: Any) -> None:
        pass

    descriptor = DEAD_LETTERS if "deadletters" in method else EVENTS
    handlers = dict.fromkeys(map(snake_case, descriptor.methods_by_name), handle)
    service = Service(descriptor, SimpleNamespace(**handlers))
    intercepted = audit_calls(Audit(), service.methods[method])
    caplog.set_level("INFO")
    await intercepted.handler(request, Call(method))
    return str(caplog.records[-1].__dict__["resource"])


async def test_all_that_is_managed_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    """Who purges dead letters of several consumers hides none behind the first."""
    ids = ["A.one.1.1", "A.one.2.1", "no id", "B.two.1.1"]
    assert await managed(caplog, PURGE, dead_letters_pb.PurgeRequest(ids=ids)) == "A one, B two"
    assert await managed(caplog, PURGE, dead_letters_pb.PurgeRequest(ids=["no id"])) == ""
    of_all = dead_letters_pb.PurgeRequest(filter=dead_letters_pb.Filter(), ids=ids)
    assert await managed(caplog, PURGE, of_all) == "* *, A one, B two"
    many = dead_letters_pb.PurgeRequest(ids=[f"A.c{number}.1.1" for number in range(1000)])
    named = await managed(caplog, PURGE, many)
    assert named.startswith("A c0, A c1, ")
    assert named.endswith("A c19, and 980 more")
    too_many = pb.EnsureConsumerRequest(stream="S", name="c", subjects=[f"a.{each}" for each in range(5000)])
    assert (await managed(caplog, ENSURE_CONSUMER, too_many)).endswith("S a.19 c, and more")
    stream = pb.EnsureStreamRequest(name="S", subjects={"subjects": ["a.>", "b.>"]})
    assert await managed(caplog, ENSURE_STREAM, stream) == "S"
