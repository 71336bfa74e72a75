"""The examples of docs/retries.md, against a server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from tests.support.client import EVENTS, Client
from tests.wire.management import ensure_stream, get_consumer
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "retries.md"
ADDRESS = "127.0.0.1:8080"


def blocks(language: str) -> list[str]:
    """Return the examples in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)


def test_what_grpcurl_sends(own_client: Client) -> None:
    """Each request is one, and is answered."""
    answers = []
    for body, method in re.findall(
        r"-d '(.*?)'.*? windshift\.events\.v1alpha1\.EventsService/(\w+)", "".join(blocks("sh")), re.DOTALL
    ):
        descriptor = EVENTS.methods_by_name[method]
        request = ParseDict(json.loads(body), GetMessageClass(descriptor.input_type)())
        answers.append(own_client.call(descriptor, request))
    _, ensured, seen = answers
    assert ensured.id == seen.id == "billing"
    assert (seen.retry_policy.max_attempts, seen.retry_policy.dead_letters) == (5, True)


def test_what_python_does(own_client: Client, own_address: str) -> None:
    """The consumer is as the example says, and a worker's failures become what it says of them."""
    ensure_stream(own_client, "orders")
    names: dict[str, Any] = {}
    for example in blocks("python"):
        exec(example.replace(ADDRESS, own_address), names)  # noqa: S102 - what users are told to run
    policy = get_consumer(own_client, "orders", "billing").retry_policy
    assert (policy.max_attempts, policy.dead_letters) == (5, True)
    assert policy.initial_backoff.ToMilliseconds() == 200
    assert policy.max_backoff.ToSeconds() == 60

    def fail(error: Exception) -> pb.EventsRequest:
        def work(_event: pb.Event) -> None:
            raise error

        told: pb.EventsRequest = names["verdict"](pb.Event(id=7), work)
        return told

    assert names["verdict"](pb.Event(id=7), lambda _event: None) == pb.EventsRequest(ack={"ids": [7]})
    passing = {"ids": [7], "reason": "busy", "error_type": "ConnectionError"}
    assert fail(ConnectionError("busy")) == pb.EventsRequest(reject=passing)
    lasting = {"ids": [7], "reason": "no customer", "error_type": "ValueError", "action": 2}
    assert fail(ValueError("no customer")) == pb.EventsRequest(reject=lasting)
    names["channel"].close()
