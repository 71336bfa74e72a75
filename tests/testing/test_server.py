"""The real server that tests start, as a process of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import windshift as ws
from windshift.protos import test

Text = test.StringValue


async def test_what_was_confirmed_survives_kills(tmp_path: Path) -> None:
    """A server that is killed keeps its address and its data; a worker handles every event once."""
    done: Counter[int] = Counter()

    async def handle(delivery: ws.Delivery[test.StringValue]) -> None:
        await asyncio.sleep(0.01)
        done[delivery.event.id] += 1

    with ws.testing.Server(tmp_path) as server:
        address = server.address
        async with ws.connect(server.address, timeout=60) as client:
            stream = await client.streams.ensure("k", subjects=["k.>"])
            consumer = await stream.consumers.ensure("w", start=ws.START, timeout=2)
            async with consumer.running(handle):
                publishing = asyncio.ensure_future(
                    client.publish_many([Text()] * 300, subject="k.x", in_flight=8)
                )
                for _ in range(2):
                    await asyncio.sleep(0.1)
                    await asyncio.to_thread(server.kill)
                    assert server.pid is None
                    await asyncio.to_thread(server.start)
                    assert server.address == address
                await publishing
                await consumer.idle(timeout=50)
        server.stop()
        assert "drained" in server.logs
    assert len(done) == 300
    assert set(done.values()) == {1}


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    """Wrong settings are in the error; nothing is left behind, and an end before the start does nothing."""
    server = ws.testing.Server(tmp_path, environment={"WINDSHIFT_NONSENSE": "1"})
    with pytest.raises(ws.testing.ServerFailed, match="WINDSHIFT_NONSENSE"):
        server.start()
    server.stop()
    server.kill()
    assert server.pid is None


def test_the_surroundings_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of a server that the tests run beside do not reach this one."""
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:1")
    monkeypatch.setenv("WINDSHIFT_AUTH_FILE", "/nowhere")
    with ws.testing.Server(tmp_path) as server:
        assert server.address.startswith("127.0.0.1:")
        with pytest.raises(ws.testing.ServerFailed, match="runs already"):
            server.start()


def test_it_imports_no_server_and_little_else() -> None:
    """The plugin loads in every project: it imports neither asyncio, nor protobuf, nor a server."""
    code = """
import sys, pytest
before = set(sys.modules)
import windshift.testing.plugin
new = set(sys.modules) - before
print(sorted(name for name in new if name.split('.')[0] not in sys.stdlib_module_names))
import windshift as ws
ws.testing.Server, ws.testing.FakeStore, ws.App
servers = ('windshift.server', 'windshift.nats', 'windshift.rpc.server')
print([name for name in sys.modules if name.startswith(servers)])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    modules, servers = done.stdout.splitlines()
    assert modules == "['windshift', 'windshift.testing', 'windshift.testing.plugin']"
    assert servers == "[]"
