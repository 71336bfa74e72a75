"""The examples of docs/looking.md, called as they stand there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from tests.support.client import DEAD_LETTERS, Client
from tests.support.nats_server import NatsServer
from tests.wire.looking import ADMIN, ask, tail
from tests.wire.management import ensure_consumer

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "looking.md"


def examples(service: str = "A") -> list[tuple[str, dict[str, Any]]]:
    """Give method and request of each command, in their order."""
    found = re.findall(rf"^\$W -d '(.*?)' \$S \${service}/(\w+)", DOCUMENT.read_text(), re.MULTILINE)
    return [(method, json.loads(request)) for request, method in found]


def test_examples(own_client: Client, own_nats_server: NatsServer) -> None:
    """Each is answered, and each method is shown."""
    own_client.ensure_stream("orders", "orders.>")
    ensure_consumer(own_client, "orders", name="billing")
    for subject in ("orders.new", "orders.paid", "orders.new"):
        own_client.publish(subject)
    for method, request in examples("D"):
        described = DEAD_LETTERS.methods_by_name[method]
        own_client.call(described, ParseDict(request, GetMessageClass(described.input_type)()))
    for method, request in examples():
        if method == "TailEvents":
            assert next(tail(own_client, request.pop("stream"), **request)).caught_up
        else:
            ask(own_client, method, **request)
    assert {method for method, _ in examples()} == set(ADMIN.methods_by_name)
