"""Write docs/cli.md, the reference of the command line, from the commands.

cli.py           write it
cli.py --check   exit 1 when it is not what the commands give
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

import windshift as ws
from windshift.cli import main
from windshift.cli.options import Command
from windshift.sdk.stores import Stores

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "cli.md"

_WIDTH = 110
_HEAD = """\
# The command line

<!-- Written by `make cli` from the commands. Do not edit. -->

`pip install windshift` (until it is on PyPI: `pip install` and the path of a checkout) has it. Everything
that a person or a script needs at a server, in one command;
`windshift COMMAND --help` says the same as this page.

## Output

For people there are columns; on a terminal they are clipped to its width, elsewhere they are whole. Scripts
take `-o json` or `-o jsonl`: then stdout has JSON and nothing else, an empty list is `[]`, and an error is
an object on stderr. Durations are in seconds there, times in UTC. What goes on (`tail`, `watch`,
`subscribe`) prints a line for each event in both, flushed at once. Remarks and progress go to stderr.

| exit code | what it means |
|---|---|
| 0 | done; also when whoever reads a pipe has seen enough |
| 1 | it failed |
| 2 | wrong usage: options, settings, a payload that is not what it should be |
| 3 | something does not exist |
| 4 | a conflict: it exists, or has another revision, another last id, or overlapping subjects |
| 5 | the server could not be reached, or was too slow; nothing happened |
| 6 | not allowed, or no valid credentials |
| 7 | it may have happened or not |
| 130 | Ctrl-C |
| 143 | SIGTERM, or SIGHUP (its terminal was closed): it stopped in good order, as after Ctrl-C |

`auth check`, `health`, `run` and `serve` have exit codes of their own.

## Where the server is

Options of the line win over the environment (`WINDSHIFT_ADDRESS`, `WINDSHIFT_TOKEN`,
`WINDSHIFT_TOKEN_FILE`, `WINDSHIFT_TLS_CA`, `WINDSHIFT_TLS_CERT`, `WINDSHIFT_TLS_KEY`,
`WINDSHIFT_NAMESPACE`), and this over the [context](sdk.md#contexts).

`auth check`, `auth token`, `backup`, `health`, `restore` and `serve` take none of the options of all commands
and refuse them; what they need of the environment is in [settings](settings.md). `run` takes those about the
server (`-c` to `--namespace`, and `--timeout`).

## Payloads

Shown by their type: from `--descriptors` (a file that `buf build -o FILE` or `protoc --include_imports
--descriptor_set_out=FILE` writes; a context may name some as `descriptors`), from `--module` (a Python
module with generated code), else from what Windshift itself brings. What has no known type is shown by
field numbers, and marked `undecoded`. JSON that was published as such is shown as it is.

Published, a payload is JSON: with `--type` it becomes that message, without it travels as
`windshift.payload.v1.Json`.

"""

_FILES = """\
## Files of streams

What `windshift streams ensure -f` takes, as TOML. Durations are texts such as `"30s"` or `"7d"`, or seconds;
sizes texts such as `"10M"`, or bytes; positions texts: `"start"`, `"end"`, an id, a time, or how long ago.
A stream that is copied may be its name alone. What is left out is as the table says of None.
"""
_TABLES: dict[str, Callable[..., object]] = {
    "[streams.NAME]": ws.StreamSpec,
    "mirror = {…}, aggregate = [{…}, …]": ws.Source,
    "[streams.NAME.consumers.NAME]": ws.ConsumerSpec,
    "retry = {…}": ws.RetryPolicy,
    "[stores.NAME]": Stores.ensure,
}
"""The tables of such a file, and whose docstring says what is in them."""
_BESIDES = {"[stores.NAME]": ("name", "kind")}
"""What these docstrings say of other things."""


def document() -> str:
    """Return the page."""
    root = click.Context(main, info_name="windshift")
    parts = [_HEAD, "## Options of all commands\n", _block(_usage(main, root, "Options"))]
    parts += [_FILES, *(_keys(table, what) for table, what in _TABLES.items()), "## Commands\n"]
    for context in _commands(root):
        parts += [f"### {context.command_path}\n", *_described(context)]
    return "\n".join(parts)


def _commands(context: click.Context) -> Iterator[click.Context]:
    """Yield what can be run, in the order of the names."""
    if not isinstance(context.command, click.Group):
        yield context
        return
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        if command is not None:
            yield from _commands(click.Context(command, info_name=name, parent=context))


def _described(context: click.Context) -> list[str]:
    command = context.command
    formatter = click.HelpFormatter(width=_WIDTH)
    command.format_usage(context, formatter)
    command.format_help_text(context, formatter)
    command.format_options(context, formatter)
    shown = [_block(formatter.getvalue())]
    examples = command.examples if isinstance(command, Command) else ()  # others have them in their text
    return [*shown, "```sh\n" + "\n".join(examples) + "\n```\n"] if examples else shown


def _keys(table: str, documented: Callable[..., object]) -> str:
    """Return a table of a file, with its keys as the docstring of what they become has them."""
    text = inspect.cleandoc(documented.__doc__ or "")
    told = re.findall(r"^    (\w+): (.+(?:\n     .+)*)", text, re.MULTILINE)
    rows = [(key, re.sub(r"\s+", " ", what)) for key, what in told if key not in _BESIDES.get(table, ())]
    return "\n".join([f"| `{table}` | |", "|---|---|", *(f"| `{key}` | {what} |" for key, what in rows), ""])


def _usage(command: click.Command, context: click.Context, section: str) -> str:
    formatter = click.HelpFormatter(width=_WIDTH)
    rows = [row for option in command.params if (row := option.get_help_record(context)) is not None]
    with formatter.section(section):
        formatter.write_dl(rows)
    return formatter.getvalue()


def _block(text: str) -> str:
    lines = (line.rstrip() for line in text.strip("\n").splitlines())
    return "```text\n" + "\n".join(lines) + "\n```\n"


def run(arguments: list[str]) -> int:
    """Write or check, and return the exit status."""
    if arguments != ["--check"]:
        DOCUMENT.write_text(document())
    elif not DOCUMENT.exists() or DOCUMENT.read_text() != document():
        print("docs/cli.md is stale: run `make cli`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(run(sys.argv[1:]))
