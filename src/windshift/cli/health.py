"""`windshift health`: asks the HTTP health endpoints of a server, for container health checks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException

import click

from windshift.cli.failing import USAGE, fail
from windshift.cli.options import PlainCommand
from windshift.server.config.read import health_address
from windshift.server.config.settings import ConfigurationError
from windshift.server.config.tree import ListenConfig

_NOT_READY = 1
_LONGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Health:
    """The answer: whether all is well, a line about it, and what the server said, for programs."""

    well: bool
    line: str
    said: Mapping[str, object] = field(default_factory=dict)


@click.command(cls=PlainCommand)
@click.option(
    "--live", is_flag=True, help="Ask only whether the process is alive (/healthz), not whether it is ready."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True, max=3600),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the answer.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    help="A line for people, or JSON; with that, stderr says nothing of the answer.",
)
def health(live: bool, timeout: float, output: str) -> None:
    """Ask a server on this machine whether calls should be sent to it.

    Its address is read from HEALTH_HOST, HEALTH_PORT and GRPC_HOST, as by `windshift serve`. Exits with 0 if
    it is ready, 1 if it is not or does not answer, 2 if the environment is wrong. Use it in the health check
    of a container, or in a script that waits for a server.

    \b
    Examples:
      windshift health
      windshift health --live -o json
    """  # noqa: D301 -- click's mark for lines that stay as they are
    try:
        address = health_address(os.environ)
    except ConfigurationError as error:
        fail(USAGE, *error.problems)
    answer = ask(address, "/healthz" if live else "/readyz", timeout)
    if output == "json":
        said = dict(answer.said) or {"reason": answer.line}
        click.echo(json.dumps({"alive" if live else "ready": answer.well, **said}))
        sys.exit(0 if answer.well else _NOT_READY)
    if not answer.well:
        fail(_NOT_READY, answer.line)
    click.echo(answer.line)


def ask(address: ListenConfig, path: str, timeout: float) -> Health:
    """Ask a server for its health."""
    connection = HTTPConnection(address.host, address.port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return _read(response.status, response.read(_LONGEST))
    except (OSError, HTTPException) as error:
        reason = "it did not answer in time" if isinstance(error, TimeoutError) else "nothing answers"
        return Health(well=False, line=f"no answer from {address.host} port {address.port}: {reason}")
    finally:
        connection.close()


def _read(status: int, body: bytes) -> Health:
    try:
        said = json.loads(body)
        since = f", since {said['since']}" if "since" in said else ""
        detail = f" ({said['detail']})" if said.get("detail") else ""
        line = f"{said['reason']}{detail}{since}" if "reason" in said else f"{said['status']}{since}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return Health(well=False, line=f"what answers is not a Windshift server (status {status})")
    return Health(status == 200, line, {key: value for key, value in said.items() if key != "status"})
