"""The spans of calls: what is told of the store that a call names."""

from __future__ import annotations

from asyncio import CancelledError
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.freed import alive, without_collector
from windshift._gen.windshift.state.v1alpha1.service_pb2 import GetRequest, ListKeysRequest
from windshift.rpc import Method
from windshift.server.api.tracing import trace_calls
from windshift.server.config.telemetry import SamplerConfig
from windshift.server.domain.errors import (
    BrokerUnavailable,
    InvalidField,
    KeyExists,
    KeyNotFound,
    OutcomeUnknown,
    PermissionDenied,
    QuotaExceeded,
    RevisionMismatch,
    StoreNotFound,
    ValueNotAny,
    WindshiftError,
)
from windshift.server.telemetry.propagation import extractor
from windshift.server.telemetry.tracer import Sampler, Span, Tracer

LIST = "/windshift.state.v1alpha1.StateService/ListKeys"
GET = "/windshift.state.v1alpha1.StateService/Get"


def a_call() -> Any:
    """Make a call as it begins."""
    return SimpleNamespace(span=None)


async def span_of(store: str, failure: BaseException | None) -> Span:
    """Have a call about a store answered, or fail, and return its span."""

    async def handle(*_: object) -> None:
        if failure is not None:
            raise failure

    spans: list[Span] = []
    tracer = Tracer(Sampler(SamplerConfig()), spans.append)
    plain = Method(LIST, handle, ListKeysRequest, False, False)
    traced = trace_calls(tracer, extractor(("none",)), plain)
    with suppress(WindshiftError, CancelledError):
        await traced.handler(ListKeysRequest(store=store), a_call())
    (span,) = spans
    return span


@pytest.mark.parametrize(
    "failure", [None, KeyExists("k", 1), KeyNotFound("k"), RevisionMismatch(1, 2), ValueNotAny("k")], ids=repr
)
async def test_a_store_that_is_there(failure: BaseException | None) -> None:
    """Its name is told where the call succeeds, or fails because of what it holds."""
    span = await span_of("config", failure)
    assert (span.name, span.attributes["db.collection.name"]) == ("ListKeys config", "config")


@pytest.mark.parametrize(
    "failure",
    [
        BrokerUnavailable(),
        CancelledError(),
        InvalidField("store", "is too long"),
        OutcomeUnknown(),
        PermissionDenied("ann", "read keys", "read-key", "x", "none"),
        StoreNotFound("config"),
    ],
    ids=repr,
)
async def test_a_store_that_may_not_be_there(failure: BaseException) -> None:
    """A name is told nowhere that nobody has looked at: it may be any, and half a megabyte long."""
    span = await span_of("x" * 500_000, failure)
    assert (span.name, "db.collection.name" in span.attributes) == ("ListKeys", False)
    assert span.error is not None


@pytest.mark.parametrize("applies", [True, False])
async def test_each_call_is_decided_about_once(*, applies: bool) -> None:
    """Either it is recorded, in a task, or its shortcut is tried, and then it is not, whoever does it."""
    tried, handled, spans = list[Any](), list[Any](), list[Span]()

    def shortcut(request: object, _: object) -> bool:
        tried.append(request)
        return applies

    async def handle(request: object, _: object) -> None:
        handled.append(request)

    plain = Method(GET, handle, GetRequest, False, False, shortcut=shortcut)
    tracer = Tracer(Sampler(SamplerConfig(ratio=0.5)), spans.append)
    traced = trace_calls(tracer, extractor(("none",)), plain)
    assert traced.shortcut is not None
    calls = [a_call() for _ in range(200)]
    for call in calls:
        if not traced.shortcut(GetRequest(store="s"), call):
            await traced.handler(GetRequest(store="s"), call)
    assert 0 < len(tried) < len(calls)
    assert len(spans) == len(calls) - len(tried)
    assert len(handled) == (len(spans) if applies else len(calls))


async def test_a_call_whose_shortcut_is_not_tried() -> None:
    """It is decided about in its task."""

    async def handle(*_: object) -> None:
        pass

    spans: list[Span] = []
    plain = Method(GET, handle, GetRequest, False, False, shortcut=lambda *_: True)
    tracer = Tracer(Sampler(SamplerConfig()), spans.append)
    traced = trace_calls(tracer, extractor(("none",)), plain)
    await traced.handler(GetRequest(store="s"), a_call())
    assert [span.name for span in spans] == ["Get s"]


async def test_a_failed_call_is_freed_at_once() -> None:
    """Its error keeps nothing of it until the garbage collector comes."""

    async def handle(*_: object) -> None:
        raise QuotaExceeded("calls", 1)

    tracer = Tracer(Sampler(SamplerConfig()), lambda _: None)
    plain = Method(LIST, handle, ListKeysRequest, False, False)
    traced = trace_calls(tracer, extractor(("none",)), plain)
    with without_collector():
        with suppress(QuotaExceeded):
            await traced.handler(ListKeysRequest(store="a"), a_call())
        assert alive(QuotaExceeded) == []
