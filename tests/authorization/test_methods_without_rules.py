"""A method that nobody wrote a rule for is denied to everybody, whatever it is called."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass

from tests._gen.grpc.testing import test_pb2
from tests.authorization.callers import Caller, bearer
from tests.authorization.policies import ALL, principal, token_of
from tests.authorization.rows import DENIED, UNKNOWN, Answer, invoke
from tests.support.client import any_of
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.rpc import Server, ServerOptions, Service
from windshift.server.api.errors import translate
from windshift.server.api.guard import Guard
from windshift.server.auth.access import Access
from windshift.server.auth.audit import Audit
from windshift.server.auth.authenticate import Authenticator
from windshift.server.auth.policy_file import parse_policy


def service_of_tomorrow() -> ServiceDescriptor:
    """Declare a service whose methods are called like some that have rules."""
    pool = Default()
    file = FileDescriptorProto(
        name="windshift/tomorrow.proto",
        package="windshift.tomorrow",
        dependency=[pb.DESCRIPTOR.name],
        syntax="proto3",
    )
    service = file.service.add(name="EventsService")
    for name in ("Publish", "PublishEvent", "Get", "Check"):
        service.method.add(
            name=name,
            input_type=".windshift.events.v1alpha1.PublishEventRequest",
            output_type=".windshift.events.v1alpha1.PublishEventResponse",
        )
    service.method.add(
        name="Events",
        client_streaming=True,
        server_streaming=True,
        input_type=".windshift.events.v1alpha1.PublishEventRequest",
        output_type=".windshift.events.v1alpha1.PublishEventResponse",
    )
    pool.Add(file)
    return pool.FindServiceByName("windshift.tomorrow.EventsService")


TOMORROW = service_of_tomorrow()
TESTING: Any = test_pb2.DESCRIPTOR.services_by_name["TestService"]


class Everything:
    """Answers every method, and notes that it was reached."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    def __getattr__(self, name: str) -> Any:
        async def handler(*_: Any) -> Any:
            self.reached.append(name)

        return handler


@pytest.fixture
def reached() -> Everything:
    """Make an implementation of everything."""
    return Everything()


@pytest.fixture
async def address(reached: Everything) -> AsyncIterator[str]:
    """Serve the methods, all of them protected by rules that let one principal do everything."""
    guard = Guard(Access(Authenticator(parse_policy(ALL + principal("all")))), Audit())
    services = [Service(TOMORROW, reached), Service(TESTING, reached)]
    for service in services:
        guard.protect(service)
    options = ServerOptions(admit=guard.admit, translate=lambda path, error: translate(path, error, 1))
    server = Server(services, options)
    host, port = await server.listen("127.0.0.1", 0)
    yield f"{host}:{port}"
    server.close()


def answers(address: str, token: str | None) -> dict[str, Answer]:
    """Call every method."""
    caller = Caller(address, () if token is None else bearer(token))
    found = {}
    for service in (TOMORROW, TESTING):
        for method in service.methods:
            message: Any = pb.PublishEventRequest(subject="orders.a", data=any_of("x"))
            if service is TESTING:
                message = GetMessageClass(method.input_type)()
            found[method.full_name] = invoke(caller, method, message).answer
    caller.channel.close()
    return found


async def test_no_rule(address: str, reached: Everything) -> None:
    """Who may do everything may not do this, and no handler is reached; nobody at all is told even less."""
    known = await asyncio.to_thread(answers, address, token_of("all"))
    assert len(known) == len(TOMORROW.methods) + len(TESTING.methods)
    assert set(known.values()) == {DENIED}
    assert set((await asyncio.to_thread(answers, address, None)).values()) == {UNKNOWN}
    assert reached.reached == []
