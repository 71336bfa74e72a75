"""Whose streams, stores and consumers are, and whether their owners may have more of them.

Who makes something owns it: the name of the principal lies in its metadata at the broker, as long as it
exists. What has no owner there, because it was made without rules or by another program, counts for nobody.
So does what belongs to a principal that the rules do not know any more; who enlarges it becomes its owner.

What there is, is read from the broker's lists, and what this server makes meanwhile is added: no server lets
anybody have too much by what it knows. What other servers make is seen in time if each of `_SERVERS` makes as
much as this one: before that could be too much, the lists are read again. Lists of consumers are read for the
streams on which the owner is known to have some; those of the others are read beside, and not as often.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from math import inf
from typing import Final

from windshift.nats import JetStreamError, NatsError
from windshift.nats.jetstream.api import JetStream, JsonObject
from windshift.server.auth.access import ActivePolicy
from windshift.server.auth.policy import Principal
from windshift.server.auth.quotas import FullStreams, exceeded
from windshift.server.domain.errors import BrokerUnavailable
from windshift.server.ownership.amounts import (
    BUCKET,
    GROWING,
    OWNER,
    SET_ASIDE,
    Held,
    Key,
    deduplication_seconds,
    endless,
    level,
    of_consumer,
    of_stream,
    owned,
    owner_of,
    replicas,
    sources,
    subjects,
)
from windshift.server.ownership.view import View

log = logging.getLogger(__name__)

_INTERVAL: Final = 5.0
"""Seconds between two looks for streams that are full, where any are or may be."""
_IDLE_INTERVAL: Final = 60.0
"""The same where there are none that could be."""
_NEAR: Final = 0.9
"""Little is left when more than this share of a quota is used, or"""
_FEW: Final = 10
"""less than this number is left."""
_SERVERS: Final = 5
"""So many servers together let nobody have more than it may, but for what they make at the same moment."""


_OF_ONE_STREAM: Final[Mapping[str, Callable[[JsonObject], int]]] = {
    "sources": sources,
    "replicas": replicas,
    "subjects": subjects,
    "deduplication_seconds": deduplication_seconds,
}
"""Quotas on one stream, and what counts."""


class Ownership:
    """What everybody has at the broker, as far as this server knows.

    Args:
        api: asks the broker.
        access: the rules, which are told of streams that are full; others may have other quotas.
    """

    def __init__(self, api: JetStream, access: ActivePolicy) -> None:
        self._access = access
        self._view = View(api, self._find_full)
        access.on_replaced.append(self._find_full)

    @asynccontextmanager
    async def stream(
        self, caller: Principal, stored: JsonObject | None, wanted: JsonObject, deadline: float
    ) -> AsyncIterator[JsonObject]:
        """Yield the configuration with its owner in it; the block makes the stream, or changes it to that.

        Raises:
            QuotaExceeded: the owner would have too much.
            BrokerUnavailable, JetStreamError, Unavailable: what there is could not be found out.
        """
        before_config = stored or {}
        for quota, count in _OF_ONE_STREAM.items():
            _require_few(caller, quota, count(before_config), count(wanted))
        key, owner = (wanted["name"], ""), owner_of(before_config)
        size = self._view.stored(key) if stored else 0
        before, amounts = of_stream(stored, size) if stored else {}, of_stream(wanted, size)
        if all(amount <= before.get(quota, 0) for quota, amount in amounts.items()):
            yield wanted
            self._view.note_if_counted(key, Held(owner, amounts, endless(wanted)))
            return
        if self._access.quotas_of(owner) is None:
            owner, wanted = caller.name, owned(wanted, caller.name)
        async with self._room(key, Held(owner, amounts, endless(wanted)), deadline, is_new=stored is None):
            yield wanted

    @asynccontextmanager
    async def consumer(
        self, caller: Principal, stream: str, config: JsonObject, deadline: float
    ) -> AsyncIterator[JsonObject]:
        """Yield the configuration with its owner in it; the block makes the consumer. Raise as `stream`."""
        _require_few(caller, "subjects", 0, subjects(config))
        async with self._room((stream, config["name"]), Held(caller.name, of_consumer(config)), deadline):
            yield owned(config, caller.name)

    def keep_consumer(
        self, caller: Principal, stream: str, config: JsonObject, before: str = ""
    ) -> JsonObject:
        """Count the consumer of a call until `consumer_deleted`, also while the broker does not have it.

        It may take the place of the one `before`, whatever the quota is by now. Return the configuration with
        its owner in it.
        """
        self.consumer_deleted(stream, before)
        held = Held(caller.name, of_consumer(config))
        if self._limits(held):  # else nothing is counted
            self._view.keep((stream, config["name"]), held)
        return owned(config, caller.name)

    def changed_consumer(self, caller: Principal, stored: JsonObject, wanted: JsonObject) -> JsonObject:
        """Return the new configuration of a consumer with an owner in it: the caller, where there is none.

        What has been there counts no more against quotas for that, until the broker's lists are read again.
        Raise `QuotaExceeded` for too many filters.
        """
        _require_few(caller, "subjects", subjects(stored), subjects(wanted))
        return wanted if self._access.quotas_of(owner_of(wanted)) else owned(wanted, caller.name)

    @asynccontextmanager
    async def store(self, caller: Principal, store: str, deadline: float) -> AsyncIterator[dict[str, str]]:
        """Yield the metadata of a store; the block makes it. Raise as `stream`."""
        held = Held(caller.name, of_stream({"name": BUCKET + store}), (f"$KV.{store}.>",))
        async with self._room((BUCKET + store, ""), held, deadline):
            yield {OWNER: caller.name}

    def stream_deleted(self, stream: str) -> None:
        """Count a stream no more, nor its consumers."""
        self._view.stream_gone(stream)
        self._find_full()

    def store_deleted(self, store: str) -> None:
        """Count a store no more."""
        self._view.note_if_counted((BUCKET + store, ""), None)
        self._find_full()

    def consumer_deleted(self, stream: str, consumer: str) -> None:
        """Count a consumer no more. Without one, do nothing."""
        if consumer:
            self._view.note_if_counted((stream, consumer), None)

    # -- What grows by itself ----------------------------------------------------------------------------

    async def watch(self) -> None:
        """See from time to time which streams are full, until cancelled."""
        now, looked = asyncio.get_running_loop().time, -inf
        while True:
            await asyncio.sleep(_INTERVAL)
            may_change = self._access.full is not None or self._may_fill()
            if may_change or now() - looked > _IDLE_INTERVAL:
                looked = now()
                await self._look(looked + _IDLE_INTERVAL)

    async def _look(self, deadline: float) -> None:
        try:
            await self._view.refresh(("", ""), deadline, "")
        except (NatsError, BrokerUnavailable) as error:
            log.debug("the streams at the broker cannot be listed: %s", type(error).__name__)
        except Exception:
            log.exception("the streams at the broker cannot be counted")

    def _may_fill(self) -> bool:
        return any(self._view.total(owner, quota) for owner, quota, _ in self._growing_limits())

    def _growing_limits(self) -> Iterator[tuple[str, str, int]]:
        """Give the owners whose bytes are limited, and how."""
        for owner in self._view.owners:
            quotas = self._access.quotas_of(owner)
            for quota in GROWING:
                limit = getattr(quotas, quota, None)
                if limit is not None:
                    yield owner, quota, limit

    def _find_full(self) -> None:
        """Tell which streams and stores may take nothing more: the largest of owners with too many bytes.

        Those with `max_bytes` are left to the broker. Whoever fills one fills no others of its owner.
        """
        full = [
            (held.endless, owner, quota, limit, used)
            for owner, quota, limit in self._growing_limits()
            if (used := self._view.total(owner, quota)) > limit
            for held in self._largest(owner, quota, limit)
            if held.endless
        ]
        streams = FullStreams()
        for each in full:
            streams.add(*each)
        self._access.full = streams if full else None

    def _largest(self, owner: str, quota: str, limit: int) -> list[Held]:
        """Return what has more than its share of what somebody may have of a quota."""
        sizes, limit = self._sizes(owner, quota, limit)
        share = level(sizes.values(), limit)
        return [self._view.held[key] for key, size in sizes.items() if size > share]

    def _sizes(self, owner: str, quota: str, limit: int) -> tuple[dict[Key, int], int]:
        """Return how much each thing has of what grows, and how much of the limit is left for these together.

        Memory that is set aside does not grow, whoever writes: it is taken off the limit.
        """
        sizes = dict[Key, int]()
        for key, held in self._view.streams_of(owner):
            if quota not in held.amounts:
                continue
            if quota == SET_ASIDE and held.endless is None:
                limit -= held.amounts[quota]
            else:
                sizes[key] = held.amounts[quota]
        return sizes, max(0, limit)

    # -- What is made ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _room(
        self, key: Key, held: Held, deadline: float, *, is_new: bool = True
    ) -> AsyncIterator[None]:
        """Count something as there unless that is too much; no more when the broker refuses it.

        The broker did not have it a moment ago if it `is_new`.
        """
        limits = self._limits(held)
        if not limits:  # then nothing is counted
            yield
            return
        missing = self._view.missing(key) if is_new else None
        await self._require_room(key, held, limits, deadline)
        before = self._view.held.get(key) or missing
        self._view.begin(key, held)
        try:
            yield
        except JetStreamError:
            self._view.note(key, before)
            raise
        except BaseException:
            self._view.note(key, held)  # it may be there; the next list tells
            raise
        self._view.note(key, held)

    def _limits(self, held: Held) -> dict[str, int]:
        quotas = self._access.quotas_of(held.owner)
        limits = {quota: getattr(quotas, quota, None) for quota in held.amounts}
        return {quota: limit for quota, limit in limits.items() if limit is not None}

    async def _require_room(self, key: Key, held: Held, limits: Mapping[str, int], deadline: float) -> None:
        """Raise `QuotaExceeded` if it is too much. Nothing is waited for after what decides was looked at."""
        await self._view.refresh(key, deadline)
        if self._is_near(key, held, limits):
            await self._view.refresh(key, deadline, held.owner)
        while self._may_be_overtaken(key, held, limits):
            await self._view.refresh(key, deadline, held.owner, again=True)
        for quota, more in self._growth(key, held, limits).items():
            used = self._view.total(held.owner, quota)
            if used + more > limits[quota]:
                raise exceeded(held.owner, quota, limits[quota], used)

    def _growth(self, key: Key, held: Held, limits: Mapping[str, int]) -> dict[str, int]:
        """Return by how much something would take more of what is limited.

        Bytes that grow by themselves are left out as long as it would not be full at once: even an owner with
        too many of them, whose largest streams are full, may begin another.
        """
        return {
            quota: more
            for quota, more in self._view.growth(key, held).items()
            if quota in limits and not self._is_open(key, held, quota, more, limits[quota])
        }

    def _is_open(self, key: Key, held: Held, quota: str, more: int, limit: int) -> bool:
        """Tell whether something that takes so much more of a quota could go on to take more of it."""
        if quota not in GROWING or (quota == SET_ASIDE and held.endless is None):
            return False
        if self._view.total(held.owner, quota) + more <= limit:
            return True
        sizes, limit = self._sizes(held.owner, quota, limit)
        sizes[key] = held.amounts[quota]
        return sizes[key] <= level(sizes.values(), limit)

    def _is_near(self, key: Key, held: Held, limits: Mapping[str, int]) -> bool:
        """Tell whether little would be left."""
        return any(
            self._view.total(held.owner, quota) + more > min(limits[quota] * _NEAR, limits[quota] - _FEW)
            for quota, more in self._growth(key, held, limits).items()
        )

    def _may_be_overtaken(self, key: Key, held: Held, limits: Mapping[str, int]) -> bool:
        """Tell whether a limit may be passed if others have made as much as this server since it looked."""
        for quota, more in self._growth(key, held, limits).items():
            left = limits[quota] - self._view.total(held.owner, quota) - more
            made = self._view.made(held.owner, quota)
            if made and (made + more) * _SERVERS > left:
                return True
        return False


def _require_few(caller: Principal, quota: str, before: int, after: int) -> None:
    """Raise `QuotaExceeded` if one stream grows beyond what its like may have."""
    limit = getattr(caller.quotas, quota)
    if limit is not None and after > max(before, limit):
        raise exceeded(caller.name, quota, limit)
