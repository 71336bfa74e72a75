"""`windshift backup` and `windshift restore`: all streams of a broker, as files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import click

from windshift.cli.failing import FAILED, fail
from windshift.cli.options import PlainCommand
from windshift.cli.serve import import_server, read_config

_DIRECTORY: Final = click.argument("directory", type=click.Path(path_type=Path))
_STREAMS: Final = click.option(
    "--stream", "streams", multiple=True, metavar="NAME", help="Only this stream; may be repeated."
)


@click.command(cls=PlainCommand)
@_DIRECTORY
@_STREAMS
def backup(directory: Path, streams: tuple[str, ...]) -> None:
    """Write streams, stores, consumers and dead letters to a new DIRECTORY.

    It reads the same environment as `windshift serve`. With NATS_URL it backs up that NATS, while servers and
    clients go on. Without, it backs up the data directory of an embedded NATS; stop its server first.

    \b
    Examples:
      NATS_URL=nats://localhost:4222 windshift backup /backups/2027-01-01
      windshift backup /backups/embedded
      windshift backup /backups/orders --stream ORDERS --stream KV_accounts
    """  # noqa: D301 -- click's mark for lines that stay as they are
    _run(lambda module, config: module.back_up(config, directory, streams, click.echo))


@click.command(cls=PlainCommand)
@_DIRECTORY
@_STREAMS
@click.option(
    "--replicas",
    type=click.IntRange(1, 5),
    metavar="N",
    help="Give each stream so many replicas, whatever it had: 3 when it moves to a cluster.",
)
def restore(directory: Path, streams: tuple[str, ...], replicas: int | None) -> None:
    """Make the streams of a backup in DIRECTORY again. None of them may exist.

    NATS_URL chooses where, as for `windshift backup`, so an embedded NATS can move to a cluster. Afterwards
    restart a nats-server that was running: it reads idempotency keys only when it starts.

    \b
    Examples:
      NATS_URL=nats://localhost:4222 windshift restore /backups/2027-01-01
      NATS_URL=nats://a:4222,nats://b:4222 windshift restore /backups/embedded --replicas 3
    """  # noqa: D301 -- click's mark for lines that stay as they are
    _run(lambda module, config: module.restore(config, directory, streams, replicas, click.echo))


def _run(work: Callable[[Any, Any], Coroutine[Any, Any, None]]) -> None:
    config = read_config(os.environ)
    module = import_server("backup")
    try:
        asyncio.run(work(module, config))
    except module.BackupError as error:
        fail(FAILED, *str(error).splitlines())
