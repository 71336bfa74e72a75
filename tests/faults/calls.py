"""Clients as users write them: grpcio's asyncio API, keys for idempotency, retries of what may be retried.

Every call is put down in the history, with all of its tries.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from tests.faults.history import LOST_WHILE_WRITING, Access, Failure, History, Outcome, Publish, Transaction
from tests.support.client import EVENTS, STATE, any_of, text_of
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb

DEADLINE = 15.0
"""Seconds that a call with its retries may take: the default of the API."""

_PUBLISH = EVENTS.methods_by_name["PublishEvent"]

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 250),  # how long an attempt to connect may take, too
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.enable_retries", 0),  # this client retries itself, so that each try is seen
)

_NOTHING_STORED = {"BROKER_UNAVAILABLE", "TOO_MANY_IN_FLIGHT", "SHUTTING_DOWN"}
"""Reasons that say that a call has had no effect, and may be made again."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What an error said."""

    failure: Failure
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def retryable(self) -> bool:
        """Whether trying again may help."""
        return self.failure.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED") or (
            self.failure.reason == "TOO_MANY_IN_FLIGHT"
        )

    @property
    def certain(self) -> bool:
        """Whether this try has had no effect, nor will have any."""
        return self.failure.reason in _NOTHING_STORED or not self.retryable


def read_refused(method: str, error: Any) -> Refused:
    """Read an error of grpcio."""
    metadata = dict(error.trailing_metadata() or ())
    info = ErrorInfo()
    for packed in Status.FromString(metadata.get("grpc-status-details-bin", b"")).details:
        packed.Unpack(info)
    code, message = error.code().name, error.details() or ""
    if (code, message, info.reason) == ("INTERNAL", LOST_WHILE_WRITING, ""):
        code = "UNAVAILABLE"  # what it is, and what clients take it for; each run counts those by their text
    failure = Failure(time.monotonic(), method, code, info.reason, message)
    return Refused(failure, dict(info.metadata))


class Connection:
    """A channel to one or more servers; the next one is taken when one is gone."""

    def __init__(self, history: History, *addresses: str) -> None:
        self.history = history
        self.last_ids: dict[str, int] = {}
        """What refusals of conditional publishes said, by stream."""
        target = ",".join(addresses)
        self.channel = grpc.aio.insecure_channel(f"ipv4:{target}", options=_OPTIONS)

    async def close(self) -> None:
        """Close the channel."""
        await self.channel.close()

    async def call(self, method: Any, request: Message, timeout: float = DEADLINE) -> Any:
        """Make a unary call, once."""
        call = self.channel.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return await call(request, timeout=timeout)

    async def attempt(self, method: Any, request: Message, timeout: float = DEADLINE) -> Any:
        """Make a unary call, once; return the response, or what was `Refused`."""
        try:
            return await self.call(method, request, timeout)
        except grpc.aio.AioRpcError as error:
            refused = read_refused(method.name, error)
            self.history.failures.append(refused.failure)
            return refused

    async def insist(self, method: Any, request: Message, within: float = 60.0) -> Any:
        """Make a unary call that may be repeated until it succeeds."""
        give_up = time.monotonic() + within
        while True:
            response = await self.attempt(method, request)
            if not isinstance(response, Refused):
                return response
            assert response.retryable, response
            assert time.monotonic() < give_up, response
            await asyncio.sleep(0.1)

    # Publishing

    async def publish(
        self,
        who: str,
        subject: str,
        value: str,
        key: str = "",
        expected: int | None = None,
        *,
        stream: str = "",
        deadline: float = DEADLINE,
    ) -> Publish:
        """Publish, and retry within the deadline: with a key always, without one only what was not stored."""
        request = pb.PublishEventRequest(subject=subject, data=any_of(value), expected_last_id=expected)
        if key:
            request.idempotency_key = key
        start = time.monotonic()
        failures: list[Failure] = []
        id_, outcome = 0, Outcome.NOT_DONE
        while (left := start + deadline - time.monotonic()) > 0:
            response = await self.attempt(_PUBLISH, request, left)
            if not isinstance(response, Refused):
                id_, outcome = response.id, Outcome.DONE
                break
            failures.append(response.failure)
            if response.failure.reason == "WRONG_LAST_ID":
                self.last_ids[subject.partition(".")[0]] = int(response.metadata["actual"])
            if not response.certain:
                outcome = Outcome.UNKNOWN
                if not key:
                    break
            elif not response.retryable:
                outcome = Outcome.NOT_DONE if _settles(response, key) else outcome
                break
            await asyncio.sleep(random.uniform(0.02, 0.2))
        publish = Publish(
            who, stream or subject.partition(".")[0], subject, value, key, expected,
            start, time.monotonic(), id_, outcome, tuple(failures),
        )  # fmt: skip
        self.history.publishes.append(publish)
        return publish

    # State

    async def get(self, who: str, store: str, key: str, timeout: float = 5.0) -> Access:
        """Read a key, once."""
        start = time.monotonic()
        request = state_pb.GetRequest(store=store, key=key)
        response = await self.attempt(STATE.methods_by_name["Get"], request, timeout)
        if isinstance(response, Refused):
            access = Access(who, key, "get", start, time.monotonic(), Outcome.UNKNOWN)
        else:
            found = text_of(response.value) if response.HasField("value") else ""
            access = Access(
                who,
                key,
                "get",
                start,
                time.monotonic(),
                Outcome.DONE,
                found=found,
                revision=response.revision,
            )
        self.history.accesses.append(access)
        return access

    async def read(self, who: str, store: str, key: str, within: float = 60.0) -> Access:
        """Read a key, again until that succeeds."""
        give_up = time.monotonic() + within
        while (access := await self.get(who, store, key)).outcome is not Outcome.DONE:
            assert time.monotonic() < give_up, access
            await asyncio.sleep(0.1)
        return access

    async def set(
        self, who: str, store: str, key: str, value: str, expected: int | None = None, timeout: float = 5.0
    ) -> Access:
        """Write a key, once; with `expected` 0 it must not exist."""
        request = state_pb.SetRequest(store=store, key=key, value=any_of(value))
        if expected == 0:
            request.create_only = True
        elif expected is not None:
            request.last_revision = expected
        return await self._write(who, key, "set", value, expected, request, timeout)

    async def delete(
        self, who: str, store: str, key: str, expected: int | None = None, timeout: float = 5.0
    ) -> Access:
        """Delete a key, once."""
        request = state_pb.DeleteRequest(store=store, key=key, last_revision=expected)
        return await self._write(who, key, "delete", "", expected, request, timeout)

    async def transact(
        self,
        who: str,
        store: str,
        checks: Sequence[tuple[str, int]],
        writes: Sequence[tuple[str, str]],
        timeout: float = 5.0,
    ) -> Transaction:
        """Write several keys, once; an empty value deletes."""
        request = state_pb.TransactRequest(
            store=store,
            checks=[state_pb.TransactRequest.Check(key=key, revision=revision) for key, revision in checks],
            writes=[
                state_pb.TransactRequest.Write(key=key, set={"value": any_of(value)})
                if value
                else state_pb.TransactRequest.Write(key=key, delete=True)
                for key, value in writes
            ],
        )
        start = time.monotonic()
        response = await self.attempt(STATE.methods_by_name["Transact"], request, timeout)
        end = time.monotonic()
        asked = tuple(checks), tuple(writes)
        if isinstance(response, Refused):
            outcome = Outcome.NOT_DONE if response.certain else Outcome.UNKNOWN
            key, actual = response.metadata.get("key", ""), int(response.metadata.get("actual", 0))
            done = Transaction(who, start, end, outcome, *asked, refused_key=key, actual=actual)
        else:
            done = Transaction(who, start, end, Outcome.DONE, *asked, tuple(response.revisions))
        self.history.transactions.append(done)
        return done

    async def _write(
        self,
        who: str,
        key: str,
        kind: str,
        value: str,
        expected: int | None,
        request: Message,
        timeout: float,
    ) -> Access:
        start = time.monotonic()
        response = await self.attempt(STATE.methods_by_name[kind.capitalize()], request, timeout)
        end = time.monotonic()
        if isinstance(response, Refused):
            outcome = Outcome.NOT_DONE if response.certain else Outcome.UNKNOWN
            actual = response.metadata.get("actual")
            access = Access(
                who, key, kind, start, end, outcome, expected, value,
                actual=None if actual is None else int(actual),
            )  # fmt: skip
        else:
            access = Access(
                who, key, kind, start, end, Outcome.DONE, expected, value, getattr(response, "revision", 0)
            )
        self.history.accesses.append(access)
        return access


def _settles(refused: Refused, key: str) -> bool:
    """Tell whether a last refusal says of all the tries before it, too, that they have stored nothing.

    Another event took the place that they were for; and were it theirs, the key would have told.
    """
    return bool(key) and refused.failure.reason == "WRONG_LAST_ID"


# Streams and consumers


async def ensure_stream(
    connection: Connection, name: str, replicas: int | None = None, **options: Any
) -> str:
    """Ensure a stream of all subjects under its name, on disk."""
    request = pb.EnsureStreamRequest(name=name, subjects={"subjects": [f"{name}.>"]}, **options)
    if replicas is not None:
        request.storage.replicas = replicas
    await connection.insist(EVENTS.methods_by_name["EnsureStream"], request)
    return name


async def ensure_consumer(
    connection: Connection,
    stream: str,
    name: str = "c",
    timeout: float = 30.0,
    *,
    new_only: bool = False,
    **options: Any,
) -> str:
    """Ensure a consumer from the first event on, or of new events alone."""
    request = pb.EnsureConsumerRequest(stream=stream, name=name, **options)
    request.processing_timeout.CopyFrom(duration(timeout))
    if not new_only:
        getattr(request, "from").start = True
    await connection.insist(EVENTS.methods_by_name["EnsureConsumer"], request)
    return name


async def ensure_store(connection: Connection, name: str) -> str:
    """Ensure a store."""
    await connection.insist(STATE.methods_by_name["EnsureStore"], state_pb.EnsureStoreRequest(store=name))
    return name


def duration(seconds: float) -> Duration:
    """Make a duration."""
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 10**9))
