"""From things that happened to the collector: a bounded queue, and a thread that sends batches.

Whatever the collector does, calls do not notice: what finds the queue full is dropped and counted, and so is
a batch that could not be sent. The log has one line when that begins, and one when it is over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from windshift.server.config import BatchConfig

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

_log = logging.getLogger(__name__)

_LOOK = 0.02
"""Seconds between two looks at a thread that is to end."""


class Sender(Protocol[T_contra]):
    """Sends things to a collector. All but `trouble` and `close` belong to the thread that exports."""

    @property
    def trouble(self) -> str:
        """What went wrong with the batch that is being sent, or was sent last; empty when nothing did."""
        ...

    def send(self, batch: Sequence[T_contra], /) -> bool:
        """Send a batch, and return whether the collector has it. Blocks, and gives up by itself."""
        ...

    def close(self) -> None:
        """Break off what is under way, as well as that can be done."""
        ...


class BatchExport(Generic[T]):
    """The queue and its thread, which runs from the start.

    Args:
        sender: sends.
        config: how much may wait, and how long.
        what: a word for the things, in the plural.
        remedy: what to change when they come too fast.

    Attributes:
        exported: how many the collector has.
        dropped: how many are lost.
    """

    def __init__(self, sender: Sender[T], config: BatchConfig, what: str, remedy: str) -> None:
        self._what = what
        self._remedy = remedy
        self._sender = sender
        self._delay = config.delay.total_seconds()
        self._queue_size = config.queue_size
        self._batch_size = config.batch_size
        self._queue: deque[T] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._losing = False
        self._overflown = self._failed = self._reported = 0
        self.exported = 0
        self._thread = threading.Thread(target=self._run, name=f"windshift {what}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many are lost: they found the queue full, or could not be sent."""
        return self._overflown + self._failed

    @property
    def waiting(self) -> int:
        """How many wait to be sent."""
        return len(self._queue)

    def add(self, thing: T) -> None:
        """Take one. Never blocks."""
        queue = self._queue
        waiting = len(queue)
        if waiting >= self._queue_size:
            self._overflown += 1
            return
        queue.append(thing)
        if waiting + 1 >= self._batch_size and not self._wake.is_set():
            self._wake.set()

    def close(self, timeout: float) -> None:
        """Send what waits, for `timeout` seconds at most, and end. Blocks that long.

        A collector that does not answer now is not waited for.
        """
        self._closing = True
        self._wake.set()
        until = time.monotonic() + (0 if self._losing else timeout)
        while self._thread.is_alive() and time.monotonic() < until and not self._sender.trouble:
            self._thread.join(_LOOK)
        self._sender.close()
        if self._thread.is_alive():
            self._thread.join(_LOOK)
        self._failed += self._forget()
        if self.dropped > self._reported:
            _log.warning("%d %s were not exported", self.dropped - self._reported, self._what)

    def _forget(self) -> int:
        """Empty the queue, and return how much was in it."""
        count = len(self._queue)
        self._queue.clear()
        return count

    # -- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._delay)
            self._wake.clear()
            self._export()
        while self._queue and not self._losing:
            self._send()

    def _export(self) -> None:
        """Send one batch, however small, and then those that are full."""
        if self._queue:
            self._send()
        while len(self._queue) >= self._batch_size and not self._closing:
            self._send()

    def _send(self) -> None:
        overflown = self._overflown
        queue = self._queue
        batch = [queue.popleft() for _ in range(min(len(queue), self._batch_size))]
        sent = self._sender.send(batch)
        if sent:
            self.exported += len(batch)
        else:
            self._failed += len(batch)
        self._tell(losing=not sent or self._overflown > overflown)

    def _tell(self, *, losing: bool) -> None:
        """Log when some begin to be lost, and when that is over."""
        if losing and not self._losing:
            reason = self._sender.trouble or f"they come faster than they can be sent{self._remedy}"
            _log.warning("%s are being lost: %s", self._what, reason)
        elif self._losing and not losing:
            lost = self.dropped - self._reported
            _log.info("%s are exported again; %d were lost", self._what, lost)
            self._reported = self.dropped
        self._losing = losing
