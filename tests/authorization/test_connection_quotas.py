"""How many connections one principal may have, at the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from tests.authorization.callers import Caller, bearer, callers_with_rules
from tests.authorization.policies import ALL, digest_of, principal, put, token_of
from tests.rpc.frames import Peer, prefixed
from tests.support.app import running_app
from tests.support.certificates import Authority
from tests.support.client import any_of, refused
from tests.support.nats_server import NatsServer
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.rpc import StatusCode, client_tls

PUBLISH = "/windshift.events.v1alpha1.EventsService/Publish"
CHECK = "/grpc.health.v1.Health/Check"
FULL = StatusCode.RESOURCE_EXHAUSTED
LIMIT = 30.0
PLACES = 20

POLICY = (
    ALL
    + principal("all")
    + principal("two", "all", more="quotas = { connections = 2 }").replace(
        f'"{digest_of("two")}"', f'"{digest_of("two")}", "{digest_of("two", 2)}"'
    )
    + principal("greedy", "all", more='mtls = "CN=greedy"')
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the rules."""
    return str(put(tmp_path_factory.mktemp("connection-quotas") / "auth.toml", POLICY))


@pytest.fixture(scope="module")
def address(nats_server: NatsServer, file: str) -> Iterator[str]:
    """Run a server with principals that have quotas."""
    with callers_with_rules(nats_server, file) as callers:
        callers.with_token(token_of("all")).ensure_stream("CONNECTED", "connected.>")
        yield callers.address


def port_of(address: str) -> tuple[str, int]:
    """Return where a server listens."""
    host, _, port = address.partition(":")
    return host, int(port)


async def publish(peer: Peer, who: str, version: int = 1) -> int | None:
    """Publish over a connection as somebody; give the status."""
    token = [(b"authorization", f"Bearer {token_of(who, version)}".encode())]
    request = pb.PublishEventRequest(subject="connected.x", data=any_of("x"))
    return (await peer.call(PUBLISH, prefixed(request.SerializeToString()), token)).status


async def until_there_is_room(peer: Peer, who: str) -> None:
    """Publish until that is not refused."""
    async with asyncio.timeout(LIMIT):
        while (status := await publish(peer, who)) == FULL:  # noqa: ASYNC110 -- in another thread
            await asyncio.sleep(0.01)
    assert status == 0


async def test_one_more_than_allowed(address: str) -> None:
    """Its calls are refused, whatever token they show; a connection that ends makes room for it."""
    async with AsyncExitStack() as closing:
        first, second, third = [
            await closing.enter_async_context(await Peer.connect(port_of(address))) for _ in range(3)
        ]
        for peer in (first, second):
            await until_there_is_room(peer, "two")
        assert [await publish(third, "two", version) for version in (1, 2)] == [FULL, FULL]
        assert [await publish(first, "two", 2), await publish(second, "two")] == [0, 0]
        await second.close()
        await until_there_is_room(third, "two")
        assert await publish(first, "two") == 0


async def test_what_is_told(address: str) -> None:
    """The error names the quota."""
    caller = Caller(address, bearer(token_of("two")))
    async with await Peer.connect(port_of(address)) as first, await Peer.connect(port_of(address)) as second:
        for peer in (first, second):
            await until_there_is_room(peer, "two")
        with refused("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED") as refusals:
            await asyncio.to_thread(caller.publish, "connected.x")
    caller.channel.close()
    assert refusals[0].metadata == {"quota": "connections", "limit": "2"}
    assert refusals[0].message == (
        "'two' may have no more than 2 connections at once; wait, or have quotas.connections of it or of one "
        "of its roles raised in the rules"
    )


async def test_a_connection_of_several(address: str) -> None:
    """It counts for who called last, not for who did before; calls that are refused change nothing."""
    async with AsyncExitStack() as closing:
        shared, first, second, third = [
            await closing.enter_async_context(await Peer.connect(port_of(address))) for _ in range(4)
        ]
        for peer in (first, second):
            await until_there_is_room(peer, "two")
        assert [await publish(shared, who) for who in ("all", "two", "all")] == [0, FULL, 0]
        assert await publish(first, "all") == 0
        assert await publish(shared, "two") == 0
        assert await publish(third, "two") == FULL
        assert await publish(shared, "all") == 0
        assert await publish(third, "two") == 0


@pytest.mark.parametrize("certified", [False, True], ids=["calls", "probes with a certificate"])
async def test_others_find_a_place(
    address: str, nats_server: NatsServer, file: str, tmp_path: Path, certified: bool
) -> None:
    """However often somebody connects: by default a quarter of the places are his, whatever he shows."""
    authority = Authority(tmp_path)
    own, client = authority.issue("server"), authority.issue("greedy", dns=(), ips=())
    tls = client_tls(authority.certificate, client.certificate, client.key) if certified else None
    settings = {"GRPC_TLS_CERT": own.certificate, "GRPC_TLS_KEY": own.key} if certified else {}
    if certified:
        settings["GRPC_TLS_CLIENT_CA"] = authority.certificate
    with running_app(
        nats_server.url,
        WINDSHIFT_AUTH_FILE=file,
        GRPC_MAX_CONNECTIONS=str(PLACES),
        **{name: str(value) for name, value in settings.items()},
    ) as full:
        async with AsyncExitStack() as closing:
            others, statuses = list[Peer](), list[int | None]()
            for _ in range(2):
                for _ in range(3 * PLACES):
                    with suppress(OSError):
                        peer = await closing.enter_async_context(await Peer.connect(port_of(full), ssl=tls))
                        if certified:
                            await peer.call(CHECK)
                        else:
                            statuses.append(await publish(peer, "greedy"))
                others.append(await closing.enter_async_context(await Peer.connect(port_of(full), ssl=tls)))
                assert [await publish(each, "all") for each in others] == [0] * len(others)
            assert certified or statuses == [0] * (PLACES // 4) + [FULL] * (6 * PLACES - PLACES // 4)
