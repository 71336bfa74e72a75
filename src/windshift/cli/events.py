"""`windshift events`: single events of a stream."""

from __future__ import annotations

from datetime import datetime

import click

from windshift.cli import naming
from windshift.cli.failing import USAGE, Failure
from windshift.cli.options import Group
from windshift.cli.session import Session, with_session
from windshift.cli.values import TIME


@click.group(cls=Group)
def events() -> None:
    """Read or remove single events of a stream."""


@events.command(
    examples=[
        "windshift events get orders 1",
        "windshift events get orders --last orders.placed -o json",
        "windshift events get orders --at 1h",
    ]
)
@click.argument("stream", **naming.STREAM)
@click.argument("id", required=False, type=click.IntRange(1))
@click.option("--at", type=TIME, metavar="TIME", help="The first one that was stored at this time or later.")
@click.option("--last", metavar="SUBJECT", help="The last one of this subject.")
@click.option("--subject", help="With ID or --at: the first one from there on whose subject matches.")
@click.option("--raw", is_flag=True, help="Print the bytes of the payload, and nothing else.")
@with_session
async def get(
    session: Session,
    stream: str,
    id: int | None,  # noqa: A002 -- the argument's name
    at: datetime | None,
    last: str | None,
    subject: str | None,
    raw: bool,
) -> None:
    """Show one event: by its id, by time, or the last of a subject."""
    from windshift.cli.reading import pairs, stored_value

    if sum(each is not None for each in (id, at, last)) != 1:
        raise Failure("give an id, --at or --last", USAGE)
    stored = await session.client.stream(stream).events.get(id, at=at, last_of=last, subject=subject)
    if raw:
        session.out.raw(stored.event.proto.data.value)
        return
    value = stored_value(stored, session.payloads)
    session.out.fields(value, pairs(value))


@events.command("rm", examples=["windshift events rm orders 2 --yes"])
@click.argument("stream", **naming.STREAM)
@click.argument("id", type=click.IntRange(1))
@click.option("--erase", is_flag=True, help="Overwrite its bytes on disk too.")
@with_session
async def remove(session: Session, stream: str, id: int, erase: bool) -> None:  # noqa: A002 -- the argument's name
    """Remove an event for good. Asks first."""
    await session.confirm(f"would remove event {id} of {stream}")
    await session.client.stream(stream).events.delete(id, erase=erase)
    session.out.done({"removed": id}, f"removed event {id}")
