"""A call that fails leaves nothing behind that waits for the garbage collector, which holds up everybody.

An error that is held by a frame of its own traceback keeps all frames of the call, and with them its request.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from tests.support.client import DEAD_LETTERS, EVENTS, Client
from tests.support.freed import alive, without_collector
from tests.support.windshift_process import wait_for
from tests.wire.consuming import calling, ensure_consumer
from tests.wire.test_publish_batches import an_event, publish
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin_pb
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.nats import JetStreamError
from windshift.server.domain import errors

ADMIN = admin_pb.DESCRIPTOR.services_by_name["AdminService"]

Unique = Callable[[], str]


def _conflict(client: Client, stream: str) -> None:
    publish(client, an_event(f"{stream}.a", expected_last_id=7), atomic=True)


def _too_large(client: Client, stream: str) -> None:
    response = publish(client, *[an_event(f"{stream}.a", "x" * 2000)] * 10)
    assert {error.reason for error in response.errors} == {"EVENT_TOO_LARGE"}


def _taken_subjects(client: Client, stream: str) -> None:
    client.ensure_stream(f"{stream}-2", f"{stream}.>")


def _no_stream(client: Client, stream: str) -> None:
    client.call(EVENTS.methods_by_name["EnsureConsumer"], pb.EnsureConsumerRequest(stream=f"{stream}-none"))


def _no_event(client: Client, stream: str) -> None:
    client.call(ADMIN.methods_by_name["DeleteEvent"], admin_pb.DeleteEventRequest(stream=stream, id=7))


def _no_ids(client: Client, _: str) -> None:
    client.call(DEAD_LETTERS.methods_by_name["Purge"], dead_letters_pb.PurgeRequest(ids=["no id"] * 100))


def _second_subscription(client: Client, stream: str) -> None:
    consumer = ensure_consumer(client, stream)
    with calling(client) as call:
        call.subscribe(stream, consumer)
        call.say(subscribe=pb.EventsRequest.Subscribe(stream=stream, consumer=consumer))
        end = call.end()
        assert end is not None
        assert end.reason == "ALREADY_SUBSCRIBED"


@pytest.mark.parametrize(
    ("fail", "kind"),
    [
        (_conflict, errors.WrongLastId),
        (_too_large, errors.EventTooLarge),
        (_taken_subjects, JetStreamError),
        (_no_stream, errors.StreamNotFound),
        (_no_event, JetStreamError),
        (_no_ids, errors.InvalidField),
        (_second_subscription, errors.AlreadySubscribed),
    ],
)
def test_errors_are_freed_at_once(
    client: Client, unique: Unique, fail: Callable[[Client, str], None], kind: type[Exception]
) -> None:
    """Whatever the reason is for which something is refused."""
    name = client.ensure_stream(unique(), max_event_size=1000)
    with without_collector():
        try:
            fail(client, name)
        except grpc.RpcError:
            pass
        wait_for(lambda: not alive(kind), lambda: f"there are still some: {kind.__name__}")
