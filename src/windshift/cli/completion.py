"""`windshift completion`: completes commands, options and names in shells."""

from __future__ import annotations

import click

from windshift.cli.options import Command


@click.command(
    cls=Command,
    examples=[
        'eval "$(windshift completion bash)"',
        "windshift completion zsh > _windshift",
        "windshift completion fish > windshift.fish",
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands, options, and names of streams, consumers and stores.

    For bash it goes into ~/.bashrc as in the first example, for zsh into a directory of $fpath, for fish into
    ~/.config/fish/completions. Names are those of the server that the line is for.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    root = click.get_current_context().find_root().command
    if kind is not None:  # each of the choices has one
        click.echo(kind(root, {}, "windshift", "_WINDSHIFT_COMPLETE").source().strip())
