"""Brings replayed events to one call, one after the other, and settles them.

Replays are rare: the broker is asked once, and then not before somebody says that there are some, and no more
once all are settled.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from windshift.nats import NatsError
from windshift.nats.jetstream.pulling import ACK, NAK, PROGRESS, TERMINATE, delay_of
from windshift.server.domain.errors import StreamFull, WindshiftError
from windshift.server.events.consuming import work as w
from windshift.server.events.consuming.flow import Replay
from windshift.server.events.consuming.protocol import ConsumeProtocol
from windshift.server.events.consuming.shared import Shared
from windshift.server.events.consuming.timer import Signal
from windshift.server.events.dead_letters.replay_queue import Clock, Lease, Pointer
from windshift.server.events.notes import REPLAY

_PAUSE: Final = 1.0
"""Seconds until the broker is asked again after it failed, or a replica of it may have lagged behind."""


@dataclass(slots=True, eq=False)
class ReplayFeed:
    """Brings replayed events to a call, and settles them.

    The broker may take `_confirm_timeout` seconds to answer. `make_room` is called when the client may hold
    one more event.

    Attributes:
        is_running: whether there were replays, so that they are brought.
    """

    _shared: Shared
    _protocol: ConsumeProtocol
    _confirm_timeout: float
    _wake: Signal
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _room: Signal = field(default_factory=Signal)
    _noted: Signal = field(default_factory=Signal)
    _leases: dict[bytes, Lease] = field(default_factory=dict)
    _settling: dict[asyncio.Task[Any], None] = field(default_factory=dict)  # empty, it is smaller than a set
    is_running: bool = False

    async def look(self) -> None:
        """See whether there are replays; if the broker does not answer, wait to be told."""
        try:
            if await self._shared.replays.any(self._protocol.state.consumer, self._deadline()):
                self.ring()
        except (WindshiftError, NatsError):
            pass

    def ring(self) -> None:
        """Bring replays, unless the call is about to end: there are some."""
        if self._protocol.state.is_ending:
            return
        if not self.is_running:
            self.is_running = True
            self._protocol.state.effects.work.append(w.BringReplays())
        self._noted.set()

    def look_again(self) -> None:
        """See once more whether there are replays, if they are brought."""
        self._noted.set()

    def make_room(self) -> None:
        """Note that the client may hold one more event."""
        self._room.set()

    # --- Bringing -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring what there is, whenever there is something, until this is cancelled."""
        while True:
            was_noted = self._noted.is_set()
            self._noted.clear()
            try:
                pause = await self._bring(was_noted=was_noted)
            except (WindshiftError, NatsError):
                pause = _PAUSE
            try:
                async with asyncio.timeout(None if pause == inf else pause):
                    await self._noted.wait()
            except TimeoutError:
                pass

    async def _bring(self, *, was_noted: bool) -> float:
        """Bring the replays that are free now; return the seconds until others may be."""
        queue, consumer = self._shared.replays, self._protocol.state.consumer
        self._forget_leases()
        clock = await queue.clock(self._deadline())
        if clock is None:
            return inf
        soonest, after, is_last, has_rivals = inf, 0, False, False
        while not is_last:
            page = await queue.page(consumer, after, self._deadline())
            if has_rivals:  # seldom want what they want
                random.shuffle(page.pointers)
            pause = await self._bring_page(page.pointers, clock)
            if pause is None:  # what was read is outdated
                has_rivals = True
                continue
            soonest, after, is_last = min(soonest, pause), page.after, not page.after
        if soonest < inf and not (was_noted and clock.replicas > 1):
            return soonest
        # The pages may have come from a replica that lags behind.
        return min(soonest, _PAUSE) if await queue.any(consumer, self._deadline()) else inf

    def _forget_leases(self) -> None:
        """Forget leases that the client cannot settle any more."""
        long_ago = self._loop.time() - 2 * self._confirm_timeout
        self._leases = {
            reply: lease
            for reply, lease in self._leases.items()
            if not lease.is_settled and lease.until > long_ago
        }

    async def _bring_page(self, pointers: list[Pointer], clock: Clock) -> float | None:
        """Bring those that are free; return the seconds until others may be, `None` if others were faster."""
        soonest = inf
        for pointer in pointers:
            wait = clock.seconds_until(pointer.free_at_ns, self._loop.time())
            if wait <= 0:
                await self._wait_for_room()
                wait = _PAUSE
                if not self._shared.replays.is_taken(pointer):
                    if not await self._bring_one(pointer):
                        return None
                    wait = self._timeout
            soonest = min(soonest, wait)
        return soonest

    async def _wait_for_room(self) -> None:
        while not self._protocol.has_room_for_replays:
            self._room.clear()
            await self._room.wait()

    async def _bring_one(self, pointer: Pointer) -> bool:
        """Bring a replay, or end it if there is nothing to deliver; false when somebody else was faster."""
        if pointer.is_claimed:
            return await self._finish(pointer)
        letter = await self._shared.store.get(pointer.id, self._deadline())
        if letter is None or letter.failure.replay_count >= pointer.number:
            return await self._shared.replays.drop(pointer, self._deadline())
        lease = await self._take(pointer)
        if lease is None:
            return False
        self._leases[lease.reply] = lease
        delivery = letter.delivery(lease.attempt, lease.reply)
        replay = Replay(lease.id, lease.number, letter.position)
        self._protocol.incoming.replayed(delivery, replay, lease.since)
        self._wake.set()
        return True

    async def _finish(self, pointer: Pointer) -> bool:
        """Do what a server left undone that died after an ack; false when somebody else was faster."""
        replay = Replay(pointer.id, pointer.number, pointer.letter)
        try:
            await self._shared.store.claim_replay(*replay, self._protocol.state.claimed_for, self._deadline())
        except StreamFull:  # it is done when there is room: others need not wait for that
            return True
        return await self._shared.replays.drop(pointer, self._deadline())

    async def _take(self, pointer: Pointer) -> Lease | None:
        """Lease a replay. What is leased when nobody waits for it any more is given back."""
        work = self._shared.replays.lease(pointer, self._protocol.state.found.timeout, self._deadline())
        leasing = self._loop.create_task(work)
        try:
            return await asyncio.shield(leasing)
        except asyncio.CancelledError:
            leasing.add_done_callback(self._leased_too_late)
            raise

    def _leased_too_late(self, leasing: asyncio.Task[Lease | None]) -> None:
        if leasing.cancelled() or leasing.exception() is not None:
            return
        lease = leasing.result()
        if lease is not None:
            _ = self._begin(self._settle(lease, NAK, self._deadline()))

    # --- Settling -----------------------------------------------------------------------------------------

    def lease(self, reply: bytes) -> Lease | None:
        """Return what a delivery of this reply subject has of a replay; `None` if it is of none."""
        return self._leases.get(reply)

    async def settle(self, lease: Lease, payload: bytes, deadline: float) -> bool | None:
        """Do what an acknowledgement asks for, even if this is cancelled meanwhile.

        Return whether the event was this call's to settle; `None` when the broker does not answer.
        """
        try:
            return await asyncio.shield(self._begin(self._settle(lease, payload, deadline)))
        except (WindshiftError, NatsError):
            return None

    def tell(self, reply: bytes, payload: bytes) -> bool:
        """Do the same, and do not ask what came of it; false when the delivery is not of a replay.

        What has more than half of its time left is not prolonged.
        """
        lease = self._leases.get(reply)
        if lease is not None and not (
            payload == PROGRESS and lease.until - self._loop.time() > self._timeout / 2
        ):
            _ = self._begin(self._settle(lease, payload, self._deadline()))
        return lease is not None

    async def close(self) -> None:
        """Wait for what is being settled, a second at most: what is not done by then goes on."""
        if self._settling:
            await asyncio.wait(self._settling, timeout=_PAUSE)

    async def _settle(self, lease: Lease, payload: bytes, deadline: float) -> bool:
        if payload == PROGRESS:
            return await lease.prolong(self._protocol.state.found.timeout, deadline)
        if payload in (ACK, TERMINATE):
            await lease.end(deadline)  # whoever has it now finds what became of the dead letter
            return True
        is_ours = await lease.give_back(delay_of(payload), deadline)
        self._shared.notes.send(REPLAY, *self._protocol.state.consumer)
        return is_ours

    def _begin(self, work: Coroutine[Any, Any, bool]) -> asyncio.Future[bool]:
        task = self._loop.create_task(work)
        self._settling[task] = None
        task.add_done_callback(self._done)
        return task

    @property
    def _timeout(self) -> float:
        return self._protocol.state.found.timeout.total_seconds()

    def _done(self, task: asyncio.Task[bool]) -> None:
        self._settling.pop(task, None)
        if not task.cancelled():
            task.exception()  # the lease ends by itself then

    def _deadline(self) -> float:
        return self._loop.time() + self._confirm_timeout
