"""`windshift streams`: what is stored, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

import windshift as ws
from windshift.cli import naming
from windshift.cli.failing import USAGE, Failure
from windshift.cli.options import Group, takes
from windshift.cli.session import Session, with_session
from windshift.cli.values import DURATION, SIZE, show_age, show_size, show_time

_HELD = ("events", "bytes", "first_id", "last_id", "first_time", "last_time")
_FIELDS = ("name", *_HELD, "created", "subjects", "consumers", "worst_lag", "dead_letters", "spec")
_HEAD = ("NAME", "EVENTS", "BYTES", "LAST", "AGE", "CONSUMERS", "LAG", "DEAD")


@click.group(cls=Group)
def streams() -> None:
    """List, make, change, purge and delete streams."""


def _value(info: ws.StreamInfo) -> dict[str, Any]:
    from windshift.cli import specs

    return specs.plain_fields(info, _FIELDS)


@streams.command("ls", examples=["windshift streams ls", "windshift streams ls order -o json"])
@click.argument("find", required=False, default="")
@with_session
async def list_(session: Session, find: str) -> None:
    """List the streams, or those with FIND in their name or in a subject.

    AGE is the time since the last event, LAG what the slowest consumer has yet to receive.
    """
    now = datetime.now(UTC)

    def row(info: ws.StreamInfo) -> Sequence[str]:
        counts = (str(info.consumers), str(info.worst_lag), str(info.dead_letters))
        size, last = show_size(info.bytes), str(info.last_id)
        return info.name, str(info.events), size, last, show_age(info.last_time, now), *counts

    await session.out.list(session.client.streams.list(find), _value, _HEAD, row, right=range(1, 8))


@streams.command(examples=["windshift streams info orders"])
@click.argument("stream", **naming.STREAM)
@with_session
async def info(session: Session, stream: str) -> None:
    """Show a stream: what it is, and what it holds."""
    from windshift.cli import specs

    found = await session.client.stream(stream).info()
    spec = found.spec
    source = next((key for key in ("mirror", "aggregate") if getattr(spec, key)), "subjects")
    kept = [
        key for key in ("max_age", "max_events", "max_events_per_subject", "max_bytes") if getattr(spec, key)
    ]
    limits = ", ".join(f"{key} {specs.show(key, getattr(spec, key))}" for key in kept) or "everything"
    storage = f"{spec.storage}, {spec.replicas or 1} replica{'s' if (spec.replicas or 1) > 1 else ''}"
    ids = f"{found.first_id} to {found.last_id}" if found.events else f"none; the last was {found.last_id}"
    pairs = [
        ("name", found.name),
        (source, specs.show(source, getattr(spec, source))),
        ("keeps", limits),
        ("when full", "drops old events" if spec.discard == "old" else "refuses new events"),
        ("storage", storage),
        ("keys for", specs.show("deduplication_window", spec.deduplication_window)),
        ("events", f"{found.events} on {found.subjects} subjects, {show_size(found.bytes)}"),
        ("ids", ids),
        ("times", f"{show_time(found.first_time)} to {show_time(found.last_time)}"),
        ("consumers", f"{found.consumers}, worst lag {found.worst_lag}"),
        ("dead letters", str(found.dead_letters)),
        ("created", show_time(found.created)),
    ]
    session.out.fields(_value(found), pairs)


@streams.command(
    examples=["windshift streams subjects orders", "windshift streams subjects orders 'orders.>'"]
)
@click.argument("stream", **naming.STREAM)
@click.argument("filter", required=False, default="")
@with_session
async def subjects(session: Session, stream: str, filter: str) -> None:  # noqa: A002 -- the argument's name
    """List the subjects that a stream holds events of, or those that match FILTER."""
    await session.out.list(
        session.client.stream(stream).subjects(filter),
        lambda each: {"subject": each[0], "events": each[1]},
        ("SUBJECT", "EVENTS"),
        lambda each: (each[0], str(each[1])),
        right=[1],
    )


_takes_spec = takes(
    click.option("--subject", "subjects", multiple=True, metavar="SUBJECT", help="A subject that it takes."),
    click.option("--mirror", metavar="STREAM", help="The stream that it is a copy of."),
    click.option("--aggregate", multiple=True, metavar="STREAM", help="A stream that it is made of."),
    click.option("--max-age", type=DURATION, help="Drop events that are older."),
    click.option("--max-events", type=click.IntRange(1), help="Number of events kept."),
    click.option("--max-events-per-subject", type=click.IntRange(1), help="The same of each subject."),
    click.option("--max-bytes", type=SIZE, help="Bytes kept."),
    click.option("--max-event-size", type=SIZE, help="Largest event."),
    click.option("--discard", type=click.Choice(["old", "new"]), help="What a full stream drops."),
    click.option("--storage", type=click.Choice(["file", "memory"]), help="Where it is kept."),
    click.option("--replicas", type=click.IntRange(1, 5), help="Copies in a cluster."),
    click.option("--deduplication-window", type=DURATION, help="How long keys are remembered."),
    click.option(
        "--fast-ingest/--no-fast-ingest",
        default=None,
        help="Whether publishers without ids may hand over many events at a time.",
    ),
)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a spec that the line says."""
    given = {key: value for key, value in options.items() if value not in {None, ()}}
    if "mirror" in given:
        given["mirror"] = ws.Source(given["mirror"])
    if "aggregate" in given:
        given["aggregate"] = [ws.Source(name) for name in given["aggregate"]]
    return given


@streams.command(
    examples=[
        "windshift streams ensure orders --subject 'orders.>' --max-age 30d",
        "windshift streams ensure -f streams.toml --dry-run",
    ]
)
@click.argument("stream", required=False, **naming.STREAM)
@click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file with streams, consumers and stores; all of them are ensured.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@_takes_spec
@with_session
async def ensure(session: Session, stream: str | None, file: Path | None, dry_run: bool, **spec: Any) -> None:
    """Make a stream, or change it to what this line or a file says.

    What is left out becomes the default, on a stream that exists too, but for replicas and fast ingest, which
    stay; `edit` leaves all of it as it is. A file has tables such as these; docs/cli.md lists all keys:

    \b
      [streams.orders]
      subjects = ["orders.>"]
      max_age = "30d"
      [streams.orders.consumers.accounting]
      start = "start"
      retry = { max_attempts = 20 }
      [stores.totals]
      history = 5
    """  # noqa: D301 -- click's mark for lines that stay as they are
    from windshift.cli.ensuring import ensure_file, ensure_stream, tell

    given = _given(spec)
    if file is not None:
        if stream or given:
            raise Failure("give a stream or a file, not both", USAGE)
        await ensure_file(session, file, dry_run=dry_run)
        return
    if stream is None:
        raise Failure("name a stream, or a file with -f", USAGE)
    done = await ensure_stream(session.client, stream, ws.StreamSpec(**given), dry_run=dry_run)
    if session.out.json:
        session.out.item(done.value())
    else:
        tell(session, [done], dry_run=dry_run)


@streams.command(examples=["windshift streams edit orders --max-age 60d"])
@click.argument("stream", **naming.STREAM)
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.option("--unset", multiple=True, metavar="OPTION", help="An option that goes back to its default.")
@_takes_spec
@with_session
async def edit(session: Session, stream: str, dry_run: bool, unset: tuple[str, ...], **spec: Any) -> None:
    """Change only what this line says of a stream. Changes that others make meanwhile may be lost."""
    from windshift.cli.ensuring import ensure_stream, tell

    known = {field.name: field for field in fields(ws.StreamSpec)}
    names = [name.lstrip("-").replace("-", "_") for name in unset]
    if unknown := [name for name in names if name not in known]:
        raise Failure(f"there is no option {unknown[0]!r} to unset", USAGE)
    given = _given(spec) | {name: known[name].default for name in names}
    if not given:
        raise Failure("say what to change", USAGE, hint="such as --max-age 60d, or --unset max-age")
    now = (await session.client.stream(stream).info()).spec
    done = await ensure_stream(session.client, stream, replace(now, **given), dry_run=dry_run)
    tell(session, [done], dry_run=dry_run)


@streams.command(
    examples=[
        "windshift streams purge orders --subject orders.eu.1 --dry-run",
        "windshift streams purge orders --keep 100 --yes",
    ]
)
@click.argument("stream", **naming.STREAM)
@click.option("--subject", default="", help="Only events whose subject matches.")
@click.option("--up-to", type=click.IntRange(1), metavar="ID", help="Only events up to this id.")
@click.option("--keep", type=click.IntRange(0), metavar="N", help="All but so many of the newest.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@with_session
async def purge(
    session: Session, stream: str, subject: str, up_to: int | None, keep: int | None, dry_run: bool
) -> None:
    """Remove events of a stream for good. Asks first."""
    if up_to is not None and keep is not None:
        raise Failure("--up-to and --keep do not go together", USAGE)
    which: dict[str, Any] = {"up_to_id": up_to, "keep": keep}
    target = session.client.stream(stream)
    if not dry_run and not session.options.yes:
        count = await target.purge(subject, **which, dry_run=True)
        await session.confirm(f"would remove {count} events of {stream}")
    count = await target.purge(subject, **which, dry_run=dry_run)
    value = {"purged": count} | ({"dry_run": True} if dry_run else {})
    session.out.done(value, f"{'would remove' if dry_run else 'removed'} {count}", dry_run=dry_run)


@streams.command("rm", examples=["windshift streams rm orders --yes"])
@click.argument("stream", **naming.STREAM)
@with_session
async def remove(session: Session, stream: str) -> None:
    """Delete a stream with its events and consumers; its dead letters stay. Asks first."""
    target = session.client.stream(stream)
    if not session.options.yes:
        events = (await target.info()).events
        await session.confirm(f"would delete {stream} with its {events} events and its consumers")
    await target.delete()
    session.out.done({"deleted": stream}, f"deleted {stream}")
