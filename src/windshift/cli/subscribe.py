"""`windshift subscribe`: takes part in a consumer, by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import click

import windshift as ws
from windshift.cli import naming
from windshift.cli.failing import USAGE, Failure
from windshift.cli.options import Command
from windshift.cli.session import Session, with_session
from windshift.cli.values import DURATION

_STOP_SECONDS = 0.05


class RejectedByHand(Exception):
    """Why there was no ack: somebody said so. Its name is what dead letters have as their error type."""


@click.command(
    cls=Command,
    examples=[
        "windshift subscribe orders accounting --peek",
        "windshift subscribe orders accounting --ack -n 1 --wait 5s -o json",
    ],
)
@click.argument("stream", **naming.STREAM)
@click.argument("consumer", **naming.CONSUMER)
@click.option("--ack", "verdict", flag_value="ack", help="Acknowledge each event once it is shown.")
@click.option(
    "--reject", "verdict", flag_value="reject", help="Have each come again, by the consumer's policy."
)
@click.option("--dead-letter", "verdict", flag_value="dead_letter", help="Make each a dead letter.")
@click.option("--drop", "verdict", flag_value="drop", help="Have none come again.")
@click.option(
    "--peek",
    "verdict",
    flag_value="peek",
    help="Show one, or -n, and release them: they come again, as other attempts.",
)
@click.option("--reason", default="", help="Why: kept with what is rejected, as of type RejectedByHand.")
@click.option("-n", "--count", type=click.IntRange(1, 1000), help="End after so many events.")
@click.option("--wait", type=DURATION, help="End when none came for so long.")
@with_session
async def subscribe(
    session: Session,
    stream: str,
    consumer: str,
    verdict: str | None,
    reason: str,
    count: int | None,
    wait: float | None,
) -> None:
    """Receive events of a consumer, one after the other, and settle them.

    Other subscribers do not get what this one takes. JSON comes as a line for each event.
    """
    target = session.client.stream(stream).consumer(consumer)
    if verdict is None:
        hint = "--ack, --reject, --dead-letter, --drop or --peek"
        raise Failure("say what becomes of the events", USAGE, hint=hint)
    await session.reach()
    if verdict == "peek":
        await _peek(session, target, count or 1, wait)
        return
    verdicts: dict[str, Callable[[str], Exception]] = {
        "reject": ws.RetryLater,
        "dead_letter": ws.GiveUp,
        "drop": ws.Drop,
    }
    make = verdicts.get(verdict)

    def show(event: ws.Event[Any]) -> bool:
        from windshift.cli.reading import show_events

        show_events(session, [event])
        return True

    await Settling(show, count, make and partial(make, reason)).run(target, wait)


async def _peek(session: Session, target: ws.Consumer, count: int, wait: float | None) -> None:
    from windshift.cli.reading import show_events

    async with target.subscribe(concurrency=count, prefetch=0, linger=0) as deliveries:
        for _ in range(count):
            try:
                async with asyncio.timeout(wait):
                    delivery = await anext(deliveries)
            except TimeoutError:
                return
            show_events(session, [delivery.event])


class Settling:
    """Shows events, one after the other, and settles each in the same way.

    Args:
        show: shows one; returns whether it counts.
        count: how many; None = all.
        verdict: makes what is raised for an event; None = each is acknowledged.
        prefetch: how many may wait behind the one that is shown.
    """

    def __init__(
        self,
        show: Callable[[ws.Event[Any]], bool],
        count: int | None,
        verdict: Callable[[], Exception] | None = None,
        prefetch: int = 0,
    ) -> None:
        self._show = show
        self._count = count
        self._verdict = verdict
        self._prefetch = prefetch
        self._shown: asyncio.Queue[Exception | bool] = asyncio.Queue()
        self._stopping = asyncio.Event()

    async def run(self, target: ws.Consumer, wait: float | None) -> None:
        """Handle events until there were enough, or none for so long."""
        running = asyncio.ensure_future(
            target.run(self._handle, concurrency=1, prefetch=self._prefetch, linger=0)
        )
        try:
            await self._watch(running, wait)
        finally:
            running.cancel()  # nothing more is delivered from here on; then the last event is settled
            asyncio.get_running_loop().call_later(_STOP_SECONDS, self._stopping.set)
            await asyncio.wait({running})
        if not running.cancelled() and (error := running.exception()):
            raise error

    async def _watch(self, running: asyncio.Future[None], wait: float | None) -> None:
        left = self._count
        while left is None or left > 0:
            next_one: asyncio.Future[Any] = asyncio.ensure_future(self._shown.get())
            done, _ = await asyncio.wait(
                {next_one, running}, timeout=wait, return_when=asyncio.FIRST_COMPLETED
            )
            if next_one not in done:
                next_one.cancel()
                return
            shown = next_one.result()
            if isinstance(shown, Exception):
                raise shown
            left = None if left is None else left - shown

    async def _handle(self, delivery: ws.Delivery[Any]) -> None:
        if self._stopping.is_set():
            raise ws.RetryLater("it was not shown")
        try:
            counts = self._show(delivery.event)
        except Exception as error:  # who reads our output has seen enough, or it cannot be shown
            self._shown.put_nowait(error)
            await self._stopping.wait()
            raise ws.RetryLater("it could not be shown") from error
        self._shown.put_nowait(counts)
        if self._count is not None:
            self._count -= counts
            if self._count == 0:
                await self._stopping.wait()
        if self._verdict is not None:
            raise self._verdict() from RejectedByHand()
