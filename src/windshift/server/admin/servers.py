"""Servers, as operators see them: what each is, and what it is busy with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, NamedTuple

from windshift.nats import Requests
from windshift.nats.jetstream.api import JsonObject
from windshift.nats.times import NANOSECONDS
from windshift.server.admin.gathering import Gathering
from windshift.server.telemetry.process import resident_bytes

_INTERVAL: Final = 5.0
"""Seconds between two measurements of the round trip."""


@dataclass(frozen=True, slots=True)
class BrokerView:
    """The connection to the broker.

    Attributes:
        name: of the nats-server.
        cluster: its cluster's name; empty = none.
        url: where it is, without secrets.
        round_trip_ns: a request there and back; 0 = not measured.
    """

    name: str = ""
    version: str = ""
    cluster: str = ""
    url: str = ""
    connected: bool = False
    round_trip_ns: int = 0


@dataclass(frozen=True, slots=True)
class ServerView:
    """What a server is.

    Attributes:
        id: another one at each start.
        name: of its host.
        version: of Windshift.
        started_ns: in nanoseconds since 1970.
        worker: its number among the processes that are one server; 0 = it is alone.
        max_payload: of the broker, in bytes.
        rules: whether there are rules on who may do what.
        methods: paths of what it serves.
        limits: by the names of their settings.
        time_ns: what its clock showed when it said this, in nanoseconds since 1970; 0 = it did not say.
        libnghttp2: version of the one that it has loaded; empty = not known.
    """

    id: str = ""
    name: str = ""
    version: str = ""
    started_ns: int = 0
    worker: int = 0
    max_payload: int = 0
    rules: bool = False
    methods: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    time_ns: int = 0
    libnghttp2: str = ""


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """What a server is busy with.

    Attributes:
        connections: of clients.
        active_calls: streams included.
        memory: resident, in bytes.
        cpu: cores in use since it was asked last.
        not_ready: why it takes no traffic; empty = it does.
    """

    connections: int = 0
    active_calls: int = 0
    memory: int = 0
    cpu: float = 0.0
    not_ready: str = ""


class ServerEntry(NamedTuple):
    """A server: what it is, its connection to the broker, and what it is busy with."""

    server: ServerView = ServerView()
    broker: BrokerView = BrokerView()
    load: ServerLoad = ServerLoad()


class Servers:
    """This server, and all others on the same broker.

    Args:
        describe: says what this one is, but its id.
        load: says what it is busy with, but memory and CPU.
        requests: on the connection that it shows, of which they measure the round trip.
    """

    def __init__(
        self,
        gathering: Gathering,
        describe: Callable[[], ServerView],
        load: Callable[[], ServerLoad],
        requests: Requests,
    ) -> None:
        self._gathering = gathering
        self._describe = describe
        self._connection = requests.connection
        self._requests = requests
        self._round_trip: float | None = None
        self._load = load
        self._looked_at = time.monotonic()
        self._cpu = time.process_time()
        gathering.answer("servers", lambda _: [_write(self.own())])

    def own(self) -> ServerEntry:
        """Return this server."""
        now, cpu = time.monotonic(), time.process_time()
        cores = (cpu - self._cpu) / max(now - self._looked_at, 0.001)
        self._looked_at, self._cpu = now, cpu
        load = replace(self._load(), memory=resident_bytes() or 0, cpu=round(cores, 3))
        view = replace(self._describe(), id=self._gathering.id, time_ns=time.time_ns())
        return ServerEntry(view, self._broker(), load)

    def _broker(self) -> BrokerView:
        trip = int((self._round_trip or 0) * NANOSECONDS)
        if self._connection.server is None:
            return BrokerView(round_trip_ns=trip)
        url, info = self._connection.server
        return BrokerView(
            info.server_name, info.version, info.cluster, url, connected=True, round_trip_ns=trip
        )

    async def measure(self) -> None:
        """Measure the round trip to the broker again and again, until cancelled."""
        while True:
            self._round_trip = await self._requests.round_trip(self._requests.loop.time() + _INTERVAL)
            await asyncio.sleep(_INTERVAL)

    async def all(self) -> tuple[list[ServerEntry], list[str]]:
        """Return all servers that answered, by name, and the ids of those that did not."""
        gathered = await self._gathering.ask("servers", {})
        found = [_read_entry(entry) for entries in gathered.entries.values() for entry in entries[:1]]
        return sorted(found, key=lambda each: (each.server.name, each.server.id)), gathered.missing


def _write(entry: ServerEntry) -> JsonObject:
    return {name: asdict(part) for name, part in entry._asdict().items()}


def _read_entry(entry: JsonObject) -> ServerEntry:
    """Read what another server says of itself, which may be of another version: what is odd is left out."""
    empty = ServerEntry._field_defaults
    return ServerEntry(**{name: _read_part(part, entry.get(name)) for name, part in empty.items()})


def _read_part(empty: Any, reported: Any) -> Any:
    known: dict[str, Any] = {}
    for each in fields(empty) if isinstance(reported, dict) else ():
        value, default = reported.get(each.name), getattr(empty, each.name)
        if isinstance(default, tuple) and isinstance(value, list):
            known[each.name] = tuple(text for text in value if isinstance(text, str))
        elif isinstance(default, dict) and isinstance(value, dict):
            known[each.name] = {name: number for name, number in value.items() if isinstance(number, int)}
        elif type(value) is type(default):
            known[each.name] = value
    return replace(empty, **known)
