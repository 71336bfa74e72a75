"""What exists at the broker, by owner: its lists, plus what this server has done since."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final

from windshift.nats import JetStreamError, NatsError
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import JetStream
from windshift.server.domain.errors import BrokerUnavailable
from windshift.server.domain.names import RESERVED_STREAMS
from windshift.server.ownership.amounts import (
    CONSUMER_QUOTAS,
    GROWING,
    Held,
    Key,
    endless,
    of_consumer,
    of_stream,
    owner_of,
    replicas,
)

log = logging.getLogger(__name__)

_KEPT: Final = 10.0
"""Seconds for which a list is good when much is left."""
_KEPT_NEAR: Final = 1.0
"""The same when little is left, or nothing."""
_READING: Final = 15.0
"""Seconds that one list may take to be read."""
_TIMEOUT: Final = 0.5
"""Seconds that are waited for the lists of all streams when they are read for the first time."""
_EFFORT: Final = 50
"""Lists are good for so many times as long as it took to read them, at least."""
_EFFORT_AGAIN: Final = 5
"""The same where this server has made much since, compared with what is left: that is waited for."""

_SHORTEST_PAUSE: Final = 0.001
"""Seconds; the loop's clock moves meanwhile."""

_STREAMS: Final = ""
"""The list of streams. Those of consumers have the names of their streams."""


@dataclass(slots=True)
class _List:
    """One of the broker's lists, and what is known of what belongs in it.

    Attributes:
        keys: what of that has an owner.
        done: when this server did something of which the list may tell too little if it was begun before.
        read_at: when it was read the last time.
        took: for how many seconds.
    """

    keys: set[Key] = field(default_factory=set)
    done: dict[Key, float] = field(default_factory=dict)
    read_at: float = -inf
    took: float = 0.0


class View:
    """What there is: what the broker's lists have, and what this server has done since.

    Attributes:
        held: everything that has an owner.

    Args:
        api: asks the broker.
        on_streams: called when the list of streams was read.
    """

    def __init__(self, api: JetStream, on_streams: Callable[[], None]) -> None:
        self._api = api
        self._on_streams = on_streams
        self._loop = asyncio.get_running_loop()
        self._reading = asyncio.Lock()
        self.held: dict[Key, Held] = {}
        self._totals: dict[str, Counter[str]] = {}
        self._lists: defaultdict[str, _List] = defaultdict(_List)
        self._with_consumers: frozenset[str] = frozenset()
        self._made: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._looked: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """How much this server has made for each owner, and had when it looked what the others have made."""
        self._all: asyncio.Task[None] | None = None
        self._all_read_at = -inf
        self._took_all = 0.0

    # -- What is done by this server ---------------------------------------------------------------------

    def begin(self, key: Key, held: Held) -> None:
        """Count something that is about to be made or changed; `note` must follow."""
        self._made[held.owner].update(self.growth(key, held))
        self.keep(key, held)

    def keep(self, key: Key, held: Held) -> None:
        """Count something, whatever the lists say, until `note` or `note_if_counted`."""
        self._list_of(key).done[key] = inf
        self._set(key, held)

    def note(self, key: Key, held: Held | None) -> None:
        """Note that something is there now, or nothing."""
        self._list_of(key).done[key] = self._loop.time()
        self._set(key, held)

    def note_if_counted(self, key: Key, held: Held | None) -> None:
        """Do what `note` does, but only for something that was counted."""
        if key in self.held:
            self.note(key, held)

    def missing(self, key: Key) -> Held | None:
        """Take out what the broker does not have, but for what is being made here, and return it.

        Another server deleted it, and may have made something else since: that counts as if this one had.
        """
        known = self.held.get(key)
        if known is None or self._list_of(key).done.get(key) == inf:
            return None
        self._made[known.owner].update(known.amounts)
        self.note(key, None)
        return known

    def stream_gone(self, stream: str) -> None:
        """Note that a stream is there no more, with all its consumers."""
        self.note_if_counted((stream, ""), None)
        for key in tuple(self._lists[stream].keys):
            self.note(key, None)

    def stored(self, key: Key) -> int:
        """Return how many bytes a stream stores, all replicas together, as far as that is known."""
        known = self.held.get(key)
        return 0 if known is None else max((known.amounts.get(quota, 0) for quota in GROWING), default=0)

    def total(self, owner: str, quota: str) -> int:
        """Return how much somebody has."""
        return self._totals[owner][quota] if owner in self._totals else 0

    @property
    def owners(self) -> tuple[str, ...]:
        """All who have something, or had."""
        return tuple(self._totals)

    def streams_of(self, owner: str) -> Iterator[tuple[Key, Held]]:
        """Give the streams and stores that somebody has."""
        for key in self._lists[_STREAMS].keys:
            if self.held[key].owner == owner:
                yield key, self.held[key]

    def made(self, owner: str, quota: str) -> int:
        """Return how much this server has made for somebody since it has looked what the others have made."""
        return self._made[owner][quota] - self._looked[owner][quota]

    def growth(self, key: Key, held: Held) -> dict[str, int]:
        """Return by how much something would take more than now, of each quota of which it would."""
        known = self.held.get(key)
        now = known.amounts if known is not None and known.owner == held.owner else {}
        more = {quota: amount - now.get(quota, 0) for quota, amount in held.amounts.items()}
        return {quota: amount for quota, amount in more.items() if amount > 0}

    def _set(self, key: Key, held: Held | None) -> None:
        before = self.held.pop(key, None)
        if before is not None:
            self._totals[before.owner].subtract(before.amounts)
            self._list_of(key).keys.remove(key)
        if held is not None:
            self.held[key] = held
            self._totals.setdefault(held.owner, Counter()).update(held.amounts)
            self._list_of(key).keys.add(key)

    def _list_of(self, key: Key) -> _List:
        return self._lists[_name_of_list(key)]

    # -- What the broker has -----------------------------------------------------------------------------

    async def refresh(
        self, key: Key, deadline: float, owner: str | None = None, *, again: bool = False
    ) -> None:
        """Read the lists anew that tell of such things, unless that was done a short while ago.

        With an owner, who has almost as much as it may, the lists that tell of its things, after a shorter
        while; or `again` if this server has made something for it since. Lists of consumers are many: those
        of other streams are read beside.
        """
        now, names = self._loop.time(), self._telling(key, owner)
        made = {owner: Counter(self._made[owner])} if key[1] and owner else {}
        took = sum(self._lists[name].took for name in names)
        since = now - max(_KEPT if owner is None else _KEPT_NEAR, _EFFORT * took)
        try:
            async with asyncio.timeout_at(deadline):
                if again and owner is not None and self._has_made(owner, key):
                    since = now
                    looked = max(self._lists[name].read_at for name in names)
                    await asyncio.sleep(max(_SHORTEST_PAUSE, looked + _EFFORT_AGAIN * took - now))
                await self._refresh(names, since)
                if all(self._lists[name].read_at >= now for name in names):
                    self._note_looked(made, of_consumers=True)
                if key[1] and owner is None:
                    await self._others()
        except TimeoutError:
            raise BrokerUnavailable from None

    def _telling(self, key: Key, owner: str | None) -> set[str]:
        """Return the lists that tell of such things, with an owner of all of its consumers."""
        names = {_name_of_list(key)}
        if key[1] and owner:
            names |= {stream for (stream, name), held in self.held.items() if name and held.owner == owner}
        return names

    async def _refresh(self, names: set[str], since: float) -> None:
        """Read what was not read since a time, list by list: others read theirs in between."""
        for name in sorted(names):
            if self._lists[name].read_at >= since:
                continue
            async with self._reading:
                if self._lists[name].read_at < since:  # nor while this waited
                    await self._read(name)

    def _has_made(self, owner: str, key: Key) -> bool:
        return any(
            self.made(owner, each) for each in self._made[owner] if (each in CONSUMER_QUOTAS) == bool(key[1])
        )

    def _note_looked(self, made: Mapping[str, Counter[str]], *, of_consumers: bool) -> None:
        """Note that lists were read after this server had made so much: they have what others had made."""
        for owner, counter in made.items():
            seen = {quota: counter[quota] for quota in counter if (quota in CONSUMER_QUOTAS) == of_consumers}
            self._looked[owner] |= Counter(seen)

    async def _others(self) -> None:
        """Read the lists of all consumers from time to time, beside; wait a little for the first time."""
        kept = max(_KEPT, _EFFORT * self._took_all)
        if self._all is None and self._loop.time() - self._all_read_at > kept:
            self._all = self._loop.create_task(self._read_all())
        if self._all is not None and self._all_read_at == -inf:
            await asyncio.wait((self._all,), timeout=_TIMEOUT)

    async def _read_all(self) -> None:
        began = self._loop.time()
        try:
            await self._read(_STREAMS)
            for name in self._with_consumers:
                if self._lists[name].read_at < began - _KEPT_NEAR:
                    await self._read(name)
            self._took_all = sum(each.took for each in self._lists.values())
        except NatsError as error:
            log.warning("the consumers at the broker cannot be counted: %s", error)
            self._took_all = self._loop.time() - began
        finally:
            self._all_read_at = self._loop.time()
            self._all = None

    async def _read(self, name: str) -> None:
        began = self._loop.time()
        made = {owner: Counter(counter) for owner, counter in self._made.items()} if name == _STREAMS else {}
        found, silent = await (self._streams(began) if name == _STREAMS else self._consumers(name, began))
        found |= {key: self.held[key] for key in silent & self.held.keys()}
        self._take(name, {key: held for key, held in found.items() if held.owner}, began)
        took = self._loop.time() - began
        # To wait for servers that do not answer is no effort.
        self._lists[name].took = min(took, _KEPT / _EFFORT) if silent else took
        if name == _STREAMS:
            self._note_looked(made, of_consumers=False)
            self._on_streams()

    async def _streams(self, began: float) -> tuple[dict[Key, Held], set[Key]]:
        """Return what there is, and what is there of which no server says anything."""
        found, silent = dict[Key, Held](), set[str]()
        with_consumers = set[str]()
        async for page in self._api.pages("STREAM.LIST", "streams", began + _READING):
            silent |= page.missing
            for info in page.items:
                config, state = info["config"], info["state"]
                name = config["name"]
                amounts = of_stream(config, state["bytes"] * replicas(config))
                found[name, ""] = Held(owner_of(config), amounts, endless(config))
                if state.get("consumer_count") and not name.startswith(RESERVED_STREAMS):
                    with_consumers.add(name)
        self._with_consumers = frozenset(with_consumers)
        for name in self._lists.keys() - {_STREAMS, *with_consumers, *silent}:
            listed = self._lists[name]
            if listed.read_at > -inf:
                self._take(name, {}, began)
            if not listed.keys and not listed.done:
                del self._lists[name]
        return found, {(name, "") for name in silent}

    async def _consumers(self, stream: str, began: float) -> tuple[dict[Key, Held], set[Key]]:
        found, silent = dict[Key, Held](), set[Key]()
        try:
            async for page in self._api.pages(f"CONSUMER.LIST.{stream}", "consumers", began + _READING):
                silent |= {(stream, name) for name in page.missing}
                for info in page.items:
                    found[stream, info["name"]] = Held(owner_of(info["config"]), of_consumer(info["config"]))
        except JetStreamError as error:
            if error.err_code != codes.STREAM_NOT_FOUND:
                raise
            return {}, set()
        return found, silent

    def _take(self, name: str, found: Mapping[Key, Held], began: float) -> None:
        """Take over what a list has, but for what this server did after it was begun to be read."""
        listed = self._lists[name]
        if began < listed.read_at:
            return
        listed.read_at = began
        newer = listed.done = {key: at for key, at in listed.done.items() if at >= began}
        for key in listed.keys - found.keys() - newer.keys():
            self._set(key, None)
        for key, held in found.items():
            if key not in newer:
                self._set(key, held)


def _name_of_list(key: Key) -> str:
    """Return the name of the list that has something."""
    return key[0] if key[1] else _STREAMS
