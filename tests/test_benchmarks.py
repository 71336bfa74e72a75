"""The benchmarks: reading reports, medians, ratios, bars; and what takes turns with Windshift."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest

from benchmarks import h2load, limits, throughput
from benchmarks.bars import judge
from benchmarks.bench import Options, contract_servers, prepared, windshift_servers
from benchmarks.contract import peer_server
from benchmarks.credentials import credentials_of, write_rules
from benchmarks.figures import (
    BEFORE,
    COMPARISON,
    PEER,
    WINDSHIFT,
    WITH_TOKEN,
    Figures,
    as_json,
    table,
    verdict_table,
)
from benchmarks.h2load import parse, publish_request
from benchmarks.limits import NATS_BENCH, OWN, rate_of
from benchmarks.load import percentiles
from benchmarks.memory import RESIDENT, START, TOKENS
from benchmarks.page import merged, page
from benchmarks.peers import opening
from benchmarks.processes import SERVER, FailedToRun, program, server_of, windshift_server
from benchmarks.run import MEASUREMENTS, chosen
from benchmarks.scale import ACTIVE, active, named
from benchmarks.throughput import (
    CONSUME,
    LIMITS,
    MANY,
    PER_SECOND,
    PUBLISH,
    PUBLISH_OWN,
    SERVER_CPU,
    WAYS,
    limit_of_publishing,
    many_name,
    measure_consume,
    measure_publish,
    publish_own,
)
from benchmarks.workers import FEWEST, REPEATED, TWO, WORKERS_CONSUME, consume
from windshift.server.auth.actions import Publish
from windshift.server.auth.policy_file import read_policy

ROOT = Path(__file__).resolve().parent.parent
MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "memory_gib": 4,
    "system": "Linux 6",
    "python": "3.11.7",
    "versions": {"windshift": "0.1.0"},
    "nats-server": "nats-server: v2",
    "load_average_before": 0.1,
}
REPORT = """
finished in 2.63s, 38021.44 req/s, 1.38MB/s
requests: 100000 total, 100000 started, 100000 done, 100000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 100000 2xx, 0 3xx, 0 4xx, 0 5xx
"""


def measured() -> Figures:
    """Return figures of two runs; in each Windshift is ten times faster."""
    figures = Figures()
    for rate in (2000.0, 4000.0):
        figures.add(PUBLISH, WINDSHIFT, PER_SECOND, rate * 10)
        figures.add(PUBLISH, COMPARISON, PER_SECOND, rate)
        figures.add(PUBLISH, WINDSHIFT, SERVER_CPU, 40.0)
    return figures


def measured_versions() -> Figures:
    """Return figures of two runs with a version that needs half the CPU, and twice the memory."""
    figures = Figures()
    for cpu in (20.0, 30.0):
        for subject, times in ((BEFORE, 2), (WINDSHIFT, 1)):
            figures.add(PUBLISH, subject, SERVER_CPU, cpu * times)
            figures.add(START, subject, RESIDENT, 48.0 / times)
            figures.add(START, TOKENS.replace(WINDSHIFT, subject), RESIDENT, 60.0 / times)
    return figures


def test_h2load_reports_are_read() -> None:
    """The rate, and how many requests were answered with 2xx."""
    load = parse(REPORT, 1.5)
    assert (load.per_second, load.answered, load.cpu_seconds) == (38021.44, 100_000, 1.5)


def test_anything_else_is_no_report() -> None:
    """h2load exits with 0 also when it could not connect."""
    with pytest.raises(FailedToRun):
        parse("could not connect", 0.0)


def test_latencies_are_told_by_their_percentiles() -> None:
    """In milliseconds, from seconds, exact to a thousandth; one of hours counts as one of an hour."""
    seconds = [number / 1000 for number in range(1, 1001)]
    assert percentiles(seconds, 50, 99, 99.9) == pytest.approx([500, 990, 999], rel=0.001)
    assert percentiles([10_000.0], 99) == pytest.approx([3_600_000], rel=0.001)


def test_requests_carry_a_text_of_the_size_asked_for() -> None:
    """100 bytes of text, and the two that Protobuf puts before it."""
    assert len(publish_request("orders.created", 100).data.value) == 102


def test_ratios_are_those_of_runs_that_followed_each_other() -> None:
    """The machine's speed may drift from run to run. Nothing is a multiple of zero."""
    idle = Figures()
    for subject in (WINDSHIFT, COMPARISON):
        idle.add(PUBLISH, subject, SERVER_CPU, 0.0)
    assert idle.ratio(PUBLISH, SERVER_CPU, WINDSHIFT, COMPARISON) is None
    assert measured().ratio(PUBLISH, PER_SECOND, WINDSHIFT, COMPARISON) == 10
    assert Figures().ratio(PUBLISH, PER_SECOND, WINDSHIFT, COMPARISON) is None


def test_only_what_was_measured_is_judged() -> None:
    """A bar without its figure says nothing."""
    verdicts = judge(measured())
    assert [(verdict.value, verdict.passed) for verdict in verdicts] == [(10.0, True), (40.0, False)]


def test_versions_are_held_against_each_other() -> None:
    """Where the version before was measured, its bars are those that count; some figures have none."""
    verdicts = judge(measured_versions())
    assert [(verdict.value, verdict.limit, verdict.passed) for verdict in verdicts] == [
        (0.5, 0.72, True),
        (2.0, None, None),
        (48.0, 46, False),
    ]
    printed = verdict_table(verdicts).splitlines()
    assert [line.split()[-1] for line in printed[2:]] == ["met", "2", "MISSED"]
    assert [bar["met"] for bar in as_json(Figures(), verdicts, {})["bars"]] == [True, None, False]


def test_batches_are_held_against_single_events_in_each_window() -> None:
    """Of the version before, which acknowledged them one by one."""
    figures = Figures()
    single, *_ = WAYS
    figures.add(single.name, BEFORE, PER_SECOND, 1000)
    figures.add(single.name, WINDSHIFT, PER_SECOND, 1520)
    batches = [way for way in WAYS if way.batch]
    for way, rate in zip(batches, (2300, 2400, 3000), strict=True):
        figures.add(way.name, WINDSHIFT, PER_SECOND, rate)
    figures.add(batches[-1].name, WITH_TOKEN, PER_SECOND, 2350)
    assert [(verdict.value, verdict.limit, verdict.passed) for verdict in judge(figures)] == [
        (1.52, 1.53, False),
        (2.3, 2.36, False),
        (2.4, 2.36, True),
        (3.0, 2.36, True),
        (2.35, 2.36, False),
    ]


def test_each_figure_stands_beside_that_of_the_version_before() -> None:
    """Also where a subject says how the server was set up; the other version's rows have no ratio."""
    printed = table(measured_versions())
    assert printed.splitlines()[0].endswith(f"ratio to {BEFORE}")
    ratios = [line.split()[-1] for line in printed.splitlines()[2:] if WINDSHIFT in line]
    assert ratios == ["0.50", "2.00", "2.00"]
    assert table(measured()).splitlines()[0].endswith(f"ratio to {COMPARISON}")


def test_versions_take_turns_beginning_with_the_one_before() -> None:
    """Alone, there is this one only."""
    path = Path("before/.venv/bin/windshift")
    assert list(Options(runs=1, before=path).versions.items()) == [(BEFORE, path), (WINDSHIFT, SERVER)]
    assert Options(runs=1).versions == {WINDSHIFT: SERVER}


def test_other_checkouts_must_run_their_own_code(tmp_path: Path) -> None:
    """An environment that was copied runs the code of where it came from."""
    programs = tmp_path / ".venv" / "bin"
    with pytest.raises(FailedToRun, match="make install"):
        server_of(tmp_path)
    programs.mkdir(parents=True)
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with pytest.raises(FailedToRun, match="is the code of"):
        server_of(tmp_path)
    python.write_text(f"#!/bin/sh\necho {tmp_path}/src/windshift/__init__.py\n")
    assert server_of(tmp_path) == programs / "windshift"


def test_results_are_printed_and_written() -> None:
    """The tables name every figure and bar; the object for the file holds every value."""
    figures = measured()
    verdicts = judge(figures)
    assert table(figures).count(WINDSHIFT) == 2
    assert "MISSED" in verdict_table(verdicts)
    written = as_json(figures, verdicts, {"cores": 2})
    assert written["figures"][0]["values"] == [20_000, 40_000]
    assert [bar["met"] for bar in written["bars"]] == [True, False]


def test_long_measurements_must_be_asked_for() -> None:
    """By name or with --soak."""
    assert "soak" not in chosen((), soak=False)
    assert chosen((), soak=True) == list(MEASUREMENTS)
    assert chosen(("soak", "publish"), soak=False) == ["publish", "soak"]


def test_only_some_measurements_take_two_versions() -> None:
    """The others are left out, and refused when they are asked for."""
    both = ["publish", "many", "latency", "consume", "start", "idle-streams"]
    assert chosen((), soak=False, before=True) == both
    assert chosen(("start",), soak=False, before=True) == ["start"]
    for only, soak in ((("looking",), False), ((), True)):
        with pytest.raises(click.UsageError):
            chosen(only, soak=soak, before=True)


def test_raw_clients_open_their_calls_in_one_write() -> None:
    """The preface, SETTINGS, and a HEADERS frame for each call."""
    sent = opening([("/a.B/C", b"\x08\x01", True)] * 3)
    assert sent.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert sent.count(b"\0\0\0\0\x02\x08\x01") == 3


def test_rules_are_a_valid_file_whose_callers_may_publish(tmp_path: Path) -> None:
    """With an issuer and without; and each signed token is another one."""
    for issuer in (False, True):
        rules = write_rules(tmp_path, issuer=issuer)
        policy = read_policy(rules.file)
        assert len(policy.principals) == 50
        assert bool(policy.issuers) is issuer
        assert policy.principals["service-49"].permissions.decide(Publish("bench-1")).allowed
        assert len(set(rules.tokens(2))) == 2


def test_calls_without_a_token_send_no_credentials() -> None:
    """Nobody asks for any, then."""
    assert credentials_of("") == []
    assert credentials_of("secret") == [("authorization", "Bearer secret")]


def test_the_page_of_results() -> None:
    """It has every figure, a chart of each quantity, and of two runs the later one."""
    figures = measured()
    first = as_json(figures, judge(figures), MACHINE)
    figures.add(PUBLISH, WINDSHIFT, SERVER_CPU, 50.0)
    written = page(merged([first, as_json(figures, judge(figures), MACHINE)]))
    assert "## Publish\n\nMeasured with an earlier version, beside other work.\n\n" in written
    assert "| | | median | runs |" in written
    assert f"| {PER_SECOND} | {WINDSHIFT} | 30,000 | 2 |\n| | {COMPARISON} | 3,000 | 2 |" in written
    assert f"| {SERVER_CPU} | {WINDSHIFT} | 40 | 3 |" in written
    assert written.count("xychart-beta") == 2
    assert f'x-axis ["{WINDSHIFT}"]\n  y-axis "{SERVER_CPU}" 0 --> 44\n  bar [40]' in written
    assert f'x-axis ["{WINDSHIFT}", "{COMPARISON}"]' in written
    assert "bar [30000, 3000]" in written


def test_the_page_is_that_of_the_results() -> None:
    """The committed page is what the committed results give."""
    results = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    assert (ROOT / "docs" / "benchmarks.md").read_text() == page(results)


DRIVER = """
import asyncio, sys
from pathlib import Path
from benchmarks.processes import drive, running

async def work():
    async with running("sleeper", ["sleep", "600"], Path(sys.argv[1])) as started:
        print(started.pid, flush=True)
        await asyncio.sleep(600)

drive(work())
"""


def test_a_driver_that_is_terminated_leaves_no_process(tmp_path: Path) -> None:
    """SIGTERM ends a driver as Ctrl-C does, in the background too; what it started is stopped."""
    background = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    command = [*background, sys.executable, "-c", DRIVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT) as driver:
        assert driver.stdout is not None
        started = int(driver.stdout.readline())
        driver.terminate()
        assert driver.wait(60) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(started, 0)


REPORT_OF_NATS = """
NATS JetStream asynchronous publish stats: 41,872 msgs/sec ~ 4.1 MiB/sec ~ 23.88us
"""
REPORT_OF_CLIENTS = """
  [1] 10,500 msgs/sec ~ 1.0 MiB/sec ~ 95.24us (5,000 msgs)
  [2] 10,400 msgs/sec ~ 1.0 MiB/sec ~ 96.15us (5,000 msgs)

 NATS JetStream asynchronous publish aggregated stats: 20,872 msgs/sec ~ 2.0 MiB/sec
 message rates min 10,400 | avg 10,450 | max 10,500 | stddev 50 msgs
"""


def test_reports_of_nats_bench_are_read() -> None:
    """Of one client, and of several together."""
    assert rate_of(REPORT_OF_NATS) == 41_872
    assert rate_of(REPORT_OF_CLIENTS) == 20_872
    with pytest.raises(FailedToRun):
        rate_of("nats: error: no such stream")


class Few(Options):
    """Counts so small that the figures say nothing."""

    def scaled(self, count: int) -> int:
        """Return a few hundred."""
        return count // 200


async def test_a_peer_takes_turns_with_windshift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is started by its command line, on our broker; what has batches is for Windshift alone."""
    figures = Figures()
    ways = (WAYS[0], WAYS[-1])
    monkeypatch.setattr(throughput, "WAYS", ways)
    async with prepared(tmp_path, Few(runs=1, peer=f"{SERVER} serve"), figures) as bench:
        await measure_publish(bench)
        await measure_consume(bench)
    assert not figures.notes or not h2load.available()
    for name in (PUBLISH, PUBLISH_OWN) if h2load.available() else (PUBLISH_OWN,):
        for subject in (WINDSHIFT, COMPARISON, PEER):
            assert figures.get(name, subject, PER_SECOND)
            assert figures.get(name, subject, SERVER_CPU)
    limit = NATS_BENCH if limits.installed() else OWN
    assert figures.get(PUBLISH, limit, PER_SECOND)
    for way in ways:
        assert figures.get(way.name, WINDSHIFT, PER_SECOND)
        assert figures.get(way.name, WITH_TOKEN, PER_SECOND)
        assert figures.get(way.name, limit, PER_SECOND)
        assert (figures.get(way.name, PEER, SERVER_CPU) is None) is bool(way.batch)
    assert not h2load.available() or any("ratio to the peer" in verdict.text for verdict in judge(figures))


async def test_a_peer_may_run_already_with_a_broker_of_its_own(tmp_path: Path) -> None:
    """Nobody knows what it costs, and it says itself how many events it has stored."""
    async with (
        windshift_server(tmp_path, None) as running,
        prepared(tmp_path, Few(runs=1, peer=running.address), Figures()) as bench,
        contract_servers(bench, CONSUME, "Events", "EnsureConsumer") as servers,
        servers[PEER].stream() as stream,
    ):
        peer = servers[PEER]
        await peer.storage.fill(stream, 3, 100)
        await publish_own(bench, PEER, peer, 3)
        assert await peer.storage.count(stream) == 3
        assert await peer.consumer(stream)
    assert bench.figures.get(PUBLISH_OWN, PEER, PER_SECOND)
    assert bench.figures.get(PUBLISH_OWN, PEER, SERVER_CPU) is None


async def test_a_peer_is_left_out_where_it_lacks_what_is_measured(tmp_path: Path) -> None:
    """The comparison server has nothing but publishing."""
    figures = Figures()
    async with prepared(tmp_path, Few(runs=1), figures) as bench:
        url = f"nats://{bench.nats.address}"
        async with program(tmp_path, "comparison_server", url) as (peer, _):
            with_peer = replace(bench, options=Few(runs=1, peer=peer.address))
            async with contract_servers(with_peer, CONSUME, "Events", "EnsureConsumer") as servers:
                assert list(servers) == [WINDSHIFT]
    assert figures.notes == [
        "consume: the peer has no EnsureConsumer and EnsureStream and Events, so it was left out."
    ]


@pytest.mark.parametrize(
    ("named", "said"), [("no-such-server --fast", "names no program"), ("false", "does not listen")]
)
async def test_a_peer_that_does_not_start_fails_with_a_reason(tmp_path: Path, named: str, said: str) -> None:
    """A program that is not there, and one that ends."""
    async with prepared(tmp_path, Few(runs=1), Figures()) as bench:
        with pytest.raises(FailedToRun, match=f"WINDSHIFT_PEER {said}"):
            async with peer_server(tmp_path, named, bench.nats):
                pass


async def test_active_consumers_each_get_all_events(tmp_path: Path) -> None:
    """The cost is that of a delivery: three consumers share them out no more than one does."""
    async with prepared(tmp_path, Few(runs=1), Figures()) as bench:
        await active(bench, [1, 3])
    for consumers in (1, 3):
        assert bench.figures.get(ACTIVE, named(consumers), SERVER_CPU)


async def test_two_workers_share_the_events_of_two_connections(tmp_path: Path) -> None:
    """Each gets some, and none comes twice."""
    two = {"WINDSHIFT_WORKERS": "2"}
    async with (
        prepared(tmp_path, Few(runs=1), Figures()) as bench,
        windshift_server(tmp_path, bench.nats, environment=two) as started,
    ):
        await consume(bench, TWO, started, 1_000)
    repeated, fewest = (bench.figures.get(WORKERS_CONSUME, TWO, what) for what in (REPEATED, FEWEST))
    assert repeated
    assert repeated.values == [0]
    assert fewest
    assert 0 < fewest.median <= 50


async def test_limits_of_publishing_need_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to publish many stands beside one without a server between, as far as our client has it."""
    monkeypatch.setattr(limits, "installed", lambda: False)
    async with prepared(tmp_path, Few(runs=1), Figures()) as bench, windshift_servers(bench) as servers:
        for limit, ways in LIMITS.items():
            names = [many_name(*way) for way in ways]
            await limit_of_publishing(bench, names, servers[WINDSHIFT], 1_000, limit)
    assert {figure.measurement for figure in bench.figures} == {
        many_name(way, each) for way, each in MANY if "without" not in way
    }
