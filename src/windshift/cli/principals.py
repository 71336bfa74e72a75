"""`windshift auth list` and `windshift auth end`: who calls a running server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import windshift as ws
from windshift.cli.session import Session, with_session
from windshift.cli.specs import plain_fields
from windshift.cli.values import show_time

_HEAD: Final = ("PRINCIPAL", "OPEN", "CREDENTIAL", "LAST USED", "EXPIRES")


@with_session
async def list_principals(session: Session) -> None:
    """Print a line for each credential of each principal, and since when that is known."""
    found = await session.client.principals()
    rows = [row for each in found.principals for row in _rows(each)]
    session.out.table([_value(each) for each in found.principals], _HEAD, rows)
    if not session.out.json:
        since = f"since {show_time(found.since)}, when the server was started" if found.since else "no rules"
        session.out.lines("", since)


@with_session
async def end_connections(session: Session, name: str) -> None:
    """End the connections of a principal, and say how many there were."""
    ended = await session.client.end_connections(name)
    session.out.done({"connections": ended}, f"connections that were ended: {ended}")


def _rows(principal: ws.Principal) -> Iterator[Sequence[str]]:
    """Yield a line for each credential; the first one says what is open."""
    named = (principal.name, f"{principal.connections} connections, {principal.open_streams} streams")
    for each in principal.credentials:
        used = "never" if each.last_used is None else show_time(each.last_used)
        yield *named, each.name, used, "" if each.expires is None else show_time(each.expires)
        named = ("", "")


def _value(principal: ws.Principal) -> dict[str, Any]:
    credentials = [plain_fields(each, ("name", "last_used", "expires")) for each in principal.credentials]
    return plain_fields(principal, ("name", "connections", "open_streams")) | {"credentials": credentials}
