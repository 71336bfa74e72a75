"""Options that every command takes, anywhere on the line, and the commands that take them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Literal

import click
from click.core import ParameterSource

from windshift.cli.values import DURATION


@dataclass(slots=True)
class Options:
    """What was said on the line, whichever command it stood behind."""

    context: str | None = None
    address: str | None = None
    token_file: Path | None = None
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    namespace: str | None = None
    output: Literal["table", "json", "jsonl"] = "table"
    timeout: float = 10.0
    descriptors: tuple[Path, ...] = ()
    module: tuple[str, ...] = ()
    quiet: bool = False
    verbose: bool = False
    no_color: bool = False
    yes: bool = False

    @property
    def json(self) -> bool:
        """Whether programs read the output."""
        return self.output != "table"


def options_of(context: click.Context) -> Options:
    """Return the options of the command line."""
    return context.find_root().ensure_object(Options)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    given = value is not None and value is not False and value != ()
    if given and parameter.name is not None:
        setattr(options_of(context), parameter.name, value)


def _complete_context(*_: Any) -> list[str]:
    from windshift.cli.context import complete_context

    return complete_context()


_FILE = click.Path(path_type=Path, dir_okay=False)


@cache
def shared_options(*, hidden: bool) -> Sequence[click.Parameter]:
    """Return the options that every command takes: the same ones for all, for making them takes time."""
    option = partial(click.Option, expose_value=False, callback=_keep, hidden=hidden)
    return [
        option(
            ("-c", "--context"),
            metavar="NAME",
            help="The context to use; see `windshift context`.",
            shell_complete=_complete_context,
        ),
        option(("--address",), metavar="HOST:PORT", help="The server, or several separated by commas."),
        option(("--token-file",), type=_FILE, help="File with the token."),
        option(("--tls",), is_flag=True, help="TLS, with the system's authorities."),
        option(("--tls-ca",), type=_FILE, help="PEM file of the authorities to trust; implies TLS."),
        option(("--tls-cert",), type=_FILE, help="PEM file with the client's certificate."),
        option(("--tls-key",), type=_FILE, help="PEM file with its key."),
        option(("--namespace",), metavar="NAME", help="Prefix of all names and subjects."),
        option(
            ("-o", "--output"),
            type=click.Choice(["table", "json", "jsonl"]),
            help="For people; one JSON value; or one JSON value a line.",
        ),
        option(
            ("--timeout",), type=DURATION, help="How long an operation may take with all its attempts; 10s."
        ),
        option(
            ("--descriptors",),
            type=_FILE,
            multiple=True,
            help="File with descriptors of payloads (buf build -o, protoc).",
        ),
        option(("--module",), multiple=True, metavar="MODULE", help="Python module with generated messages."),
        option(("-q", "--quiet"), is_flag=True, help="Say nothing but what was asked for, and errors."),
        option(("-v", "--verbose"), is_flag=True, help="Log what the client does; show tracebacks."),
        option(("--no-color",), is_flag=True, help="No colors, as with NO_COLOR."),
        option(("-y", "--yes"), is_flag=True, help="Do not ask before something is destroyed."),
    ]


def takes(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Add these options to a command, in this order."""

    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add


CONNECTION: Final = frozenset(
    ("context", "address", "token_file", "tls", "tls_ca", "tls_cert", "tls_key", "namespace", "timeout")
)
"""Those that say where the server is, who we are to it, and how long it may take."""


class PlainCommand(click.Command):
    """A command that takes none of the shared options, or some, and refuses the others.

    Attributes:
        takes: names of those that it takes.
    """

    def __init__(self, *args: Any, takes: Collection[str] = (), **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.takes = takes
        self.params += [option for option in shared_options(hidden=False) if option.name in takes]

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, unless the line has an option before it that would do nothing."""
        root = ctx.find_root()
        for option in shared_options(hidden=False):
            name = option.name or ""
            if name in self.takes or root.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
                continue
            said, command = option.opts[-1], ctx.command_path
            if any(own.name == name for own in self.params):
                raise click.UsageError(f"Write {said} behind `{command}`, not before it.", ctx)
            raise click.UsageError(
                f"`{command}` does not take {said}. Leave it out: `{command} --help` says what there is.", ctx
            )
        return super().invoke(ctx)


class Command(click.Command):
    """A command that takes the shared options, and whose help ends with examples.

    Attributes:
        examples: lines for a shell. A test runs them.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.examples = examples
        self.params += shared_options(hidden=True)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Say where the shared options are, and show the examples."""
        formatter.write_paragraph()
        formatter.write_text("Options of all commands, such as -o json: windshift --help")
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class Group(click.Group):
    """A group of such commands."""

    command_class = Command

    def __init__(self, *args: Any, aliases: dict[str, str] | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params += shared_options(hidden=True)
        self.aliases = aliases or {}
        """Other names of commands, which no list shows."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name or another one."""
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))
