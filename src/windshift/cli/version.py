"""`windshift version`: what runs here, and there."""

from __future__ import annotations

import click

import windshift as ws
from windshift.cli.options import Command
from windshift.cli.session import Session, with_session
from windshift.rpc import libnghttp2_version

_API = "v1alpha1"


@click.command(cls=Command, examples=["windshift version", "windshift version --client"])
@click.option("--client", "local", is_flag=True, help="Only of this program: ask no server.")
@with_session
async def version(session: Session, local: bool) -> None:
    """Show the versions of this program and of the server, and which libnghttp2 each of them has loaded."""
    value = {"version": ws.__version__, "api": _API, "libnghttp2": libnghttp2_version()}
    line = f"windshift {ws.__version__}, API {_API}, libnghttp2 {libnghttp2_version() or 'unknown'}"
    if local:
        session.out.item(value, line)
        return
    server = await session.client.server()
    there = ", ".join(session.settings.targets)
    value |= {"server": server.version, "address": there, "broker": server.broker_version}
    value["server_libnghttp2"] = server.libnghttp2
    loaded = f", libnghttp2 {server.libnghttp2}" if server.libnghttp2 else ""
    session.out.item(
        value, f"{line}, server {server.version} ({there}){loaded}, NATS {server.broker_version}"
    )
