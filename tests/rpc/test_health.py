"""``grpc.health.v1``, as probes and load balancers use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc

from windshift.rpc import Channel, HealthService, Server, StatusCode
from windshift.rpc._gen.grpc.health.v1 import health_pb2 as pb
from windshift.rpc.health import HEALTH, MOST_WATCHES

from .calling import calling, failure
from .frames import WAIT
from .serving import eventually

SERVING, NOT_SERVING = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN
CHECK, LIST, WATCH = (f"/{HEALTH.full_name}/{name}" for name in ("Check", "List", "Watch"))


@dataclass
class Probed:
    """A server with the health service, and a channel to it."""

    health: HealthService
    server: Server
    channel: Channel
    target: str

    async def check(self, service: str = "") -> int:
        """Ask once."""
        request = pb.HealthCheckRequest(service=service)
        response = await self.channel.unary(CHECK, request, pb.HealthCheckResponse)
        return int(response.status)

    @asynccontextmanager
    async def watching(self, service: str = "") -> AsyncIterator[AsyncIterator[int]]:
        """Ask for the status and its changes."""
        async with self.channel.stream(WATCH, pb.HealthCheckResponse) as call:
            call.send(pb.HealthCheckRequest(service=service))
            call.close_send()
            yield (int(response.status) async for response in call)


@asynccontextmanager
async def probed() -> AsyncIterator[Probed]:
    """Serve nothing but health."""
    health = HealthService()
    server = Server([health])
    host, port = await server.listen("127.0.0.1", 0)
    async with calling(f"{host}:{port}") as channel:
        yield Probed(health, server, channel, f"{host}:{port}")
    server.close()


async def test_the_server_as_a_whole_serves_from_the_start() -> None:
    """Its name is the empty one, which is also what a probe without a service asks for."""
    async with probed() as it:
        assert await it.check() == SERVING


async def test_what_was_set_is_answered() -> None:
    """Per service."""
    async with probed() as it:
        it.health.set("a.B", serving=True)
        it.health.set("a.C", serving=False)
        assert [await it.check("a.B"), await it.check("a.C"), await it.check()] == [
            SERVING,
            NOT_SERVING,
            SERVING,
        ]
        it.health.set("a.B", serving=False)
        assert await it.check("a.B") == NOT_SERVING


async def test_an_unknown_service_is_not_found() -> None:
    """Check fails, so that a probe with a wrong name does."""
    async with probed() as it:
        error = await failure(it.check("a.B"))
        assert error.code is StatusCode.NOT_FOUND
        assert "'a.B'" in error.message


async def test_all_statuses_at_once() -> None:
    """List has every service that was set."""
    async with probed() as it:
        it.health.set("a.B", serving=False)
        response = await it.channel.unary(LIST, pb.HealthListRequest(), pb.HealthListResponse)
        assert {name: each.status for name, each in response.statuses.items()} == {
            "": SERVING,
            "a.B": NOT_SERVING,
        }


async def test_watching_changes() -> None:
    """The status now, then every other one; setting the same again says nothing."""
    async with probed() as it, it.watching("a.B") as statuses:
        assert await anext(statuses) == SERVICE_UNKNOWN
        for serving, expected in ((True, SERVING), (False, NOT_SERVING), (True, SERVING)):
            it.health.set("a.B", serving=serving)
            it.health.set("a.C", serving=serving)
            it.health.set("a.B", serving=serving)
            assert await anext(statuses) == expected


async def test_many_watchers() -> None:
    """Each sees the change."""
    arrived = 0
    async with probed() as it:

        async def watch() -> list[int]:
            async with it.watching() as statuses:
                nonlocal arrived
                first = await anext(statuses)
                arrived += 1
                return [first, await anext(statuses)]

        watchers = [asyncio.ensure_future(watch()) for _ in range(MOST_WATCHES)]
        await eventually(lambda: arrived == MOST_WATCHES)
        it.health.set("", serving=False)
        assert await asyncio.gather(*watchers) == [[SERVING, NOT_SERVING]] * MOST_WATCHES


async def test_everything_stops_serving_before_a_drain() -> None:
    """Watchers see it, and a drain ends them with UNAVAILABLE."""
    async with probed() as it, it.watching("a.B") as statuses:
        it.health.set("a.B", serving=True)
        while await anext(statuses) != SERVING:
            pass
        for service in ("", "a.B"):
            it.health.set(service, serving=False)
        assert await anext(statuses) == NOT_SERVING
        assert await it.check() == NOT_SERVING
        draining = asyncio.ensure_future(it.server.drain(WAIT))
        assert (await failure(anext(statuses))).code is StatusCode.UNAVAILABLE
        assert await draining


async def test_a_client_of_grpcio() -> None:
    """Its calls look like those of any probe."""
    async with probed() as it, grpc.aio.insecure_channel(it.target) as channel:
        check: Any = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=pb.HealthCheckResponse.FromString,
        )
        assert (await check(pb.HealthCheckRequest())).status == SERVING
        watch: Any = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=pb.HealthCheckResponse.FromString,
        )
        call = watch(pb.HealthCheckRequest(service="a.B"))
        assert (await call.read()).status == SERVICE_UNKNOWN
        it.health.set("a.B", serving=True)
        assert (await call.read()).status == SERVING
        call.cancel()


async def test_watches_of_one_connection() -> None:
    """There is a limit to them; one that ends makes room for another; other connections have their own."""
    async with probed() as it, AsyncExitStack() as watches:
        last = AsyncExitStack()
        for _ in range(MOST_WATCHES - 1):
            assert await anext(await watches.enter_async_context(it.watching())) == SERVING
        assert await anext(await last.enter_async_context(it.watching())) == SERVING
        async with it.watching() as statuses:
            assert (await failure(anext(statuses))).code is StatusCode.RESOURCE_EXHAUSTED
        async with calling(it.target) as channel, replace(it, channel=channel).watching() as statuses:
            assert await anext(statuses) == SERVING
        await last.aclose()
        await eventually(lambda: it.server.active_calls().total() == MOST_WATCHES - 1)
        async with it.watching() as statuses:
            assert await anext(statuses) == SERVING
