"""`windshift dead-letters`: what consumers gave up on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

import windshift as ws
from windshift.cli import naming
from windshift.cli.failing import NOT_FOUND, USAGE, Failure
from windshift.cli.options import Group, takes
from windshift.cli.session import Session, with_session
from windshift.cli.values import TIME, json_time, show_age

if TYPE_CHECKING:
    from windshift.cli.output import Progress
    from windshift.cli.payloads import Payloads

_BY = ("stream", "consumer", "cause", "error_type", "type", "subject", "reason")
_WHOSE = ("id", "stream", "consumer")
_DELIVERIES = ("attempts", "first_delivery", "last_delivery")
_END = ("time", "cause", "error_type", "reason", "replay_count", "replaying", "other_headers")
_HEAD = ("ID", "EVENT", "WHEN", "CAUSE", "ATTEMPTS", "REPLAYS", "ERROR", "REASON")


@click.group(cls=Group)
def dead_letters() -> None:
    """List, show, replay and purge what consumers gave up on."""


_takes_filter = takes(
    click.option("--stream", metavar="NAME", help="Of this stream.", **naming.STREAM),
    click.option("--consumer", metavar="NAME", help="Of this consumer.", **naming.CONSUMER),
    click.option("--error-type", "error_types", multiple=True, help="Of this kind of failure."),
    click.option("--text", help="This is in the reason, the error type or the subject."),
    click.option("--subject", "subjects", multiple=True, help="The event's subject matches."),
    click.option("--event", "event_ids", multiple=True, type=click.IntRange(1), help="The event's id."),
    click.option(
        "--cause",
        "causes",
        multiple=True,
        type=click.Choice(["max_attempts", "rejected"]),
        help="Why it was given up.",
    ),
    click.option("--type", "kind", metavar="TYPE", help="Full name of the payload's type."),
    click.option("--since", type=TIME, metavar="TIME", help="Given up since then: 1h (ago), or a time."),
    click.option("--until", type=TIME, metavar="TIME", help="Given up before then."),
)
_takes_choice = takes(
    click.argument("ids", nargs=-1),
    click.option("--all", "everything", is_flag=True, help="All that the filter lets through."),
    _takes_filter,
)


def _filter(options: dict[str, Any]) -> dict[str, Any]:
    """Return the filter that the line says, for the methods of the client."""
    named = {"type" if key == "kind" else key: value for key, value in options.items()}
    return {key: value for key, value in named.items() if value not in {None, ()}}


def _value(letter: ws.DeadLetter, payloads: Payloads) -> dict[str, Any]:
    from windshift.cli.reading import event_value
    from windshift.cli.specs import plain_fields

    event = {"event": event_value(letter.event, payloads)}
    return plain_fields(letter, _WHOSE) | event | plain_fields(letter, (*_DELIVERIES, *_END))


@dead_letters.command(
    "ls",
    examples=[
        "windshift dead-letters ls",
        "windshift dead-letters ls --stream orders --cause rejected --since 1d -o jsonl",
    ],
)
@click.option("--newest-first", is_flag=True, help="In the reverse of the order in which they were written.")
@_takes_filter
@with_session
async def list_(session: Session, newest_first: bool, **options: Any) -> None:
    """List dead letters. REPLAYS counts those that failed; + means that one is under way."""
    now = datetime.now(UTC)

    def row(letter: ws.DeadLetter) -> Sequence[str]:
        counts = (str(letter.attempts), str(letter.replay_count) + ("+" if letter.replaying else ""))
        ends = (letter.error_type, letter.reason)
        return letter.id, str(letter.event.id), show_age(letter.time, now), letter.cause, *counts, *ends

    found = session.client.dead_letters.list(newest_first=newest_first, **_filter(options))
    await session.out.list(found, lambda each: _value(each, session.payloads), _HEAD, row, right=(1, 2, 4, 5))


@dead_letters.command(
    examples=["windshift dead-letters show $(windshift dead-letters ls -o jsonl | jq -r .id | head -1)"]
)
@click.argument("id")
@click.option("--raw", is_flag=True, help="Print the bytes of the payload, and nothing else.")
@with_session
async def show(session: Session, id: str, raw: bool) -> None:  # noqa: A002 -- the argument's name
    """Show a dead letter with its event."""
    from windshift.cli.reading import pairs

    letter = await session.client.dead_letters.get(id)
    if raw:
        session.out.raw(letter.event.proto.data.value)
        return
    value = _value(letter, session.payloads)
    flat = {key: each for key, each in value.items() if key != "event" and each not in ("", {})}
    event = {
        f"event {key}" if key not in {"data", "undecoded"} else key: each
        for key, each in value["event"].items()
    }
    session.out.fields(value, pairs(flat | event))


@dead_letters.command(examples=["timeout 2 windshift dead-letters watch --existing --stream orders || true"])
@click.option("--existing", is_flag=True, help="Begin with those that there are.")
@click.option("--position", default="", help="Go on behind this position, which -o json tells.")
@_takes_filter
@with_session
async def watch(session: Session, existing: bool, position: str, **options: Any) -> None:
    """Show dead letters as they are written, until Ctrl-C; JSON comes as a line for each."""
    from windshift.cli.output import plain
    from windshift.cli.reading import event_line

    await session.reach()
    found = session.client.dead_letters.watch(existing=existing, position=position, **_filter(options))
    async for letter in found:
        value = _value(letter, session.payloads) | {"position": letter.position}
        why = f"{letter.cause} after {letter.attempts}: {letter.error_type} {letter.reason}"
        event = event_line(letter.event, session.payloads, datetime.now(UTC))
        line = f"{letter.stream} {letter.consumer}  {why}  {event}"
        session.out.item(value, session.out.clip(plain(line)))


def _which(session: Session, ids: Sequence[str], everything: bool, **options: Any) -> dict[str, Any]:
    chosen = _filter(options)
    if ids and (chosen or everything):
        raise Failure("give ids, or a filter with --all, not both", USAGE)
    if ids:
        return {"ids": list(ids)}
    if not everything:
        raise Failure(
            "give ids, or say --all", USAGE, hint="--all with --stream or another filter: all of these"
        )
    if session.settings.names.namespace and not chosen.get("stream"):
        raise Failure("in a namespace, say which --stream", USAGE)
    return chosen or {"everything": True}


@dead_letters.command(
    examples=[
        "windshift dead-letters replay --stream orders --all --dry-run",
        "windshift dead-letters replay --stream orders --consumer accounting --all --rate 20",
    ]
)
@_takes_choice
@click.option("--rate", type=click.IntRange(1, 10_000), help="At most so many a second; 100.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@with_session
async def replay(session: Session, rate: int | None, dry_run: bool, **choice: Any) -> None:
    """Deliver the events of dead letters again, to the consumers that gave up on them.

    Ctrl-C ends it between two pages; what was replayed by then stays so.
    """
    which = _which(session, **choice)
    with _progress(session, "replayed") as progress:
        done = await session.client.dead_letters.replay(
            **which,
            rate=rate or 0,
            dry_run=dry_run,
            progress=lambda so_far: progress.reach(so_far.replayed),
        )
    verb = "would replay" if dry_run else "replayed"
    others = f"already under way {done.already_replaying}, without consumer {done.without_consumer}"
    value, line = asdict(done) | {"dry_run": dry_run}, f"{verb} {done.replayed}, {others}"
    _tell(session, value, line, done.missing_ids, dry_run)


@dead_letters.command("cancel", examples=["windshift dead-letters cancel --stream orders --all"])
@_takes_choice
@with_session
async def cancel(session: Session, **choice: Any) -> None:
    """End replays that no subscriber has yet. The dead letters stay."""
    which = _which(session, **choice)
    done = await session.client.dead_letters.cancel_replay(**which)
    line = f"cancelled {done.cancelled}, delivered already {done.delivering}"
    _tell(session, asdict(done), line, done.missing_ids, dry_run=False)


@dead_letters.command(
    examples=[
        "windshift dead-letters summary --stream orders",
        "windshift dead-letters summary --stream orders --by consumer --by reason -o json",
    ]
)
@click.option(
    "--by",
    multiple=True,
    type=click.Choice(_BY),
    default=("stream", "consumer", "error_type"),
    help="What those of a group have in common: stream, consumer and error_type, if nothing is said.",
)
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="Most groups.")
@_takes_filter
@with_session
async def summary(session: Session, by: tuple[Any, ...], limit: int, **options: Any) -> None:
    """Count dead letters by what they have in common, the largest groups first."""
    now = datetime.now(UTC)
    if session.settings.names.namespace and not options["stream"]:
        raise Failure("in a namespace, say which --stream", USAGE)
    found = await session.client.dead_letters.summarize(*by, limit=limit, **_filter(options))
    values = [
        {
            **each.keys,
            "count": each.count,
            "first": json_time(each.first),
            "last": json_time(each.last),
            "sample_id": each.sample_id,
        }
        for each in found.groups
    ]
    rows = [
        (str(each.count), *(each.keys[key] or "-" for key in by), show_age(each.last, now), each.sample_id)
        for each in found.groups
    ]
    head = ("COUNT", *(key.upper().replace("_", " ") for key in by), "LAST", "SAMPLE")
    session.out.table(values, head, rows, right=[0])
    if found.truncated:
        session.out.remark("there are older ones that were not looked at")


@dead_letters.command(
    examples=[
        "windshift dead-letters purge --stream orders --all --dry-run",
        "windshift dead-letters purge --stream orders --all --yes",
    ]
)
@_takes_choice
@click.option("--dry-run", is_flag=True, help="Only count them.")
@with_session
async def purge(session: Session, dry_run: bool, **choice: Any) -> None:
    """Remove dead letters for good. Asks first."""
    which = _which(session, **choice)
    letters = session.client.dead_letters
    if not dry_run and not session.options.yes:
        count = (await letters.purge(**which, dry_run=True)).purged
        await session.confirm(f"would remove {count} dead letters")
    with _progress(session, "removed") as progress:
        done = await letters.purge(
            **which, dry_run=dry_run, progress=lambda so_far: progress.reach(so_far.purged)
        )
    line = f"{'would remove' if dry_run else 'removed'} {done.purged}"
    _tell(session, asdict(done) | {"dry_run": dry_run}, line, done.missing_ids, dry_run)


@contextmanager
def _progress(session: Session, what: str) -> Iterator[Progress]:
    """Show how far it is; where it ends before its end, say how far it came."""
    with session.out.progress(what) as progress:
        try:
            yield progress
        except (asyncio.CancelledError, ws.WindshiftError) as error:
            progress.clear()
            if progress.count or isinstance(error, asyncio.CancelledError):
                session.out.remark(f"stopped; {progress.count} or a few more were {what}")
            raise


def _tell(session: Session, value: Any, line: str, missing: Sequence[str], dry_run: bool) -> None:
    session.out.done(value, line, dry_run=dry_run)
    if missing:
        raise Failure(f"{len(missing)} of the ids name no dead letter: {missing[0]}", NOT_FOUND)
