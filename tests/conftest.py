"""Fixtures that every test may use: a real nats-server, a connection to it, names that nobody else has."""

from __future__ import annotations

import asyncio
import gc
import importlib
import multiprocessing
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.broker import Broker, connect, in_seconds
from tests.support.cluster import running_cluster
from tests.support.nats_server import NatsServer, running_nats
from windshift.nats import NatsError

LONGEST = (
    (
        "faults/test_scenarios.py",
        "wire/test_cluster.py",
        "cli/test_run.py",
        "sdk/test_consuming.py",
    ),
    (
        "hardening/test_slow.py",
        "hardening/test_frames.py",
        "hardening/test_held.py",
        "hardening/test_sizes.py",
        "attacks/test_attacks.py",
        "server/test_silent_leaders.py",
        "e2e/test_nats.py",
        "e2e/test_health.py",
        "testing/test_plugin.py",
        "test_benchmarks.py",
    ),
)
"""Files with tests of 10 seconds and more, in two parts that take about as long.

They are run first, so that no worker is left alone with them.
"""

# A busy machine makes no example wrong.
settings.register_profile("windshift", deadline=None, max_examples=50)
settings.load_profile("windshift")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run two workers on each core and two more: tests wait for longer than they work.

    Four on two cores left a third of their time unused.
    """
    return (os.cpu_count() or 1) * 2 + 2


def pytest_configure() -> None:
    """Take SIGINT also in the background of a shell: processes that tests start would ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Compile tests that are new, with their assertions, once: each worker would do so for itself."""
    tests = Path(__file__).parent
    new = [
        ".".join(("tests", *file.relative_to(tests).with_suffix("").parts))
        for file in tests.rglob("test_*.py")
        if not any((file.parent / "__pycache__").glob(f"{file.stem}.*-pytest-*.pyc"))
    ]
    if new:
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as processes:
            list(processes.map(_compile, new))


def _compile(module: str) -> None:
    with suppress(Exception, pytest.skip.Exception):  # collecting it tells what is wrong
        importlib.import_module(module)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have two workers begin with the longest tests: each begins with its equal share of the list."""
    first, second = ({Path(__file__).parent / name for name in part} for part in LONGEST)
    begin = [item for item in items if item.path in first]
    middle = [item for item in items if item.path in second]
    others = [item for item in items if item.path not in first | second]
    workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    before = max(0, len(items) * (workers // 2) // workers - len(begin))
    items[:] = begin + others[:before] + middle + others[before:]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the garbage collector ten thousand tests, now and later: they are there to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what was logged and is no UTF-8: the worker that ran the test could not send it."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Share one nats-server between all tests of a worker. Leave it running: see `own_nats_server`."""
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NatsServer]]:
    """Share a cluster of three nats-servers between the tests of a module; an idle one costs time, too."""
    with running_cluster(lambda: tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.fixture
def cluster(shared_cluster: list[NatsServer]) -> Iterator[list[NatsServer]]:
    """Give a test the shared cluster, and delete what it left there: idle replicas cost time."""
    yield shared_cluster
    with suppress(NatsError):
        asyncio.run(_delete_streams(shared_cluster[0].url))


async def _delete_streams(url: str) -> None:
    async with connect(url) as broker:
        deadline = in_seconds(20)
        streams = [info async for info in broker.api.listed("STREAM.LIST", "streams", deadline)]
        for info in streams:
            await broker.api.call(f"STREAM.DELETE.{info['config']['name']}", None, deadline)


@pytest.fixture
def own_nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """Give a test a nats-server that it may stop, kill, freeze and start again."""
    with running_nats(tmp_path) as server:
        yield server


@pytest.fixture
async def broker(nats_server: NatsServer) -> AsyncIterator[Broker]:
    """Connect to the shared nats-server."""
    async with connect(nats_server.url) as broker:
        yield broker


@pytest.fixture
async def own_broker(own_nats_server: NatsServer) -> AsyncIterator[Broker]:
    """Connect to the test's own nats-server."""
    async with connect(own_nats_server.url) as broker:
        yield broker


@pytest.fixture
def unique() -> Callable[[], str]:
    """Make names for streams, stores and subjects that no other test uses."""
    return lambda: f"t{secrets.token_hex(6)}"
