"""`windshift consumers`: who reads a stream, and how far they have come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import click

import windshift as ws
from windshift.cli import naming
from windshift.cli.failing import USAGE, Failure
from windshift.cli.options import Group
from windshift.cli.session import Session, with_session
from windshift.cli.values import DURATION, POSITION, TIME_AHEAD, json_time, show_age, show_duration, show_time

_SPEC = ("stream", "name", "durable", "subjects", "timeout", "retry")
_FIELDS = (*_SPEC, "pending", "unsettled", "settled_to", "dead_letters")
_LISTED = ("oldest_unsettled", "paused_until", "waiting_replays")
_HEAD = ("NAME", "PENDING", "UNSETTLED", "DEAD", "SETTLED TO", "OLDEST", "PAUSED UNTIL")


@click.group(cls=Group, aliases={"reset": "seek"})
def consumers() -> None:
    """List, make, pause, move and delete consumers."""


async def _longest_waiting_first(client: ws.Client) -> AsyncIterator[ws.ConsumerInfo]:
    """Yield the consumers of all streams; those with nothing unsettled that is known come last."""
    found = [info async for info in client.stream("").consumers.list()]
    never = datetime.max.replace(tzinfo=UTC)
    for info in sorted(found, key=lambda info: info.oldest_unsettled or never):
        yield info


@consumers.command("ls", examples=["windshift consumers ls orders", "windshift consumers ls"])
@click.argument("stream", required=False, **naming.STREAM)
@with_session
async def list_(session: Session, stream: str | None) -> None:
    """List the consumers of a stream; or of all streams, those first that keep an event waiting longest.

    PENDING is what a consumer has yet to deliver, UNSETTLED what was delivered and is not settled, OLDEST the
    age of the oldest of these, which is not known with more than 4 filters.
    """
    from windshift.cli import specs

    now = datetime.now(UTC)
    value = partial(specs.plain_fields, names=(*_FIELDS, *_LISTED))

    def row(info: ws.ConsumerInfo) -> Sequence[str]:
        counts = (info.pending, info.unsettled, info.dead_letters, info.settled_to)
        ends = (show_age(info.oldest_unsettled, now), show_time(info.paused_until))
        return info.name, *map(str, counts), *ends

    if stream is not None:
        found = session.client.stream(stream).consumers.list()
        await session.out.list(found, value, _HEAD, row, right=range(1, 6))
    else:
        found = _longest_waiting_first(session.client)
        head = ("STREAM", *_HEAD)
        await session.out.list(found, value, head, lambda info: (info.stream, *row(info)), right=range(2, 7))


@consumers.command(examples=["windshift consumers info orders accounting"])
@click.argument("stream", **naming.STREAM)
@click.argument("consumer", **naming.CONSUMER)
@with_session
async def info(session: Session, stream: str, consumer: str) -> None:
    """Show a consumer: what it is, and how far it has come."""
    from windshift.cli import specs

    found = await session.client.stream(stream).consumer(consumer).info()
    pairs = [
        ("stream", found.stream),
        ("name", found.name if found.durable else f"{found.name} (ephemeral)"),
        ("subjects", ", ".join(found.subjects) or "all"),
        ("timeout", show_duration(found.timeout)),
        ("retries", specs.show("retry", found.retry)),
        ("pending", str(found.pending)),
        ("unsettled", str(found.unsettled)),
        ("settled to", str(found.settled_to)),
        ("dead letters", str(found.dead_letters)),
    ]
    session.out.fields(specs.plain_fields(found, _FIELDS), pairs)


@consumers.command(
    examples=["windshift consumers ensure orders accounting --from start --max-attempts 20"],
)
@click.argument("stream", **naming.STREAM)
@click.argument("consumer", required=False, **naming.CONSUMER)
@click.option("--subject", "subjects", multiple=True, metavar="SUBJECT", help="Only subjects that match.")
@click.option(
    "--from",
    "start",
    type=POSITION,
    metavar="POSITION",
    help="Where a new one begins: start, end, an id, a time.",
)
@click.option("--processing-timeout", "timeout", type=DURATION, help="How long subscribers may take; 30s.")
@click.option("--max-attempts", type=click.IntRange(1), help="How often an event is delivered at most.")
@click.option(
    "--initial-backoff", "initial", type=DURATION, help="How long after the first reject it comes again."
)
@click.option("--max-backoff", "maximum", type=DURATION, help="The longest such time.")
@click.option("--multiplier", type=click.FloatRange(1), help="What each such time is of the one before.")
@click.option("--no-dead-letters", is_flag=True, help="Keep nothing of what is given up.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@with_session
async def ensure(
    session: Session, stream: str, consumer: str | None, no_dead_letters: bool, dry_run: bool, **given: Any
) -> None:
    """Make a consumer, or change it to this; it keeps its position.

    What is left out becomes the default, but for the retry policy, which stays. Without CONSUMER an ephemeral
    one is made, which is gone soon after its last subscriber.
    """
    from windshift.cli.ensuring import ensure_consumer, tell

    names = ("max_attempts", "initial", "maximum", "multiplier")
    policy = {name: value for name in names if (value := given.pop(name)) is not None}
    spec = {key: value for key, value in given.items() if value not in {None, ()}}
    if policy or no_dead_letters:
        spec["retry"] = ws.RetryPolicy(**policy, dead_letters=not no_dead_letters)
    done = await ensure_consumer(session.client, stream, consumer, ws.ConsumerSpec(**spec), dry_run=dry_run)
    if session.out.json:
        session.out.item(done.value())
    else:
        tell(session, [done], dry_run=dry_run)


@consumers.command(examples=["windshift consumers pause orders accounting --for 1h"])
@click.argument("stream", **naming.STREAM)
@click.argument("consumer", **naming.CONSUMER)
@click.option("--for", "duration", type=DURATION, help="For how long.")
@click.option("--until", type=TIME_AHEAD, metavar="TIME", help="Until when: 1h (from now), or a time.")
@with_session
async def pause(
    session: Session, stream: str, consumer: str, duration: float | None, until: datetime | None
) -> None:
    """Deliver nothing new for a while. What was delivered can be settled."""
    if (duration is None) == (until is None):
        raise Failure("say --for how long, or --until when", USAGE)
    end = await session.client.stream(stream).consumer(consumer).pause(until or duration or 0.0)
    session.out.done({"paused_until": json_time(end)}, f"paused until {show_time(end)}")


@consumers.command(examples=["windshift consumers resume orders accounting"])
@click.argument("stream", **naming.STREAM)
@click.argument("consumer", **naming.CONSUMER)
@with_session
async def resume(session: Session, stream: str, consumer: str) -> None:
    """End a pause."""
    await session.client.stream(stream).consumer(consumer).resume()
    session.out.done({"paused_until": None}, f"resumed {consumer}")


@consumers.command(
    examples=[
        "windshift consumers seek orders accounting --to start --dry-run",
        "windshift consumers seek orders accounting --to 2 --yes",
    ]
)
@click.argument("stream", **naming.STREAM)
@click.argument("consumer", **naming.CONSUMER)
@click.option("--to", type=POSITION, required=True, metavar="POSITION", help="start, end, an id, or a time.")
@click.option("--dry-run", is_flag=True, help="Only say what would come of it.")
@with_session
async def seek(session: Session, stream: str, consumer: str, to: ws.Position, dry_run: bool) -> None:
    """Move a consumer: from there on everything is delivered anew, as first attempts. Asks first."""
    target = session.client.stream(stream).consumer(consumer)
    if not dry_run and not session.options.yes:
        plan = await target.seek(to, dry_run=True)
        await session.confirm(
            f"would move {consumer} from event {plan.was} to {plan.next_id} and deliver {plan.pending}"
        )
    sought = await target.seek(to, dry_run=dry_run)
    value = sought._asdict() | {"dry_run": dry_run}
    line = f"next event: {sought.next_id} (was {sought.was}), {sought.pending} pending"
    session.out.done(value, line, dry_run=dry_run)


@consumers.command("rm", examples=["windshift consumers rm orders accounting --yes"])
@click.argument("stream", **naming.STREAM)
@click.argument("consumer", **naming.CONSUMER)
@with_session
async def remove(session: Session, stream: str, consumer: str) -> None:
    """Delete a consumer; its dead letters stay. Asks first."""
    target = session.client.stream(stream).consumer(consumer)
    if not session.options.yes:
        pending = (await target.info()).pending
        await session.confirm(f"would delete {consumer} of {stream} with {pending} pending events")
    await target.delete()
    session.out.done({"deleted": consumer}, f"deleted {consumer}")
