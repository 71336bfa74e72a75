"""The process: starts everything in order, waits for a signal, stops everything in reverse."""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import uvloop

from windshift.nats import ConnectFailed, ServerAddress
from windshift.rpc.transports import joined
from windshift.server.auth.authorization import PolicyNotUsable
from windshift.server.background.reloading import NotUsable
from windshift.server.config.tree import ListenConfig, NatsConfig, ServerConfig
from windshift.server.process.embedded.disk import Disk
from windshift.server.process.embedded.nats import EmbeddedNats
from windshift.server.process.errors import StartError
from windshift.server.process.exposure import warn
from windshift.server.process.health_http import HealthApplication, HealthServer
from windshift.server.process.logging import configure_logging, exported_logs
from windshift.server.process.memory import give_free_blocks_back, keep_large_blocks, memory_to_hold
from windshift.server.process.open_files import allow_connections
from windshift.server.process.readiness import NO_JETSTREAM, Readiness
from windshift.server.process.tls import TlsNotUsable
from windshift.server.process.watchdog import Watchdog
from windshift.server.process.workers import Workers
from windshift.server.telemetry import instruments
from windshift.server.telemetry.registry import Exposition, Registry
from windshift.server.telemetry.signals import Telemetry

if TYPE_CHECKING:
    from windshift.server.process.app import App  # see `_load_app`

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOK = 0.1
"""Seconds between two looks at whether there is JetStream."""
_SWITCH_INTERVAL = 0.0005
"""Seconds until Python switches threads. With the default of 5 ms, calls would wait that long while another
thread encodes spans or imports a module: half of the 99th percentile at 2,500 publishes per second, all
recorded."""


def run(config: ServerConfig, announce: Callable[[str], None], *, share_port: bool = False) -> None:
    """Serve until a signal asks to stop, in the main thread.

    `announce` is called once, with a line that says where the server listens and where its data lies.
    With `share_port` other servers that do the same may listen on the same ports.
    A second signal ends the process at once. Raises `StartError`.
    """
    faulthandler.enable()  # a crash of a library in C says where
    keep_large_blocks()
    configure_logging(config.log.level, readable=config.log.development)
    telemetry = Telemetry(config.telemetry)

    async def serve() -> None:
        await Process(config, telemetry, announce, share_port=share_port).run()

    with exported_logs(telemetry), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


class Process:
    """One server process, made in the event loop that it runs in."""

    def __init__(
        self,
        config: ServerConfig,
        telemetry: Telemetry,
        announce: Callable[[str], None],
        *,
        share_port: bool = False,
    ) -> None:
        self._config = config
        self._telemetry = telemetry
        self._share_port = share_port
        self._announce = announce
        self._embedded: EmbeddedNats | None = None
        self._app: App | Workers | None = None
        self._workers: Workers | None = None  # known before they serve
        self._watchdog = Watchdog(config.watchdog_timeout.total_seconds(), self._abandon)
        self._held: Readiness | None = None
        self._stopping = asyncio.Event()
        self._started = self._stopping_since = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Start, serve, drain, stop. Raises `StartError`; whatever was started is stopped in any case."""
        sys.setswitchinterval(_SWITCH_INTERVAL)
        loop = asyncio.get_running_loop()
        for each in _SIGNALS:
            loop.add_signal_handler(each, self._on_signal, each)
        async with AsyncExitStack() as stack:
            if self._config.reloads:  # not by the loop: it would restore what ends the process before its end
                signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(self._on_hangup))
                # At the end, when there is nothing left to reload
                stack.callback(signal.signal, signal.SIGHUP, signal.SIG_IGN)
            elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
                loop.add_signal_handler(signal.SIGHUP, self._on_signal, signal.SIGHUP)
            self._watchdog.start()
            stack.callback(self._watchdog.stop)
            await self._unless_stopped(self._start(stack))
            await self._stopping.wait()
            await self._drain()
        log.info("stopped")

    def _on_signal(self, number: signal.Signals) -> None:
        if not self._stopping.is_set():
            log.info("%s: stopping; a second one ends the process at once", number.name)
            self._stop()
            return
        self._abandon()
        sys.stderr.write(f"windshift: a second signal ({number.name}): not waiting any longer\n")
        sys.stderr.flush()
        os._exit(128 + number)

    def _stop(self) -> None:
        self._stopping_since = asyncio.get_running_loop().time()
        self._stopping.set()

    def _abandon(self) -> None:
        """Tell the embedded server to stop, and end the workers: this process is about to exit."""
        if self._workers is not None:
            self._workers.abandon()
        if self._embedded is not None:
            self._embedded.abandon()

    def _on_hangup(self) -> None:
        """Load files again. While the server starts they are fresh, and later changes are noticed anyway."""
        if self._app is not None and not self._stopping.is_set():
            log.info("SIGHUP: reloading")
            self._app.reload()

    async def _unless_stopped(self, work: Coroutine[None, None, None]) -> None:
        """Do the work, or leave it when a signal comes meanwhile."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
        if not task.cancelled():
            task.result()
        elif not self._stopping.is_set():
            raise StartError("the start was cancelled from inside; try again")

    # Start

    async def _start(self, stack: AsyncExitStack) -> None:
        """Start everything. What the stack is given is stopped in reverse, after the drain."""
        config = self._config = _with_room(self._config)
        health_port = await self._start_health(stack)
        loading = asyncio.create_task(
            asyncio.to_thread(_load_app if config.workers == 1 else lambda: Workers)
        )
        servers = config.nats.servers or await self._start_embedded(stack)
        make_app = await loading
        storage = None if self._embedded is None else self._embedded.storage
        app = make_app(config, servers, self._telemetry, share_port=self._share_port, storage=storage)
        if self._embedded is not None and app.metrics is not None:
            _add_disk(app.metrics.registry, self._embedded.disk)
        await self._begin(app, stack)
        self._tell_of_disk()
        warnings = asyncio.create_task(warn(config, app.port))
        stack.callback(warnings.cancel)
        if app.readiness().reason == NO_JETSTREAM:
            while app.readiness().reason is not None:  # noqa: ASYNC110 - workers can only be asked
                await asyncio.sleep(_LOOK)
        self._tell(_ready_line(config, app.port, health_port))

    async def _begin(self, app: App | Workers, stack: AsyncExitStack) -> None:
        """Take calls."""
        stack.push_async_callback(app.close)
        if isinstance(app, Workers):
            self._workers = app
        await _start_app(app, self._config)
        if app.metrics is not None:
            app.metrics.registry.add_number(instruments.LOOP_STALLS, lambda: self._watchdog.stalls)
        self._app = app
        spare_collector()
        give_free_blocks_back()

    def _tell(self, line: str) -> None:
        """Say that the server is ready. That nobody reads it any more is no reason to end."""
        try:
            self._announce(line)
        except OSError as error:
            log.warning("cannot write to stdout (%s): %s", error.strerror, line)

    async def _start_health(self, stack: AsyncExitStack) -> int:
        """Answer probes from the very start: the rest may take a while."""
        scrape = self._scrape if self._config.metrics else None
        application = HealthApplication(self._readiness, self._started, scrape)
        probes, listen = self._config.health_probes, self._config.health
        health = HealthServer(application, is_shared=self._somebody_is_hindered, probes=probes)
        stack.push_async_callback(health.stop)
        try:
            return await health.start(listen.host, listen.port, share_port=self._share_port)
        except (OSError, UnicodeError) as error:
            raise _cannot_listen(listen, "HEALTH", error) from error

    async def _start_embedded(self, stack: AsyncExitStack) -> tuple[ServerAddress, ...]:
        embedded = self._embedded = EmbeddedNats(self._config.embedded)
        embedded.on_trouble.append(self._tell_of_disk)
        stack.push_async_callback(embedded.stop)
        await embedded.start()
        await self._inspect(embedded)
        return (embedded.address,)

    async def _inspect(self, embedded: EmbeddedNats) -> None:
        """Go on when all that is missing is accepted; otherwise say so until the process is stopped."""
        losses = await embedded.inventory.inspect(embedded.address)
        wrong = [each for each in losses if not self._config.embedded.accepts_loss(each.stream)]
        for each in losses:
            level = logging.ERROR if each in wrong else logging.WARNING
            log.log(level, "the data of stream %s is damaged: %s", each.stream, each.text)
        if wrong:
            await self._hold(sorted({each.stream for each in wrong}))
        if embedded.inventory.accept(losses):
            await embedded.stop()
            await embedded.start()

    async def _hold(self, streams: list[str]) -> None:
        """Serve nothing and tell why, until a signal ends the process."""
        names = ",".join(streams)
        log.error(
            "not serving, since data is damaged; put back a copy of %s, or set WINDSHIFT_NATS_ACCEPT_LOSS=%s",
            self._config.embedded.data_dir,
            names,
        )
        self._held = Readiness("data is damaged", asyncio.get_running_loop().time(), f"streams: {names}")
        await asyncio.Event().wait()

    def _tell_of_disk(self) -> None:
        """Have writes refused while the embedded server cannot store, and probes told why."""
        if self._app is None or self._embedded is None:
            return
        disk = self._embedded.disk
        if disk.trouble is None:
            self._app.refuse_writes("", None)
        else:
            why = f"the server can store nothing: {disk.trouble}; nothing was stored, try again later"
            self._app.refuse_writes(why, Readiness("NATS can store nothing", disk.since, disk.described))

    async def _scrape(self, accept: str) -> Exposition | None:
        """Give the text of all metrics, once there is a server that has any."""
        metrics = None if self._app is None else self._app.metrics
        return None if metrics is None else await metrics.expose(accept)

    def _somebody_is_hindered(self) -> bool:
        """Tell whether work here would hinder somebody; with workers, nobody calls this process."""
        app = self._app
        return app is not None and not isinstance(app, Workers) and app.somebody_is_hindered()

    def _readiness(self) -> Readiness:
        if self._stopping.is_set():
            return Readiness("draining", self._stopping_since)
        if self._held is not None:
            return self._held
        return Readiness("starting", self._started) if self._app is None else self._app.readiness()

    # Stop

    async def _drain(self) -> None:
        if self._app is None:
            return
        timeout = self._config.grpc.drain_timeout.total_seconds()
        self._tell_of_drain(wholly=await self._app.drain(timeout))

    def _tell_of_drain(self, *, wholly: bool) -> None:
        if wholly:
            log.info("drained: all calls ended")
        else:
            timeout = self._config.grpc.drain_timeout.total_seconds()
            log.warning(
                "not all calls ended within WINDSHIFT_DRAIN_TIMEOUT (%g s); they were cut off", timeout
            )


def _load_app() -> type[App]:
    """Import what serves, which takes most of a start: the embedded server starts meanwhile."""
    from windshift.server.process.app import App  # noqa: PLC0415 - see above

    return App


def _with_room(config: ServerConfig) -> ServerConfig:
    """Fit the limits to what a process may have: memory, and a file for each connection.

    Of what is for the whole server, each worker has an equal share.
    """
    limits, workers = config.grpc.limits, config.workers
    wanted = limits.max_connections
    share = -(-wanted // workers)
    per_process = allow_connections(share)
    room = min(wanted, per_process * workers)
    limits = replace(
        limits,
        max_connections=per_process,
        max_connections_per_address=-(-limits.max_connections_per_address // workers),
        max_held=(limits.max_held or memory_to_hold()) // workers,
    )
    if per_process < share:
        log.warning(
            "the limit of open files lets %d connections in, not GRPC_MAX_CONNECTIONS=%d: raise the limit "
            "(ulimit -Hn, or LimitNOFILE= of systemd), or set GRPC_MAX_CONNECTIONS to what it should be",
            room,
            wanted,
        )
    return replace(config, grpc=replace(config.grpc, limits=limits))


def _add_disk(registry: Registry, disk: Disk) -> None:
    """Show how much room there is on the disk of the embedded server, and whether it takes writes."""
    registry.add_number(instruments.DISK_FREE, lambda: None if disk.space is None else disk.space.free)
    registry.add_number(instruments.DISK_SIZE, lambda: None if disk.space is None else disk.space.total)
    registry.add_number(instruments.DISK_REFUSING, lambda: int(disk.trouble is not None))


def spare_collector() -> None:
    """Keep the garbage collector from looking at the same objects all the time.

    What start made stays for good. After that a burst of calls makes some thousands of objects, nearly all of
    which reference counting frees: with the default of 700 the collector runs several times in each. That
    was a tenth of the CPU time of a publish. With many more it would hold the event loop for long where lists
    make objects that stay for a while: 10,000 took up to 12 ms on a slow machine.

    What stays for longer is looked at once more, and then seldom: with thousands of consume calls that takes
    hundreds of milliseconds. Calls and connections leave no cycles behind, so there is little to be found.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(3_000, 0, 1_000)


async def _start_app(app: App | Workers, config: ServerConfig) -> None:
    try:
        await app.start()
    except ConnectFailed as error:
        raise StartError(f"{_about_nats(config.nats)}: {error.text}") from error
    except PolicyNotUsable as error:
        lines = (f"WINDSHIFT_AUTH_FILE: {config.auth.file}: {problem}" for problem in error.problems)
        raise StartError("\n".join(lines)) from error
    except TlsNotUsable as error:
        raise StartError(str(error)) from error
    except NotUsable as error:
        raise StartError(f"WINDSHIFT_AUTH_FILE: {error}") from error
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(config.grpc.listen, "GRPC", error) from error


def _about_nats(config: NatsConfig) -> str:
    """Name the settings that a connection to NATS depends on."""
    if not config.servers:
        return "the embedded server"
    given = {
        "NATS_CREDS": config.credentials,
        "NATS_NKEY": config.nkey,
        "NATS_PASSWORD_FILE": config.password,
        "NATS_TLS_CA": config.tls.ca,
        "NATS_TLS_CERT": config.tls.certificate,
        "NATS_TLS_KEY": config.tls.key,
        "NATS_TLS_FIRST": config.tls_first,
    }
    return ", ".join(("NATS_URL", *(name for name, value in given.items() if value)))


def _cannot_listen(listen: ListenConfig, prefix: str, error: OSError | UnicodeError) -> StartError:
    """Say in one line why an address cannot be listened on. UnicodeError: a host that can be no name."""
    where = f"cannot listen on {joined(listen.host, listen.port)}"
    if isinstance(error, UnicodeError):
        return StartError(f"{where}: this machine has no such address", setting=f"{prefix}_HOST")
    if error.errno == errno.EADDRINUSE:
        return StartError(f"{where}: the port is in use", "stop what uses it", f"{prefix}_PORT")
    if error.errno == errno.EACCES:
        return StartError(f"{where}: not allowed for this user", "use 1024 or above", f"{prefix}_PORT")
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return StartError(f"{where}: this machine has no such address", setting=f"{prefix}_HOST")
    return StartError(f"{where}: {error.strerror}", setting=f"{prefix}_HOST or {prefix}_PORT")


def _ready_line(config: ServerConfig, port: int, health_port: int) -> str:
    nats = ", ".join(server.url for server in config.nats.servers)
    return (
        f"windshift is ready: API on {joined(config.grpc.listen.host, port)}"
        f"{' (TLS)' if config.grpc.tls.certificate else ''}, "
        f"health on http://{joined(config.health.host, health_port)}, "
        f"data in {nats or config.embedded.data_dir}"
    )
