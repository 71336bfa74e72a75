"""What docs/authorization.md claims: its file, its tables and its questions."""

from __future__ import annotations

import asyncio
import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

import windshift as ws
from tests.support.app import running_app
from tests.support.command_line import windshift_command
from tests.support.nats_server import NatsServer
from tests.support.patterns import covers, covers_name, overlaps, overlaps_name
from windshift.protos import test
from windshift.server.api.policies import POLICIES
from windshift.server.auth import policy_file
from windshift.server.auth.permissions import LISTS, NEEDS, PatternKind
from windshift.server.auth.policy import ALGORITHMS, QUOTAS_IN_BYTES, Quotas
from windshift.server.auth.policy_file import parse_policy
from windshift.server.auth.tokens import make_token, token_digest

TEXT = (Path(__file__).parent.parent / "docs" / "authorization.md").read_text()


def part(kind: str, name: str) -> str:
    """Return the part of the document behind a mark, as far as the next one."""
    found = re.search(rf"<!-- {kind}: {name} -->\n(.*?)<!-- \w+: ", TEXT, re.DOTALL)
    assert found is not None
    return found[1]


def table(kind: str, name: str) -> list[list[str]]:
    """Return the rows of a table, without its head."""
    rows = re.findall(r"^\|(.*)\|$", part(kind, name), re.MULTILINE)[2:]
    return [[cell.strip().strip("`") for cell in row.split("|")] for row in rows]


def example(name: str = "file") -> str:
    """Return an example of a file, or of a part of one."""
    (text,) = re.findall(r"```toml\n(.*?)```", part("example", name), re.DOTALL)
    assert isinstance(text, str)
    return text


def test_the_example_file_is_one() -> None:
    """The documented file has no problems, and everybody in it has something."""
    policy = parse_policy(example())
    assert list(policy.principals) == ["billing", "ci", "edge"]
    assert set(policy.roles) == {"order-writer", "observer"}


@pytest.mark.parametrize(("entry", "wanted", "allows", "denies"), table("example", "subjects"))
def test_documented_subjects(entry: str, wanted: str, allows: str, denies: str) -> None:
    """Each row of the table of subjects holds."""
    assert (allows, denies) == tuple(
        "yes" if told else "no" for told in (covers(entry, wanted), overlaps(entry, wanted))
    )


@pytest.mark.parametrize(("entry", "wanted", "allows", "denies"), table("example", "names"))
def test_documented_names(entry: str, wanted: str, allows: str, denies: str) -> None:
    """Each row of the table of names holds."""
    told = (covers_name(entry, wanted), overlaps_name(entry, wanted))
    assert (allows, denies) == tuple("yes" if each else "no" for each in told)


def size(value: int) -> str:
    """Write bytes as the table does."""
    return f"{value >> 30} GiB" if value >= 1 << 30 else f"{value >> 20} MiB"


def test_documented_keys() -> None:
    """The tables have every key that the file may have, and no other."""
    assert {row[0] for row in table("keys", "principals")} == set(policy_file._PRINCIPAL_KEYS)
    assert {row[0] for row in table("keys", "issuers")} == set(policy_file._ISSUER_KEYS)
    assert {row[0]: row[2] for row in table("keys", "quotas")} == {
        name: "off" if limit is None else size(limit) if name in QUOTAS_IN_BYTES else str(limit)
        for name, limit in asdict(Quotas()).items()
    }
    kinds = {PatternKind.SUBJECT: "subjects", PatternKind.NAME: "names"}
    assert [(row[0], row[1]) for row in table("keys", "roles")] == [
        (key, kinds[kind]) for key, kind in LISTS.items()
    ]
    (algorithms,) = (row[1] for row in table("keys", "issuers") if row[0] == "algorithms")
    assert tuple(re.findall(r"\b[A-Z][A-Za-z]+\d*\b", algorithms.partition("those")[0])) == tuple(ALGORITHMS)


def test_documented_quotas() -> None:
    """The example of quotas gives what its comments say."""
    (batch,) = parse_policy(example("quotas")).principals.values()
    assert batch.quotas == Quotas(streams=50, reserved_bytes=100 << 30, stores=20, ephemeral_consumers=None)


def test_documented_verbs() -> None:
    """The table of verbs is that of the code."""
    told = {row[0]: re.findall(r"[a-z_]+(?:\.[a-z]+)?", row[1]) for row in table("example", "verbs")}
    assert told == {action.verb: list(needs.values()) for action, needs in NEEDS.items()}


def test_documented_methods() -> None:
    """Every method has a row, and every verb is in one of them."""
    rows = table("example", "methods")
    told = set()
    for row in rows:
        service, _, methods = row[0].partition("/")
        told |= {f"{service}/{method}" for method in re.findall(r"\w+", methods)}
    ours = {path for path in POLICIES if path.startswith("/windshift.")}
    assert told == {path.rpartition(".")[2] for path in ours}
    others = {row[0] for row in rows if "/" not in row[0]}
    assert all(path.startswith(tuple(f"/{each}." for each in others)) for path in POLICIES.keys() - ours)
    needed = set(re.findall(r"[a-z-]+", " ".join(row[1] for row in rows)))
    assert {action.verb for action in NEEDS} <= needed


def questions() -> list[tuple[str, str]]:
    """Return the documented commands that ask, and what they are answered."""
    return re.findall(r"^windshift (.*?) +# (allowed|denied)$", part("example", "questions"), re.MULTILINE)


@pytest.mark.parametrize(("command", "answer"), questions())
def test_documented_questions(
    command: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question is answered as it says there; the whole answer shown is one of them."""
    (tmp_path / "auth.toml").touch(0o600)
    (tmp_path / "auth.toml").write_text(example())
    monkeypatch.chdir(tmp_path)
    done = windshift_command(*shlex.split(command))
    assert (done.returncode, done.stderr) == (0 if answer == "allowed" else 1, "")
    assert f"decision   {answer}\n" in done.stdout
    if "orders.internal.x" in command:
        assert f"```\n{done.stdout}```" in TEXT


async def test_the_roles_to_begin_with(tmp_path: Path, own_nats_server: NatsServer) -> None:
    """An app runs with the worker's, and gives up events; the operator sees all of it, and repairs it."""
    tokens = {role: make_token(role) for role in ("orders-worker", "operator")}
    principals = [
        f'[[principals]]\nname = "{role}"\ntoken_sha256 = ["{token_digest(token).hex()}"]\n'
        f'roles = ["{role}"]\n'
        for role, token in tokens.items()
    ]
    file = tmp_path / "auth.toml"
    file.touch(0o600)
    file.write_text("\n".join([*principals, example("ready")]))
    app = ws.App("shop")
    billing = app.consumer(app.stream("orders", subjects=["orders.>"]), "billing", start=ws.START)
    handled = asyncio.Event()

    @billing.on
    async def bill(order: test.StringValue, client: ws.Client) -> None:
        if not order.value:
            raise ws.GiveUp("empty")
        totals = await client.stores.ensure("billing", test.StringValue)
        await totals.set("total", order)
        handled.set()

    with running_app(own_nats_server.url, WINDSHIFT_AUTH_FILE=str(file)) as address:
        async with ws.connect(address, token=tokens["orders-worker"]) as worker, app.running(worker):
            for value in ("", "1"):
                await worker.publish("orders.placed", test.StringValue(value=value))
            await asyncio.wait_for(handled.wait(), 30)
            with pytest.raises(ws.PermissionDenied):
                await worker.stream("orders").delete()
        async with ws.connect(address, token=tokens["operator"]) as operator:
            assert await look(operator) == ["orders", "empty"]
            await repair(operator)


async def look(operator: ws.Client) -> list[str]:
    """Look at everything; return the names of streams, and the reasons of dead letters."""
    orders = operator.stream("orders")
    assert len((await orders.events.explain(2)).consumers) == 1
    assert (await orders.events.get(2)).event.subject == "orders.placed"
    assert len((await operator.servers()).servers) == 1
    assert len((await operator.principals()).principals) == 2
    streams = [info.name async for info in operator.streams.list()]
    return [*streams, *[letter.reason async for letter in operator.dead_letters.list()]]


async def repair(operator: ws.Client) -> None:
    """Do all that an operator does to streams, consumers, stores and dead letters."""
    orders = operator.stream("orders")
    consumer = orders.consumer("billing")
    assert (await operator.dead_letters.replay(everything=True)).replayed == 1
    assert (await operator.dead_letters.cancel_replay(everything=True)).cancelled == 1
    assert (await operator.dead_letters.purge(everything=True)).purged == 1
    await consumer.pause(60)
    await consumer.resume()
    await consumer.seek(ws.START)
    assert await orders.purge(keep=1) == 1
    await operator.store("billing", test.StringValue).delete("total")
    await operator.end_connections("orders-worker")
    await consumer.delete()
    await orders.delete()
