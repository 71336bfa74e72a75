"""The examples of docs/dead-letters.md, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.app import running_app
from tests.support.client import Client
from tests.support.nats_server import NatsServer
from tests.wire.burying import listed
from tests.wire.consuming import subscribed
from tests.wire.management import ensure_consumer

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "dead-letters.md"
ADDRESS = "127.0.0.1:8080"
"""Where the document's server listens; the test replaces it by an address that is free."""


def example(number: int, address: str) -> list[str]:
    """Give the command that runs a Python example."""
    text = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)[number]
    assert ADDRESS in text
    return [sys.executable, "-c", text.replace(ADDRESS, address)]


def test_examples(own_nats_server: NatsServer) -> None:
    """One sorts dead letters out; the other watches, and goes on when the server was restarted."""
    with running_app(own_nats_server.url) as address:
        client = Client(address)
        port = address.rpartition(":")[2]
        watch = subprocess.Popen(example(1, address), stdout=subprocess.PIPE, text=True)
        assert watch.stdout is not None
        try:
            make_dead_letters(client)
            assert sorted(watch.stdout.readline() for _ in range(2)) == sorted(DEAD)  # written side by side
            done = subprocess.run(
                example(0, address), capture_output=True, text=True, timeout=30, check=False
            )
            assert sorted(done.stdout.splitlines()) == sorted(SORTED), done.stderr
            client.channel.close()
        except BaseException:
            watch.kill()
            raise
    try:
        with running_app(own_nats_server.url, GRPC_PORT=port) as address:
            client = Client(address)
            with subscribed(client, "orders", consumer="billing") as call:
                call.reject(call.event(15).id, permanently=True, reason="again")
                call.told()
            assert watch.stdout.readline() == "dead: billing 1 again\n"
            assert [letter.replay_count for letter in listed(client, "orders")] == [1]
            client.channel.close()
    finally:
        watch.kill()
        watch.wait()
        watch.stdout.close()


DEAD = ["dead: billing 1 no stock\n", "dead: billing 2 no price\n"]
SORTED = [
    "1 CAUSE_REJECTED OutOfStock no stock",
    "2 CAUSE_REJECTED BadOrder no price",
    "replayed 1",
    "purged 1",
]


def make_dead_letters(client: Client) -> None:
    """Have two events given up on."""
    client.ensure_stream("orders")
    ensure_consumer(client, "orders", name="billing", retry_policy={"max_attempts": 5})
    for _ in range(2):
        client.publish("orders.x")
    with subscribed(client, "orders", consumer="billing") as call:
        call.events(2)
        call.reject(1, permanently=True, reason="no stock", error_type="OutOfStock")
        call.reject(2, permanently=True, reason="no price", error_type="BadOrder")
        call.told()
        call.told()
