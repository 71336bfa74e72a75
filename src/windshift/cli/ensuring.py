"""Makes streams, consumers and stores be what is wanted, and tells what changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import windshift as ws
from windshift.cli import specs
from windshift.cli.failing import USAGE, Failure
from windshift.cli.session import Session, failure_of
from windshift.cli.values import json_seconds

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ensured:
    """What became of one thing, or would.

    Attributes:
        kind: stream, consumer or store.
        name: its name.
        created: whether it was not there.
        changes: what differs from before; None = nobody may know.
        kept: what differs from what is wanted, and is not changed: as it is, and as it was to be.
        idle: filters of a consumer that no subject of its stream matches, as far as may be known.
    """

    kind: str
    name: str
    created: bool = False
    changes: specs.Changes | None = None
    kept: specs.Changes = field(default_factory=dict)
    idle: tuple[str, ...] = ()

    def lines(self, *, dry_run: bool) -> list[str]:
        """Say it to people."""
        idle = [f"{self.name}: no subject of the stream matches {each}, yet" for each in self.idle]
        return [*self._lines(dry_run=dry_run), *idle]

    def _lines(self, *, dry_run: bool) -> list[str]:
        if self.created:
            return [f"{'would create' if dry_run else 'created'} {self.name}"]
        if self.changes is None:
            return [f"{'would ensure' if dry_run else 'ensured'} {self.name}"]
        if self.kept:
            differ = ", ".join(
                f"{key} {specs.show(key, old)} (not {specs.show(key, new)})"
                for key, (old, new) in self.kept.items()
            )
            return [f"{self.name}: as it was, with {differ}: a {self.kind} that exists is not changed"]
        return specs.show_changes(self.name, self.changes)

    def value(self) -> dict[str, Any]:
        """Say it to programs."""
        changed = {
            key: {"was": specs.plain(old), "is": specs.plain(new)}
            for key, (old, new) in (self.changes or {}).items()
        }
        value: dict[str, Any] = {
            "kind": self.kind,
            "name": self.name,
            "created": self.created,
            "changed": changed,
        }
        if self.idle:
            value["idle"] = list(self.idle)
        kept = {
            key: {"is": specs.plain(old), "wanted": specs.plain(new)} for key, (old, new) in self.kept.items()
        }
        return value | ({"kept": kept} if kept else {})


async def ensure_stream(
    client: ws.Client, name: str, spec: ws.StreamSpec, *, dry_run: bool = False
) -> Ensured:
    """Ensure a stream."""
    specs.check_origin(spec, name)

    async def now() -> ws.StreamSpec:
        return (await client.stream(name).info()).spec

    before, visible = await _seen(now)
    if dry_run:
        after = None if before is None else specs.expected(spec, before)
    else:
        await client.streams.ensure(name, spec)
        after = None if before is None else (await _seen(now))[0]
    return Ensured("stream", name, visible and before is None, _changes(before, after))


async def _seen(now: Callable[[], Awaitable[T]]) -> tuple[T | None, bool]:
    """Return what something is; None if it does not exist, or if we may not see it, and which of the two."""
    try:
        return await now(), True
    except ws.NotFound:
        return None, True
    except ws.PermissionDenied:
        return None, False


def _changes(before: T | None, after: T | None) -> specs.Changes | None:
    return None if before is None or after is None else specs.changes(before, after)


async def ensure_consumer(
    client: ws.Client, stream: str, name: str | None, spec: ws.ConsumerSpec, *, dry_run: bool = False
) -> Ensured:
    """Ensure a consumer."""
    where = client.stream(stream)

    async def now() -> ws.ConsumerSpec:
        info = await where.consumer(name or "").info()
        return ws.ConsumerSpec(subjects=info.subjects, timeout=info.timeout, retry=info.retry)

    before, visible = await _seen(now) if name else (None, True)
    created = visible and before is None
    if dry_run:
        after = None if before is None else specs.expected_consumer(spec, before)
        return Ensured("consumer", name or "", created, _changes(before, after))
    consumer = await where.consumers.ensure(name, spec)
    after = None if before is None else (await _seen(now))[0]
    bound = (await _seen(where.info))[0] if spec.subjects else None
    idle = () if bound is None else idle_filters(spec.subjects, bound.spec)
    return Ensured("consumer", consumer.name, created, _changes(before, after), idle=idle)


def idle_filters(filters: Sequence[str], stream: ws.StreamSpec) -> tuple[str, ...]:
    """Return the filters of a consumer that no subject of its stream matches; what it copies may have any."""
    from windshift.sdk.subjects import overlap

    return tuple(
        each for each in filters if stream.subjects and not any(map(partial(overlap, each), stream.subjects))
    )


async def ensure_file(session: Session, path: Path, *, dry_run: bool) -> None:
    """Ensure the streams, consumers and stores of a TOML file, in its order, and tell what was done.

    The file is checked before anything changes.

    Raises:
        Failure: one of them failed; what comes behind it was left as it was.
    """
    steps = _steps(session.client, path, dry_run=dry_run)
    done: list[Ensured] = []
    try:
        for ensure in steps.values():
            done.append(await ensure())  # noqa: PERF401 -- told also where a later one fails
    except ws.WindshiftError as error:
        raise _stopped(await failure_of(session, error), list(steps), len(done)) from error
    finally:
        tell(session, done, dry_run=dry_run)


def _stopped(failure: Failure, steps: list[str], done: int) -> Failure:
    """Say where a file's steps ended, and what is left."""
    failed, *left = steps[done:]
    rest = f"; not reached: {', '.join(left)}" if left else ""
    message = f"{failed}: {failure.message}; before it, {done} of {len(steps)} succeeded{rest}"
    return Failure(message, failure.status, reason=failure.reason, hint=failure.hint)


def _steps(client: ws.Client, path: Path, *, dry_run: bool) -> dict[str, Callable[[], Awaitable[Ensured]]]:
    """Return what ensures each thing of a file, by what it is and its name."""
    document = _read(path)
    steps: dict[str, Callable[[], Awaitable[Ensured]]] = {}
    for name, entries in document["streams"].items():
        spec, consumers = _split(entries, f"stream {name!r} in {path}")
        steps[f"stream {name}"] = partial(ensure_stream, client, name, spec, dry_run=dry_run)
        for consumer, wanted in consumers.items():
            ensure = partial(ensure_consumer, client, name, consumer, wanted, dry_run=dry_run)
            steps[f"consumer {consumer} of {name}"] = ensure
    for name, entries in document["stores"].items():
        settings = specs.read_store(entries, f"store {name!r} in {path}")
        steps[f"store {name}"] = partial(ensure_store, client, name, settings, dry_run=dry_run)
    return steps


async def ensure_store(client: ws.Client, name: str, settings: dict[str, Any], *, dry_run: bool) -> Ensured:
    """Ensure a store. One that exists is left as it is."""
    before = {store.name: store async for store in client.stores.list()}.get(name)
    if not dry_run:
        await client.stores.ensure(name, **settings)
    if before is None:
        return Ensured("store", name, created=True)
    found = {key: (getattr(before, key), wanted) for key, wanted in settings.items()}
    kept = {
        key: (is_, wanted)
        for key, (is_, wanted) in found.items()
        if json_seconds(is_) != json_seconds(wanted)
    }
    return Ensured("store", name, changes={}, kept=kept)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    import tomllib

    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(f"{path} cannot be read: {error}", USAGE) from error
    unknown = [key for key in document if key not in {"streams", "stores"}]
    if unknown:
        raise Failure(f"{path} has the unknown {unknown[0]!r}; it may have streams and stores", USAGE)
    return {key: _table(document.get(key, {}), f"{key} of {path}") for key in ("streams", "stores")}


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Failure(f"{where} is not a table", USAGE)
    return value


def _split(entries: Any, where: str) -> tuple[ws.StreamSpec, dict[str, ws.ConsumerSpec]]:
    own = {key: value for key, value in _table(entries, where).items() if key != "consumers"}
    consumers = {
        name: specs.read_consumer(each, f"consumer {name!r} of {where}")
        for name, each in _table(entries.get("consumers", {}), f"consumers of {where}").items()
    }
    return specs.read_stream(own, where), consumers


def tell(session: Session, done: list[Ensured], *, dry_run: bool) -> None:
    """Print what was ensured."""
    out = session.out
    if out.json:
        out.table([each.value() for each in done], (), ())
    elif not out.options.quiet or dry_run:
        out.lines(*[line for each in done for line in each.lines(dry_run=dry_run)])
