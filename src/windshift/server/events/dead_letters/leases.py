"""Leases: who delivers a replayed event, and for how long.

A lease is a condition, not a lock: a pointer is rewritten or deleted only while it is what this lease wrote
last. So a lease that somebody else has taken over, after whatever pause, has no effect.
"""

from __future__ import annotations

import asyncio
import secrets
from datetime import timedelta

from windshift.nats import retry
from windshift.nats.times import nanoseconds
from windshift.server.domain.errors import BrokerUnavailable, OutcomeUnknown
from windshift.server.events.dead_letters.model import DeadLetterId
from windshift.server.events.dead_letters.pointers import (
    RETURNED,
    WRITER,
    Pointer,
    pointer_headers,
    pointer_subject,
    read_header,
)
from windshift.server.events.managed_stream import Conflict, ManagedStream


class Lease:
    """One delivery of a replayed event, as long as nobody else may make another.

    Every method returns false when the pointer is not this lease's any more; then nothing was changed. They
    may be called at the same time, and are carried out one after the other. Each raises `BrokerUnavailable`
    or `OutcomeUnknown`, and may be repeated then. Deadlines are in the loop's time.

    Args:
        stream: where the pointer lies.
        pointer: the pointer, as it was read.

    Attributes:
        id: the dead letter.
        number: which replay of it this is.
        attempt: which delivery of the replay, from 1 up.
        since: when it began, in the loop's time.
        until: when it ends unless it is prolonged, in the loop's time.
        reply: what a delivery has where others have the subject for their acknowledgements. It is unique, and
            of the same form.
    """

    def __init__(self, stream: ManagedStream, pointer: Pointer) -> None:
        self.id: DeadLetterId = pointer.id
        self.number = pointer.number
        self.attempt = pointer.attempts + 1
        self.since = self.until = asyncio.get_running_loop().time()
        self._stream = stream
        self._subject = pointer_subject(pointer.id)
        self._sequence = pointer.position
        self._writer = secrets.token_hex(8)
        self._turn = asyncio.Lock()
        self._ended: bool | None = None
        stream_name, consumer, seq, stored_ns = pointer.id
        fields = f"{self.attempt}.{seq}.{pointer.position}.{stored_ns}.0"
        self.reply = f"_WS.replaying.{stream_name}.{consumer}.{fields}".encode()

    @property
    def is_settled(self) -> bool:
        """Whether it was ended or given back."""
        return self._ended is True

    async def prolong(self, timeout: timedelta, deadline: float) -> bool:
        """Let nobody else deliver the event for as long as `timeout` from now on."""
        async with self._turn:
            if self._ended is not None:
                return False
            until = asyncio.get_running_loop().time() + timeout.total_seconds()
            if await self._write(nanoseconds(timeout), self._writer, deadline):
                self.until = until
                return True
            self._ended = False
            return False

    async def give_back(self, delay_ns: int, deadline: float) -> bool:
        """Let anybody deliver the event, as another attempt, once `delay_ns` nanoseconds are over."""
        async with self._turn:
            if self._ended is None:
                self._ended = await self._write(delay_ns, f"{self._writer}{RETURNED}", deadline)
            return bool(self._ended)

    async def end(self, deadline: float) -> bool:
        """End the replay."""
        async with self._turn:
            if self._ended is None:
                self._ended = await self._delete(deadline)
            return bool(self._ended)

    async def _write(self, held_ns: int, writer: str, deadline: float) -> bool:
        body, headers = b"%d" % self.number, pointer_headers(writer, self.attempt, held_ns)
        async for _ in retry(deadline):
            try:
                ack = await self._stream.put(self._subject, body, headers, deadline, expected=self._sequence)
            except Conflict:
                found = await self._find(deadline)
                if found is None:
                    return False
                if found == writer != self._writer:  # the answer to an earlier attempt was lost
                    return True
            else:
                self._sequence = ack.sequence
                return True
        raise BrokerUnavailable

    async def _delete(self, deadline: float) -> bool:
        async for _ in retry(deadline):
            if await self._stream.delete(self._sequence, deadline):
                return True
            if await self._find(deadline) is None:
                return False
        raise BrokerUnavailable

    async def _find(self, deadline: float) -> str | None:
        """See where the pointer is, and return who wrote it; `None` when it is not this lease's any more."""
        try:
            found = await self._stream.last(self._subject, deadline)
        except BrokerUnavailable:
            raise OutcomeUnknown from None
        if found is None:
            return None
        writer = read_header(found, WRITER)
        if found.sequence != self._sequence and not writer.startswith(self._writer):
            return None
        self._sequence = found.sequence
        return writer
