"""The parts of the benchmarks that need no server: reading reports, medians, ratios, bars."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bars import judge
from benchmarks.credentials import credentials_of, write_rules
from benchmarks.figures import COMPARISON, WINDSHIFT, Figures, as_json, table, verdict_table
from benchmarks.h2load import parse, publish_request
from benchmarks.peers import opening
from benchmarks.processes import FailedToRun
from benchmarks.run import MEASUREMENTS, chosen
from benchmarks.throughput import PER_SECOND, PUBLISH, SERVER_CPU
from windshift.server.auth.actions import Publish
from windshift.server.auth.policy_file import read_policy

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


def test_h2load_reports_are_read() -> None:
    """The rate, and how many requests were answered with 2xx."""
    load = parse(REPORT, 1.5)
    assert (load.per_second, load.answered, load.cpu_seconds) == (38021.44, 100_000, 1.5)


def test_anything_else_is_no_report() -> None:
    """h2load exits with 0 also when it could not connect."""
    with pytest.raises(FailedToRun):
        parse("could not connect", 0.0)


def test_requests_carry_a_text_of_the_size_asked_for() -> None:
    """100 bytes of text, and the two that Protobuf puts before it."""
    assert len(publish_request("orders.created", 100).data.value) == 102


def test_ratios_are_those_of_runs_that_followed_each_other() -> None:
    """The machine's speed may drift from run to run."""
    assert measured().ratio(PUBLISH, PER_SECOND, WINDSHIFT, COMPARISON) == 10
    assert Figures().ratio(PUBLISH, PER_SECOND, WINDSHIFT, COMPARISON) is None


def test_only_what_was_measured_is_judged() -> None:
    """A bar without its figure says nothing."""
    verdicts = judge(measured())
    assert [(verdict.value, verdict.passed) for verdict in verdicts] == [(10.0, True), (40.0, False)]


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
