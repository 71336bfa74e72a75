"""The command `windshift`. Each subcommand is a module of its own, imported when it is used."""

from __future__ import annotations

from importlib import import_module

import click

_COMMANDS = {
    "auth": ("windshift.cli.auth", "Make tokens, and ask who may do what."),
    "health": ("windshift.cli.health", "Ask a server whether it is ready."),
    "run": ("windshift.cli.run", "Run an app: handle events until it is stopped."),
    "serve": ("windshift.cli.serve", "Run a server."),
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
        command = getattr(import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's callback
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
    """Events and state for services, over gRPC and NATS JetStream."""
