"""`windshift state`: values by key."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

import windshift as ws
from windshift.cli import naming
from windshift.cli.failing import NOT_FOUND, USAGE, Failure
from windshift.cli.inputs import content_of, encoder, takes_payload
from windshift.cli.options import Group
from windshift.cli.session import Session, with_session
from windshift.cli.values import DURATION, json_seconds, json_time, show_age, show_duration, show_size

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage

_STORES = ("NAME", "KEYS", "BYTES", "HISTORY", "TTL")
_KEYS = ("KEY", "REVISION", "AGE", "EXPIRES", "TYPE", "SIZE")
_HISTORY = ("REVISION", "AGE", "TYPE", "VALUE")


@click.group(cls=Group)
def state() -> None:
    """Read, write and watch values by key."""


def _store(session: Session, name: str) -> ws.Store[AnyMessage]:
    from google.protobuf.any_pb2 import Any as AnyMessage

    return session.client.store(name, AnyMessage)


def _in(expires: datetime | None, now: datetime) -> str:
    return "-" if expires is None else show_duration(max(0, round((expires - now).total_seconds())))


def _value(session: Session, entry: ws.Entry[AnyMessage] | ws.Revision[AnyMessage]) -> dict[str, Any]:
    from windshift.cli.reading import payload_value

    value: dict[str, Any] = {
        "key": entry.key,
        "revision": entry.revision,
        "updated": json_time(entry.updated),
    }
    if entry.expires is not None:
        value["expires"] = json_time(entry.expires)
    if isinstance(entry, ws.Revision) and entry.deleted:
        value["deleted"] = True
    if entry.value is not None:
        value |= payload_value(entry.value, session.payloads) | {"size": len(entry.value.value)}
    return value


@state.command(examples=["windshift state stores"])
@with_session
async def stores(session: Session) -> None:
    """List the stores. KEYS counts deleted keys that are remembered too."""

    def value(info: ws.StoreInfo) -> dict[str, Any]:
        return info._asdict() | {"ttl": json_seconds(info.ttl)}

    def row(info: ws.StoreInfo) -> Sequence[str]:
        return info.name, str(info.keys), show_size(info.bytes), str(info.history), show_duration(info.ttl)

    await session.out.list(session.client.stores.list(), value, _STORES, row, right=(1, 2, 3))


@state.command(examples=["windshift state ensure totals --history 5"])
@click.argument("store", **naming.STORE)
@click.option("--history", type=click.IntRange(1, 64), help="Revisions of a key that a new store keeps; 1.")
@click.option("--ttl", type=DURATION, help="Age at which entries of a new store expire.")
@with_session
async def ensure(session: Session, store: str, history: int | None, ttl: float | None) -> None:
    """Make a store. One that exists is left as it is."""
    await session.client.stores.ensure(store, history=history, ttl=ttl)
    session.out.done({"ensured": store}, f"ensured {store}")


@state.command(
    "ls", examples=["windshift state ls accounting", "windshift state ls accounting 'eu.>' -o jsonl"]
)
@click.argument("store", **naming.STORE)
@click.argument("filter", required=False, default="")
@with_session
async def list_(session: Session, store: str, filter: str) -> None:  # noqa: A002 -- the argument's name
    """List the keys of a store, or those that match FILTER; -o json has the values too."""
    from windshift.cli.reading import short

    now = datetime.now(UTC)

    def row(entry: ws.Entry[AnyMessage]) -> Sequence[str]:
        name, size = short(entry.value.type_url), show_size(len(entry.value.value))
        age = show_age(entry.updated, now)
        return entry.key, str(entry.revision), age, _in(entry.expires, now), name, size

    found = _store(session, store).list(filter)
    await session.out.list(found, lambda entry: _value(session, entry), _KEYS, row, right=(1, 2, 3, 5))


@state.command(
    examples=["windshift state get accounting total", "windshift state get accounting total -o json"]
)
@click.argument("store", **naming.STORE)
@click.argument("key", **naming.KEY)
@click.option("--raw", is_flag=True, help="Print the bytes of the value, and nothing else.")
@with_session
async def get(session: Session, store: str, key: str, raw: bool) -> None:
    """Print the value of a key as JSON; its revision goes to stderr, or into the object of -o json."""
    from windshift.cli.output import as_json

    entry = await _store(session, store).get(key)
    if entry is None:
        raise Failure(f"store {store!r} has no key {key!r}", NOT_FOUND, reason="KEY_NOT_FOUND")
    if raw:
        session.out.raw(entry.value.value)
        return
    value = _value(session, entry)
    session.out.item(value, as_json(value["value"]))
    if not session.out.json:
        session.out.remark(f"revision {entry.revision}")


@state.command(
    "set",
    examples=[
        """windshift state set accounting total '{"orders":1}'""",
        """windshift state set accounting total '{"value":"1"}' --type windshift.test.v1.StringValue""",
        """windshift state set accounting new '{"orders":1}' --create --ttl 1h""",
    ],
)
@click.argument("store", **naming.STORE)
@click.argument("key", **naming.KEY)
@click.argument("value", required=False)
@takes_payload
@click.option(
    "--revision", type=click.IntRange(0), help="Only if the key has this revision; 0: does not exist."
)
@click.option("--create", is_flag=True, help="Only if the key does not exist.")
@click.option("--ttl", type=DURATION, help="When it expires; needs a store with a history of 1.")
@with_session
async def set_(
    session: Session,
    store: str,
    key: str,
    value: str | None,
    revision: int | None,
    create: bool,
    ttl: float | None,
    **payload: Any,
) -> None:
    """Write a key. VALUE is as the payload of `windshift publish`."""
    if create and revision is not None:
        raise Failure("--create and --revision do not go together", USAGE)
    encode = encoder(session.payloads, **payload)
    message = encode(await content_of(value))
    target = _store(session, store)
    if create:
        new = await target.create(key, message, ttl=ttl)
    elif revision is not None:
        new = await target.update(key, message, revision=revision, ttl=ttl)
    else:
        new = await target.set(key, message, ttl=ttl)
    session.out.done({"key": key, "revision": new}, f"revision {new}")


@state.command("rm", examples=["windshift state rm accounting total"])
@click.argument("store", **naming.STORE)
@click.argument("key", required=False, **naming.KEY)
@click.option("--revision", type=click.IntRange(1), help="Only if the key has this revision.")
@click.option("--store", "whole", is_flag=True, help="The whole store. Asks first.")
@with_session
async def remove(session: Session, store: str, key: str | None, revision: int | None, whole: bool) -> None:
    """Delete a key, or with --store the store with all that is in it."""
    if (key is None) != whole:
        raise Failure("name a key, or say --store", USAGE)
    if key is None:
        await session.confirm(f"would delete the store {store} with all that is in it")
        await session.client.stores.delete(store)
    else:
        await _store(session, store).delete(key, revision=revision)
    session.out.done({"deleted": key or store}, f"deleted {key or store}")


@state.command(examples=["windshift state history accounting total"])
@click.argument("store", **naming.STORE)
@click.argument("key", **naming.KEY)
@with_session
async def history(session: Session, store: str, key: str) -> None:
    """List the revisions of a key that the store keeps, oldest first."""
    from windshift.cli.output import as_json
    from windshift.cli.reading import short

    now = datetime.now(UTC)
    revisions = await _store(session, store).history(key)
    values = [_value(session, each) for each in revisions]
    rows = [
        (
            str(each.revision),
            show_age(each.updated, now),
            "deleted" if each.value is None else short(each.value.type_url),
            as_json(value["value"]) if "value" in value else "",
        )
        for each, value in zip(revisions, values, strict=True)
    ]
    session.out.table(values, _HISTORY, rows, right=(0, 1))


@state.command(examples=["timeout 2 windshift state watch accounting --existing || true"])
@click.argument("store", **naming.STORE)
@click.argument("filter", required=False, default="")
@click.option("--existing", is_flag=True, help="Begin with what the keys hold.")
@click.option("--from-revision", type=click.IntRange(1), metavar="N", help="Begin with this revision.")
@click.option("-n", "--count", type=click.IntRange(1), help="End after so many changes.")
@with_session
async def watch(
    session: Session,
    store: str,
    filter: str,  # noqa: A002 -- the argument's name
    existing: bool,
    from_revision: int | None,
    count: int | None,
) -> None:
    """Show changes of a store as they happen, until Ctrl-C; JSON comes as a line for each."""
    from windshift.cli.output import as_json, plain

    if existing and from_revision:
        raise Failure("--existing and --from-revision do not go together", USAGE)
    await session.reach()
    shown = 0
    changes = _store(session, store).watch(filter, existing=existing, from_revision=from_revision or 0)
    async for change in changes:
        if isinstance(change, ws.CaughtUp):
            continue
        value = _value(session, change)
        data = as_json(value["value"]) if "value" in value else ""
        verb = "deleted" if change.deleted else "set"
        line = f"{verb}  {plain(change.key)}  {change.revision}  {data}".rstrip()
        session.out.item(value, session.out.clip(line))
        shown += 1
        if shown == count:
            return
