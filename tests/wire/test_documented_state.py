"""The examples of docs/state.md, called as they stand there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from tests.support.client import STATE, Client
from tests.support.nats_server import NatsServer

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "state.md"


def examples() -> list[tuple[str, dict[str, Any]]]:
    """Give method and request of each command, in their order."""
    found = re.findall(r"^\$W -d '(.*?)' \$S \$A/(\w+)", DOCUMENT.read_text(), re.MULTILINE)
    return [(method, json.loads(request)) for request, method in found]


def test_examples(own_client: Client, own_nats_server: NatsServer) -> None:
    """Each is answered, and each method is shown."""
    for method, fields in examples():
        descriptor = STATE.methods_by_name[method]
        request = ParseDict(fields, GetMessageClass(descriptor.input_type)())
        if descriptor.server_streaming:
            call = own_client.channel.unary_stream(
                f"/{STATE.full_name}/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=GetMessageClass(descriptor.output_type).FromString,
            )
            assert next(call(request, timeout=20)).WhichOneof("response")
        else:
            own_client.call(descriptor, request)
    assert {method for method, _ in examples()} == set(STATE.methods_by_name)
