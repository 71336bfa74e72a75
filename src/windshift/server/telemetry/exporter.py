"""How spans, metrics and log records reach a collector: a bounded queue, and a thread that sends batches.

Calls never wait for a collector: an item that finds the queue full is dropped and counted, and so is a batch
that cannot be sent. One log line says that a signal began to fail, one that it recovered.

Each signal has its own exporter: collectors may differ, and one that hangs must not hold up the others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Generic, NamedTuple, Protocol, TypeVar

from windshift.server.config.telemetry import BatchConfig

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

_log = logging.getLogger(__name__)

_POLL = 0.02
"""Seconds between checks of a queue that is being closed."""


class Sender(Protocol[T_contra]):
    """Sends one signal to its collector. `send` runs in the exporter's thread."""

    @property
    def trouble(self) -> str:
        """The problem with the current or last batch; empty = none."""

    def send(self, batch: Sequence[T_contra], /) -> bool:
        """Send a batch and return whether the collector accepted it. Blocks for a limited time."""

    def close(self) -> None:
        """Abort the current `send` if possible."""


class Messages(NamedTuple):
    """Log messages about a failing signal.

    Attributes:
        failing: its argument is the reason.
        recovered: its argument is the number of lost items.
        lost: the same, for items lost at the end; empty = no message.
        hint: what to change if items arrive too fast.
    """

    failing: str
    recovered: str
    lost: str
    hint: str = ""


class Exporter(Generic[T]):
    """The queue of one signal and its thread, which runs from the start until `close`.

    Attributes:
        exported: items that the collector accepted.
        failing: whether the last batch was lost, or items were dropped while it was sent.
    """

    def __init__(self, sender: Sender[T], config: BatchConfig, messages: Messages) -> None:
        self._sender = sender
        self._delay = config.delay.total_seconds()
        self._queue_size = config.queue_size
        self._batch_size = min(config.batch_size, config.queue_size)
        self._messages = messages
        self._items: deque[T] = deque()
        self._wake = threading.Event()
        self._sending = self._closing = self._closed = self._refused = False
        self._overflown = self._failed = self._reported = 0
        self.exported = 0
        self.failing = False
        threading.Thread(target=self._run, name="windshift telemetry", daemon=True).start()

    @property
    def dropped(self) -> int:
        """Items lost because the queue was full or they could not be sent."""
        return self._overflown + self._failed

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting or being sent."""
        return not self._items and not self._sending

    def add(self, item: T) -> None:
        """Queue an item, or drop it. Never blocks."""
        waiting = len(self._items)
        if waiting >= self._queue_size:
            self._overflown += 1
            return
        self._items.append(item)
        if waiting + 1 >= self._batch_size and not self._wake.is_set():
            self._wake.set()

    def close(self, timeout: float) -> bool:
        """Send waiting items for up to `timeout` seconds, and return whether all were sent in time. Blocks.

        Does not wait for a collector that did not take the last batch.
        """
        self._closing = True
        self._wake.set()
        deadline = time.monotonic() + timeout
        while not (self.idle or self._is_hopeless()) and time.monotonic() < deadline:
            time.sleep(_POLL)
        in_time = self.idle or self._is_hopeless()
        self._sender.close()
        if self._sending:
            time.sleep(_POLL)  # to count what was aborted
        self._failed += len(self._items)
        self._items.clear()
        self._closed = True
        self._wake.set()
        lost = self.dropped - self._reported
        if lost and self._messages.lost:
            _log.warning(self._messages.lost, lost)
        return in_time

    def _is_hopeless(self) -> bool:
        return self._refused or bool(self._sender.trouble)

    # --- In the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._delay)
            self._wake.clear()
            fewest = 1  # what has waited leaves; more only in full batches, unless this closes
            while len(self._items) >= fewest and not (self._closing and self._refused):
                self._send()
                fewest = 1 if self._closing else self._batch_size

    def _send(self) -> None:
        self._sending = True
        overflown = self._overflown
        batch: list[T] = []
        with suppress(IndexError):  # `close` may clear the queue
            while len(batch) < self._batch_size:
                batch.append(self._items.popleft())
        sent = self._sender.send(batch)
        self._refused = not sent
        if sent:
            self.exported += len(batch)
        else:
            self._failed += len(batch)
        self._report(failing=not sent or self._overflown > overflown)
        self._sending = False

    def _report(self, *, failing: bool) -> None:
        """Log the first failure, and the recovery."""
        if failing and not self.failing:
            too_fast = f"they come faster than they can be sent{self._messages.hint}"
            _log.warning(self._messages.failing, self._sender.trouble or too_fast)
        elif self.failing and not failing:
            _log.info(self._messages.recovered, self.dropped - self._reported)
            self._reported = self.dropped
        self.failing = failing
