"""The embedded nats-server as a child process: started, watched, restarted when it dies, stopped."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import secrets
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windshift.nats import ServerAddress
from windshift.server.background.threads import in_thread
from windshift.server.config.tree import EmbeddedConfig
from windshift.server.process.embedded.directory import DataDirectory, LogEnd
from windshift.server.process.embedded.disk import TOO_MANY_OPEN_FILES, Disk, Space, Trouble, failure, look
from windshift.server.process.embedded.inventory import Inventory
from windshift.server.process.embedded.program import find_program
from windshift.server.process.embedded.settings import nats_settings
from windshift.server.process.errors import StartError, how_it_ended
from windshift.server.telemetry.log_throttle import LogThrottle

log = logging.getLogger(__name__)

_LAUNCHER = Path(__file__).with_name("launch.py")
_USER = "windshift"
_LOOKS_PER_TRIAL = 4
"""So many looks at the disk while one file is written there."""
_STILL_FAILING = 60.0
"""Seconds between two log records that the disk cannot be looked at."""
_POLL = 0.005
"""Seconds between two looks whether it takes connections."""
_LOCK = 10.0
"""Seconds for the nats-server of a killed server to leave the data directory."""
_STABLE = 10.0
"""A server that ran so many seconds counts as sound: its next death is followed by an immediate restart."""
_DISK_TIMEOUT = 10.0
"""Seconds that a look may take before the disk counts as silent."""
_RENEW_FIRST, _RENEW_LONGEST = 1.0, 300.0
"""Seconds between restarts because writes have failed; they become rarer when that does not help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedTimers:
    """Waits of the embedded server, in seconds."""

    start: float = 300.0
    """Until it must take connections; large stores take a while to be read after a crash."""
    still_starting: float = 5.0
    """Between two log records that it still does not."""
    still_stopping: float = 5.0
    """Between two log records that it has not stopped yet."""
    restart_first: float = 0.1
    restart_longest: float = 5.0
    look: float = 5.0
    """Between two looks whether it still answers, and how long it has for that."""
    disk: float = 0.25
    """Between two looks at the disk."""
    unanswered: int = 3
    """How many looks in a row it may leave unanswered; with the fourth it is killed. That makes 35 to 40
    seconds by default. Looks are counted, and not seconds: this process may itself have been stopped.
    """


class EmbeddedNats:
    """One nats-server with JetStream, on a loopback port and with a password that nobody else knows.

    Port and password stay for the life of this object, so that connections come back after a restart.
    """

    def __init__(self, config: EmbeddedConfig, timers: EmbeddedTimers | None = None) -> None:
        self._config = config
        self._timers = timers or EmbeddedTimers()
        self._directory = DataDirectory(config.data_dir)
        self._password = secrets.token_urlsafe(32)
        self._program = Path()
        self._port = -1
        self._process: Process | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._log_end = LogEnd(frozenset(), 0)  # what comes behind it was not looked at
        self._looks = 0
        self._renewed_at = -math.inf
        self._renew_pause = 0.0
        self.storage = 0
        """How many bytes it may store."""
        self.inventory = Inventory(self._directory)
        """What is missing since the directory was left."""
        self.disk = Disk(config.data_dir)
        """Whether it can store."""
        self.on_trouble: list[Callable[[], None]] = []
        """Called when that has changed."""

    @property
    def address(self) -> ServerAddress:
        """Where it listens, with the password."""
        return ServerAddress("nats", "127.0.0.1", self._port, _USER, self._password)

    @property
    def pid(self) -> int | None:
        """The id of the process; None when none runs."""
        return None if self._running is None else self._running.pid

    @property
    def _running(self) -> Process | None:
        process = self._process
        return None if process is None or process.returncode is not None else process

    async def start(self) -> None:
        """Start it, and return when it takes connections.

        Raises `StartError`, and leaves nothing behind then.
        """
        self._program = self._config.program or find_program()
        await self._directory.acquire(_LOCK)
        try:
            self._directory.tidy()
            self.inventory.begin()
            await self._launch()
        except BaseException as error:
            await self.stop()
            if isinstance(error, OSError):
                raise self._directory.unusable(error) from error
            raise
        self._tasks = [
            asyncio.create_task(self._watch(), name="embedded nats-server"),
            asyncio.create_task(self._watch_disk(), name="embedded nats-server: disk"),
        ]

    async def stop(self) -> None:
        """Stop it in good order, or by force after a while, and leave the data directory to others."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
            self._tasks = []
        if self.pid is not None:
            await self.inventory.take_final(self.address)
        if await self._end_process():
            self.inventory.write_final()
        if self._directory.lock_fd >= 0:
            self._leave_directory()

    def abandon(self) -> None:
        """Tell it to stop, now and without waiting: the caller is about to exit."""
        if self._running is not None:
            self._running.send_signal(signal.SIGTERM)

    def _leave_directory(self) -> None:
        try:
            self._directory.tidy()
        except OSError as error:  # it is gone, or cannot be written any more
            log.warning("%s is left as it is: %s", self._directory.run, error.strerror)
        self._directory.release()

    # One life of the process

    async def _launch(self) -> None:
        self.storage = look(self._directory.path).limit
        self._write_settings()
        self.disk.failed = ""
        self._log_end = log_end = self._directory.log_end()
        self._process = await self._spawn()
        try:
            async with asyncio.timeout(self._timers.start):
                self._port = await self._ready(self._process, log_end)
        except TimeoutError:
            raise StartError(
                f"nats-server did not take connections within {self._timers.start:g} s; "
                f"see {self._directory.log}"
            ) from None

    def _write_settings(self) -> None:
        """Write nats-server's configuration. Raises OSError."""
        text = nats_settings(
            self._config,
            self._directory,
            port=self._port,
            limit=self.storage,
            user=_USER,
            password=self._password,
        )
        self._directory.write_config(text)

    async def _spawn(self) -> Process:
        """Start the process in a session of its own: Ctrl-C in a terminal is for us, we stop it last."""
        log_fd = self._directory.open_log()
        try:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())),
                *(str(self._program), "--config", str(self._directory.config)),
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=log_fd,
                pass_fds=(self._directory.lock_fd,),
                start_new_session=True,
            )
        except OSError as error:
            raise StartError(f"cannot start {self._program}: {error.strerror}") from error
        finally:
            os.close(log_fd)

    async def _ready(self, process: Process, log_end: LogEnd) -> int:
        """Wait until the server says where it listens, and greets there. Returns the port."""
        loop = asyncio.get_running_loop()
        tell_at = loop.time() + self._timers.still_starting
        while True:
            if process.returncode is not None:
                raise StartError(self._why_it_ended(log_end))
            port = self._read_port(process.pid)
            if port is not None and await _greets(port):
                return port
            if loop.time() >= tell_at:
                tell_at += self._timers.still_starting
                log.info("nats-server is still starting; see %s", self._directory.log)
            await asyncio.sleep(_POLL)

    def _read_port(self, pid: int) -> int | None:
        """Read the ports file; None as long as it is absent or half written."""
        file = self._directory.ports_file(pid)
        try:
            text = file.read_text(encoding="utf-8") if file is not None else ""
            return int(json.loads(text)["nats"][0].rpartition(":")[2])
        except (OSError, ValueError):
            return None

    def _why_it_ended(self, log_end: LogEnd) -> str:
        """Quote the last line that nats-server wrote since its log ended there."""
        lines = self._directory.logged_since(log_end)
        line = next((line for line in reversed(lines) if "[FTL]" in line or "nats-server:" in line), "")
        reason = line.rpartition("[FTL]")[2].rpartition("nats-server:")[2].strip()
        return f"nats-server ended while starting: {reason or f'see {self._directory.log}'}"

    async def _end_process(self) -> bool:
        """Stop the process; return whether it was there and has stopped in good order."""
        process = self._running
        if process is None:
            return False
        process.send_signal(signal.SIGTERM)
        return await self._ended(process)

    async def _ended(self, process: Process) -> bool:
        """Wait until a process that was told to stop has, and kill it after WINDSHIFT_NATS_STOP_TIMEOUT.

        Returns whether it was not killed.
        It writes down how far each stream and consumer has come: thousands of them take it many seconds.
        """
        end = asyncio.ensure_future(process.wait())
        unanswered = self._config.stop_timeout.total_seconds()
        loop = asyncio.get_running_loop()
        give_up = loop.time() + unanswered
        while not end.done() and (left := give_up - loop.time()) > 0:
            await asyncio.wait([end], timeout=min(left, self._timers.still_stopping))
            if not end.done() and loop.time() < give_up:
                log.info("nats-server is still stopping")
        if not end.done():
            log.warning(
                "nats-server did not stop within WINDSHIFT_NATS_STOP_TIMEOUT (%g s); killing it", unanswered
            )
            process.kill()
        return await end >= 0

    # Its lives

    async def _watch(self) -> None:
        """Start it again whenever it dies, at growing intervals when it keeps dying."""
        pause = 0.0
        while True:
            pause = await self._outlive(pause)
            await asyncio.sleep(pause)
            await self._restart()

    async def _outlive(self, pause: float) -> float:
        """Wait for the end of this life, and return how long to wait before the next one."""
        loop = asyncio.get_running_loop()
        process, started = self._process, loop.time()
        if process is None:
            raise AssertionError("watched before it was started")
        looking = asyncio.create_task(self._look_after(process), name="embedded nats-server: look")
        try:
            status = await process.wait()
        finally:
            looking.cancel()
        if self._renewed_at >= started:
            return 0.0
        pause = 0.0 if loop.time() - started >= _STABLE else self._longer(pause)
        log.error("nats-server ended (%s); starting it again in %g s", how_it_ended(status), pause)
        return pause

    async def _look_after(self, process: Process) -> None:
        """Kill it when it lives and does not answer: nothing else would ever end that."""
        look, unanswered = self._timers.look, 0
        while unanswered <= self._timers.unanswered:
            await asyncio.sleep(look)
            try:
                async with asyncio.timeout(look):
                    answered = await _greets(self._port)
            except TimeoutError:
                answered = False
            unanswered = 0 if answered else unanswered + 1
        log.error("nats-server does not answer; killing it")
        if process.returncode is None:
            process.kill()

    async def _restart(self) -> None:
        """Start it until that works."""
        pause = self._timers.restart_first
        while True:
            try:
                await self._launch()
            except (StartError, OSError) as error:
                await self._end_process()
                log.error("%s; trying again in %g s", error, pause)  # noqa: TRY400 - the text says it all
                await asyncio.sleep(pause)
                pause = self._longer(pause)
            else:
                log.warning("nats-server runs again")
                return

    # Its disk

    async def _watch_disk(self) -> None:
        """Look at the disk again and again, also after a look that failed: there may be no thread for it."""
        throttle = LogThrottle(_STILL_FAILING)
        while True:
            try:
                await self._see_disk()
            except Exception:
                if throttle.passes(asyncio.get_running_loop().time()):
                    log.exception("cannot look at the disk; trying again")
            await asyncio.sleep(self._timers.disk)

    async def _see_disk(self) -> None:
        """Look at the disk, and do what follows from what is seen."""
        looking = in_thread(self._look_at_disk, "windshift-disk")
        await asyncio.wait([looking], timeout=_DISK_TIMEOUT)
        if not looking.done():
            self._take_look(None, "")
            await asyncio.wait([looking])
        try:
            space, failed = looking.result()
        except OSError as error:
            if error.errno not in TOO_MANY_OPEN_FILES:
                self._take_look(None, error.strerror or "")
        else:
            self._take_look(space, failed)
            self._raise_limit(space)
        if self.disk.trouble is Trouble.FAILED:
            self._renew()

    def _look_at_disk(self) -> tuple[Space, str]:
        failed = self._read_failure()
        failing = bool(failed or self.disk.failed or self.disk.trouble)
        self._looks += 1
        trial = self._directory.run / "trial" if failing or self._looks % _LOOKS_PER_TRIAL == 0 else None
        return look(self._directory.path, trial, sync=failing), failed

    def _read_failure(self) -> str:
        """Return why a write has failed since the last look, by nats-server's log; "" if none has."""
        end = self._directory.log_end()
        if end == self._log_end:
            return ""
        try:
            failed = failure(self._directory.logged_since(self._log_end))
        except FileNotFoundError:  # it is being moved aside; the next look reads it
            return ""
        self._log_end = end
        return failed

    def _take_look(self, space: Space | None, failed: str) -> None:
        if not self.disk.seen(space, failed, asyncio.get_running_loop().time()):
            return
        trouble = self.disk.trouble
        if trouble is None:
            log.warning("NATS can store again; %s", self.disk.described)
        else:
            log.error("NATS can store nothing: %s; writes are refused; %s", trouble, self.disk.described)
        for each in self.on_trouble:
            each()

    def _raise_limit(self, space: Space) -> None:
        """Let nats-server store more when the file system has grown. It takes less only at a start."""
        process = self._running
        if space.limit <= self.storage or process is None:
            return
        log.info("the disk has grown: NATS may store %d MB; %s", space.limit // 10**6, self.disk.described)
        self.storage = space.limit
        try:
            self._write_settings()
        except OSError as error:
            log.warning("%s", self._directory.unusable(error))
            return
        process.send_signal(signal.SIGHUP)

    def _renew(self) -> None:
        """Have nats-server started anew, not too often; `_watch` starts it when it has ended."""
        process, now = self._running, asyncio.get_running_loop().time()
        if process is None or now < self._renewed_at + self._renew_pause:
            return
        helped = now - self._renewed_at > 2 * _RENEW_LONGEST
        pause = _RENEW_FIRST if helped else 2 * self._renew_pause
        self._renew_pause = min(pause, _RENEW_LONGEST)
        self._renewed_at = now
        log.warning("starting nats-server anew, since it takes no more writes; %s", self.disk.described)
        process.send_signal(signal.SIGTERM)
        self._tasks.append(asyncio.create_task(self._ended(process), name="embedded nats-server: renewed"))

    def _longer(self, pause: float) -> float:
        return min(2 * pause or self._timers.restart_first, self._timers.restart_longest)


async def _greets(port: int) -> bool:
    """Tell whether a NATS server answers on this port: it speaks first.

    That this process has too many files open to ask says nothing about the server, and counts as an answer.
    """
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        return error.errno in TOO_MANY_OPEN_FILES
    try:
        return (await reader.read(5)) == b"INFO "
    except OSError:
        return False
    finally:
        writer.close()
