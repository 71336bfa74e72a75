"""Calls of the admin service as a client makes them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from tests.support.client import Client
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as pb

ADMIN = pb.DESCRIPTOR.services_by_name["AdminService"]


def ask(client: Client, method: str, **fields: Any) -> Any:
    """Call a method; fields as in Protobuf's JSON."""
    descriptor = ADMIN.methods_by_name[method]
    return client.call(descriptor, ParseDict(fields, GetMessageClass(descriptor.input_type)()))


def ask_all(client: Client, method: str, **fields: Any) -> Any:
    """Call a method that asks other servers, until none is missing: a busy one may answer too late."""
    until = time.monotonic() + 60
    while (answer := ask(client, method, **fields)).missing:
        assert time.monotonic() < until, answer
    return answer


def read_all(client: Client, stream: str, **fields: Any) -> list[int]:
    """Read page after page of events; give the ids in their order."""
    ids: list[int] = []
    token = ""
    while True:
        page = ask(client, "ReadEvents", stream=stream, page_token=token, **fields)
        ids += [event.event.id for event in page.events]
        token = page.next_page_token
        if not token:
            return ids


def tail(
    client: Client, stream: str, timeout: float = 30, begin: dict[str, Any] | None = None, **fields: Any
) -> Any:
    """Begin a tail, and return when it stands."""
    call = client.channel.unary_stream(
        f"/{ADMIN.full_name}/TailEvents",
        request_serializer=pb.TailEventsRequest.SerializeToString,
        response_deserializer=pb.TailEventsResponse.FromString,
    )
    responses = call(
        ParseDict(fields | {"from": begin}, pb.TailEventsRequest(stream=stream)), timeout=timeout
    )
    responses.initial_metadata()
    return responses


def until_caught_up(responses: Iterator[pb.TailEventsResponse]) -> list[int]:
    """Give the ids of the events before a tail has caught up."""
    ids: list[int] = []
    for response in responses:
        if response.caught_up:
            return ids
        if response.HasField("event"):
            ids.append(response.event.event.id)
    raise AssertionError("the tail ended")
