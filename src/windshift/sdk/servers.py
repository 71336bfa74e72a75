"""Servers, and who the client is to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from windshift.protos import admin

from .calling import Caller
from .retry import Repeat
from .times import moment

_SERVICE = "/windshift.admin.v1alpha1.AdminService/"


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server.

    Attributes:
        id: another one at each start.
        name: name of the host.
        version: version of Windshift.
        started: when it was started.
        rules: whether there are rules on who may do what.
        max_payload: largest message of the broker in bytes, headers counted.
        broker_name: name of the nats-server that it is connected to.
        broker_version: version of that.
        broker_connected: whether the connection stands.
        broker_round_trip: time of a request there and back; None = not measured yet.
        methods: paths of the methods that it serves.
        limits: its limits by the names of their settings; 0 = none.
        worker: its number among the workers of one `windshift serve`, from 1; 0 = it is no worker.
    """

    id: str
    name: str
    version: str
    started: datetime
    rules: bool
    max_payload: int
    broker_name: str
    broker_version: str
    broker_connected: bool
    broker_round_trip: timedelta | None
    methods: Sequence[str]
    limits: Mapping[str, int]
    worker: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the client may do something.

    Attributes:
        allowed: whether it may.
        rule: the rule that decided.
    """

    allowed: bool
    rule: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the client is to the server.

    Attributes:
        principal: its name in the rules; empty where there are none.
        credential: how it proved that: `token`, `jwt` or `certificate`.
        expires: when that proof expires; None = never.
        granted: what the rules grant and deny it: the list and the pattern in it, such as `streams.consume`
            and `orders`; a list that denies begins with `!`.
        decisions: the answers to what was asked, in its order.
    """

    principal: str
    credential: str
    expires: datetime | None
    granted: Sequence[tuple[str, str]]
    decisions: Sequence[Decision]


async def server(caller: Caller) -> ServerInfo:
    """Describe the server that answers; see `Client.server`."""
    request, kind = admin.GetServerRequest(), admin.GetServerResponse
    found = (await caller.call(_SERVICE + "GetServer", request, kind, Repeat.READ)).server
    broker = found.broker
    return ServerInfo(
        id=found.id,
        name=found.name,
        version=found.version,
        started=moment(found.started),
        rules=found.rules,
        max_payload=found.max_payload,
        broker_name=broker.name,
        broker_version=broker.version,
        broker_connected=broker.connected,
        broker_round_trip=broker.round_trip.ToTimedelta() if broker.HasField("round_trip") else None,
        methods=tuple(found.methods),
        limits={limit.name: limit.value for limit in found.limits},
        worker=found.worker,
    )


async def who_am_i(caller: Caller, checks: Sequence[tuple[str, str]]) -> Identity:
    """Ask who the client is; see `Client.who_am_i`."""
    request = admin.WhoAmIRequest(
        checks=[admin.WhoAmIRequest.Check(verb=verb, resource=resource) for verb, resource in checks]
    )
    found = await caller.call(_SERVICE + "WhoAmI", request, admin.WhoAmIResponse, Repeat.READ)
    return Identity(
        principal=found.principal,
        credential=found.credential,
        expires=moment(found.expires) if found.HasField("expires") else None,
        granted=tuple((each.verb, each.resource) for each in found.granted),
        decisions=tuple(Decision(each.allowed, each.rule) for each in found.checks),
    )
