"""Which stream takes a subject, and what it lets publishers do: looked up, and remembered for a while."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from windshift.nats.jetstream.api import JetStream
from windshift.server.auth.subjects import SubjectPatterns
from windshift.server.domain.broker_errors import broker_errors
from windshift.server.domain.errors import UnboundSubject

FAST_INGEST_SINCE: Final = (2, 14)
"""The version of nats-server from which on it has fast ingest."""

_KEPT: Final = 5.0
"""Seconds."""
_MOST: Final = 4096
"""Subjects that are remembered; then all are forgotten."""


class Target(NamedTuple):
    """The stream of a subject.

    Attributes:
        stream: its name.
        subjects: all that it takes.
        largest: bytes of an event with its headers; None = what the broker takes at all.
        atomic_batches: whether it stores several events all or none.
        fast_ingest: whether it takes batches of fast ingest, and answers them.
        is_replicated: whether several servers have copies.
        until: when this is too old, in loop time.
    """

    stream: str
    subjects: SubjectPatterns
    largest: int | None
    atomic_batches: bool
    fast_ingest: bool
    is_replicated: bool
    until: float


class Targets:
    """Looks streams up."""

    def __init__(self, api: JetStream) -> None:
        self._api = api
        self._found: dict[str, Target] = {}

    async def of(self, subject: str, deadline: float) -> Target:
        """Return the stream of a subject, as it was some seconds ago at most. Raise `UnboundSubject`."""
        now = asyncio.get_running_loop().time()
        found = self._found.get(subject)
        if found is None or found.until <= now:
            found = await self._look_up(subject, now, deadline)
            if len(self._found) >= _MOST:
                self._found.clear()
            self._found[subject] = found
        return found

    def forget(self, subject: str) -> None:
        """Look this subject up again the next time: its stream is not what it was."""
        self._found.pop(subject, None)

    async def _look_up(self, subject: str, now: float, deadline: float) -> Target:
        with broker_errors():
            streams = await self._api.stream_names(subject, deadline)
            if not streams:
                raise UnboundSubject(subject)
            config = (await self._api.stream_info(streams[0], deadline))["config"]
        size = int(config.get("max_msg_size", -1))
        return Target(
            streams[0],
            SubjectPatterns(config.get("subjects") or ()),
            size if size > 0 else None,
            bool(config.get("allow_atomic")),
            bool(config.get("allow_batched"))
            and not config.get("no_ack")
            and not self._api.is_older_than(FAST_INGEST_SINCE),
            int(config.get("num_replicas") or 1) > 1,
            now + _KEPT,
        )
