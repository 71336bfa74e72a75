"""What lies in NATS, read past Windshift: with nats-py alone, from the broker itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
from google.protobuf.any_pb2 import Any as AnyMessage
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from nats.js.errors import ServiceUnavailableError

from tests.faults.history import Stored
from tests.faults.serializable import Version
from windshift._gen.windshift.test.v1.test_pb2 import StringValue


@asynccontextmanager
async def looking(url: str) -> AsyncIterator[Client]:
    """Connect to a nats-server."""

    async def ignore(_: Exception) -> None:
        """Errors while a server is away are no news here."""

    client = await nats.connect(
        url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, allow_reconnect=True, error_cb=ignore
    )
    try:
        yield client
    finally:
        await client.close()


async def ask(client: Client, api: str, request: dict[str, Any] | None = None, within: float = 60.0) -> Any:
    """Make a call of JetStream's API, and repeat it until it is answered."""
    body = json.dumps(request).encode() if request else b""
    async with asyncio.timeout(within):
        while True:
            try:
                answer = json.loads((await client.request(f"$JS.API.{api}", body, timeout=2)).data)
            except (TimeoutError, nats.errors.Error):
                await asyncio.sleep(0.1)
                continue
            if answer.get("error", {}).get("code") != 503:
                return answer
            await asyncio.sleep(0.1)


async def leader(client: Client, stream: str, consumer: str = "") -> str:
    """Return the name of the node that leads a stream or a consumer; empty while there is none."""
    name = f"CONSUMER.INFO.{stream}.{consumer}" if consumer else f"STREAM.INFO.{stream}"
    answer = await ask(client, name)
    return str(answer.get("cluster", {}).get("leader", ""))


async def read_stream(url: str, stream: str, within: float = 120.0) -> dict[int, Stored]:
    """Read a whole stream of events."""
    return {
        (number := message.metadata.sequence.stream): Stored(
            number,
            message.subject,
            (message.headers or {}).get("Nats-Msg-Id", ""),
            StringValue.FromString(message.data).value,
        )
        for message in await _read(url, stream, within)
    }


async def read_bucket(url: str, bucket: str, within: float = 120.0) -> list[Version]:
    """Read all that a bucket holds, in the order of revisions."""
    start = len(f"$KV.{bucket}.")
    versions = []
    for message in await _read(url, f"KV_{bucket}", within):
        value = StringValue.FromString(AnyMessage.FromString(message.data).value).value
        versions.append(Version(message.metadata.sequence.stream, message.subject[start:], value))
    return versions


_SILENT = 5
"""Seconds without a message after which a consumer is given up, where there are more."""


async def _read(url: str, stream: str, within: float) -> list[Msg]:
    async with asyncio.timeout(within), looking(url) as client:
        last = int((await ask(client, f"STREAM.INFO.{stream}"))["state"]["last_seq"])
        jetstream = client.jetstream(timeout=10)
        pull = await _reader(jetstream, stream)
        stored: list[Msg] = []
        reached = silent = 0
        while reached < last:
            try:
                messages = await pull.fetch(1000, timeout=1)
            except TimeoutError:
                if int((await ask(client, f"STREAM.INFO.{stream}"))["state"]["messages"]) <= len(stored):
                    break  # the last ones were removed
                silent += 1
                if silent == _SILENT:
                    pull, stored, reached, silent = await _reader(jetstream, stream), [], 0, 0
                continue
            except ServiceUnavailableError:  # the consumer may be gone, with its server
                pull, stored, reached = await _reader(jetstream, stream), [], 0
                continue
            silent = 0
            for message in messages:
                reached = message.metadata.sequence.stream
                stored.append(message)
        await pull.unsubscribe()
        return stored


async def _reader(jetstream: JetStreamContext, stream: str) -> JetStreamContext.PullSubscription:
    """Make a consumer to read with, and repeat that while a cluster has no leader."""
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE, mem_storage=True, num_replicas=1
    )
    while True:
        try:
            return await jetstream.pull_subscribe("", stream=stream, config=config)
        except (TimeoutError, ServiceUnavailableError):
            await asyncio.sleep(0.1)


async def dead_letters(url: str) -> list[int]:
    """Return the ids of the events that are dead letters, as often as they are."""
    async with looking(url) as client:
        request = {"subjects_filter": "_WS.dead.>"}
        answer = await ask(client, "STREAM.INFO.WS_DEAD_LETTERS", request)
    subjects = answer.get("state", {}).get("subjects") or {}
    return [int(subject.split(".")[4]) for subject, count in subjects.items() for _ in range(count)]


async def dead_letters_of(url: str, stream: str, consumer: str) -> list[int]:
    """Return the ids of the events of one consumer that are dead letters, as often as they are."""
    async with looking(url) as client:
        request = {"subjects_filter": f"_WS.dead.{stream}.{consumer}.>"}
        answer = await ask(client, "STREAM.INFO.WS_DEAD_LETTERS", request)
    subjects = answer.get("state", {}).get("subjects") or {}
    return [int(subject.split(".")[4]) for subject, count in subjects.items() for _ in range(count)]


async def has_leader(url: str, within: float = 60.0) -> None:
    """Wait until a cluster takes orders."""
    async with looking(url) as client:
        await ask(client, "INFO", within=within)


async def all_current(url: str, within: float = 120.0) -> None:
    """Wait until each stream and consumer of a cluster has a leader, and replicas that have all of it."""
    async with looking(url) as client, asyncio.timeout(within):
        for stream in (await ask(client, "STREAM.NAMES"))["streams"] or ():
            await _is_current(client, f"STREAM.INFO.{stream}")
            for consumer in (await ask(client, f"CONSUMER.NAMES.{stream}"))["consumers"] or ():
                await _is_current(client, f"CONSUMER.INFO.{stream}.{consumer}")


async def _is_current(client: Client, api: str) -> None:
    while True:
        cluster = (await ask(client, api)).get("cluster", {})
        if cluster.get("leader") and all(each.get("current") for each in cluster.get("replicas", ())):
            return
        await asyncio.sleep(0.2)


async def fill(url: str, stream: str, subject: str, count: int, size: int = 0) -> None:
    """Store events as Windshift would, numbered from 0, in order, and faster than a client could."""
    headers = {"WS-Data-Type": "windshift.test.v1.StringValue"}
    async with looking(url) as client:
        for number in range(count):
            data = StringValue(value=f"{number}".ljust(size, ".")).SerializeToString()
            if number % 500 == 499 or number == count - 1:
                await client.request(subject, data, headers=headers, timeout=30)
            else:
                await client.publish(subject, data, headers=headers)
