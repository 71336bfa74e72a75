"""Three nats-servers that make a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.nats_server import NatsServer
from tests.support.ports import new_port


@contextmanager
def running_cluster(new_directory: Callable[[], Path], *arguments: str) -> Iterator[list[NatsServer]]:
    """Run a cluster for as long as the block lasts. It takes some seconds more until it has a leader.

    Each server is given the arguments.
    """
    servers = cluster_of_three(new_directory(), *arguments)
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.kill()


def cluster_of_three(directory: Path, *arguments: str) -> list[NatsServer]:
    """Make three servers that know each other's ports."""
    ports = [new_port() for _ in range(3)]
    routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
    servers = []
    for number, port in enumerate(ports):
        own = directory / str(number)
        own.mkdir()
        name = ("--name", f"node{number}", "--cluster_name", "test")
        cluster = ("--cluster", f"nats://127.0.0.1:{port}", "--routes", routes)
        servers.append(NatsServer(own, *name, *cluster, *arguments))
    return servers
