"""`windshift tail`: the events of a stream, as they are and as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import click

import windshift as ws
from windshift.cli import naming
from windshift.cli.failing import USAGE, Failure
from windshift.cli.options import Command
from windshift.cli.session import Session, with_session
from windshift.cli.values import POSITION, TIME
from windshift.protos import events as protos
from windshift.rpc import StatusCode

_LAST = 10
_TOGETHER = 500
"""Events that are printed at once, where all are there already."""
_PAUSES = (0.1, 0.5, 1.0, 2.0, *[5.0] * 12)
"""Seconds between attempts to go on with a call that broke: a server may take a minute to come back."""
_AHEAD = 100
"""Events that an older server may deliver before they are shown."""
_END = 3.0
"""Seconds without an event after which an older server has no more: it does not tell where a stream ends."""
_LEAVE = 2.0
"""Seconds for deleting the consumer that an older server needed; it would delete it after an hour."""


@click.command(
    cls=Command,
    examples=[
        "windshift tail orders",
        "windshift tail orders --since 1h -n 20 -o json",
        "windshift tail orders -f --subject 'orders.eu.>'",
    ],
)
@click.argument("stream", **naming.STREAM)
@click.option("--subject", "subjects", multiple=True, metavar="SUBJECT", help="Only subjects that match.")
@click.option(
    "--type", "types", multiple=True, metavar="TYPE", help="Only this type; its last part is enough."
)
@click.option(
    "--since", type=TIME, metavar="TIME", help="Only what was stored since then: 1h (ago), or a time."
)
@click.option(
    "--from", "start", type=POSITION, metavar="POSITION", help="Begin there: start, end, an id, a time."
)
@click.option(
    "-n", "--count", type=click.IntRange(0), help="The newest so many; with --from, the first so many."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is stored from now on.")
@with_session
async def tail(
    session: Session,
    stream: str,
    subjects: tuple[str, ...],
    types: tuple[str, ...],
    since: datetime | None,
    start: ws.Position | None,
    count: int | None,
    follow: bool,
) -> None:
    """Show the newest events of a stream, 10 if nothing else is said. Nothing is settled, nothing changes.

    JSON comes as a line for each event. An older server cannot find the newest ones: there --from, --since or
    -f says where to begin, and a consumer is made for it, and deleted at the end.
    """
    if since is not None and start is not None:
        raise Failure("--since and --from do not go together", USAGE)
    if follow:
        await session.reach()
    reading = _Reading(session, session.client.stream(stream), subjects, types)
    if start is None and since is not None and count is None:
        start = ws.at(since)
    try:
        if start is None:
            last = (await reading.stream.info()).last_id
            await reading.newest(_LAST if count is None else count, since, last)
            if follow:
                await reading.forward(ws.from_id(last + 1), None, follow=True)
        else:
            if start == ws.END:  # a call that breaks before the first event goes on from here, too
                start = ws.from_id((await reading.stream.info()).last_id + 1)
            await reading.forward(start, count, follow=follow)
    except ws.WindshiftError as error:
        if error.code is not StatusCode.UNIMPLEMENTED or reading.last is not None:
            raise
        if start is None and (count or not follow):
            message = "this is an older server, which cannot find the newest events"
            raise Failure(message, hint="say where to begin: --from, or --since without -n") from error
        await reading.consume(start or ws.END, None if start is None else count, follow=follow)


class _Reading:
    """Reads a stream, and shows what passes the filters."""

    def __init__(
        self, session: Session, stream: ws.Stream, subjects: Sequence[str], types: Sequence[str]
    ) -> None:
        from windshift.cli.reading import show_events

        self.stream = stream
        self._session = session
        self._show = partial(show_events, session)
        self.last: int | None = None  # id of the last event that came, or was skipped
        self._subjects = subjects
        self._types = types

    async def newest(self, count: int, since: datetime | None, last: int) -> None:
        """Show the newest events up to this id, the oldest of them first."""
        found: list[ws.StoredEvent] = []
        limit = None if self._types else count
        if count and last:
            read = self.stream.events.read(
                start=ws.from_id(last), backwards=True, subjects=self._subjects, limit=limit
            )
            async for stored in read:
                if since is not None and stored.stored < since:
                    break
                if self._wanted(stored.event):
                    found.append(stored)
                if len(found) == count:
                    break
        for end in range(len(found), 0, -_TOGETHER):
            self._show([stored.event for stored in reversed(found[max(0, end - _TOGETHER) : end])])

    async def forward(self, start: ws.Position, count: int | None, *, follow: bool) -> None:
        """Show the events from a position on: those that there are, or all that come."""
        left = count
        if left == 0:
            return
        async for events in self._events(start, follow=follow):
            wanted = [event for event in events if self._wanted(event)][:left]
            self._show(wanted)
            if left is not None:
                left -= len(wanted)
                if not left:
                    return

    async def consume(self, start: ws.Position, count: int | None, *, follow: bool) -> None:
        """Show the events from a position on as an older server has them: delivered to a consumer.

        The consumer is made for it, so that others miss nothing.
        """
        from windshift.cli.subscribe import Settling

        if count == 0:
            return
        consumer = await self.stream.consumers.ensure(None, start=start, subjects=self._subjects)
        if not follow:
            self._session.out.remark(f"an older server: this ends when no event came for {_END:.0f} s")
        elif start == ws.END:
            self._session.out.remark("an older server: only what is stored from now on is shown")
        settling = Settling(self._show_delivered, count, prefetch=_AHEAD)
        try:
            await settling.run(consumer, None if follow else _END)
        finally:
            with suppress(ws.WindshiftError, TimeoutError):
                async with asyncio.timeout(_LEAVE):
                    await consumer.delete()

    def _show_delivered(self, event: ws.Event[Any]) -> bool:
        """Show an event without its attempt, which a tail does not have; return whether it is wanted."""
        if not self._wanted(event):
            return False
        proto, settings = protos.Event(), self._session.settings
        proto.CopyFrom(event.proto)
        proto.ClearField("delivery_attempt")
        self._show([ws.Event(proto, settings.names, settings.payloads)])
        return True

    async def _events(self, start: ws.Position, *, follow: bool) -> AsyncIterator[list[ws.Event[Any]]]:
        """Yield events that came together; where the call breaks, go on behind the last one."""
        failures, refused = 0, False
        while True:
            try:
                async for items in self.stream.events.tail_many(start=start, subjects=self._subjects):
                    failures, refused = 0, False
                    events, ended = self._take(items, follow=follow)
                    if self.last is not None:
                        start = ws.from_id(self.last + 1)
                    yield events
                    if ended:
                        return
                return
            except ws.WindshiftError as error:
                if failures == len(_PAUSES) or (not follow and failures):
                    raise
                if not self._passes(error, failures, refused=refused):
                    raise
                refused = isinstance(error, ws.Unauthenticated)
                self._session.out.remark(f"{error}; going on")
                await asyncio.sleep(_PAUSES[failures])
                failures += 1

    def _passes(self, error: ws.WindshiftError, failures: int, *, refused: bool) -> bool:
        """Say whether another call may succeed after so many failures in a row.

        `refused` says whether the last of them was a refused token: then another one was refused now.
        """
        if isinstance(error, ws.Unauthenticated):  # there may be another token by now
            return self._session.settings.credentials.renewable and not refused
        if isinstance(error, ws.Exhausted):  # a server may still count the call that broke
            return failures > 0
        return isinstance(error, ws.Unavailable)

    def _take(
        self, items: Sequence[ws.StoredEvent | ws.Skipped | ws.CaughtUp], *, follow: bool
    ) -> tuple[list[ws.Event[Any]], bool]:
        """Return the events that came, and whether they are the last ones that are wanted."""
        events: list[ws.Event[Any]] = []
        for item in items:
            if isinstance(item, ws.StoredEvent):
                events.append(item.event)
                self.last = item.event.id
            elif isinstance(item, ws.Skipped):
                self._session.out.remark(f"skipped {item.events} events up to {item.last_id}: too slow")
                self.last = item.last_id
            elif not follow:
                return events, True
        return events, False

    def _wanted(self, event: ws.Event[Any]) -> bool:
        return not self._types or any(
            event.type == name or event.type.endswith((f".{name}", f"/{name}")) for name in self._types
        )
