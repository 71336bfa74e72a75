"""The embedded nats-server: start, death, restart, stop. What needs the whole process is in tests/e2e."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.broker import connect, in_seconds
from windshift.server.background.threads import in_thread
from windshift.server.config.tree import EmbeddedConfig
from windshift.server.process.embedded import nats
from windshift.server.process.embedded.nats import EmbeddedNats, EmbeddedTimers
from windshift.server.process.embedded.program import find_program
from windshift.server.process.errors import StartError

T = TypeVar("T")

QUICK = EmbeddedTimers(restart_first=0.01, restart_longest=0.1)


def url(embedded: EmbeddedNats) -> str:
    """Return its URL with the credentials."""
    address = embedded.address
    return f"nats://{address.user}:{address.password}@{address.host}:{address.port}"


@asynccontextmanager
async def running(config: EmbeddedConfig, timers: EmbeddedTimers = QUICK) -> AsyncIterator[EmbeddedNats]:
    """Run one for as long as the block lasts."""
    embedded = EmbeddedNats(config, timers)
    await embedded.start()
    try:
        yield embedded
    finally:
        await embedded.stop()


def restarts(caplog: pytest.LogCaptureFixture) -> int:
    """Count how often the server was started again."""
    return caplog.text.count("nats-server runs again")


async def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def script(path: Path, text: str) -> Path:
    """Write a shell script that can take nats-server's place."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("name", ["plain", 'with "quotes" $HOME #hash é'])
async def test_keeps_data(tmp_path: Path, name: str) -> None:
    """It takes connections with its password, and keeps data over restarts, whatever the directory's name."""
    config = EmbeddedConfig(tmp_path / name)
    async with running(config) as embedded, connect(url(embedded)) as broker:
        await broker.stream("kept", storage="file")
    async with running(config) as embedded, connect(url(embedded)) as broker:
        assert await broker.messages("kept") == 0


async def test_nobody_else_gets_in(tmp_path: Path) -> None:
    """Without the password there is no connection, and the password is in no log and no repr."""
    async with running(EmbeddedConfig(tmp_path)) as embedded:
        password = embedded.address.password
        assert password is not None
        with pytest.raises(Exception, match="refused the credentials"):
            async with connect(f"nats://127.0.0.1:{embedded.address.port}"):
                pass
        assert password not in (tmp_path / "nats-server.log").read_text()
        assert password not in repr(embedded.address)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("sync", ["100ms", "always"])
async def test_flush_interval_is_taken(tmp_path: Path, sync: str) -> None:
    """nats-server accepts the intervals that the configuration lets through."""
    async with running(EmbeddedConfig(tmp_path, sync=sync)) as embedded, connect(url(embedded)) as broker:
        await broker.stream("flushed", storage="file")


@pytest.mark.parametrize("size", [64 * 1024, 8 * 1024 * 1024])
async def test_largest_message(tmp_path: Path, size: int) -> None:
    """It is as large as the configuration says."""
    config = EmbeddedConfig(tmp_path, max_payload=size)
    async with running(config) as embedded, connect(url(embedded)) as broker:
        assert broker.connection.max_payload == size


async def test_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A dead server is started again, on its port and with its password, so that connections come back."""
    async with running(EmbeddedConfig(tmp_path)) as embedded, connect(url(embedded)) as broker:
        await broker.stream("kept", storage="file")
        for times in (1, 2, 3):
            assert embedded.pid is not None
            os.kill(embedded.pid, signal.SIGKILL)
            await eventually(lambda times=times: restarts(caplog) == times)  # type: ignore[misc]  # not inferred
            await broker.connection.wait_ready(in_seconds(20))
            assert await broker.messages("kept") == 0


async def test_comes_back_when_frozen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server that lives and does not answer for long is killed and started again; what it kept is there."""
    timers = EmbeddedTimers(look=0.18, unanswered=2)
    config = EmbeddedConfig(tmp_path)
    async with running(config, timers) as embedded, connect(url(embedded)) as broker:
        await broker.stream("kept", storage="file")
        assert embedded.pid is not None
        os.kill(embedded.pid, signal.SIGSTOP)
        await eventually(lambda: restarts(caplog) == 1)
        await broker.connection.wait_ready(in_seconds(20))
        assert await broker.messages("kept") == 0
    assert "nats-server does not answer; killing it" in caplog.text


async def test_nobody_can_ask(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That this process may open no more files is no reason to kill the server."""
    looks, greets = 0, nats._greets

    async def look(port: int) -> bool:
        nonlocal looks
        looks += 1
        return await greets(port)

    async with running(EmbeddedConfig(tmp_path), EmbeddedTimers(look=0.12, unanswered=2)) as embedded:
        pid = embedded.pid
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        monkeypatch.setattr(nats, "_greets", look)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            await eventually(lambda: looks >= 6 or embedded.pid != pid)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert embedded.pid == pid
    assert "nats-server does not answer" not in caplog.text


async def test_no_thread_to_look_at_the_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks that fail are followed by others, and told once."""
    fails = iter([True] * 3)

    def look(work: Callable[[], T], name: str) -> asyncio.Future[T]:
        if next(fails, False):
            raise RuntimeError("can't start new thread")
        return in_thread(work, name)

    monkeypatch.setattr(nats, "in_thread", look)
    async with running(EmbeddedConfig(tmp_path), EmbeddedTimers(disk=0.01)) as embedded:
        await eventually(lambda: embedded.disk.space is not None)
    assert caplog.text.count("cannot look at the disk; trying again") == 1


async def test_short_freezes_are_borne(tmp_path: Path) -> None:
    """A server that was frozen for a moment goes on."""
    async with running(EmbeddedConfig(tmp_path), EmbeddedTimers(look=0.2, unanswered=1000)) as embedded:
        pid = embedded.pid
        assert pid is not None
        for _ in range(2):
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.5)
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.5)
        assert embedded.pid == pid


async def test_keeps_trying(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the restart fails it is tried again, with one record for each attempt."""
    program = script(tmp_path / "program", f'[ -e {tmp_path}/broken ] && exit 3\nexec {find_program()} "$@"')
    async with running(EmbeddedConfig(tmp_path / "data", program=program)) as embedded:
        (tmp_path / "broken").touch()
        assert embedded.pid is not None
        os.kill(embedded.pid, signal.SIGKILL)
        await eventually(lambda: caplog.text.count("nats-server ended while starting") >= 3)
        (tmp_path / "broken").unlink()
        await eventually(lambda: restarts(caplog) == 1)
    assert "nats-server ended (signal 9)" in caplog.text


async def test_stop_by_force(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server that does not react to SIGTERM is killed after a while."""
    config = EmbeddedConfig(tmp_path, stop_timeout=timedelta(seconds=0.2))
    async with running(config, EmbeddedTimers(still_stopping=0.05)) as embedded:
        pid = embedded.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    assert embedded.pid is None
    assert "did not stop within WINDSHIFT_NATS_STOP_TIMEOUT (0.2 s)" in caplog.text


async def test_does_not_start(tmp_path: Path) -> None:
    """A program that ends at once, with or without saying why, gives one line and frees the directory."""
    for text, reason in (
        ("exit 1", "see .*nats-server.log"),
        ("echo 'nats-server: no way' >&2; exit 1", "no way"),
    ):
        config = EmbeddedConfig(tmp_path / "data", program=script(tmp_path / "program", text))
        with pytest.raises(StartError, match=f"^nats-server ended while starting: {reason}$"):
            await EmbeddedNats(config).start()
    async with running(EmbeddedConfig(tmp_path / "data")):
        pass


async def test_a_log_that_is_moved_aside(tmp_path: Path) -> None:
    """Why a program does not start is found though it has begun another file."""
    log = tmp_path / "data" / "nats-server.log"
    log.parent.mkdir()
    log.write_text("nats-server: something else\n" * 10)
    text = f"mv {log} {log}.2027.01.01.00.00.00.000000000; echo '[1] [FTL] no way' > {log}; exit 1"
    config = EmbeddedConfig(tmp_path / "data", program=script(tmp_path / "program", text))
    with pytest.raises(StartError, match=r"^nats-server ended while starting: no way$"):
        await EmbeddedNats(config).start()


@pytest.mark.parametrize("taken", ["nats-server.log", "run/nats.conf"])
async def test_file_that_cannot_be_written(tmp_path: Path, taken: str) -> None:
    """What is in the way of one of its files gives one line that names it; nothing is left locked."""
    (tmp_path / taken).mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(StartError, match=rf"^cannot write to .*{taken}: Is a directory; ") as caught:
            await EmbeddedNats(EmbeddedConfig(tmp_path)).start()
        assert "WINDSHIFT_DATA_DIR" in str(caught.value)
    (tmp_path / taken).rmdir()
    async with running(EmbeddedConfig(tmp_path)):
        pass


async def test_stops_without_its_directory(tmp_path: Path) -> None:
    """A directory that was removed meanwhile does not keep it from stopping."""
    async with running(EmbeddedConfig(tmp_path)) as embedded:
        shutil.rmtree(tmp_path / "run")
    assert embedded.pid is None


async def test_does_not_become_ready(tmp_path: Path) -> None:
    """A program that never listens is given up and ended."""
    program = script(tmp_path / "program", f"echo $$ > {tmp_path}/pid; exec sleep 1000")
    embedded = EmbeddedNats(
        EmbeddedConfig(tmp_path / "data", program=program), EmbeddedTimers(start=0.3, still_starting=0.05)
    )
    with pytest.raises(StartError, match=r"did not take connections within 0\.3 s"):
        await embedded.start()
    assert embedded.pid is None


async def test_not_a_program(tmp_path: Path) -> None:
    """Something that cannot be run gives one line."""
    program = tmp_path / "program"
    program.write_bytes(b"\x00")
    program.chmod(0o755)
    with pytest.raises(StartError, match="nats-server ended while starting"):
        await EmbeddedNats(EmbeddedConfig(tmp_path / "data", program=program)).start()


async def test_second_on_the_same_directory(tmp_path: Path) -> None:
    """Two on one directory: the second fails, the first is not disturbed."""
    async with running(EmbeddedConfig(tmp_path)) as first:
        with pytest.raises(StartError, match="in use by another server"):
            await EmbeddedNats(EmbeddedConfig(tmp_path)).start()
        async with connect(url(first)) as broker:
            await broker.stream("undisturbed")
