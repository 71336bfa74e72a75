"""Backups of all that JetStream holds for an account, and what is made of them again.

A directory for each stream, as ``nats stream backup`` writes it: ``backup.json`` with configuration and
state, and ``stream.tar.s2``; and a list of these directories. The streams of dead letters come last, so that
what moves on while they are read is there twice rather than not at all.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from windshift.nats import (
    ConnectFailed,
    Connection,
    Forbidden,
    JetStreamError,
    NatsError,
    Requests,
    Unavailable,
)
from windshift.nats.jetstream.api import JetStream, JsonObject
from windshift.nats.jetstream.snapshots import PIECE, restore_snapshot, take_snapshot
from windshift.server.config.tree import ServerConfig
from windshift.server.process.app import connection_options
from windshift.server.process.embedded.nats import EmbeddedNats
from windshift.server.process.embedded.stock import Damage, shrinks
from windshift.server.process.errors import StartError
from windshift.server.process.private_files import private_file, write_whole

_LIST: Final = "streams.json"
"""The names of all streams. It is written first, so that a restore sees what an interrupted backup lacks."""
_DESCRIPTION: Final = "backup.json"
"""Written last, when the archive beside it is whole."""
_ARCHIVE: Final = "stream.tar.s2"
_LAST: Final = ("WS_DEAD_LETTERS", "WS_REPLAYS")
"""An event goes from its stream to the dead letters, and from there to the replays and back."""
_ROUNDS: Final = 5
"""How often these two are read until nothing has moved between them meanwhile."""
_READING: Final = 60.0
_LOOKING: Final = 5.0
"""Seconds for a look at what a failed restore has left: NATS may be what failed."""

Tell: TypeAlias = Callable[[str], None]
"""Is given a line for each thing that was done."""


class BackupError(Exception):
    """It cannot be done. The text says why, for an operator: a line for each thing."""


class _Broker(NamedTuple):
    api: JetStream
    damage: Sequence[Damage]
    """What the data directory of an embedded one lacks."""

    async def streams(self, wanted: Collection[str]) -> list[JsonObject]:
        """Return all streams, in the order in which they are backed up.

        Raise `BackupError` if no server answers for one of those wanted; none wanted = for any.
        """
        found: list[JsonObject] = []
        async for page in self.api.pages("STREAM.LIST", "streams", self._deadline()):
            silent = sorted(page.missing & set(wanted) if wanted else page.missing)
            if silent:
                raise BackupError(
                    f"no nats-server answers for {', '.join(silent)}; try again when they have a leader, or "
                    "name other streams with --stream"
                )
            found += page.items
        return sorted(found, key=lambda info: (info["config"]["name"] in _LAST, info["config"]["name"]))

    async def state(self, stream: str) -> Any:
        return (await self.api.stream_info(stream, self._deadline()))["state"]

    def _deadline(self) -> float:
        return self.api.requests.loop.time() + _READING


async def back_up(config: ServerConfig, directory: Path, wanted: Collection[str], tell: Tell) -> None:
    """Write the streams of these names, or all, to a directory, which must be empty or absent.

    Raises `BackupError`; what is written by then is left there.
    """
    _make_empty(directory)
    async with _broker(config) as broker:
        _require_sound(config, broker.damage, wanted, tell)
        streams = await broker.streams(wanted)
        storage = {info["config"]["name"]: info["config"]["storage"] for info in streams}
        chosen = _chosen(storage, wanted)
        kept = [name for name in chosen if storage[name] == "file"]
        for name in chosen:
            if storage[name] != "file":
                tell(f"{name}: left out, it is in memory only")
        _write(directory / _LIST, kept)
        for name in kept:
            if name not in _LAST:
                _describe(directory / name, await _take(broker, name, directory), tell)
        await _take_last(broker, [name for name in kept if name in _LAST], directory, tell)
        tell(f"{len(kept)} streams are in {directory}")


def _require_sound(
    config: ServerConfig, damage: Sequence[Damage], wanted: Collection[str], tell: Tell
) -> None:
    """Raise `BackupError` if a stream that is to be backed up is damaged, unless that is accepted."""
    found = [each for each in damage if not wanted or each.stream in wanted]
    wrong = {each.stream for each in found if not config.embedded.accepts_loss(each.stream)}
    lines = [f"the data of stream {each.stream} is damaged: {each.text}" for each in found]
    if wrong:
        lines.append(
            f"put back a copy of {config.embedded.data_dir}, name other streams with --stream, or set "
            f"WINDSHIFT_NATS_ACCEPT_LOSS={','.join(sorted(wrong))} to back up what is left"
        )
        raise BackupError("\n".join(lines))
    for line in lines:
        tell(line)


async def _take_last(broker: _Broker, names: Sequence[str], directory: Path, tell: Tell) -> None:
    """Take the streams between which events move in both directions."""
    snapshots: dict[str, JsonObject] = {}
    for _ in range(_ROUNDS if names else 0):
        before = [await broker.state(name) for name in names]
        snapshots = {name: await _take(broker, name, directory) for name in names}
        if [await broker.state(name) for name in names] == before:
            break
    else:
        if names:
            tell("dead letters moved all the time: a few may be missing; stop the replays, and back up anew")
    for name, snapshot in snapshots.items():
        _describe(directory / name, snapshot, tell)


async def _take(broker: _Broker, name: str, directory: Path) -> JsonObject:
    """Write the archive of a stream; return its description."""
    place = directory / name
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    with private_file(place / _ARCHIVE) as archive:
        return await take_snapshot(broker.api, name, archive.write)


def _describe(place: Path, snapshot: JsonObject, tell: Tell) -> None:
    _write(place / _DESCRIPTION, snapshot)
    tell(_line(place.name, snapshot["state"]))


async def restore(
    config: ServerConfig, directory: Path, wanted: Collection[str], replicas: int | None, tell: Tell
) -> None:
    """Make the streams of these names, or all, again from a directory; none of them may exist.

    With `replicas` they get that many, whatever they had. Raises `BackupError`; streams that were made by
    then stay.
    """
    found = _found(directory)
    chosen = _chosen(found, wanted)
    lacking = [] if wanted else sorted(set(_listed(directory)) - set(found))
    if lacking:
        raise BackupError(
            f"{directory} is not whole, it lacks {', '.join(lacking)}: back up anew, or name what is there "
            "with --stream"
        )
    async with _broker(config) as broker:
        taken = sorted({info["config"]["name"] for info in await broker.streams(chosen)} & set(chosen))
        if taken:
            raise BackupError(f"these exist already: {', '.join(taken)}; delete them, or name others")
        for name in chosen:
            await _make(broker, found[name], replicas, tell)
        tell(f"{len(chosen)} streams are restored")


async def _make(broker: _Broker, place: Path, replicas: int | None, tell: Tell) -> None:
    name, snapshot = place.name, _read(place)
    if replicas is not None:
        snapshot = {**snapshot, "config": {**snapshot["config"], "num_replicas": replicas}}
    try:
        info = await restore_snapshot(broker.api, snapshot, _pieces(place / _ARCHIVE))
    except (NatsError, OSError) as error:
        raise BackupError(f"{name} is not restored: {_why(error)}{await _left(broker, name)}") from error
    wrong = _lacking(snapshot, info["state"])
    if wrong:
        raise BackupError(f"{name} is not restored as it was: {wrong}")
    tell(_line(name, info["state"]))


def _lacking(snapshot: JsonObject, now: JsonObject) -> str:
    """Say what a restored stream lacks, if anything. Events may have reached their age since the backup."""
    before = snapshot["state"]
    if now["last_seq"] < before["last_seq"]:
        return f"its last id is {now['last_seq']}, and was {before['last_seq']}"
    if now["messages"] < before["messages"] and not shrinks(snapshot["config"]):
        return f"it has {now['messages']} events of {before['messages']}"
    return ""


async def _left(broker: _Broker, name: str) -> str:
    """Say whether a restore that failed left a part of the stream: nats-server keeps what it took by then."""
    try:
        info = await broker.api.stream_info(name, broker.api.requests.loop.time() + _LOOKING)
    except NatsError:
        return ""
    events = info["state"]["messages"]
    return f"; a part of it is there ({events:,} messages): delete that before you try again"


# --- Files ------------------------------------------------------------------------------------------------


def _make_empty(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(directory.iterdir()):
            raise BackupError(f"{directory} is not empty")
    except OSError as error:
        raise BackupError(f"{directory} cannot be used: {error.strerror}") from error


def _found(directory: Path) -> dict[str, Path]:
    """Return the directories of the streams of a backup, by name."""
    found = {each.parent.name: each.parent for each in sorted(directory.glob(f"*/{_DESCRIPTION}"))}
    if not found:
        raise BackupError(f"{directory} holds no backup: no directory in it has a {_DESCRIPTION}")
    return found


def _listed(directory: Path) -> list[str]:
    """Return the names of all streams that a backup has if it is whole; none if an older version made it."""
    try:
        return [str(name) for name in json.loads((directory / _LIST).read_bytes())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise BackupError(f"{directory / _LIST} cannot be used: {_why(error)}") from error


def _write(path: Path, document: object) -> None:
    write_whole(path, json.dumps(document, indent=2).encode())


def _pieces(archive: Path) -> Iterator[bytes]:
    with archive.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _read(place: Path) -> JsonObject:
    try:
        found = json.loads((place / _DESCRIPTION).read_bytes())
        return {"config": {**found["config"], "name": place.name}, "state": {**found["state"]}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{place / _DESCRIPTION} cannot be used: {_why(error)}") from error


def _chosen(names: Collection[str], wanted: Collection[str]) -> list[str]:
    missing = sorted(set(wanted) - set(names))
    if missing:
        raise BackupError(f"there is no stream called {', '.join(missing)}")
    return [name for name in names if not wanted or name in wanted]


def _line(name: str, state: JsonObject) -> str:
    consumers = state.get("consumer_count", 0)
    return f"{name}: {state['messages']:,} messages, {state['bytes']:,} bytes, {consumers} consumers"


# --- The broker -------------------------------------------------------------------------------------------


@asynccontextmanager
async def _broker(config: ServerConfig) -> AsyncIterator[_Broker]:
    """Connect to the configured NATS, or start the embedded one, whose data directory nobody uses."""
    async with AsyncExitStack() as stack:
        try:
            servers, damage = config.nats.servers, list[Damage]()
            if not servers:
                embedded = EmbeddedNats(config.embedded)
                await embedded.start()
                stack.push_async_callback(embedded.stop)
                damage = await embedded.inventory.inspect(embedded.address)
                servers = (embedded.address,)
            connection = Connection(connection_options(config.nats, servers))
            stack.push_async_callback(connection.close)
            await connection.connect()
            yield _Broker(JetStream(Requests(connection)), damage)
        except (StartError, ConnectFailed, NatsError, OSError) as error:
            raise BackupError(_why(error)) from error


def _why(error: Exception) -> str:
    if isinstance(error, JetStreamError):
        return error.description
    if isinstance(error, Forbidden):
        return "this user may not do it: see docs/operations/backup.md"
    if isinstance(error, Unavailable):
        return "NATS does not answer, or has no JetStream"
    return str(error) or type(error).__name__
