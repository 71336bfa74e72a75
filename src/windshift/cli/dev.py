"""`windshift dev`: a server for the first five minutes."""

from __future__ import annotations

import os
from pathlib import Path

import click

from windshift.cli.options import Command
from windshift.cli.serve import announce, run_server

_FOLDER = ".windshift"
_WORDS = {
    "GRPC_PORT": "say another --port",
    "WINDSHIFT_DATA_DIR": "run this in another directory",
}
"""What to do about settings here, where the variables of `windshift serve` are not needed."""
_NEXT = """
Try, in another terminal:

  {variable}windshift streams ensure orders --subject 'orders.>'
  {variable}windshift publish orders.placed '{{"order": 7}}'
  {variable}windshift tail orders -f

and `windshift --help` for the rest. Data is in {folder}; Ctrl-C stops the server, and the data stays.
"""


@click.command(cls=Command, examples=["windshift dev", "windshift dev --port 0"])
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8080,
    show_default=True,
    envvar="GRPC_PORT",
    help="Port of the API; 0: any free one.",
)
@click.option("--debug", is_flag=True, help="Log everything.")
def dev(port: int, debug: bool) -> None:
    """Run a server with a NATS server of its own, for development.

    Its data is in .windshift/ of the current directory, its log is for people, everybody on this machine may
    do everything. Further settings are the variables of `windshift serve`.
    """
    folder = Path(_FOLDER).absolute()
    folder.mkdir(exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NATS_")}
    environment |= {
        "DEVELOPMENT": "true",
        "GRPC_PORT": str(port),
        "LOG_LEVEL": "debug" if debug else environment.get("LOG_LEVEL", "info"),
        "WINDSHIFT_DATA_DIR": str(folder),
    }
    environment.setdefault("HEALTH_PORT", "0")

    def tell(line: str) -> None:
        address = line.partition("API on ")[2].partition(",")[0].partition(" ")[0]
        variable = "" if address == "127.0.0.1:8080" else f"WINDSHIFT_ADDRESS={address} "
        announce(line + "\n" + _NEXT.format(variable=variable, folder=_FOLDER))

    run_server(environment, tell, share_port=False, words=_WORDS)
