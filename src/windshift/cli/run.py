"""`windshift run`: runs an app, alone, anew after each change of its files, or as several workers."""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from windshift.cli.failing import FAILED, USAGE, fail, stop_early
from windshift.cli.options import CONNECTION, PlainCommand, options_of

if TYPE_CHECKING:  # help needs none of it
    import windshift as ws


@click.command(cls=PlainCommand, takes=CONNECTION)
@click.argument("target", metavar="MODULE:APP")
@click.option(
    "--reload", is_flag=True, help="Start anew when a file of the app, below this directory, changes."
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Processes that run the app; one that ends by itself is started again.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long handlers may take to finish at a stop.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    help="Handlers at once of each consumer, whatever the app says.",
)
@click.option(
    "--health-port",
    type=click.IntRange(0, 65_535),
    help="Port of /healthz and /readyz; further workers have the next ones. 0: any free one.",
)
@click.option("--health-host", default="127.0.0.1", show_default=True, help="Address of --health-port.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Lowest level to log, unless the app sets up logging itself.",
)
@click.option("--worker-of", type=int, hidden=True, help="Stop when the process with this id is gone.")
def run(
    target: str,
    reload: bool,
    workers: int,
    grace: float,
    concurrency: int | None,
    health_port: int | None,
    health_host: str,
    log_level: str,
    worker_of: int | None,
) -> None:
    """Run the app APP of the module MODULE, such as `shop.main:app`, until SIGTERM or Ctrl-C.

    A first signal finishes what is being handled, a second one ends the process at once. What the options
    leave open about the server comes from WINDSHIFT_ADDRESS and the other variables, then from the context. A
    server that cannot be reached is waited for. Exits with 0 after an orderly stop, 1 if the app failed or
    its handlers did not end, 2 if there is no such app or what is said of the server is wrong.

    \b
    Examples:
      windshift run shop:app
      windshift run shop:app --reload
      windshift run shop:app --workers 2 --health-port 0
    """  # noqa: D301 -- click's mark for lines that stay as they are
    if reload and workers > 1:
        raise click.UsageError("--reload goes with one worker")
    signal.signal(signal.SIGTERM, stop_early)  # the kernel ignores it for a container's first process
    if workers > 1:
        from windshift.cli.workers import supervise

        _client(USAGE)
        sys.exit(supervise(workers, health_port))
    sys.path.insert(0, "")
    until = _until(worker_of, reload=reload)
    health = None if health_port is None else (health_host, health_port)
    try:
        app = _load(target, reload=reload)
        _set_up_logging(log_level)
        client = _client(USAGE if worker_of is None else FAILED)  # a file may just be being replaced
        signalled = _run(
            partial(app.run, client=client, grace=grace, concurrency=concurrency, health=health, until=until)
        )
    except OSError as error:  # the app's, which has nothing to do with our output
        traceback.print_exception(error)
        fail(FAILED)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if reload and not signalled:
        from windshift.cli import reloading

        reloading.start_anew()


def _until(worker_of: int | None, *, reload: bool) -> Callable[[], Awaitable[None]] | None:
    """Return what ends the run beside a signal."""
    if worker_of is not None:
        from windshift.cli.workers import parent_gone

        return partial(parent_gone, worker_of)
    if reload:
        from windshift.cli.reloading import changed

        return changed
    return None


def _load(target: str, *, reload: bool) -> Any:
    """Import the app; if it cannot be imported and is to be reloaded, wait for a change and start anew."""
    module, _, name = target.partition(":")
    try:
        found: Any = import_module(module)
        for part in (name or "app").split("."):
            found = getattr(found, part)
    except Exception as error:
        if reload:
            from windshift.cli import reloading

            traceback.print_exception(error)
            reloading.wait_and_start_anew(module)
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            fail(USAGE, f"there is no module {error.name!r} here or among the installed packages")
        if isinstance(error, AttributeError) and module in sys.modules:
            fail(USAGE, f"{target}: {error}")
        raise
    import windshift

    if not isinstance(found, windshift.App):
        fail(USAGE, f"{target} is a {type(found).__name__}, not a windshift.App")
    return found


def _client(status: int) -> ws.Client:
    """Return a client of the server that the line, the environment and the context name.

    If they are wrong, say so and exit with this status.
    """
    from windshift.cli.session import Session
    from windshift.sdk.errors import SettingsError

    try:
        return Session(options_of(click.get_current_context())).client
    except SettingsError as error:
        fail(status, str(error))


def _set_up_logging(level: str) -> None:
    """Log to stderr, unless the app did it its way; in handlers, say of which event."""
    import windshift

    if logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.addFilter(windshift.EventLogFilter())
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])


class _Formatter(logging.Formatter):
    """Puts the event that is being handled behind the message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- the standard library's name
        """Return the line without a traceback."""
        line = super().formatMessage(record)
        event = record.__dict__
        if event.get("event_id") is None:
            return line
        return (
            f"{line} [{event['stream']}/{event['consumer']} {event['event_id']}, attempt {event['attempt']}]"
        )


def _run(run: Callable[[], bool]) -> bool:
    from windshift.sdk.errors import WindshiftError

    try:
        return run()
    except WindshiftError as error:
        fail(FAILED, f"the app failed: {error}")
