"""What lay in the data directory when it was left, and what of it is missing now.

nats-server (2.15) leaves out streams and consumers that it cannot read, cuts off what follows a damaged
event, and goes on: ids would be given a second time, and nobody would know. So what there is is written down
when the directory is left, and compared at the next start.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from windshift.nats import Connection, ConnectionOptions, Requests, ServerAddress
from windshift.nats.jetstream.api import JetStream
from windshift.server.background.batches import for_each
from windshift.server.process.private_files import write_whole

_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class ConsumerStock:
    """A durable consumer: when it was made, and up to which id all events are settled."""

    created: str
    settled_to: int


@dataclass(frozen=True, slots=True)
class StreamStock:
    """A stream on disk.

    Attributes:
        created: when it was made; one that was deleted and made anew has another.
        last_id: the last id that was ever given.
        events: how many there are; None where they become fewer by themselves.
    """

    created: str
    last_id: int
    events: int | None
    consumers: Mapping[str, ConsumerStock] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stock:
    """All streams on disk.

    Attributes:
        final: whether nothing was changed afterwards. Otherwise streams may have been removed since, and
            consumers, but last ids only grow.
    """

    streams: Mapping[str, StreamStock]
    final: bool = False


@dataclass(frozen=True, slots=True)
class Damage:
    """What is missing of a stream, in words for an operator.

    Attributes:
        unreadable: what nats-server cannot read, below the stream's directory: "." for all of it, empty for
            nothing. Once that is accepted it is to be moved away, or it would be told at each start.
    """

    stream: str
    text: str
    unreadable: str = ""


def damage(
    before: Stock | None, now: Stock, on_disk: Collection[str], complaints: Iterable[str]
) -> Iterator[Damage]:
    """Compare what there was with what there is.

    Args:
        before: None when nothing was written down.
        now: what nats-server serves.
        on_disk: streams that have a directory.
        complaints: what nats-server said while it read them.
    """
    yield from _unreadable(now, on_disk, list(complaints))
    if before is None:
        return
    for name, old in before.streams.items():
        new = now.streams.get(name)
        if new is not None and new.created == old.created:
            yield from (Damage(name, text) for text in _missing(old, new, final=before.final))
        elif before.final and name not in on_disk:
            yield Damage(name, "its directory is gone")


def _unreadable(now: Stock, on_disk: Collection[str], said: Sequence[str]) -> Iterator[Damage]:
    """Find streams and consumers that nats-server cannot read."""
    for name in sorted(set(on_disk) - now.streams.keys()):
        exactly = re.escape(name)
        about = re.compile(rf"/streams/{exactly}/|> {exactly}'|> {exactly} >|\"{exactly}\"")
        reasons = [each for each in said if about.search(each)]
        yield Damage(name, f"cannot be read: {'; '.join(reasons) or 'nats-server does not say why'}", ".")
    for each in said:
        found = re.search(r"/streams/([^/\"]+)/obs/([^/\"]+)/", each)
        if found is not None and found[1] in now.streams:
            yield Damage(found[1], f"its consumer {found[2]} cannot be read: {each}", f"obs/{found[2]}")


def _missing(old: StreamStock, new: StreamStock, *, final: bool) -> Iterator[str]:
    if new.last_id < old.last_id:
        yield f"its last id was {old.last_id} and is {new.last_id}: ids would be given a second time"
    elif final and old.events is not None and new.events is not None and new.events < old.events:
        yield f"{old.events - new.events} of {old.events} events are gone"
    if not final:
        return
    for name, consumer in old.consumers.items():
        there = new.consumers.get(name)
        if there is None:
            yield f"its consumer {name} is gone"
        elif there.created == consumer.created and there.settled_to < consumer.settled_to:
            yield (
                f"its consumer {name} had settled all up to id {consumer.settled_to}, and now up to "
                f"{there.settled_to}: events would be delivered again"
            )


# --- On disk ----------------------------------------------------------------------------------------------


def read(file: Path) -> Stock | None:
    """Read what was written down; None when there is nothing, or not what we wrote. Raises OSError."""
    try:
        read: Any = json.loads(file.read_bytes())
        streams = {name: _stream(each) for name, each in read["streams"].items()}
        return Stock(streams, bool(read["final"]))
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _stream(read: dict[str, Any]) -> StreamStock:
    consumers = {name: ConsumerStock(**each) for name, each in read.pop("consumers").items()}
    return StreamStock(**read, consumers=consumers)


def write(file: Path, stock: Stock) -> None:
    """Write it down, whole or not at all. Raises OSError, and leaves nothing that is stale then."""
    try:
        write_whole(file, json.dumps(asdict(stock)).encode())
    except OSError:
        with suppress(OSError):
            file.unlink(missing_ok=True)
        raise


# --- From nats-server -------------------------------------------------------------------------------------


async def take(address: ServerAddress, seconds: float) -> Stock:
    """Ask nats-server what it serves. Raises `NatsError`, or TimeoutError after so many seconds."""
    connection = Connection(ConnectionOptions(servers=(address,), log_level=logging.DEBUG))
    api = JetStream(Requests(connection))
    async with asyncio.timeout(seconds):
        await connection.connect()
        try:
            return await _take(api, asyncio.get_running_loop().time() + seconds)
        finally:
            await connection.close()


async def _take(api: JetStream, deadline: float) -> Stock:
    async def stream(info: dict[str, Any]) -> StreamStock:
        name, state, config = info["config"]["name"], info["state"], info["config"]
        consumers = {}
        if state["consumer_count"]:
            consumers = {
                each["name"]: ConsumerStock(each["created"], each["ack_floor"]["stream_seq"])
                async for each in api.listed(f"CONSUMER.LIST.{name}", "consumers", deadline)
                if "durable_name" in each["config"] and not each["config"].get("mem_storage")
            }
        events = None if shrinks(config) else state["messages"]
        return StreamStock(info["created"], state["last_seq"], events, consumers)

    infos = [
        each
        async for each in api.listed("STREAM.LIST", "streams", deadline)
        if each["config"]["storage"] == "file"
    ]
    stocks = await for_each(infos, stream, at_once=_AT_ONCE)
    return Stock({info["config"]["name"]: stock for info, stock in zip(infos, stocks, strict=True)})


def shrinks(config: dict[str, Any]) -> bool:
    """Tell whether events leave a stream though nobody removes them: by age, or for others that it copies."""
    return bool(
        config.get("max_age")
        or config.get("allow_msg_ttl")
        or config.get("mirror")
        or config.get("sources")
        or config.get("retention", "limits") != "limits"
    )
