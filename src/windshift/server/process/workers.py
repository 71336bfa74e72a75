"""Several processes that serve one port together, in place of an `App` in this one.

Each worker is an `App` in a process of its own, and a server to the others on the same broker. This process
starts them, starts another one when one ends, and speaks for all: probes, metrics, signals.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from windshift.nats import ServerAddress
from windshift.rpc import close_sockets, hold_port
from windshift.server.auth.ledger import Ledger
from windshift.server.config.tree import ServerConfig
from windshift.server.process.channel import (
    Answer,
    Assignment,
    Channel,
    Collected,
    Drained,
    Failed,
    Order,
    Question,
    Refusal,
    Serving,
)
from windshift.server.process.errors import StartError, how_it_ended
from windshift.server.process.metrics import Metrics
from windshift.server.process.readiness import Readiness
from windshift.server.telemetry.merging import lasting, merged
from windshift.server.telemetry.registry import Readings
from windshift.server.telemetry.signals import Telemetry

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
"""Seconds between the end of a worker and the start of the next one."""
_STABLE: Final = 10.0
"""Seconds after which the end of a worker is followed by the next one at once."""
_SILENT: Final = 3.0
"""Seconds without a word of a worker after which it counts as blocked; it has one to say every second."""
_READING: Final = 5.0
"""Seconds that a worker has for its readings; it waits for JetStream's for up to three."""
_ANSWERING: Final = 1.0
"""Seconds that a worker has to answer another one."""
_GRACE: Final = 4.0
"""Seconds to send the last spans and records that a worker has after its calls were cut off."""
_ENDING: Final = 2.0
"""Seconds in which a worker's process must be gone after its end of the channel is."""


class Workers:
    """The workers of this server, with what an `App` can do.

    Attributes:
        port: the port of the API, once they listen.
        metrics: of all of them together, unless turned off.
    """

    port = 0

    def __init__(
        self,
        config: ServerConfig,
        servers: tuple[ServerAddress, ...],
        telemetry: Telemetry,
        *,
        share_port: bool = False,
        storage: int | None = None,
    ) -> None:
        """Start nothing yet. The arguments are those of `App`; the limits of `config` are for one worker."""
        self._config = config
        self._servers = servers
        self._share_port = share_port
        self._storage = storage
        self._made_at = asyncio.get_running_loop().time()
        self._draining_since: float | None = None
        self._holding: Sequence[socket.socket] = ()
        self._asking: set[asyncio.Task[None]] = set()
        self._memory = Ledger.make(config.workers)
        self._workers: Sequence[_Worker] = ()
        self.metrics = Metrics(telemetry, self._collect) if config.metrics else None

    async def start(self) -> None:
        """Start the workers, and return when all of them serve.

        Raises `StartError` when one cannot, and OSError when the port cannot be used.
        """
        listen = self._config.grpc.listen
        self._holding = await hold_port(listen.host, listen.port, is_shared=self._share_port)
        self.port = self._holding[0].getsockname()[1]
        config, ledger = _of_one(self._config, self.port), Ledger(self._memory, self._config.workers)
        self._workers = [
            _Worker(
                Assignment(number, config, self._servers, self._storage, self._memory), ledger, self._pass_on
            )
            for number in range(1, self._config.workers + 1)
        ]
        for each in self._workers:
            each.start()
        await asyncio.gather(*(each.serving for each in self._workers))
        if self.metrics is not None:
            self.metrics.start()

    def readiness(self) -> Readiness:
        """Return whether calls should be sent here: one worker serves, and none that does is not ready."""
        if self._draining_since is not None:
            return Readiness("draining", self._draining_since)
        now = asyncio.get_running_loop().time()
        readings = [each.readiness(now) for each in self._workers]
        serving = [each for each in readings if each is not None]
        if not serving:
            return Readiness("starting", self._made_at)
        not_ready = [each for each in serving if each.reason is not None]
        return not_ready[0] if not_ready else max(serving, key=lambda each: each.since)

    def refuse_writes(self, why: str, trouble: Readiness | None) -> None:
        """Have all workers refuse what cannot be stored: see `App.refuse_writes`."""
        for each in self._workers:
            each.refuse(Refusal(why, trouble))

    def reload(self) -> None:
        """Have all workers reload their files soon; the log has the results."""
        for each in self._workers:
            each.send(Order.RELOAD)

    async def drain(self, timeout: float) -> bool:
        """Have all workers drain, and end. Return whether all calls ended within `timeout` seconds."""
        self._draining_since = asyncio.get_running_loop().time()
        drained = await asyncio.gather(*(each.stop(timeout + _GRACE) for each in self._workers))
        return all(drained)

    def abandon(self) -> None:
        """End all workers, now and without waiting: the caller is about to exit."""
        for each in self._workers:
            each.kill()

    async def close(self) -> None:
        """End what is left: after a start that was not finished, some workers may serve."""
        if self.metrics is not None:
            await self.metrics.close(_GRACE)
        timeout = self._config.grpc.drain_timeout.total_seconds()
        await asyncio.gather(*(each.stop(timeout + _GRACE) for each in self._workers))
        close_sockets(self._holding)
        os.close(self._memory)

    def _pass_on(self, worker: _Worker, question: Question) -> None:
        task = asyncio.create_task(self._ask_others(worker, question))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask_others(self, worker: _Worker, question: Question) -> None:
        """Ask all workers but one that wants to know."""
        others = [each for each in self._workers if each is not worker and each.serves]
        answers = await asyncio.gather(*(each.ask(question.method, question.request) for each in others))
        worker.send(Answer(question.id, answers))

    async def _collect(self) -> Readings:
        """Add up the metrics of all workers, and of this process."""
        own = () if self.metrics is None else await self.metrics.registry.collect()
        return merged([own, *await asyncio.gather(*(each.readings() for each in self._workers))])


def _of_one(config: ServerConfig, port: int) -> ServerConfig:
    """Return what a worker is configured with: it pushes no metrics, since these are of all workers."""
    grpc = replace(config.grpc, listen=replace(config.grpc.listen, port=port))
    metrics = replace(config.telemetry.metrics, endpoint=None)
    return replace(config, grpc=grpc, telemetry=replace(config.telemetry, metrics=metrics))


class _Worker:
    """One place among the workers: a process, and the next one when that has ended.

    Attributes:
        serving: done when the first process serves; raises `StartError` when it cannot.
    """

    def __init__(
        self, assignment: Assignment, ledger: Ledger, on_question: Callable[[_Worker, Question], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._assignment = assignment
        self._number = assignment.number
        self._ledger = ledger
        self._on_question = on_question
        self._task: asyncio.Task[None] | None = None
        self._channel: Channel | None = None
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._refusal = Refusal("", None)
        self._drained = False
        self._failure = ""
        self._reported: Readiness | None = None
        self._reported_at = 0.0
        self._latest: Readings = ()
        self._counted: Readings = ()
        self._collecting: asyncio.Future[None] | None = None
        self.serving: asyncio.Future[None] = self._loop.create_future()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"worker {self._number}")

    def readiness(self, now: float) -> Readiness | None:
        """Return whether the process should get calls; None while there is none that serves."""
        if self._reported is not None and now - self._reported_at > _SILENT:
            return Readiness("a worker does not answer", self._reported_at, f"worker {self._number}")
        return self._reported

    @property
    def serves(self) -> bool:
        return self._reported is not None

    async def ask(self, method: str, request: bytes) -> bytes | None:
        """Ask the process, and return its answer; None when it does not answer or ends."""
        if self._channel is None:
            return None
        (answer,) = await self._channel.ask(method, request, _ANSWERING)
        return answer

    def send(self, order: Order | Answer | Refusal) -> None:
        """Give the process an order, if there is one: the next one has it by itself."""
        if self._channel is not None:
            self._channel.send(order)

    def refuse(self, refusal: Refusal) -> None:
        """Have writes refused, or taken again, by this process and those after it."""
        self._refusal = refusal
        self.send(refusal)

    async def readings(self) -> Readings:
        """Return the readings of the process, and what those before it have counted."""
        if self._channel is not None and self._reported is not None:
            if self._collecting is None:
                self._collecting = self._loop.create_future()
                self._channel.send(Order.COLLECT)
            await asyncio.wait((self._collecting,), timeout=_READING)
        return merged([self._counted, self._latest])

    async def stop(self, timeout: float) -> bool:
        """Have the process end, by force after `timeout` seconds. Return whether all its calls had ended."""
        self._stopping.set()
        self.send(Order.STOP)
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=timeout)
            self._task.cancel()
            await asyncio.wait((self._task,))
        return self._drained

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            os.kill(self._process.pid, signal.SIGKILL)

    # The processes

    async def _run(self) -> None:
        pause = 0.0
        while not self._stopping.is_set():
            began = self._loop.time()
            try:
                how = await self._live()
            except OSError as error:  # no memory, no more processes
                how = f"cannot be started: {error.strerror}"
            except Exception:  # its place must not stay empty
                log.exception("worker %d", self._number)
                how = "was given up"
            if self._stopping.is_set():
                return
            if not self.serving.done():
                self.serving.set_exception(StartError(self._failure or f"worker {self._number} {how}"))
                return
            stable = self._loop.time() - began >= _STABLE
            pause = 0.0 if stable else min(2 * pause or _FIRST_PAUSE, _LONGEST_PAUSE)
            log.error("worker %d %s; starting another one in %g s", self._number, how, pause)
            try:
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            except TimeoutError:
                pass

    async def _live(self) -> str:
        """Run one process to its end, and say how it ended."""
        self._failure = ""
        ours, theirs = socket.socketpair()
        async with aclosing(await Channel.of(ours)) as channel:
            with theirs:
                process = self._process = await self._spawn(theirs.fileno())
            try:
                channel.send(self._assignment)
                channel.send(self._refusal)
                if self._stopping.is_set():
                    channel.send(Order.STOP)
                self._channel = channel
                async for message in channel.messages():
                    self._take(message)
                await asyncio.wait((asyncio.create_task(process.wait()),), timeout=_ENDING)
            finally:
                self._channel = self._reported = None
                self._count_no_more()
                if process.returncode is None:
                    process.kill()
                status = await process.wait()
                self._ledger.forget(self._number)
        if self._failure:
            return f"cannot serve: {self._failure}"
        return f"ended ({how_it_ended(status)})"

    async def _spawn(self, end: int) -> Process:
        """Start a process in a session of its own: Ctrl-C in a terminal is for this one."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "windshift.server.process.worker", str(end)),
            stdin=DEVNULL,
            pass_fds=(end, self._assignment.ledger),
            start_new_session=True,
        )

    def _take(self, message: object) -> None:
        match message:
            case Serving(readiness):
                if self._reported is None and readiness is not None and self.serving.done():
                    log.warning("worker %d serves again", self._number)
                self._reported, self._reported_at = readiness, self._loop.time()
                if not self.serving.done():
                    self.serving.set_result(None)
            case Collected(readings):
                self._latest = readings
                self._collected()
            case Question():
                self._on_question(self, message)
            case Failed(text):
                self._failure = text
            case Drained(wholly):
                self._drained = wholly
            case _:
                raise AssertionError(f"no worker says {message!r}")

    def _collected(self) -> None:
        if self._collecting is not None:
            self._collecting.set_result(None)
            self._collecting = None

    def _count_no_more(self) -> None:
        """Keep what a process had counted when it was last asked: sums never go back."""
        self._counted, self._latest = merged([self._counted, lasting(self._latest)]), ()
        self._collected()
