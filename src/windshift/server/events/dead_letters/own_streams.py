"""Streams that Windshift keeps for itself: made when they are missing, written to under conditions."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from typing import Final

from windshift.nats import NatsError, NoStream, retry
from windshift.nats import headers as h
from windshift.nats.headers import HeaderLines
from windshift.nats.jetstream import JetStream, JsonObject, PubAck, Write, Writes, codes
from windshift.server.broker_errors import domain_error
from windshift.server.errors import (
    BrokerUnavailable,
    OutcomeUnknown,
    StreamFull,
    SubjectsOverlap,
    TooManyInFlight,
    WindshiftError,
)

log = logging.getLogger(__name__)

_EXPECTED_STREAM: Final = b"Nats-Expected-Stream"
_OTHERWISE: Final = frozenset({codes.OTHER_STREAM, codes.ROLLUP_NOT_ALLOWED})
"""The stream is not, or not any more, as it has to be."""
_ATTEMPTS_ON_DISK: Final = 4
_OTHER_WRITE: Final = 0.005
"""Seconds that another write, which a cluster has under way, may take to be seen by a read."""


class Conflict(Exception):
    """The subject's last message is another one than expected; nothing was stored by this attempt.

    Not certain is that on a cluster, which may have had another write under way that comes to nothing.
    """

    def __init__(self, *, is_certain: bool) -> None:
        super().__init__()
        self.is_certain = is_certain


class OwnStream:
    """One such stream. Deadlines are in the loop's time.

    Args:
        config: what it is made with. Of an existing stream only the keys in `needed` are set, and the number
            of replicas is raised; everything else in it is the operator's.
        needed: keys without which the stream is of no use.
        default_replicas: what a new stream gets when nobody asked for more.
    """

    def __init__(
        self,
        api: JetStream,
        writes: Writes,
        config: JsonObject,
        needed: Iterable[str],
        default_replicas: int,
    ) -> None:
        self._api = api
        self._writes = writes
        self._config = config
        self._needed = tuple(needed)
        self._replicas = default_replicas
        self._asked: int | None = None
        self.name: str = config["name"]

    async def ensure(self, replicas: int | None, deadline: float) -> None:
        """Make the stream, or give it what it needs and at least so many replicas.

        Raise `BrokerUnavailable`, `OutcomeUnknown`, `StreamFull`, `ReplicasUnavailable` or `SubjectsOverlap`.
        """
        self._asked = max(replicas or 0, self._asked or 0) or None
        async for attempt in retry(deadline):
            try:
                return await self._ensure(deadline)
            except NatsError as error:
                # While nats-server removes its last stream, it may have no directory for a new one.
                is_passing = codes.is_broken_disk(error) and attempt < _ATTEMPTS_ON_DISK
                if error.err_code not in codes.STREAM_OVERTAKEN and not is_passing:
                    raise domain_error(error, stream=self.name) from error
        raise BrokerUnavailable

    async def _ensure(self, deadline: float) -> None:
        stored = await self._api.find_stream(self.name, deadline)
        if stored is None:
            await self._api.create_stream(
                self._config | {"num_replicas": self._asked or self._replicas}, deadline
            )
            return
        wanted = changed_config(stored.config, self._config, self._needed, self._asked)
        if wanted != stored.config:
            await self._api.update_stream(wanted, deadline)

    async def put(
        self,
        subject: str,
        body: bytes,
        headers: HeaderLines,
        deadline: float,
        expected: int | None = None,
    ) -> PubAck:
        """Store a message if `expected` is the sequence of the subject's last one (0: none) or `None`.

        The stream is made when it is missing. It must do no harm to store the message twice, or only one time
        must be possible under the condition. Raise `Conflict`, which an earlier attempt of this very call may
        be the cause of; `StreamFull`; `BrokerUnavailable`: nothing was stored; `OutcomeUnknown`.
        """
        conditions = [(_EXPECTED_STREAM, self.name.encode())]
        if expected is not None:
            conditions.append((h.EXPECTED_LAST_SUBJECT_SEQUENCE, b"%d" % expected))
        block = h.block((*headers, *conditions))
        write = Write(subject.encode(), body, block, deadline, repeatable=True)
        async for _ in retry(deadline):
            try:
                return await self._writes.write(write)
            except NoStream:
                pass
            except TooManyInFlight:
                raise BrokerUnavailable from None
            except NatsError as error:
                if error.err_code not in _OTHERWISE:
                    raise await _refusal(error, self.name) from error
            await self._make(deadline)
        raise BrokerUnavailable

    async def _make(self, deadline: float) -> None:
        log.info("stream %s is not there, or not as it should be; it is made", self.name)
        try:
            await self.ensure(None, deadline)
        except (BrokerUnavailable, StreamFull):
            raise
        except OutcomeUnknown:  # of making the stream; the message was not stored
            raise BrokerUnavailable from None
        except SubjectsOverlap as error:
            raise BrokerUnavailable(
                f"another stream takes the subjects of {self.name}; it must not, remove them there"
            ) from error
        except WindshiftError as error:
            log.exception("stream %s cannot be made again", self.name)
            raise BrokerUnavailable(f"stream {self.name} cannot be made") from error


def changed_config(
    stored: JsonObject, config: JsonObject, needed: Iterable[str], replicas: int | None
) -> JsonObject:
    """Return the configuration that an existing stream should have."""
    wanted = stored | {key: config[key] for key in needed}
    wanted["num_replicas"] = max(replicas or 1, stored.get("num_replicas") or 1)
    return wanted


async def _refusal(refusal: NatsError, stream: str) -> Exception:
    """Say what it means that the broker refused a message."""
    code = refusal.err_code
    if code == codes.WRONG_LAST_SEQUENCE_UNTOLD:
        await asyncio.sleep(random.random() * _OTHER_WRITE)
        return Conflict(is_certain=False)
    if code == codes.WRONG_LAST_SEQUENCE:
        return Conflict(is_certain=True)
    if codes.is_full(refusal):
        return StreamFull(f"stream {stream} is full; raise its limits or remove something")
    if code in (codes.MESSAGE_TOO_LARGE, codes.HEADER_TOO_LARGE):
        return StreamFull(f"stream {stream} takes no message as large as this; raise its limit")
    error = domain_error(refusal, stream=stream)
    if isinstance(error, (BrokerUnavailable, OutcomeUnknown, StreamFull)):
        return error
    log.error("stream %s refuses a message: %s", stream, refusal)
    return BrokerUnavailable(f"stream {stream} refuses the message")
