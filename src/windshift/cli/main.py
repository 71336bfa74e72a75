"""The command `windshift`. Each subcommand is a module of its own, imported when it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click

from windshift.cli.failing import INTERRUPTED, Failure, drop_output, report
from windshift.cli.options import shared_options

_COMMANDS: Final = {
    "auth": ("auth", "Make tokens, and ask who may do what."),
    "backup": ("backup", "Write all streams of a broker to a directory."),
    "bench": ("bench", "Measure publishing, consuming and latency."),
    "completion": ("completion", "Print what completes commands and names in a shell."),
    "consumers": ("consumers", "List, make, pause, move and delete consumers."),
    "context": ("context", "Name servers, and choose one."),
    "dead-letters": ("dead_letters", "List, show, replay and purge what consumers gave up on."),
    "dev": ("dev", "Run a server for development, with a readable log."),
    "doctor": ("doctor", "Look for what is wrong on the way to the server, and in it."),
    "events": ("events", "Read or remove single events of a stream."),
    "explain": ("explain", "Say why an event is, or is not, delivered."),
    "health": ("health", "Ask a server whether it is ready."),
    "publish": ("publish", "Publish an event, or many."),
    "restore": ("backup", "Make the streams of a backup again."),
    "run": ("run", "Run an app: handle events until it is stopped."),
    "serve": ("serve", "Run a server."),
    "state": ("state", "Read, write and watch values by key."),
    "streams": ("streams", "List, make, change, purge and delete streams."),
    "subscribe": ("subscribe", "Receive events of a consumer, and settle them."),
    "tail": ("tail", "Show the events of a stream, as they are and as they come."),
    "version": ("version", "Show the versions of this program and of the server."),
}
"""Name: the module that holds the command, and its line in the list."""


class LazyGroup(click.Group):
    """A group that imports a subcommand only to run it or show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand."""
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"windshift.cli.{_COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name.replace("-", "_"))
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand that a line names; where there is none, say which is like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            import difflib

            similar = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            if not similar:
                raise
            raise click.UsageError(
                f"No such command {args[0]!r}. Did you mean {similar[0]!r}?", ctx
            ) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def make_context(self, *arguments: Any, **named: Any) -> click.Context:
        """Read the line, which prints the help if it asks for that."""
        with _read_by_somebody():
            return super().make_context(*arguments, **named)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        with _read_by_somebody():
            return super().invoke(ctx)

    def main(self, *arguments: Any, **named: Any) -> Any:
        """Run the command line, and exit: with 130 after Ctrl-C, quietly where nobody reads any more.

        Where programs read the output, wrong usage is JSON too.
        """
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # it was closed: nobody reads it
                setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 -- it stays open
        if not named.get("standalone_mode", True):
            return super().main(*arguments, **named)
        args = arguments[0] if arguments else named.get("args")
        words = sys.argv[1:] if args is None else args
        try:
            sys.exit(super().main(*arguments, **{**named, "standalone_mode": False}) or 0)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        except OSError as error:
            report(_unwritten(error), json=_for_programs(words))
        except click.ClickException as error:
            if _for_programs(words):
                report(Failure(error.format_message(), error.exit_code), json=True)
            error.show()
            sys.exit(error.exit_code)


def _unwritten(error: OSError) -> Failure:
    """Return how it is told that a file, or the output, cannot be written; the rest of the output is lost."""
    with suppress(OSError, ValueError):  # tests have an output that is no file
        drop_output()
    return Failure(f"{error.filename or 'the output'}: {error.strerror}")


@contextmanager
def _read_by_somebody() -> Iterator[None]:
    """End quietly where whoever reads stdout has seen enough, of which click makes a failure."""
    try:
        yield
    except BrokenPipeError:
        drop_output()
        raise click.exceptions.Exit(0) from None


def _for_programs(words: Sequence[str]) -> bool:
    """Tell whether a line asks for JSON, before it is known to be right."""
    line = " ".join(words)
    return any(f"{option}json" in line for option in ("-o ", "-o", "--output ", "--output="))


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        import windshift

        click.echo(f"windshift {windshift.__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    callback=_show_version,
    expose_value=False,
    is_eager=True,
    help="Show the version.",
)
def main() -> None:
    """Events and state for services, over gRPC and NATS JetStream.

    The options below may stand anywhere on the line. auth check, auth token, backup, health, restore and
    serve take none of them; run takes those about the server: -c to --namespace, and --timeout. What they
    leave open comes from the environment (WINDSHIFT_ADDRESS, WINDSHIFT_TOKEN, …), then from the context.

    Exits with 0 when it is done, 1 if it failed, 2 for wrong usage, 3 if something does not exist, 4 for a
    conflict, 5 if nothing happened since the server cannot be reached, was too slow or has no room for now, 6
    if it is not allowed, 7 if nobody knows whether it happened, 130 after Ctrl-C, 143 after SIGTERM or
    SIGHUP.
    """


main.params += shared_options(hidden=False)
