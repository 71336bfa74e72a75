"""`windshift explain`: how an event stands at each consumer, and why it is not delivered."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from windshift.cli import naming
from windshift.cli.options import Command
from windshift.cli.output import plain
from windshift.cli.session import Session, with_session
from windshift.cli.values import json_time

if TYPE_CHECKING:
    import windshift as ws

_STATES: Final = {
    "filtered_out": "never delivered: no filter of the consumer matches its subject",
    "before_start": "never delivered: the consumer was made to begin behind it",
    "pending": "to be delivered",
    "held": "a subscriber has it",
    "waiting": "failed, and waits for its next attempt",
    "delivered": "delivered; settled since, or comes again when the processing timeout is over",
    "settled": "settled",
    "dead_letter": "given up: it is a dead letter",
    "replaying": "its dead letter waits to be replayed",
    "removed": "removed from the stream before this consumer had it",
}
_HINDRANCES: Final = {
    "paused": "the consumer is paused",
    "no_subscriber": "nobody is subscribed",
    "windows_full": "every subscriber holds as many events as it may",
    "too_many_unsettled": "as many events are unsettled as the broker allows the consumer",
}
_REMOVALS: Final = {
    "by_hand": "purge or delete",
    "settled": "consumers had settled it",
}


@click.command(
    cls=Command,
    examples=[
        "windshift explain orders 1",
        "windshift explain orders 1 --consumer accounting",
        "windshift explain orders 1 -o json",
    ],
)
@click.argument("stream", **naming.STREAM)
@click.argument("id", type=click.IntRange(1))
@click.option("--consumer", metavar="NAME", help="Only at this consumer.")
@with_session
async def explain(session: Session, stream: str, id: int, consumer: str | None) -> None:  # noqa: A002 -- the argument's name
    """Say how an event stands at each consumer of its stream, and why it is not delivered."""
    explanation = await session.client.stream(stream).events.explain(id, consumer=consumer)
    session.out.item(_value(explanation), *map(plain, _lines(id, stream, explanation)))
    if explanation.left_out:
        session.out.remark(f"{explanation.left_out} more consumers: name one with --consumer")
    if explanation.missing:
        session.out.remark(f"servers that did not answer in time: {', '.join(explanation.missing)}")


def _lines(id: int, stream: str, explanation: ws.Explanation) -> list[str]:  # noqa: A002 -- as the field
    if explanation.presence == "not_yet":
        return [f"{stream} has no event {id} yet: its last id is {explanation.last_id}"]
    if explanation.presence == "removed":
        causes = ", ".join(_REMOVALS.get(each, each) for each in explanation.removals)
        first = f"{stream} holds event {id} no more; removed by one of: {causes}"
    else:
        first = f"{id} {explanation.subject}, stored {json_time(explanation.stored)}"
    lines = [first, *(_line(each) for each in explanation.consumers)]
    return lines if explanation.consumers else [*lines, "no consumer"]


def _line(at: ws.ExplainedConsumer) -> str:
    parts = [_STATES.get(at.state, at.state)]
    parts += [f"{each.peer or each.server} until {json_time(each.until)}" for each in at.holders]
    if at.attempts:
        parts.append(f"attempts: {at.attempts}")
    if at.next_attempt is not None:
        parts.append(f"next attempt {json_time(at.next_attempt)}")
    if at.reason:
        parts.append(f"reason: {at.reason}")
    if at.dead_letter:
        parts.append(at.dead_letter)
    parts += [_HINDRANCES.get(each, each) for each in at.hindrances]
    if at.paused_until is not None:
        parts.append(f"until {json_time(at.paused_until)}")
    if at.state == "settled" and at.moved is not None:
        parts.append(f"or skipped when the consumer was moved, {json_time(at.moved)}")
    return f"{at.name}: {'; '.join(parts)}"


def _value(part: Any) -> Any:
    """Return an explanation, or a part of it, as JSON has it; times that are not known are left out."""
    if isinstance(part, datetime):
        return json_time(part)
    if hasattr(part, "_asdict"):
        return {name: _value(each) for name, each in part._asdict().items() if each is not None}
    return [_value(each) for each in part] if isinstance(part, tuple) else part
