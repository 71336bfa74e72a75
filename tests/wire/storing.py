"""Transactions and watches of stores as a client makes them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from tests.support.client import STATE, Client, any_of, text_of
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as pb


def put(key: str, text: str = "text", **ttl: int) -> pb.TransactRequest.Write:
    """Write a text."""
    return pb.TransactRequest.Write(key=key, set={"value": any_of(text), "ttl": ttl or None})


def drop(key: str) -> pb.TransactRequest.Write:
    """Delete a key."""
    return pb.TransactRequest.Write(key=key, delete=True)


def at(key: str, revision: int) -> pb.TransactRequest.Check:
    """Expect a revision."""
    return pb.TransactRequest.Check(key=key, revision=revision)


def absent(key: str) -> pb.TransactRequest.Check:
    """Expect nothing."""
    return pb.TransactRequest.Check(key=key, absent=True)


def transact(
    client: Client,
    store: str,
    *steps: pb.TransactRequest.Write | pb.TransactRequest.Check,
    timeout: float = 30,
) -> list[int]:
    """Make a transaction; give the revisions of its writes."""
    request = pb.TransactRequest(store=store)
    for step in steps:
        if isinstance(step, pb.TransactRequest.Check):
            request.checks.append(step)
        else:
            request.writes.append(step)
    return list(client.call(STATE.methods_by_name["Transact"], request, timeout).revisions)


def watch(client: Client, store: str, timeout: float = 30, **fields: Any) -> Any:
    """Begin a watch, and return when it stands."""
    call = client.channel.unary_stream(
        f"/{STATE.full_name}/Watch",
        request_serializer=pb.WatchRequest.SerializeToString,
        response_deserializer=pb.WatchResponse.FromString,
    )
    responses = call(pb.WatchRequest(store=store, **fields), timeout=timeout)
    responses.initial_metadata()
    return responses


def until_up_to_date(responses: Iterator[pb.WatchResponse]) -> tuple[list[str], int]:
    """Give what came before a watch was up to date, and the revision that it told."""
    found: list[str] = []
    for response in responses:
        if response.HasField("up_to_date"):
            return found, response.up_to_date.revision
        found.append(shown(response.entry))
    raise AssertionError("the watch ended")


def shown(entry: pb.Entry) -> str:
    """Write a change down."""
    return f"{entry.key} deleted" if entry.deleted else f"{entry.key}={text_of(entry.value)}"


def following(responses: Iterator[pb.WatchResponse], count: int) -> list[str]:
    """Give so many changes."""
    return [shown(response.entry) for response in itertools.islice(responses, count)]
