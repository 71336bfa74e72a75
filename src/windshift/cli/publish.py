"""`windshift publish`: events from arguments, files and stdin."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click

import windshift as ws
from windshift.cli.failing import USAGE, Failure, drop_output
from windshift.cli.inputs import content_of, encoder, lines_of_stdin, takes_payload
from windshift.cli.options import Command
from windshift.cli.session import Session, status_of, with_session
from windshift.cli.values import TIME

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage

    from windshift.cli.output import Progress

_PORTION: Final = 10_000
"""Events whose receipts are kept until they are told of: there may be events for months."""

_Encode: TypeAlias = "Callable[[bytes], AnyMessage]"


@click.command(
    cls=Command,
    examples=[
        """windshift publish orders.placed '{"orderId":"7"}'""",
        """windshift publish orders.placed '{"value":"7"}' --type windshift.test.v1.StringValue""",
        """seq 1000 | windshift publish orders.placed - --each""",
        """seq 10 | windshift publish orders.placed - --each --atomic""",
    ],
)
@click.argument("subject")
@click.argument("payload", required=False)
@takes_payload
@click.option("--each", is_flag=True, help="Each line of stdin is an event of its own.")
@click.option(
    "--in-flight", type=click.IntRange(1, 200), help="Events at once of --each; 1 keeps their order."
)
@click.option(
    "--without-ids",
    is_flag=True,
    help="Events of --each need no ids: quicker where the stream has fast_ingest.",
)
@click.option(
    "--atomic",
    is_flag=True,
    help="All events of --each are stored or none is, in their order; at most 1,000.",
)
@click.option("--key", help="Idempotency key: events with the same key are stored once. Made if not given.")
@click.option("--no-key", is_flag=True, help="No key: quicker; what is in doubt is not repeated.")
@click.option("--expected-last-id", type=click.IntRange(0), metavar="ID", help="Only if this is the last id.")
@click.option("--time", type=TIME, help="When it happened; by default now.")
@with_session
async def publish(
    session: Session,
    subject: str,
    payload: str | None,
    kind: str | None,
    json_type: str | None,
    raw: bool,
    each: bool,
    in_flight: int | None,
    without_ids: bool,
    atomic: bool,
    **settings: Any,
) -> None:
    """Publish an event, or many.

    Ctrl-C ends --each when all that was read is stored, and says how many events that are.
    PAYLOAD is JSON: given here, in a file (@file), or on stdin (-). With --type it becomes that Protobuf
    message, whose descriptors come from --descriptors or --module; without, it is sent as JSON.
    """
    encode = encoder(session.payloads, kind, json_type, raw=raw)
    if each:
        expects = settings["expected_last_id"] is not None
        if payload not in {None, "-"} or settings["key"] or (expects and not atomic):
            raise Failure("--each reads stdin, and goes with neither a payload, nor --key, nor ids", USAGE)
        if atomic:
            if without_ids or in_flight:
                raise Failure("--atomic goes with neither --without-ids nor --in-flight", USAGE)
            await _publish_atomic(session, subject, encode, settings)
            return
        if without_ids and in_flight == 1:
            raise Failure("--without-ids publishes many at once, and not one after the other", USAGE)
        await _publish_each(session, subject, encode, in_flight or 128, settings, without_ids=without_ids)
        return
    if without_ids or atomic:
        raise Failure(f"{'--atomic' if atomic else '--without-ids'} goes with --each", USAGE)
    message = encode(await content_of(payload))
    key = None if settings["no_key"] else settings["key"] or secrets.token_urlsafe(12)
    receipt = await session.client.publish(
        subject, message, key=key, expected_last_id=settings["expected_last_id"], time=settings["time"]
    )
    value = {"id": receipt.id, "key": key, "duplicate": receipt.duplicate}
    before = ", which was stored before" if receipt.duplicate else ""
    session.out.done(value, f"stored as event {receipt.id}{before}")


async def _publish_each(
    session: Session,
    subject: str,
    encode: _Encode,
    in_flight: int,
    settings: dict[str, Any],
    *,
    without_ids: bool,
) -> None:
    wrong: list[Failure] = []
    stop = asyncio.Event()
    with session.out.progress("published") as progress:
        events = _events(encode, _maker(subject, settings), progress, stop, wrong)
        report = _Report(session, without_ids=without_ids)
        publish = partial(session.client.publish_many, in_flight=in_flight, without_ids=without_ids)
        publishing = asyncio.ensure_future(_in_portions(events, publish, report))
        interrupted = await _interrupted(publishing, stop)
        failed = publishing.result()
    report.end(progress.seconds)
    if failure := failed or next(iter(wrong), None):
        raise failure
    if interrupted:
        session.out.remark("stopped; the lines after these were not published")
        raise asyncio.CancelledError


async def _publish_atomic(session: Session, subject: str, encode: _Encode, settings: dict[str, Any]) -> None:
    from windshift.sdk.publishing import MOST_ATOMIC

    wrong: list[Failure] = []
    events: list[ws.Publish] = []
    with session.out.progress("read") as progress:
        async for event in _events(encode, _maker(subject, settings), progress, asyncio.Event(), wrong):
            if len(events) == MOST_ATOMIC:
                raise Failure(f"--atomic stores at most {MOST_ATOMIC:,} events; nothing was stored", USAGE)
            events.append(event)
    if wrong:
        raise wrong[0]
    if events:
        events[0] = events[0]._replace(expected_last_id=settings["expected_last_id"])
    try:
        receipts = await session.client.publish_atomic(events)
    except ws.WindshiftError as error:
        raise (error if error.index is None else _failure(error.index, error)) from error
    report = _Report(session, without_ids=False)
    report.add(receipts)
    report.end(progress.seconds)


def _maker(subject: str, settings: dict[str, Any]) -> Callable[[AnyMessage], ws.Publish]:
    from windshift.sdk.publishing import MADE

    return partial(ws.Publish, subject, key=None if settings["no_key"] else MADE, time=settings["time"])


async def _events(
    encode: _Encode,
    make: Callable[[AnyMessage], ws.Publish],
    progress: Progress,
    stop: asyncio.Event,
    wrong: list[Failure],
) -> AsyncIterator[ws.Publish]:
    """Yield the events of the lines of stdin until `stop` is set, or one is wrong: `wrong` says why."""
    number = 0
    try:
        async for lines in lines_of_stdin(stop):
            for line in lines:
                number += 1
                if stop.is_set():
                    return
                if line.strip():
                    payload = _encoded(encode, line, number)
                    progress.add()
                    yield make(payload)
    except Failure as failure:
        wrong.append(failure)


def _encoded(encode: _Encode, line: bytes, number: int) -> AnyMessage:
    try:
        return encode(line)
    except Failure as failure:
        message = f"line {number}: {failure.message}"
        raise Failure(message, failure.status, hint=failure.hint) from failure


async def _interrupted(publishing: asyncio.Future[Any], stop: asyncio.Event) -> bool:
    """Wait until all is published, or Ctrl-C and then what is under way; the next Ctrl-C ends the program."""
    try:
        await asyncio.wait((publishing,))
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait((publishing,))
        return True
    return False


async def _in_portions(
    events: AsyncIterator[ws.Publish],
    publish: Callable[[AsyncIterator[ws.Publish]], Awaitable[list[ws.PublishReceipt]]],
    report: _Report,
) -> Failure | None:
    """Publish all events, of which there may be any number, and report them; return what failed."""
    taken, may_go_on = 0, True
    while may_go_on:
        try:
            results: Sequence[object] = await publish(_first(events, _PORTION))
        except ws.PublishManyError as error:
            results = error.results
        report.add([each for each in results if isinstance(each, ws.PublishReceipt)])
        for place, each in enumerate(results, taken):
            if isinstance(each, Exception):
                return _failure(place, each)
        taken += len(results)
        may_go_on = len(results) == _PORTION
    return None


async def _first(events: AsyncIterator[ws.Publish], number: int) -> AsyncIterator[ws.Publish]:
    """Yield so many of the events; the iterator goes on behind them."""
    for _ in range(number):
        try:
            yield await anext(events)
        except StopAsyncIteration:
            return


class _Report:
    """Says which events were stored."""

    def __init__(self, session: Session, *, without_ids: bool) -> None:
        self._session = session
        self._without_ids = without_ids
        self._stored = 0
        self._first, self._last = sys.maxsize, 0

    def add(self, receipts: Sequence[ws.PublishReceipt]) -> None:
        """Take some more; a program is told at once."""
        if not receipts:
            return
        self._stored += len(receipts)
        ids = [receipt.id for receipt in receipts]
        self._first, self._last = min(self._first, *ids), max(self._last, *ids)
        if self._session.out.json and not self._without_ids:
            self._tell(*(f'{{"id":{each}}}' for each in ids))

    def end(self, seconds: float) -> None:
        """Say how many there were."""
        stored, out = self._stored, self._session.out
        if out.json and self._without_ids:
            self._tell(f'{{"stored":{stored}}}')
        elif not out.json and not self._session.options.quiet:
            span = "" if self._without_ids or not stored else f", {self._first}"
            span += f" to {self._last}" if span and stored > 1 else ""
            events = "event" if stored == 1 else "events"
            rate = f" ({stored / seconds:.0f}/s)" if stored else ""
            self._tell(f"stored {stored} {events}{span}{rate}")

    def _tell(self, *lines: str) -> None:
        try:
            self._session.out.lines(*lines)
        except BrokenPipeError:  # whoever reads has seen enough, but not of what is still to do, or failed
            drop_output()


def _failure(place: int, error: Exception) -> Failure:
    if not isinstance(error, ws.WindshiftError):
        return Failure(f"event {place + 1}: {error}")
    message = f"event {place + 1}: {error.message}"
    return Failure(message, status_of(error), reason=error.reason, hint=error.hint)
