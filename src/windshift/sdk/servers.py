"""Servers, and who the client is to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias, get_args

from windshift.protos import admin

from .calling import Caller
from .retry import Repeat
from .times import moment, moment_of, timedelta_of

Resource: TypeAlias = Literal["storage", "memory", "streams", "consumers"]

_RESOURCES: Final[dict[int, Resource]] = {
    admin.JetStream.Usage.Resource.Value(f"RESOURCE_{resource.upper()}"): resource
    for resource in get_args(Resource)
}


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
        time: what its clock showed when it answered; None = it is too old to say that.
        libnghttp2: version of the one that it has loaded, which speaks HTTP/2; empty = it does not say.
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
    time: datetime | None = None
    libnghttp2: str = ""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server, and what it is busy with.

    Attributes:
        info: what it is.
        connections: open connections of clients.
        active_calls: calls under way, streams included.
        memory: resident, in bytes.
        cpu: cores in use since it was looked at before, such as 0.35.
        not_ready: why it takes no traffic; empty = it does.
    """

    info: ServerInfo
    connections: int
    active_calls: int
    memory: int
    cpu: float
    not_ready: str


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of something the account of the broker has, and may have.

    Attributes:
        resource: of what: `storage` and `memory` in bytes, `streams`, `consumers`; those of Windshift count.
        tier: of what has so many replicas, such as `R3`, where there are limits for each; empty = of all.
        used: so much.
        reserved: bytes that are promised to streams with `max_bytes`, whether they use them or not; they have
            to stay within the limit, too.
        limit: how much there may be; None = as much as the nats-servers have room for.
    """

    resource: Resource
    tier: str
    used: int
    reserved: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class ServerList:
    """All servers on the same broker, and what that said.

    Attributes:
        servers: those that answered, by name.
        missing: ids of those that were there a moment ago and did not answer.
        usage: what the account uses; empty = nobody asked, or the broker did not tell.
        broker_clock_ahead: how far the broker's clock is ahead of that of the server that answered; None =
            nobody asked, or the broker did not tell.
    """

    servers: Sequence[RunningServer]
    missing: Sequence[str]
    usage: Sequence[Usage]
    broker_clock_ahead: timedelta | None


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
    found = await caller.call(admin.GetServerRequest(), admin.GetServerResponse, Repeat.READ)
    return _server(found.server)


def _server(found: Any) -> ServerInfo:
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
        broker_round_trip=timedelta_of(broker, "round_trip"),
        methods=tuple(found.methods),
        limits={limit.name: limit.value for limit in found.limits},
        worker=found.worker,
        time=moment_of(found, "time"),
        libnghttp2=found.libnghttp2,
    )


async def servers(caller: Caller, *, account: bool) -> ServerList:
    """Describe all servers; see `Client.servers`."""
    request = admin.ListServersRequest(jet_stream=account)
    found = await caller.call(request, admin.ListServersResponse, Repeat.READ)
    reported = found.jet_stream
    return ServerList(
        servers=tuple(
            RunningServer(
                info=_server(each.server),
                connections=each.connections,
                active_calls=each.active_calls,
                memory=each.memory,
                cpu=each.cpu,
                not_ready="" if each.ready else each.not_ready_reason or "no reason",
            )
            for each in found.servers
        ),
        missing=tuple(found.missing),
        usage=tuple(
            Usage(
                _RESOURCES[each.resource],
                each.tier,
                each.used,
                each.reserved,
                each.limit if each.HasField("limit") else None,
            )
            for each in reported.usage
            if each.resource in _RESOURCES  # others are of a later version
        ),
        broker_clock_ahead=timedelta_of(reported, "clock_ahead"),
    )


async def who_am_i(caller: Caller, checks: Sequence[tuple[str, str]]) -> Identity:
    """Ask who the client is; see `Client.who_am_i`."""
    request = admin.WhoAmIRequest(
        checks=[admin.WhoAmIRequest.Check(verb=verb, resource=resource) for verb, resource in checks]
    )
    found = await caller.call(request, admin.WhoAmIResponse, Repeat.READ)
    return Identity(
        principal=found.principal,
        credential=found.credential,
        expires=moment_of(found, "expires"),
        granted=tuple((each.verb, each.resource) for each in found.granted),
        decisions=tuple(Decision(each.allowed, each.rule) for each in found.checks),
    )
