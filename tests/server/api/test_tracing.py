"""The spans of calls: what is told of the store that a call names."""

from __future__ import annotations

from asyncio import CancelledError
from contextlib import suppress

import pytest

from windshift._gen.windshift.state.v1alpha1.service_pb2 import ListKeysRequest
from windshift.rpc import Method
from windshift.server.api.tracing import TracingInterceptor
from windshift.server.config import SamplerConfig
from windshift.server.domain.errors import (
    BrokerUnavailable,
    InvalidField,
    KeyExists,
    KeyNotFound,
    OutcomeUnknown,
    PermissionDenied,
    RevisionMismatch,
    StoreNotFound,
    ValueNotAny,
    WindshiftError,
)
from windshift.server.telemetry.propagation import extractor
from windshift.server.telemetry.tracer import Sampler, Span, Tracer

LIST = "/windshift.state.v1alpha1.StateService/ListKeys"


async def span_of(store: str, failure: BaseException | None) -> Span:
    """Have a call about a store answered, or fail, and return its span."""

    async def handle(*_: object) -> None:
        if failure is not None:
            raise failure

    spans: list[Span] = []
    tracer = Tracer(Sampler(SamplerConfig()), spans.append)
    plain = Method(LIST, handle, ListKeysRequest, False, False, False)
    traced = TracingInterceptor(tracer, extractor(("none",))).intercept(plain)
    with suppress(WindshiftError, CancelledError):
        await traced.handler(ListKeysRequest(store=store), None)
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
