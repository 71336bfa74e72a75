"""Where scenarios play: one nats-server or a cluster of three, with servers on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.calls import Connection
from tests.faults.history import Fault, History
from tests.faults.processes import Node, Server, running_cluster, running_node, running_servers
from tests.faults.proxy import Proxy, running_proxy
from tests.faults.run import Run
from tests.faults.subscribers import Target
from tests.faults.witness import has_leader
from tests.support.nats_server import BINARY


@asynccontextmanager
async def single(
    run: Run, servers: int = 1, config: str = "", **settings: str
) -> AsyncIterator[tuple[Node, list[Server]]]:
    """Run one nats-server with servers on it."""
    async with (
        running_node(run.history, run.directory / "nats", config) as node,
        running_servers(run.history, run.directory, [node.url] * servers, **settings) as made,
    ):
        yield node, made


@asynccontextmanager
async def clustered(
    run: Run, servers: int = 2, *options: str, binary: Path = BINARY
) -> AsyncIterator[tuple[list[Node], list[Server]]]:
    """Run a cluster of three with servers on it, each of which knows all three; three replicas by default."""
    async with running_cluster(run.history, run.directory, binary) as nodes:
        await has_leader(nodes[0].url)
        # Each begins with another node.
        urls = [urls_from(nodes, number) for number in range(servers)]
        async with running_servers(
            run.history, run.directory, urls, options=options, WINDSHIFT_DEFAULT_REPLICAS="3"
        ) as made:
            yield nodes, made


def urls_from(nodes: Sequence[Node], first: int) -> str:
    """Write NATS_URL with one of the nodes at its head."""
    turn = first % len(nodes)
    return ",".join(node.url for node in (*nodes[turn:], *nodes[:turn]))


# Behind proxies


class Link:
    """A way through a proxy, that can be disturbed."""

    def __init__(self, name: str, history: History, proxy: Proxy) -> None:
        self.name = name
        self.address = proxy.address
        self._history = history
        self._proxy = proxy

    async def disturb(self, kind: str, seconds: float) -> None:
        """Slow it down (``delay``) or stop it (``stall``) for a while, or reset its connections (``cut``)."""
        start = time.monotonic()
        if kind == "cut":
            self._proxy.cut()
        else:
            await self._for_a_while(kind, seconds)
        self._history.faults.append(Fault(kind, self.name, start, time.monotonic()))

    async def _for_a_while(self, kind: str, seconds: float) -> None:
        try:
            if kind == "delay":
                self._proxy.delay = 0.03
            else:
                self._proxy.stall()
            await asyncio.sleep(seconds)
        finally:
            self._proxy.delay = 0.0
            self._proxy.flow()


@dataclass(frozen=True, slots=True)
class Proxied:
    """One nats-server and two servers, with a proxy on each way.

    Attributes:
        links: from each server to NATS, then from the clients to each server.
        targets: for subscribers.
    """

    node: Node
    servers: list[Server]
    links: list[Link]
    targets: list[Target]

    @property
    def addresses(self) -> list[str]:
        """Where clients connect."""
        return [link.address for link in self.links[2:]]


@asynccontextmanager
async def proxied(run: Run) -> AsyncIterator[Proxied]:
    """Run one nats-server and two servers, and a proxy on each way between them and from their clients."""
    async with running_node(run.history, run.directory / "nats") as node, AsyncExitStack() as stack:

        async def link(name: str, port: int) -> Link:
            proxy = await stack.enter_async_context(running_proxy("127.0.0.1", port))
            return Link(name, run.history, proxy)

        to_nats = [await link(f"link{number} to nats", node.server.port) for number in range(2)]
        urls = [f"nats://{each.address}" for each in to_nats]
        servers = await stack.enter_async_context(running_servers(run.history, run.directory, urls))
        ports = [int(server.address.rpartition(":")[2]) for server in servers]
        to_servers = [await link(f"link to windshift{number}", port) for number, port in enumerate(ports)]
        targets = [
            Target(Connection(run.history, each.address), lambda server=server: server.life)  # type: ignore[misc]
            for each, server in zip(to_servers, servers, strict=True)
        ]
        for target in targets:
            stack.push_async_callback(target.connection.close)
        yield Proxied(node, servers, [*to_nats, *to_servers], targets)
