"""Where scenarios play: one nats-server or a cluster of three, with servers on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.faults.processes import Node, Server, running_cluster, running_node, running_servers
from tests.faults.run import Run
from tests.faults.witness import has_leader


@asynccontextmanager
async def single(run: Run, servers: int = 1, **settings: str) -> AsyncIterator[tuple[Node, list[Server]]]:
    """Run one nats-server with servers on it."""
    async with (
        running_node(run.history, run.directory / "nats") as node,
        running_servers(run.history, run.directory, [node.url] * servers, **settings) as made,
    ):
        yield node, made


@asynccontextmanager
async def clustered(run: Run, servers: int = 2) -> AsyncIterator[tuple[list[Node], list[Server]]]:
    """Run a cluster of three with servers on it, each of which knows all three; three replicas by default."""
    async with running_cluster(run.history, run.directory) as nodes:
        await has_leader(nodes[0].url)
        # Each begins with another node.
        urls = [urls_from(nodes, number) for number in range(servers)]
        async with running_servers(run.history, run.directory, urls, WINDSHIFT_DEFAULT_REPLICAS="3") as made:
            yield nodes, made


def urls_from(nodes: Sequence[Node], first: int) -> str:
    """Write NATS_URL with one of the nodes at its head."""
    turn = first % len(nodes)
    return ",".join(node.url for node in (*nodes[turn:], *nodes[:turn]))
