"""`windshift serve`: reads the configuration and runs the server."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from types import FrameType, ModuleType
from typing import Any

import click

from windshift.cli.failing import FAILED, USAGE, drop_output, fail, stop_early
from windshift.cli.options import PlainCommand
from windshift.server.config.read import config_from_environment
from windshift.server.config.settings import ConfigurationError, Setting
from windshift.server.config.tree import SETTINGS, ServerConfig

_EXTRA = frozenset({"h11", "nkeys", "pythonjsonlogger", "uvloop"})
"""The packages of the extra `server`, by import name."""


class CommandWithVariables(PlainCommand):
    """A command whose help lists the environment variables."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; who writes `--port` wants one of the variables."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise click.UsageError(
                f"No such option {error.option_name!r}: settings are variables, such as GRPC_PORT=9000; "
                "`windshift serve --help` lists them.",
                ctx,
            ) from error

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List every variable with its meaning and default."""
        with formatter.section("Environment"):
            formatter.write_dl(
                [(name, _explained(each)) for name, each in SETTINGS.items()],
                col_max=36,
            )


def _explained(setting: Setting[Any]) -> str:
    default = setting.shown_default
    return f"{setting.description} [default: {default}]" if default else setting.description


@click.command(cls=CommandWithVariables)
@click.option(
    "--share-port",
    is_flag=True,
    help="Listen on ports that another server shares as well, so that this one can take over "
    "before the other one is stopped. Both need the same NATS_URL.",
)
@click.option(
    "--workers",
    metavar="N",
    help="Serve the port with N processes, or auto: one for each core. The same as WINDSHIFT_WORKERS.",
)
def serve(share_port: bool, workers: str | None) -> None:
    """Run a server until SIGTERM or Ctrl-C; a second one ends it at once.

    Without NATS_URL it starts a NATS server for itself. All settings are environment variables. An empty
    value counts as unset, but is an error where a name begins with WINDSHIFT_, GRPC_TLS_ or NATS_; so is an
    unknown WINDSHIFT_ variable. Exits with 0 after an orderly stop, 1 if it cannot start, 2 if the
    environment is wrong, 70 if it got stuck.

    \b
    Examples:
      windshift serve
      windshift serve --workers 2
    """  # noqa: D301 -- click's mark for lines that stay as they are
    given = {} if workers is None else {"WINDSHIFT_WORKERS": workers}
    run_server({**os.environ, **given}, announce, share_port=share_port, words={})


def run_server(
    environment: Mapping[str, str],
    tell: Callable[[str], None],
    *,
    share_port: bool,
    words: Mapping[str, str],
) -> None:
    """Run a server until a signal; exit with its status if it fails.

    `tell` gets the line that says it is ready; `words` say what to do about a setting, by its variable, where
    that is not to be set.
    """
    signal.signal(signal.SIGTERM, stop_early)
    before = signal.signal(signal.SIGHUP, _not_yet)  # until it is known what it means
    config = read_config(environment)
    if not config.reloads:
        signal.signal(signal.SIGHUP, before if before is signal.SIG_IGN else stop_early)  # by nohup
    process = import_server("serve")
    try:
        process.run(config, tell, share_port=share_port)
    except process.StartError as error:
        fail(FAILED, *error.describe(words).splitlines())
    except OSError as error:  # click exits silently on some of them
        traceback.print_exception(error)
        fail(FAILED, f"it failed: {error.strerror or error}")


def announce(line: str) -> None:
    """Print a line. Raise OSError if stdout is closed, and replace it, so that later flushes succeed."""
    try:
        click.echo(line)
    except OSError:
        drop_output()
        raise


def _not_yet(number: int, _: FrameType | None) -> None:
    """Ignore a SIGHUP before anything has been loaded."""


def read_config(environment: Mapping[str, str]) -> ServerConfig:
    """Read the configuration; exit with 2 if it is wrong."""
    try:
        return config_from_environment(environment)
    except ConfigurationError as error:
        fail(USAGE, *error.problems)


def import_server(name: str) -> ModuleType:
    """Import a module of `windshift.server.process`; exit with 1 if the server is not installed."""
    try:
        return import_module(f"windshift.server.process.{name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        fail(FAILED, f"the server is not installed ({missing} is missing): pip install 'windshift[server]'")
