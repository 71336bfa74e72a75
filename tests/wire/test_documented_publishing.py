"""The examples of docs/publishing.md, called as they stand there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from tests.support.client import EVENTS, Client
from tests.wire.test_publish_streams import start
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "publishing.md"


def test_examples(own_client: Client) -> None:
    """Each is answered, and stores what it says."""
    found = re.findall(r"^\$W -d '(.*?)' \$S \$A/(\w+)", DOCUMENT.read_text(), re.MULTILINE)
    ids: list[int] = []
    for method, fields in [(method, json.loads(request)) for request, method in found]:
        descriptor = EVENTS.methods_by_name[method]
        request = ParseDict(fields, GetMessageClass(descriptor.input_type)())
        if isinstance(request, pb.PublishStreamRequest):
            [response] = start(own_client, iter([request]))
            assert (response.count, len(response.errors)) == (1, 0)
        else:
            response = own_client.call(descriptor, request)
        ids += getattr(response, "ids", ())
    assert ids == [1, 2, 3, 4]
