"""Each command at a real server: what it prints for people and programs, and how it fails."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import signal
import subprocess
import threading
import tomllib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

import windshift as ws
from tests.cli.conftest import TEXT, Cli, Result
from tests.support.older_server import older_server
from tests.support.windshift_process import wait_for
from windshift.cli.options import Options
from windshift.cli.output import as_json, width
from windshift.cli.payloads import Payloads
from windshift.cli.session import Session
from windshift.protos import payload as protos
from windshift.protos import test
from windshift.rpc import libnghttp2_version
from windshift.sdk.events import Events

GOLDEN = Path(__file__).parent / "golden"


def masked(text: str) -> str:
    """Return output with what differs at each run made the same, column by column."""
    text = re.sub(r"\b\d{4}-\d\d-\d\d[ T][\d:.]+Z?", "TIME", text)
    text = re.sub(r"\b\d\d:\d\d:\d\d\b", "TIME", text)
    text = re.sub(r"\.\d{16,}\b", ".NUMBER", text)
    return re.sub(r"(?<=3 on 2 subjects, )\d+", "SIZE", text)


def golden(name: str, text: str) -> None:
    """Compare output with a file; WINDSHIFT_TEST_GOLDEN=write writes it."""
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("WINDSHIFT_TEST_GOLDEN") == "write":
        file.write_text(masked(text))
    assert masked(text) == file.read_text()


@pytest.fixture
def orders(cli: Cli) -> Cli:
    """Have a stream with three events, and a consumer."""
    cli("streams", "ensure", "orders", "--subject", "orders.>", "--max-age", "30d", "-q")
    cli("consumers", "ensure", "orders", "accounting", "--from", "start", "--max-attempts", "5", "-q")
    cli("publish", "orders.placed", '{"value":"a"}', "--type", TEXT, "-q")
    cli("publish", "orders.placed", '{"cents":1}', "--json-type", "shop.Order", "-q")
    cli("publish", "orders.eu.paid", "\x08\x07", "--type", "acme.Unknown", "--raw", "-q")
    return cli


def test_streams(orders: Cli) -> None:
    """Streams are listed, shown, changed with a diff, purged and deleted."""
    assert "orders  " in orders("streams", "ls").out
    (listed,) = orders("streams", "ls", "-o", "json").json
    assert (listed["name"], listed["events"], listed["consumers"]) == ("orders", 3, 1)
    assert listed["spec"]["max_age"] == 2_592_000
    assert orders("streams", "ls", "nothing", "-o", "json").out == "[]\n"
    assert orders("-o", "jsonl", "streams", "ls", "nothing").out == ""
    golden("streams-info", orders("streams", "info", "orders").out)
    assert orders("streams", "subjects", "orders", "-o", "json").json == [
        {"subject": "orders.eu.paid", "events": 1},
        {"subject": "orders.placed", "events": 2},
    ]
    assert orders("streams", "edit", "orders", "--max-age", "60d").out == "orders: max_age 30d → 60d\n"
    changed = orders("streams", "edit", "orders", "--unset", "max-age", "--dry-run", "-o", "json").json
    assert changed[0]["changed"] == {"max_age": {"was": 5_184_000, "is": None}}
    fast = orders("streams", "edit", "orders", "--fast-ingest").out
    assert fast == "orders: fast_ingest false → true\n"
    line = orders("streams", "ensure", "orders", "--subject", "orders.>", "--max-age", "60d").out
    assert line == "orders: as it was\n"
    slow = orders("streams", "ensure", "orders", "--subject", "orders.>", "--no-fast-ingest", "--dry-run").out
    assert slow == "orders: max_age 60d → any\norders: fast_ingest true → false\n"
    assert orders("streams", "purge", "orders", "--keep", "1", "--dry-run", "-o", "json").json["purged"] == 2
    refused = orders("streams", "purge", "orders", "--keep", "1", code=2)
    assert refused.err == "windshift: would remove 2 events of orders: there is nobody to ask; say --yes\n"
    assert orders("streams", "purge", "orders", "--keep", "1", "--yes").out == "removed 2\n"
    assert orders("streams", "rm", "orders", "-y", "-o", "json").json == {"deleted": "orders"}


def test_several_at_once(cli: Cli, tmp_path: Path) -> None:
    """A file makes streams, consumers and stores; a dry run says what it would do."""
    file = tmp_path / "streams.toml"
    file.write_text("""
[streams.orders]
subjects = ["orders.>"]
max_age = "30d"
max_bytes = "10M"
[streams.orders.consumers.accounting]
start = "start"
retry = { max_attempts = 20, initial = "1s" }
[streams.copy]
mirror = "orders"
[stores.totals]
history = 5
""")
    plan = ["would create orders", "would create accounting", "would create copy", "would create totals"]
    assert cli("streams", "ensure", "-f", str(file), "--dry-run").out.splitlines() == plan
    assert cli("streams", "ls", "-o", "json").json == []
    assert "created copy" in cli("streams", "ensure", "-f", str(file)).out
    same = [f"{name}: as it was" for name in ("orders", "accounting", "copy", "totals")]
    assert cli("streams", "ensure", "-f", str(file), "--dry-run").out.splitlines() == same
    file.write_text(file.read_text().replace("30d", "7d").replace("= 20", "= 3").replace("= 5", "= 6"))
    lines = cli("streams", "ensure", "-f", str(file), "--dry-run").out.splitlines()
    assert lines[0] == "orders: max_age 30d → 7d"
    assert lines[1].startswith("accounting: retry max_attempts 20")
    stays = "totals: as it was, with history 5 (not 6): a store that exists is not changed"
    assert lines[2:] == ["copy: as it was", stays]
    told = cli("streams", "ensure", "-f", str(file), "-o", "json").json
    assert told[3]["kept"] == {"history": {"is": 5, "wanted": 6}}
    assert [store["history"] for store in cli("state", "stores", "-o", "json").json] == [5]
    assert [each["name"] for each in told] == ["orders", "accounting", "copy", "totals"]
    for wrong, text in (
        ("[streams.a]\nsubject = []", "has no 'subject'; it may have subjects"),
        ("[streams.a]\nmax_age = 'x'", "max_age: 'x' is not a duration"),
        ("[a", "cannot be read"),
        ("a = 1", "has the unknown 'a'"),
        ("streams = 5", "streams of"),
        ("[streams]\na = 5", "is not a table"),
        ("[streams.a]\nsubjects = 'a.>'", "'a.>' is not a list of texts"),
        ("[streams.a]\nsubjects = [5]", "[5] is not a list of texts"),
        ("[streams.a]\nmax_events = 'x'", "'x' is not a whole number above 0"),
        ("[streams.a]\nsubjects = ['a']\nmax_age = -5", "-5 is not a duration"),
        ("[streams.a]\nmax_bytes = '99999999999T'", "is more than a stream can be"),
        ("[streams.a]\nmirror = 5", "mirror of stream 'a'"),
        ("[streams.a]\nmirror = {}", "has no name"),
        ("[streams.a]\nmirror = { name = 5 }", "5 is not a text"),
        ("[streams.a]\nfast_ingest = 1", "1 is neither true nor false"),
        ("[streams.a]\ndiscard = 'x'", "'x' is neither 'old' nor 'new'"),
        ("[streams.a]", "stream 'a' needs one of subjects, mirror and aggregate"),
        ("[streams.a]\nsubjects = ['a.>']\nconsumers = 5", "consumers of stream 'a'"),
        ("[streams.a.consumers.x]\nretry = { multiplier = 'x' }", "multiplier: 'x' is not a number"),
        ("[stores]\nx = 5", "is not a table"),
        ("[stores.x]\nhistory = 'y'", "'y' is not a whole number"),
        ("[stores.x]\nbogus = 1", "has no 'bogus'; it may have history, ttl"),
    ):
        file.write_text(wrong)
        assert text in cli("streams", "ensure", "-f", str(file), "--dry-run", code=2).err


def test_a_file_that_fails_half_way(cli: Cli, tmp_path: Path) -> None:
    """What was done before the failure is told, and what was not reached is named."""
    file = tmp_path / "streams.toml"
    file.write_text("""
[streams.orders]
subjects = ["orders.>"]
[streams.overlapping]
subjects = ["orders.eu.>"]
[streams.overlapping.consumers.accounting]
[stores.totals]
""")
    failed = cli("streams", "ensure", "-f", str(file), code=4)
    assert failed.out == "created orders\n"
    assert failed.err.startswith("windshift: stream overlapping: ")
    assert "before it, 1 of 4 succeeded" in failed.err
    assert "not reached: consumer accounting of overlapping, store totals" in failed.err
    failed = cli("streams", "ensure", "-f", str(file), "-o", "json", code=4)
    assert [each["name"] for each in failed.json] == ["orders"]
    assert json.loads(failed.err)["error"]["reason"] == "SUBJECTS_OVERLAP"
    assert cli("state", "stores", "-o", "json").json == []


def test_events(orders: Cli) -> None:
    """Events are shown newest first found, by id, by time, by subject; undecodable ones by field numbers."""
    golden("tail", orders("tail", "orders").out)
    first, second, third = orders("tail", "orders", "-o", "json").lines
    assert (first["type"], first["data"]) == (TEXT, {"value": "a"})
    assert (second["type"], second["data"]) == ("windshift.payload.v1.Json/shop.Order", {"cents": 1})
    assert (third["type"], third["data"], third["undecoded"]) == ("acme.Unknown", {"1": 7}, True)
    assert orders("tail", "orders", "-n", "1", "--since", "1h", "-o", "json").json["id"] == 3
    assert orders("tail", "orders", "--from", "2", "-n", "1", "-o", "json").json["id"] == 2
    assert orders("tail", "orders", "--type", "StringValue", "-o", "json").json["id"] == 1
    assert (
        orders("tail", "orders", "--subject", "orders.eu.>", "--from", "start", "-o", "json").json["id"] == 3
    )
    assert orders("tail", "orders", "-n", "0").out == ""
    golden("events-get", re.sub(r"(key +)\S+", r"\1KEY", orders("events", "get", "orders", "1").out))
    assert orders("events", "get", "orders", "--last", "orders.placed", "-o", "json").json["id"] == 2
    assert orders("events", "get", "orders", "--at", "1h", "-o", "json").json["id"] == 1
    assert orders("events", "get", "orders", "3", "--raw").out == "\x08\x07"
    assert orders("events", "get", "orders", "1", "--last", "x", code=2).err.startswith(
        "windshift: give an id"
    )
    assert orders("events", "rm", "orders", "2", "--yes").out == "removed event 2\n"
    assert "EVENT_NOT_FOUND" in orders("events", "get", "orders", "2", code=3).err


def test_publish(orders: Cli, tmp_path: Path) -> None:
    """Events come from the line, a file and stdin; wrong payloads say what is wrong with them."""
    file = tmp_path / "order.json"
    file.write_text('{"value": "file"}')
    assert orders("publish", "orders.x", f"@{file}", "--type", TEXT).out == "stored as event 4\n"
    told = orders("publish", "orders.x", "-", "--key", "k", "-o", "json", stdin="[1]").json
    assert told == {"id": 5, "key": "k", "duplicate": False}
    again = orders("publish", "orders.x", "[1]", "--key", "k").out
    assert again == "stored as event 5, which was stored before\n"
    assert orders("publish", "orders.x", "--each", "-o", "json", stdin="1\n\n2\n").lines == [
        {"id": 6},
        {"id": 7},
    ]
    for arguments, code, text in (
        (["nope"], 2, "is not JSON"),
        (['{"valu":1}', "--type", TEXT], 2, 'has no field named "valu"'),
        (["{}", "--type", "shop.None"], 3, "the type 'shop.None' is not known; name its --descriptors"),
        (["@/nothing"], 2, "/nothing cannot be read"),
        (["1", "--expected-last-id", "1"], 4, "WRONG_LAST_ID"),
        (["1", "--raw"], 2, "--raw needs a --type"),
    ):
        assert text in orders("publish", "orders.x", *arguments, code=code).err
    assert "UNBOUND_SUBJECT" in orders("publish", "nowhere.x", "1", code=1).err
    closed = subprocess.run(
        ["bash", "-c", "windshift publish orders.x <&-"],
        env=orders.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (closed.returncode, closed.stderr.partition(",")[0]) == (
        2,
        "windshift: there is no payload; give it",
    )
    failed = orders("publish", "orders.x", "-", "--each", stdin="1\n\nx\n2\n", code=2)
    assert "windshift: line 3: the payload is not JSON" in failed.err
    assert "stored 1 event, 8" in failed.out


def test_publish_without_ids(orders: Cli, tmp_path: Path) -> None:
    """Where nobody needs ids none are told; every event is stored all the same, and errors are told."""
    (tmp_path / "file.toml").write_text('[streams.fast]\nsubjects = ["fast.>"]\nfast_ingest = true\n')
    orders("streams", "ensure", "-f", str(tmp_path / "file.toml"), "-q")
    lines = "".join(f"{number}\n" for number in range(500))
    for stream in ("fast", "orders"):
        publish = ("publish", f"{stream}.x", "--each", "--without-ids")
        assert orders(*publish, stdin=lines).out.startswith("stored 500 events (")
        assert orders(*publish, "-o", "json", stdin=lines).json == {"stored": 500}
        assert orders("streams", "info", stream, "-o", "json").json["events"] == 1000 + 3 * (
            stream == "orders"
        )
    refused = orders("publish", "nowhere.x", "--each", "--without-ids", stdin="1\n", code=1)
    assert "event 1: no stream is bound to subject" in refused.err
    assert "; ensure one that is (UNBOUND_SUBJECT)" in refused.err
    for arguments, text in (
        (["1", "--without-ids"], "--without-ids goes with --each"),
        (["--each", "--without-ids", "--in-flight", "1"], "--without-ids publishes many at once"),
    ):
        assert text in orders("publish", "orders.x", *arguments, stdin="", code=2).err


def test_publish_atomic(orders: Cli) -> None:
    """All lines of stdin are stored, or none is; what is wrong says in which line or event."""
    publish = ("publish", "orders.x", "--each", "--atomic")
    assert orders(*publish, stdin="1\n2\n", code=0).out.startswith("stored 2 events, 4 to 5 (")
    assert orders(*publish, "--expected-last-id", "5", "-o", "json", stdin="3\n").lines == [{"id": 6}]
    refused = orders(*publish, "--expected-last-id", "1", stdin="1\n2\n", code=4).err
    assert refused.startswith("windshift: event 1: ")
    assert "WRONG_LAST_ID" in refused
    for arguments, stdin, text in (
        ((*publish,), "1\nx\n", "line 2: the payload is not JSON"),
        ((*publish,), "1\n" * 1001, "at most 1,000 events; nothing was stored"),
        ((*publish, "--in-flight", "2"), "1\n", "--atomic goes with neither"),
        (("publish", "orders.x", "1", "--atomic"), "", "--atomic goes with --each"),
    ):
        assert text in orders(*arguments, stdin=stdin, code=2).err
    assert orders("streams", "info", "orders", "-o", "json").json["events"] == 6


def test_what_to_do_is_said_once(orders: Cli) -> None:
    """An error is told apart from what to do about it, and that in the words of the command line."""
    told = json.loads(orders("streams", "info", "nothing-like-it", "-o", "json", code=3).err)["error"]
    assert told == {
        "reason": "STREAM_NOT_FOUND",
        "message": f"stream '{orders.namespace}-nothing-like-it' does not exist",
        "hint": "ensure it first",
    }

    def hint() -> str:
        near = json.loads(orders("streams", "info", "order", "-o", "json", code=3).err)["error"]
        return str(near["hint"])

    wait_for(lambda: hint() == "did you mean 'orders'?")  # it is looked for for two seconds
    orders.environment["WINDSHIFT_TOKEN"] = "t"
    assert orders("streams", "ls", "--address", "a.example:1", code=2).err == (
        "windshift: the token would go to a.example:1 in plain text; use --tls or --tls-ca\n"
    )


def test_what_json_does_not_have(orders: Cli) -> None:
    """No number is published that JSON does not have; what others published so is shown as Protobuf would."""
    for payload in ("NaN", '{"a": [-Infinity]}'):
        assert "is not a number in JSON" in orders("publish", "orders.x", payload, code=2).err
    orders("publish", "orders.x", '{"a": [1e999, -1e999]}', "-q")
    orders("publish", "orders.x", '"\\ud800 é"', "-q")
    shown = orders.process("tail", "orders", "-n", "2", "-o", "json", PYTHONIOENCODING="ascii").stdout
    numbers, text = (json.loads(line)["data"] for line in shown.decode().splitlines())
    assert numbers == {"a": ["Infinity", "-Infinity"]}
    assert text == "\ud800 é"
    shown = orders.process("tail", "orders", "-n", "2", PYTHONIOENCODING="ascii").stdout
    assert shown.endswith(b'Json  "\\ud800 \\xe9"\n')


@pytest.mark.parametrize("literal", ["NaN", "1e999", "1"])
@pytest.mark.parametrize("depth", [600, 10_000])
def test_what_is_nested_deep_is_shown(literal: str, depth: int) -> None:
    """Also where JSON does not have the innermost number: an event must not end a tail."""
    value = protos.Json(value=f"{'[' * depth}{literal}{']' * depth}".encode())
    packed = AnyMessage()
    packed.Pack(value)
    assert json.loads(as_json([Payloads().show(packed)]))


def test_descriptors(orders: Cli, tmp_path: Path) -> None:
    """A descriptor file gives types that no module has, also by the context; other files are refused."""
    file = FileDescriptorProto(name="acme.proto", package="acme", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    number = FieldDescriptorProto.TYPE_INT64
    file.message_type.add(name="Unknown").field.add(name="cents", number=1, type=number, label=1)
    path = tmp_path / "acme.binpb"
    path.write_bytes(FileDescriptorSet(file=[file]).SerializeToString())
    shown = orders("tail", "orders", "-n", "1", "--descriptors", str(path), "-o", "json").json
    assert (shown["data"], "undecoded" in shown) == ({"cents": "7"}, False)
    sent = orders(
        "publish", "orders.x", '{"cents":"9"}', "--type", "acme.Unknown", "--descriptors", str(path)
    )
    assert sent.out == "stored as event 4\n"
    orders(
        "context",
        "add",
        "acme",
        "--address",
        orders.environment["WINDSHIFT_ADDRESS"],
        "--descriptors",
        str(path),
    )
    assert orders("tail", "orders", "-n", "1", "-c", "acme", "-o", "json").json["data"] == {"cents": "9"}
    path.write_text("text")
    assert "has no descriptors" in orders("tail", "orders", "--descriptors", str(path), code=2).err
    assert "cannot be imported" in orders("tail", "orders", "--module", "no.such", code=2).err


def test_a_consumer_that_nothing_is_for(cli: Cli) -> None:
    """A filter that no subject of the stream matches is told when it is made, and by the doctor later."""
    cli("streams", "ensure", "orders", "--subject", "orders.>", "-q")
    ensure = ("consumers", "ensure", "orders", "mail", "--subject", "ordres.*", "--subject", "orders.new")
    told = cli(*ensure).out.splitlines()
    assert told == ["created mail", "mail: no subject of the stream matches ordres.*, yet"]
    assert cli(*ensure, "-o", "json").json["idle"] == ["ordres.*"]
    found = "consumer    orders mail is for ordres.*, and the stream has orders.> alone"
    assert found in cli("doctor").out
    assert "idle" not in cli("consumers", "ensure", "orders", "mail", "-o", "json").json
    assert "no subject of the stream" not in cli(*ensure[:4], "--subject", "*.new").out
    cli("streams", "ensure", "copy", "--mirror", "orders", "-q")
    assert cli("consumers", "ensure", "copy", "mail", "--subject", "ordres.*").out == "created mail\n"


def test_consumers_of_all_streams(orders: Cli) -> None:
    """Those that keep an event waiting come first, the longest first; they have their stream beside them."""
    orders("streams", "ensure", "mails", "--subject", "mails.>", "-q")
    orders("consumers", "ensure", "mails", "done", "-q")
    orders("consumers", "ensure", "mails", "behind", "--from", "start", "-q")
    orders("publish", "mails.new", "{}", "-q")
    orders("subscribe", "mails", "done", "--ack", "-n", "1", "-q")
    expected = [("orders", "accounting"), ("mails", "behind"), ("mails", "done")]

    def listed() -> list[tuple[str, str]]:
        return [(each["stream"], each["name"]) for each in orders("consumers", "ls", "-o", "json").json]

    wait_for(lambda: listed() == expected)  # a list may be 5 seconds old
    head, first, *_ = orders("consumers", "ls").out.splitlines()
    assert (head.split()[:2], first.split()[:2]) == (["STREAM", "NAME"], ["orders", "accounting"])


def test_consumers(orders: Cli) -> None:
    """Consumers are listed, shown, made with a diff, paused, moved and deleted."""
    (listed,) = orders("consumers", "ls", "orders", "-o", "json").json
    assert (listed["name"], listed["pending"], listed["retry"]["max_attempts"]) == ("accounting", 3, 5)
    golden("consumers-info", orders("consumers", "info", "orders", "accounting").out)
    ensure = ("consumers", "ensure", "orders", "accounting")
    changed = orders(*ensure, "--processing-timeout", "1m", "--dry-run").out
    assert changed == "accounting: timeout 30s → 1m\n"
    assert (
        orders(*ensure, "--max-attempts", "7", "-o", "json").json["changed"]["retry"]["is"]["max_attempts"]
        == 7
    )
    assert orders("consumers", "pause", "orders", "accounting", "--for", "1h").out.startswith("paused until")
    assert orders("consumers", "ls", "orders", "-o", "json").json[0]["paused_until"]
    assert orders("consumers", "resume", "orders", "accounting").out == "resumed accounting\n"
    assert "say --for" in orders("consumers", "pause", "orders", "accounting", code=2).err
    pause = ("consumers", "pause", "orders", "accounting", "-o", "json")
    until = orders(*pause, "--until", "1h").json["paused_until"]
    assert datetime.fromisoformat(until) > datetime.now(UTC)
    for wrong in (("--until", "2020-01-01T00:00Z"), ("--for", "0s")):
        orders(*pause, *wrong, code=2)
        assert orders("consumers", "ls", "orders", "-o", "json").json[0]["paused_until"] == until
    assert orders("consumers", "resume", "orders", "accounting").out == "resumed accounting\n"
    too_long = ("consumers", "pause", "orders", "accounting", "--for", "4000000d")
    assert "this duration is too long" in orders(*too_long, code=2).err
    sought = orders("consumers", "reset", "orders", "accounting", "--to", "3", "--yes", "-o", "json").json
    assert sought == {"next_id": 3, "was": 1, "pending": 1, "dry_run": False}
    dry = orders("consumers", "seek", "orders", "accounting", "--to", "start", "--dry-run").out
    assert dry == "next event: 1 (was 3), 3 pending\n"
    missing = orders("consumers", "info", "orders", "acounting", code=3).err
    assert missing == (
        "windshift: consumer 'acounting' does not exist; did you mean 'accounting'? (CONSUMER_NOT_FOUND)\n"
    )
    assert orders("consumers", "rm", "orders", "accounting", "--yes").out == "deleted accounting\n"
    assert "STREAM_NOT_FOUND" in orders("consumers", "ls", "order", code=3).err


def test_subscribe_keeps_no_event(orders: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is settled by an exception of its own: the traceback of a shared one would hold them all."""
    made: list[ws.Drop] = []

    class Counted(ws.Drop):
        def __init__(self, reason: object) -> None:
            super().__init__(reason)
            made.append(self)

    monkeypatch.setattr(ws, "Drop", Counted)
    orders("subscribe", "orders", "accounting", "--drop", "-n", "3", "-q")
    assert len(made) == 3


def test_subscribe_and_dead_letters(orders: Cli) -> None:
    """What is taken is settled as was said, and burns no attempt of others; dead letters come back."""
    take = ("subscribe", "orders", "accounting", "-o", "json", "--wait", "20s")
    assert "say what becomes" in json.loads(orders(*take, code=2).err)["error"]["message"]
    assert orders(*take, "--ack", "-n", "1").json["id"] == 1
    assert orders(*take, "--dead-letter", "-n", "1", "--reason", "漢\x1b[31m").json["attempt"] == 1
    assert orders(*take, "--peek").json["attempt"] == 1
    assert orders(*take, "--drop", "-n", "1").json["attempt"] == 2
    assert "CONSUMER_NOT_FOUND" in orders("subscribe", "orders", "nobody", "--ack", code=3).err
    title, line = orders("dead-letters", "ls", "--stream", "orders").out.splitlines()
    assert title.split() == ["ID", "EVENT", "WHEN", "CAUSE", "ATTEMPTS", "REPLAYS", "ERROR", "REASON"]
    assert line.endswith("rejected         1        0  RejectedByHand  漢\\x1b[31m")
    (letter,) = orders("dead-letters", "ls", "--cause", "rejected", "-o", "json").json
    assert (letter["reason"], letter["event"]["data"]) == ("漢\x1b[31m", {"cents": 1})
    assert "\x1b" not in orders("dead-letters", "show", letter["id"]).out
    assert orders("dead-letters", "show", letter["id"], "-o", "json").json["cause"] == "rejected"
    both = ("--stream", "orders", "--all")
    assert "give ids, or say --all" in orders("dead-letters", "replay", "--stream", "orders", code=2).err
    summed = ("dead-letters", "summary", "--stream", "orders", "--by", "reason", "--by", "cause")
    assert orders(*summed).out.splitlines()[1].startswith("    1  漢\\x1b[31m  rejected")
    assert orders(*summed, "-o", "json").json[0]["count"] == 1
    assert "say which --stream" in orders("dead-letters", "summary", code=2).err
    assert orders("dead-letters", "ls", "--text", "nothing", "-o", "json").json == []
    assert "consumer" in orders("dead-letters", "ls", "--consumer", "accounting", code=2).err
    assert orders("dead-letters", "replay", *both, "--dry-run").out.startswith("would replay 1,")
    assert orders("dead-letters", "replay", letter["id"], "-o", "json").json["replayed"] == 1
    assert orders("dead-letters", "cancel", letter["id"]).out == "cancelled 1, delivered already 0\n"
    assert orders("dead-letters", "replay", *both, "-o", "json").json["replayed"] == 1
    assert orders(*take, "--dead-letter", "-n", "1").json["id"] == 2
    assert "there is nobody to ask" in orders("dead-letters", "purge", *both, code=2).err
    assert orders("dead-letters", "purge", *both, "--yes").out == "removed 1\n"
    assert orders("dead-letters", "ls", "-o", "json").json == []
    assert "DEAD_LETTER_NOT_FOUND" in orders("dead-letters", "show", letter["id"], code=3).err


def test_an_event_of_the_first_hour_there_is(orders: Cli) -> None:
    """It is shown, and settled, also where the local time would be before all times."""
    orders("publish", "orders.early", "{}", "--time", "0001-01-01T00:00Z", "-q")
    take = ("subscribe", "orders", "accounting", "--ack", "-n", "4", "--wait", "20s")
    for line in (("tail", "orders", "-n", "4"), take):
        done = orders.process(*line, TZ="UTC+3")
        assert (done.returncode, done.stderr) == (0, b""), done
        assert b"1-01-01 00:00:00  orders.early" in done.stdout
    assert orders("dead-letters", "ls", "-o", "json").json == []


def test_what_cannot_be_shown_is_no_dead_letter(orders: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the command, and comes again."""

    def fail(*_: object) -> None:
        raise LookupError("no such colour")

    take = ("subscribe", "orders", "accounting", "--ack", "-n", "1", "--wait", "20s", "-o", "json")
    with monkeypatch.context() as patch:
        patch.setattr("windshift.cli.reading.show_events", fail)
        with pytest.raises(LookupError, match="no such colour"):
            orders(*take)
    assert {orders(*take).json["id"] for _ in range(3)} == {1, 2, 3}
    assert orders("dead-letters", "ls", "-o", "json").json == []


def test_state(cli: Cli) -> None:
    """Keys are written on conditions, read, listed, watched and deleted."""
    cli("state", "ensure", "totals", "--history", "3", "-q")
    assert cli("state", "set", "totals", "a.b", '{"orders":1}').out == "revision 1\n"
    assert (
        cli(
            "state", "set", "totals", "a.b", '{"value":"2"}', "--type", TEXT, "--revision", "1", "-o", "json"
        ).json["revision"]
        == 2
    )
    got = cli("state", "get", "totals", "a.b")
    assert (got.out, got.err) == ('{"value":"2"}\n', "revision 2\n")
    assert cli("state", "get", "totals", "a.b", "-o", "json").json["value"] == {"value": "2"}
    assert cli("state", "get", "totals", "no", code=3).err == (
        "windshift: store 'totals' has no key 'no' (KEY_NOT_FOUND)\n"
    )
    assert "KEY_EXISTS" in cli("state", "set", "totals", "a.b", "1", "--create", code=4).err
    assert "REVISION_MISMATCH" in cli("state", "set", "totals", "a.b", "1", "--revision", "1", code=4).err
    (listed,) = cli("state", "ls", "totals", "a.*", "-o", "json").json
    assert (listed["key"], listed["revision"], listed["type"]) == ("a.b", 2, TEXT)
    assert cli("state", "ls", "totals").out.splitlines()[0].split() == [
        "KEY",
        "REVISION",
        "AGE",
        "EXPIRES",
        "TYPE",
        "SIZE",
    ]
    assert [each["revision"] for each in cli("state", "history", "totals", "a.b", "-o", "jsonl").lines] == [
        1,
        2,
    ]
    assert cli("state", "stores", "-o", "json").json[0]["history"] == 3
    watched = cli("state", "watch", "totals", "--existing", "-n", "1").out
    assert watched == 'set  a.b  2  {"value":"2"}\n'
    assert cli("state", "rm", "totals", "a.b").out == "deleted a.b\n"
    assert cli("state", "rm", "totals", "--store", "--yes").out == "deleted totals\n"
    assert "STORE_NOT_FOUND" in cli("state", "get", "totals", "a.b", code=3).err


def test_contexts(cli: Cli, tmp_path: Path) -> None:
    """Contexts are added, selected, changed and removed; nobody else may read the file."""
    del cli.environment["WINDSHIFT_ADDRESS"]
    address = "127.0.0.1:1"
    assert cli("context", "ls", "-o", "json").json == []
    assert cli("context", "add", "dev", "--address", address).out == f"dev: {address}, selected\n"
    cli("context", "add", "prod", "--address", "a.example:8080", "--tls", "--token-env", "TOKEN")
    file = tmp_path / "config" / "windshift" / "contexts.toml"
    assert file.stat().st_mode & 0o777 == 0o600
    golden("context-ls", cli("context", "ls").out)
    assert "127.0.0.1:1 cannot be reached" in cli("streams", "ls", "--timeout", "1s", code=5).err
    assert cli("context", "select", "prod").out == "selected prod\n"
    assert cli("context", "select", "-").out == "selected dev\n"
    cli("context", "edit", "dev", "--namespace", "me")
    assert cli("context", "show", "-o", "json").json == {"name": "dev", "address": address, "namespace": "me"}
    for arguments, code in (
        (["add", "dev", "--address", address], 4),
        (["add", "x"], 2),
        (["show", "x"], 3),
        (["edit", "dev", "--address", "x"], 2),
        (["add", "bad", "--address", "no port"], 2),
        (["add", "idp", "--address", address, "--oidc", "issuer"], 2),
        (["add", "idp", "--address", address, "--oidc", "issuer=https://id.example"], 2),
        (["rm", "x"], 3),
    ):
        cli("context", *arguments, code=code)
    issuer = ("issuer=https://id.example", "client_id=ci", "client_secret_env=SECRET")
    cli(
        "context", "add", "idp", "--address", address, *(word for pair in issuer for word in ("--oidc", pair))
    )
    assert cli("context", "show", "idp", "-o", "json").json["oidc"]["client_secret_env"] == "SECRET"
    cli("context", "rm", "dev")
    assert "there is no context 'dev'" in cli("streams", "ls", "-c", "dev", code=2).err


def test_a_file_of_contexts_that_is_a_link_stays_one(cli: Cli, tmp_path: Path) -> None:
    """It may lie with the other settings that somebody keeps together."""
    file, kept = tmp_path / "config" / "windshift" / "contexts.toml", tmp_path / "kept.toml"
    file.parent.mkdir(parents=True)
    kept.touch()
    file.symlink_to(kept)
    cli("context", "add", "dev", "--address", "127.0.0.1:1")
    assert file.is_symlink()
    assert "127.0.0.1:1" in kept.read_text("utf-8")


def test_contexts_written_by_hand_stay_readable(cli: Cli, tmp_path: Path) -> None:
    """Any text and any key of the file is the same after another command has written it."""
    file = tmp_path / "config" / "windshift" / "contexts.toml"
    file.parent.mkdir(parents=True)
    escaped = "".join(f"\\u{code:04x}" for code in (*range(32), ord('"'), ord("\\"), 0x7F, 0x80, 0x2028))
    entries = f'address = "a:1"\n"by hand" = {{ "\U0001f600.b" = "{escaped}\U0001f600" }}\n'
    file.write_text(f'[contexts.a]\n{entries}[contexts."\U0001f600"]\n', "utf-8")
    before = tomllib.loads(file.read_text("utf-8"))
    cli("context", "select", "\U0001f600")
    assert tomllib.loads(file.read_text("utf-8")) == {"selected": "\U0001f600", **before}
    cli("context", "rm", "\U0001f600")
    assert tomllib.loads(file.read_text("utf-8"))["contexts"] == {"a": before["contexts"]["a"]}
    assert "cannot be read" in cli("context", "add", "\udcff", "--address", "a:1", code=2).err


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "contexts = 3",
        "selected = 5",
        "selected = ['a']",
        "[contexts]\na = 3",
        "selected = 'a'\n[contexts.a]\naddress = '127.0.0.1:1'\ndescriptors = 5",
    ],
)
def test_a_broken_file_of_contexts(cli: Cli, tmp_path: Path, content: str) -> None:
    """What is wrong with it is said in one line, whatever reads it; completion has nothing to offer."""
    del cli.environment["WINDSHIFT_ADDRESS"]
    file = tmp_path / "config" / "windshift" / "contexts.toml"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    is_read = "descriptors" not in content  # only payloads need these
    lines = [["context", "ls"], ["context", "select", "a"], ["context", "add", "b", "--address", "a:1"]]
    for line in [*(lines if is_read else []), ["publish", "a.x", "1"]]:
        failed = cli(*line, code=2).err
        assert failed.startswith("windshift: ")
        assert str(file) in failed
    completed = cli.process(_WINDSHIFT_COMPLETE="bash_complete", COMP_CWORD="2", COMP_WORDS="windshift -c ")
    assert completed.stdout.decode().split() == ([] if is_read else ["plain,a"])


def test_a_home_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    """A context that cannot be stored is said to be so; other commands do without."""
    cli.environment["XDG_CONFIG_HOME"] = "/dev/null/config"
    assert "Not a directory" in cli("context", "add", "dev", "--address", "a:1", code=2).err
    cli.environment["XDG_CONFIG_HOME"] = "/proc/config"
    assert "No such file" in cli("context", "add", "dev", "--address", "a:1", code=1).err
    assert cli("streams", "ls", "-o", "json").json == []


def test_no_secret_is_shown(cli: Cli, tmp_path: Path) -> None:
    """A token that somebody wrote into the file is refused, and not shown."""
    del cli.environment["WINDSHIFT_ADDRESS"]
    file = tmp_path / "config" / "windshift" / "contexts.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[contexts.a]\naddress = 5\ntoken = 'top'\noidc = { client_secret = 'top' }\n")
    for line in (["ls"], ["ls", "-o", "json"], ["show", "a"], ["show", "a", "-o", "json"]):
        assert "top" not in cli("context", *line).out
    refused = cli("streams", "ls", "-c", "a", code=2).err
    assert "has the unknown 'token'" in refused
    assert "top" not in refused


def test_wrong_usage(cli: Cli) -> None:
    """Wrong usage exits with 2, in JSON too; a server that is not there with 5, and says what to do."""
    assert "No such command 'fly'" in cli("streams", "fly", code=2).err
    assert (
        "No such command" in json.loads(cli("streams", "fly", "-o", "json", code=2).err)["error"]["message"]
    )
    assert "is not a duration" in cli("streams", "ls", "--timeout", "x", code=2).err
    assert "above 0 seconds" in cli("streams", "ls", "--timeout", "0", code=2).err
    nobody = cli("streams", "ls", "--address", "127.0.0.1:1", "--timeout", "1s", "-o", "json", code=5)
    assert nobody.out == ""
    assert "windshift doctor" in json.loads(nobody.err)["error"]["hint"]
    assert "is host:port, such as" in cli("streams", "ls", "--address", "x", code=2).err
    for line in ("subscribe s c --ack", "subscribe s c --peek", "dead-letters watch", "state watch s"):
        gone = cli(*line.split(), "--address", "127.0.0.1:1", "--timeout", "0.5s", code=5)
        assert "the server 127.0.0.1:1 cannot be reached: connection refused" in gone.err
    assert "is host:port, without http://" in cli("streams", "ls", "--address", "http://a:1", code=2).err


def test_version_and_completion(orders: Cli) -> None:
    """The version of both sides; shells complete commands, and names that the server has."""
    told = orders("version", "-o", "json").json
    assert told["server"]
    assert told["libnghttp2"] == told["server_libnghttp2"] == libnghttp2_version()
    assert orders("version").out.count(f", libnghttp2 {libnghttp2_version()}") == 2
    assert orders("version", "--client").out.endswith(f", libnghttp2 {libnghttp2_version()}\n")
    for shell in ("bash", "zsh", "fish"):
        assert "_WINDSHIFT_COMPLETE" in orders("completion", shell).out
    line = "windshift consumers info orders acc"
    done = orders.process(_WINDSHIFT_COMPLETE="bash_complete", COMP_CWORD="4", COMP_WORDS=line)
    assert done.stdout.decode().splitlines() == ["plain,accounting"]


def said(process: subprocess.Popen[bytes]) -> bytes:
    """Return what a process wrote to stderr."""
    assert process.stderr is not None
    with process.stderr:
        return process.stderr.read()


def test_pipes_and_signals(orders: Cli) -> None:
    """A closed pipe ends quietly, Ctrl-C with 130; what was shown is flushed line by line."""
    orders("publish", "orders.x", "-", "--each", "-q", stdin="\n".join(map(str, range(3000))))
    tail = orders.popen(["tail", "orders", "--from", "start", "-f", "-o", "json"], stdout=-1, stderr=-1)
    assert tail.stdout is not None
    assert json.loads(tail.stdout.readline())["id"] == 1
    tail.stdout.close()
    orders("publish", "orders.x", "1", "-q")
    assert (tail.wait(60), said(tail)) == (0, b"")
    tail = orders.popen(["tail", "orders", "-n", "1", "-f"], stdout=-1, stderr=-1)
    assert tail.stdout is not None
    with tail.stdout:
        tail.stdout.readline()
        tail.send_signal(signal.SIGINT)
        assert (tail.wait(60), said(tail)) == (130, b"")


async def test_tail_of_an_older_server(orders: Cli) -> None:
    """What such a server does not find is refused; from a position on, its events are shown as always."""

    async def run(*line: str, code: int = 0) -> Result:
        return await asyncio.to_thread(orders, "tail", "orders", "-o", "json", *line, code=code)

    expected = (await run("--from", "start")).lines
    found = (await run("--from", "2", "-n", "1")).lines
    async with older_server(orders.environment["WINDSHIFT_ADDRESS"]) as (service, address):
        orders.environment["WINDSHIFT_ADDRESS"] = address
        shown = await run("--from", "start")
        assert shown.lines == expected
        assert shown.err == "an older server: this ends when no event came for 3 s\n"
        assert (await run("--from", "2", "-n", "1")).lines == found
        assert (await run("--since", "1h", "--type", "Order", "-q")).lines == found
        assert (await run("--from", "start", "--subject", "orders.eu.>", "-n", "1")).lines == expected[2:]
        assert (await run("--from", "start", "-n", "0")).out == ""
        for line in ((), ("-n", "2"), ("-n", "2", "--since", "1h"), ("-n", "2", "-f")):
            failed = json.loads((await run(*line, code=1)).err)["error"]
            assert failed["message"] == "this is an older server, which cannot find the newest events"
            assert "--from" in failed["hint"]
        assert len(service.consumers) == 4
        assert service.deleted == service.consumers


async def test_following_an_older_server(orders: Cli) -> None:
    """It shows what is stored from now on, or from a position on, until Ctrl-C."""
    async with older_server(orders.environment["WINDSHIFT_ADDRESS"]) as (service, address):
        environment = {**orders.environment, "WINDSHIFT_ADDRESS": address}
        for number, start in enumerate(((), ("--from", "4")), 4):
            line = ["tail", "orders", "-f", "-o", "json", *start]
            tail = orders.popen(line, stdout=-1, stderr=-1, env=environment)
            assert tail.stdout is not None
            with tail.stdout as out:
                await asyncio.wait_for(service.subscribed.wait(), 60)
                await asyncio.to_thread(orders, "publish", "orders.x", "1", "-q")
                for event_id in range(4, number + 1):
                    assert json.loads(await asyncio.to_thread(out.readline))["id"] == event_id
                tail.send_signal(signal.SIGINT)
                assert await asyncio.to_thread(tail.wait, 60) == 130
            remark = b"" if start else b"an older server: only what is stored from now on is shown\n"
            assert said(tail) == remark
            service.subscribed.clear()
        assert service.deleted == service.consumers


def test_a_long_stream_into_head(orders: Cli) -> None:
    """Whoever reads the first lines of many gets them, and the command ends at once and quietly."""
    orders("publish", "orders.x", "-", "--each", "-q", stdin="\n".join(map(str, range(3000))))
    line = "windshift tail orders --from start -o jsonl | head -3 | wc -l; echo ${PIPESTATUS[@]}; "
    line += "for words in --help 'streams ls' 'context ls' 'completion bash'; "
    line += "do windshift $words | true; echo ${PIPESTATUS[0]}; done"
    done = subprocess.run(
        ["bash", "-c", line],
        env=orders.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.stdout.split(), done.stderr) == (["3", *"0000000"], "")


def test_a_closed_stdout(orders: Cli) -> None:
    """Without a stdout the command does what it is told, and nobody reads what it prints."""
    for line in (
        "streams ls",
        "streams ls -o json",
        "streams edit orders --max-age 1d",
        "bench publish --count 2",
    ):
        done = subprocess.run(
            ["bash", "-c", f"windshift {line} >&- 2>&-"], env=orders.environment, check=False, timeout=100
        )
        assert done.returncode == 0, line
    assert orders("streams", "info", "orders", "-o", "json").json["spec"]["max_age"] == 86_400


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk(orders: Cli) -> None:
    """Output that cannot be written ends a command with one line."""
    for line in ("--help", "streams ls", "tail orders -o jsonl", "context ls", "completion bash"):
        done = subprocess.run(
            ["bash", "-c", f"windshift {line} > /dev/full"],
            env=orders.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
        assert "No space left on device" in done.stderr


def in_terminal(
    cli: Cli,
    *arguments: str,
    columns: int = 80,
    answer: str = "",
    interrupt: str = "",
    by: signal.Signals = signal.SIGINT,
    **environment: str,
) -> tuple[str, int]:
    """Run a command in a terminal of so many columns, and return what it shows and its exit code.

    It is answered its question, and interrupted when it shows what `interrupt` says.
    """
    ours, theirs = pty.openpty()
    process = cli.popen(
        arguments,
        env=cli.environment | {"COLUMNS": str(columns)} | environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    interrupted = False
    while True:
        if not select.select([ours], [], [], 10)[0] and interrupted and by is signal.SIGINT:
            process.send_signal(by)  # as somebody would whose first one came a moment too early
            continue
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
        if answer and b"[y/N]" in shown:
            os.write(ours, answer.encode())
            answer = ""
        if interrupt and interrupt.encode() in shown:
            process.send_signal(by)
            interrupt, interrupted = "", True
    os.close(ours)
    return shown.decode().replace("\r\n", "\n"), process.wait(60)


def test_terminals(orders: Cli) -> None:
    """A terminal has bold titles, clipped lines and questions; NO_COLOR and --no-color change that."""
    orders("publish", "orders.x", json.dumps("漢字" * 100), "-q")
    shown, _ = in_terminal(orders, "tail", "orders", "-n", "1")
    assert shown.endswith("…\n")
    assert "漢" in shown
    listed, _ = in_terminal(orders, "streams", "ls")
    assert listed.startswith("\x1b[1mNAME")
    listed, _ = in_terminal(orders, "streams", "ls", columns=200, NO_COLOR="1")
    assert listed.startswith("NAME")
    listed, _ = in_terminal(orders, "streams", "ls", "--no-color", columns=200)
    assert listed.startswith("NAME")
    asked, code = in_terminal(orders, "streams", "rm", "orders", answer="n\n")
    assert code == 1
    assert "would delete orders with its 4 events" in asked
    _, code = in_terminal(orders, "streams", "rm", "orders", answer="y\n")
    assert code == 0
    assert orders("streams", "ls", "-o", "json").json == []


def test_tables_of_two_widths(cli: Cli) -> None:
    """Columns stay in line at 80 and 200 columns, also where characters take two cells or none."""
    cli("streams", "ensure", "orders", "--subject", "orders.>", "-q")
    cli("consumers", "ensure", "orders", "accounting", "--from", "start", "-q")
    reasons = ("plain", "漢字" * 30, "e\u0301" * 40 + " end", "👍 of a whole line that is too long for it")
    for reason in reasons:
        cli("publish", "orders.x", "1", "-q")
        cli("subscribe", "orders", "accounting", "--dead-letter", "-n", "1", "--reason", reason, "-q")
    for columns in (80, 200):
        listed, _ = in_terminal(
            cli, "dead-letters", "ls", "--stream", "orders", columns=columns, NO_COLOR="1"
        )
        listed = re.sub(r"(?m)^t\S+", lambda found: "I" * len(found[0]), listed)
        listed = re.sub(r" +\d+[sm]  rej", lambda found: "AGE  rej".rjust(len(found[0])), listed)
        golden(f"dead-letters-{columns}", listed)
        assert all(width(line) <= columns for line in listed.splitlines())


def test_ctrl_c_ends_long_work_in_good_order(cli: Cli) -> None:
    """A bench removes its stream, a question is answered with nothing, a replay says how far it came."""
    shown, code = in_terminal(cli, "bench", "publish", "--count", "10000000", interrupt="published ")
    assert code == 130
    assert "Traceback" not in shown
    assert cli("streams", "ls", "-o", "json").json == []
    cli("streams", "ensure", "orders", "--subject", "orders.>", "-q")
    cli("consumers", "ensure", "orders", "accounting", "--from", "start", "-q")
    for _ in range(3):
        cli("publish", "orders.x", "1", "-q")
    cli("subscribe", "orders", "accounting", "--dead-letter", "-n", "3", "-q")
    both = ("--stream", "orders", "--all")
    assert in_terminal(cli, "dead-letters", "purge", *both, interrupt="[y/N]")[1] == 130
    assert len(cli("dead-letters", "ls", "-o", "json").json) == 3
    replay = cli.popen(["dead-letters", "replay", *both, "--rate", "1"], stdout=-1, stderr=-1)
    while not any(letter["replaying"] for letter in cli("dead-letters", "ls", "-o", "json").json):
        assert replay.poll() is None
    replay.send_signal(signal.SIGINT)
    out, err = replay.communicate(timeout=100)
    assert (replay.returncode, out) == (130, b"")
    assert err.startswith(b"stopped; ")


def test_sigterm_ends_long_work_in_good_order(cli: Cli) -> None:
    """As Ctrl-C does: what was begun is cleaned up, and a question is answered with nothing."""
    shown, code = in_terminal(
        cli, "bench", "publish", "--count", "10000000", interrupt="published ", by=signal.SIGTERM
    )
    assert code == 143
    assert "Traceback" not in shown
    assert cli("streams", "ls", "-o", "json").json == []
    cli("streams", "ensure", "orders", "--subject", "orders.>", "-q")
    assert in_terminal(cli, "streams", "rm", "orders", interrupt="[y/N]", by=signal.SIGTERM)[1] == 143


def test_a_bench_beside_another(cli: Cli) -> None:
    """It does not take the stream of another one, or of one that was killed, for its own."""
    cli("streams", "ensure", "windshift-bench", "--subject", "windshift-bench.>", "-q")
    refused = cli("bench", "publish", "--count", "1", code=4).err
    assert "there is a stream 'windshift-bench' already; does another bench run?" in refused
    assert "windshift-bench" in cli("streams", "ls").out


async def test_a_question_does_not_keep_the_connection_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop runs until somebody answers, so that the server hears of us."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as keyboard, os.fdopen(theirs) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        late = threading.Timer(20, keyboard.write, (b"n\n",))
        late.start()
        asyncio.get_running_loop().call_later(0.1, keyboard.write, b"y\n")
        await Session(Options()).confirm("would go")
        late.cancel()


def test_a_bench_that_fails(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what failed first as other commands do, whether that is a publish or the subscription."""
    publish = ws.Client.publish

    async def fail(*_: object) -> None:
        raise ws.BrokerUnavailable("no leader", reason="BROKER_UNAVAILABLE")

    async def delete_the_consumer(client: ws.Client, subject: str, message: object) -> None:
        await publish(client, subject, message)
        await client.stream("windshift-bench").consumer("bench").delete()

    monkeypatch.setattr(ws.Client, "publish", fail)
    for command in ("publish", "latency"):
        failed = cli("bench", command, "--count", "10", "-o", "json", code=5)
        assert json.loads(failed.err)["error"]["reason"] == "BROKER_UNAVAILABLE"
    monkeypatch.setattr(ws.Client, "publish", delete_the_consumer)
    assert "CONSUMER_NOT_FOUND" in cli("bench", "latency", "--count", "10", code=3).err
    assert cli("streams", "ls", "-o", "json").json == []


def test_what_is_stored_while_a_tail_begins_is_shown_once(
    orders: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest events end where those begin that are followed."""
    info = ws.Stream.info

    async def info_and_more(stream: ws.Stream) -> ws.StreamInfo:
        found = await info(stream)
        await stream.events.delete(3)
        orders_of = ws.connect(orders.environment["WINDSHIFT_ADDRESS"], namespace=orders.namespace)
        async with orders_of as client:
            await client.publish("orders.x", test.StringValue(value="later"))
        return found

    monkeypatch.setattr(ws.Stream, "info", info_and_more)
    shown = orders("tail", "orders", "-n", "2", "-o", "jsonl").lines
    assert [event["id"] for event in shown] == [1, 2]


def break_tails_off(monkeypatch: pytest.MonkeyPatch, errors: list[ws.WindshiftError]) -> None:
    """Have each tail end at once with the next of these errors, as long as there are any."""
    tail_many = Events.tail_many

    async def break_off(events: Events, **which: Any) -> AsyncIterator[list[Any]]:
        if errors:
            raise errors.pop(0)
        async for items in tail_many(events, **which):
            yield items

    monkeypatch.setattr(Events, "tail_many", break_off)


def test_a_tail_beside_which_the_broken_one_counts(orders: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit ends a tail that begins, and not one that goes on: a server may still count the call before."""
    too_many = ws.QuotaExceeded("too many streams", metadata={"quota": "max_streams"})
    errors: list[ws.WindshiftError] = [ws.Unavailable("cut off"), too_many]
    break_tails_off(monkeypatch, errors)
    tail = ("tail", "orders", "--from", "start", "-n", "3", "-f", "-o", "jsonl")
    assert [event["id"] for event in orders(*tail).lines] == [1, 2, 3]
    errors.append(too_many)
    assert "too many streams" in orders(*tail, code=5).err


def test_a_tail_whose_token_expires_during_an_outage(
    orders: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It goes on with another token; if that is refused as well, it ends."""
    (tmp_path / "token").write_text("t")
    away, refused = ws.Unavailable("cut off"), ws.Unauthenticated("too old")
    errors: list[ws.WindshiftError] = [away, refused]
    break_tails_off(monkeypatch, errors)
    token = ("--token-file", str(tmp_path / "token"))
    tail = ("tail", "orders", "--from", "start", "-n", "3", "-f", "-o", "jsonl", *token)
    assert [event["id"] for event in orders(*tail).lines] == [1, 2, 3]
    errors += [away, refused, refused]
    assert "too old" in orders(*tail, code=6).err


@pytest.mark.parametrize(
    ("waits", "by", "code"),
    [
        (True, signal.SIGINT, 130),
        (False, signal.SIGINT, 130),
        (True, signal.SIGTERM, 143),
        (True, signal.SIGHUP, 143),
    ],
)
def test_an_end_while_lines_are_published(
    cli: Cli, tmp_path: Path, waits: bool, by: signal.Signals, code: int
) -> None:
    """What was read is stored, and it is said how many events that are; nothing behind them is published."""
    cli("streams", "ensure", "orders", "--subject", "orders.>", "-q")
    lines = tmp_path / "lines"
    lines.write_text("1\n" * (100 if waits else 2_000_000))
    with lines.open("rb") as file:
        publishing = cli.popen(
            ["publish", "orders.x", "-", "--each"], stdin=-1 if waits else file, stdout=-1, stderr=-1
        )
    if publishing.stdin is not None:
        publishing.stdin.write(lines.read_bytes())
        publishing.stdin.flush()
    while stored(cli) < 100:
        assert publishing.poll() is None
    publishing.send_signal(by)
    assert publishing.wait(60) == code
    assert publishing.stdout is not None
    with publishing.stdout:
        told = publishing.stdout.read()
    assert told.startswith(b"stored %d events, 1 to " % stored(cli))
    assert said(publishing) == b"stopped; the lines after these were not published\n"
    if publishing.stdin is not None:
        publishing.stdin.close()
    assert (stored(cli) == 100) is waits


def test_lines_without_an_end(cli: Cli) -> None:
    """Receipts are not kept for ever: programs are told of events while there are more; errors count all."""
    cli("streams", "ensure", "orders", "--subject", "orders.>", "-q")
    publish = ["publish", "orders.x", "-", "--each"]
    with cli.popen([*publish, "-o", "json"], stdin=-1, stdout=-1) as publishing:
        assert publishing.stdin is not None
        assert publishing.stdout is not None
        publishing.stdin.write(b"1\n" * 10_000)
        publishing.stdin.flush()
        told = [json.loads(publishing.stdout.readline())["id"] for _ in range(10_000)]
        assert sorted(told) == [*range(1, 10_001)]
        publishing.stdin.close()
        assert publishing.stdout.read() == b""
    assert publishing.returncode == 0
    assert cli(*publish, stdin="1\n" * 10_001).out.startswith("stored 10001 events, 10001 to 20001 (")
    wrong = "1\n" * 10_001 + json.dumps("x" * 2_000_000) + "\n"
    failed = cli(*publish, "--in-flight", "1", stdin=wrong, code=2)
    assert failed.out.startswith("stored 10001 events, 20002 to 30002 (")
    assert "event 10002: " in failed.err


@pytest.mark.parametrize("options", [(), ("-o", "json")])
def test_lines_whose_ids_nobody_wants_to_know(cli: Cli, options: tuple[str, ...]) -> None:
    """All of them are published, also where whoever reads stdout leaves; what fails is told."""
    cli("streams", "ensure", "orders", "--subject", "orders.>", "-q")
    for lines, code in ((b"1\n" * 10_001, 0), (b"wrong", 2)):
        publish = ["publish", "orders.x", "-", "--each", *options]
        with cli.popen(publish, stdin=-1, stdout=-1, stderr=-1) as publishing:
            assert publishing.stdin is not None
            assert publishing.stdout is not None
            publishing.stdout.close()
            publishing.stdin.write(lines)
            publishing.stdin.close()
            assert (b"line 1" in said(publishing)) is (code == 2)
        assert publishing.returncode == code
        assert stored(cli) == 10_001


def stored(cli: Cli) -> int:
    """Return how many events the stream has."""
    events: int = cli("streams", "info", "orders", "-o", "json").json["events"]
    return events


def test_progress_is_for_terminals(cli: Cli) -> None:
    """Long work says on a terminal how far it is, and cleans up behind itself; elsewhere it does not."""
    shown, code = in_terminal(cli, "bench", "publish", "--count", "2000", "--storage", "memory")
    assert code == 0
    assert re.search(r"\rpublished \d+ \(\d+/s\)\x1b\[K", shown)
    assert "\r\x1b[Kpublished " in shown.replace("\n", "")
    quiet = cli.process("bench", "publish", "--count", "200", "--storage", "memory")
    assert quiet.stderr == b""


def test_explain(orders: Cli) -> None:
    """How an event stands at each consumer: a line each for people, all of it for programs."""
    told = orders("explain", "orders", "1").out.splitlines()
    assert told[0].startswith("1 orders.placed, stored 20")
    assert told[1:] == ["accounting: to be delivered; nobody is subscribed"]
    value = orders("explain", "orders", "1", "--consumer", "accounting", "-o", "json").json
    assert (value["presence"], value["subject"]) == ("held", "orders.placed")
    (consumer,) = value["consumers"]
    assert (consumer["state"], consumer["hindrances"]) == ("pending", ["no_subscriber"])
    orders("subscribe", "orders", "accounting", "--dead-letter", "-n", "1", "-q")
    assert "accounting: given up: it is a dead letter" in orders("explain", "orders", "1").out
    orders("events", "rm", "orders", "2", "--yes", "-q")
    gone = orders("explain", "orders", "2").out
    assert gone.startswith("orders holds event 2 no more; removed by one of: purge or delete")
    assert orders("explain", "orders", "9").out == "orders has no event 9 yet: its last id is 3\n"
