"""Makes streams, consumers and stores be what is wanted, and tells what changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import windshift as ws
from windshift.cli import specs
from windshift.cli.failing import USAGE, Failure
from windshift.cli.session import Session


@dataclass(frozen=True, slots=True)
class Ensured:
    """What became of one thing, or would.

    Attributes:
        kind: stream, consumer or store.
        name: its name.
        created: whether it was not there.
        changes: what differs from before; None = nobody may know.
    """

    kind: str
    name: str
    created: bool = False
    changes: specs.Changes | None = None

    def lines(self, *, dry_run: bool) -> list[str]:
        """Say it to people."""
        if self.created:
            return [f"{'would create' if dry_run else 'created'} {self.name}"]
        if self.changes is None:
            return [f"{'would ensure' if dry_run else 'ensured'} {self.name}"]
        return specs.show_changes(self.name, self.changes)

    def value(self) -> dict[str, Any]:
        """Say it to programs."""
        changed = {
            key: {"was": specs.plain(old), "is": specs.plain(new)}
            for key, (old, new) in (self.changes or {}).items()
        }
        return {"kind": self.kind, "name": self.name, "created": self.created, "changed": changed}


async def ensure_stream(
    client: ws.Client, name: str, spec: ws.StreamSpec, *, dry_run: bool = False
) -> Ensured:
    """Ensure a stream."""
    stream = client.stream(name)
    before, visible = await _stream_now(stream)
    if dry_run:
        changed = None if before is None else specs.changes(before, specs.expected(spec, before))
        return Ensured("stream", name, visible and before is None, changed)
    await client.streams.ensure(name, spec)
    after = (await _stream_now(stream))[0] if before is not None else None
    changed = None if before is None or after is None else specs.changes(before, after)
    return Ensured("stream", name, visible and before is None, changed)


async def _stream_now(stream: ws.Stream) -> tuple[ws.StreamSpec | None, bool]:
    """Return what a stream is; None if it does not exist, or if we may not see it, and which of the two."""
    try:
        return (await stream.info()).spec, True
    except ws.StreamNotFound:
        return None, True
    except ws.PermissionDenied:
        return None, False


async def ensure_consumer(
    client: ws.Client, stream: str, name: str | None, spec: ws.ConsumerSpec, *, dry_run: bool = False
) -> Ensured:
    """Ensure a consumer."""
    consumers = client.stream(stream).consumers
    before, visible = await _consumer_now(client, stream, name) if name else (None, True)
    wanted = spec if spec.retry or before is None else _with_retry(spec, before)
    if dry_run:
        changed = None if before is None else specs.changes(before, wanted)
        return Ensured("consumer", name or "", visible and before is None, changed)
    consumer = await consumers.ensure(name, spec)
    after = (await _consumer_now(client, stream, consumer.name))[0] if before is not None else None
    changed = None if before is None or after is None else specs.changes(before, after)
    return Ensured("consumer", consumer.name, visible and before is None, changed)


async def _consumer_now(client: ws.Client, stream: str, name: str) -> tuple[ws.ConsumerSpec | None, bool]:
    try:
        info = await client.stream(stream).consumer(name).info()
    except ws.NotFound:
        return None, True
    except ws.PermissionDenied:
        return None, False
    return consumer_spec(info), True


def consumer_spec(info: ws.ConsumerInfo) -> ws.ConsumerSpec:
    """Return what would make a consumer, but for where it began."""
    return ws.ConsumerSpec(subjects=info.subjects, timeout=info.timeout, retry=info.retry)


def _with_retry(spec: ws.ConsumerSpec, before: ws.ConsumerSpec) -> ws.ConsumerSpec:
    from dataclasses import replace

    return replace(spec, retry=before.retry)


async def ensure_file(session: Session, path: Path, *, dry_run: bool) -> list[Ensured]:
    """Ensure the streams, consumers and stores of a TOML file, which is checked before anything changes."""
    document = _read(path)
    streams = {
        name: _split(entries, f"stream {name!r} in {path}") for name, entries in document["streams"].items()
    }
    stores = {
        name: _store(entries, f"store {name!r} in {path}") for name, entries in document["stores"].items()
    }
    done = []
    for name, (spec, consumers) in streams.items():
        done.append(await ensure_stream(session.client, name, spec, dry_run=dry_run))
        for consumer, wanted in consumers.items():
            done.append(await ensure_consumer(session.client, name, consumer, wanted, dry_run=dry_run))
    if stores:
        known = {store.name async for store in session.client.stores.list()}
        for name, settings in stores.items():
            if not dry_run:
                await session.client.stores.ensure(name, **settings)
            done.append(Ensured("store", name, name not in known, {}))
    return done


def _read(path: Path) -> dict[str, dict[str, Any]]:
    import tomllib

    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(f"{path} cannot be read: {error}", USAGE) from error
    unknown = [key for key in document if key not in {"streams", "stores"}]
    if unknown:
        raise Failure(f"{path} has the unknown {unknown[0]!r}; it may have streams and stores", USAGE)
    return {key: document.get(key, {}) for key in ("streams", "stores")}


def _split(entries: Any, where: str) -> tuple[ws.StreamSpec, dict[str, ws.ConsumerSpec]]:
    if not isinstance(entries, dict):
        raise Failure(f"{where} is no table", USAGE)
    own = {key: value for key, value in entries.items() if key != "consumers"}
    consumers = {
        name: specs.read_consumer(each, f"consumer {name!r} of {where}")
        for name, each in entries.get("consumers", {}).items()
    }
    return specs.read_stream(own, where), consumers


def _store(entries: Any, where: str) -> dict[str, Any]:
    from windshift.cli.values import parse_duration

    unknown = [key for key in entries if key not in {"history", "ttl"}]
    if unknown:
        raise Failure(f"{where} has no {unknown[0]!r}; it may have history, ttl", USAGE)
    settings = dict(entries)
    try:
        if isinstance(settings.get("ttl"), str):
            settings["ttl"] = parse_duration(settings["ttl"])
    except ValueError as error:
        raise Failure(f"{where}: ttl: {error}", USAGE) from error
    return settings


def tell(session: Session, done: list[Ensured], *, dry_run: bool) -> None:
    """Print what was ensured."""
    out = session.out
    if out.json:
        out.table([each.value() for each in done], (), ())
    elif not out.options.quiet or dry_run:
        out.lines(*[line for each in done for line in each.lines(dry_run=dry_run)])
