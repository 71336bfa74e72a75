"""Whom a server takes a client for, told from what it may not do."""

from __future__ import annotations

import re

from tests.authorization.rows import DENIED, UNKNOWN, invoke, method_of
from tests.support.client import Client, Refusal
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

_METHOD = method_of("EventsService/GetConsumer")
_REQUEST = pb.GetConsumerRequest(stream="some", id="some")
_NAMED = re.compile("'([^']+)' may not ")


def answer_to(client: Client) -> Refusal:
    """Ask for something that nobody may have."""
    refusal = invoke(client, _METHOD, _REQUEST).refusal
    assert refusal is not None
    return refusal


def who(client: Client) -> str | None:
    """Return the principal that a client is taken for, None for nobody. It must have no rights."""
    refusal = answer_to(client)
    if (refusal.code, refusal.reason) == UNKNOWN:
        return None
    assert (refusal.code, refusal.reason) == DENIED, refusal
    named = _NAMED.match(refusal.message)
    assert named is not None
    return named[1]
