"""A method that nobody wrote a policy for is not served, whatever it is called."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default

from tests.authorization.policies import ALL, principal
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.rpc import Interceptor, Server, Service
from windshift.rpc.service import UNLIMITED
from windshift.server.api.auditing import audit_calls
from windshift.server.api.authentication import AuthInterceptor
from windshift.server.api.policies import NoPolicy
from windshift.server.api.sizes import limit_requests
from windshift.server.auth.access import ActivePolicy
from windshift.server.auth.audit import Audit
from windshift.server.auth.authenticate import Authenticator
from windshift.server.auth.policy_file import parse_policy
from windshift.server.config.read import config_from_environment
from windshift.server.events.counts import Counts
from windshift.server.process import app
from windshift.server.telemetry.signals import Telemetry


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
TOMORROW = service_of_tomorrow()


async def _handler(*_: object) -> None:
    """Do nothing."""


def interceptors() -> list[Interceptor]:
    """List those that a server has."""
    access = ActivePolicy(Authenticator(parse_policy(ALL + principal("all"))))
    judge = AuthInterceptor(access, Audit(), Counts())
    return [partial(limit_requests, UNLIMITED), judge.intercept, partial(audit_calls, Audit())]


@pytest.mark.parametrize("name", ["publish", "publish_event", "get", "check", "events"])
async def test_each_interceptor_refuses_it(name: str) -> None:
    """A server with any of them cannot be made with such a method, though it is called like a known one."""
    services = [Service(TOMORROW, SimpleNamespace(**{name: _handler}))]
    for interceptor in interceptors():
        with pytest.raises(NoPolicy, match=r"/windshift\.tomorrow\.EventsService/"):
            Server(services, interceptors=[interceptor])


async def test_the_start_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without authorization, too: a server that has such a method does not come up."""
    answered = app._with_reflection
    more = Service(TOMORROW, SimpleNamespace(publish=_handler))
    monkeypatch.setattr(app, "_with_reflection", lambda services: answered([*services, more]))
    config = config_from_environment({"NATS_URL": "nats://127.0.0.1:4222"})
    with pytest.raises(NoPolicy, match="Publish"):
        app.App(config, config.nats.servers, Telemetry(config.telemetry))
