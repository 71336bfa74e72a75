"""What the broker does not let this server's user do: told in the log, once in a while for each kind."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.support.broker import connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats.protocol import ErrorKind, ServerError
from windshift.server.monitoring.violations import ViolationLog
from windshift.server.telemetry.log_text import fields_of


def forbidden(subject: str | bytes, kind: ErrorKind = ErrorKind.PUBLISH_FORBIDDEN) -> ServerError:
    """Forbid something."""
    return ServerError(kind, subject if isinstance(subject, bytes) else subject.encode())


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged."""
    return [record.getMessage() for record in caplog.records]


def test_told_seldom(caplog: pytest.LogCaptureFixture) -> None:
    """One record for each kind in a while, whatever the names in it; inboxes are not shown."""
    log = ViolationLog("_INBOX_me", interval=3600)
    subjects = [
        *(f"$JS.API.STREAM.MSG.GET.S{number}" for number in range(5)),
        *(f"$JS.API.STREAM.INFO.S{number}" for number in range(5)),
        *(f"orders.{number}" for number in range(5)),
        "_INBOX_me.secret.1",
    ]
    for subject in subjects:
        for kind in (ErrorKind.PUBLISH_FORBIDDEN, ErrorKind.SUBSCRIPTION_FORBIDDEN):
            log.log(forbidden(subject, kind))
    for what in ("publish", "subscribe"):
        assert [text for text in texts(caplog) if f"may not {what} to" in text] == [
            f'NATS: this user may not {what} to "{subject}"; what needs it fails'
            for subject in (subjects[0], subjects[5], subjects[10], "_INBOX_me.>")
        ]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("$JS.API.CONSUMER.MSG.NEXT.S.c", "$JS.API.CONSUMER.CREATE.S.c"),
        ("$JS.API.DIRECT.GET.S", "$JS.API.STREAM.NAMES"),
        ("$JS.ACK.S.c.1.1.1.1.0", "$JS.API.INFO"),
        ("$KV.store.key", "orders.new"),
        ("_WS.note.dead.s.c", "_WS.dead.s.c.1.1"),
        ("_INBOX_me.secret.1", "orders.new"),
    ],
)
def test_kinds(caplog: pytest.LogCaptureFixture, one: str, other: str) -> None:
    """Different operations are told of each."""
    log = ViolationLog("_INBOX_me", interval=3600)
    for subject in (one, other, one, other):
        log.log(forbidden(subject))
    assert len(texts(caplog)) == 2


def test_how_many_were_left_out(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next record says how many of its kind there were since the last one."""
    now = 100.0
    monkeypatch.setattr("windshift.server.monitoring.violations.time.monotonic", lambda: now)
    log = ViolationLog("_INBOX_me")
    for number in range(4):
        log.log(forbidden(f"orders.{number}"))
    now += 599
    log.log(forbidden("orders.late"))
    now += 1
    log.log(forbidden("orders.later"))
    assert [fields_of(record) for record in caplog.records] == [{}, {"more": 4}]
    assert 'publish to "orders.later"' in texts(caplog)[1]


@pytest.mark.parametrize("subject", ["_INBOX_meandmore.x", "_INBOX_me", "_INBOX.others.x"])
def test_inboxes_of_others(caplog: pytest.LogCaptureFixture, subject: str) -> None:
    """Only what is below our own prefix is cut."""
    ViolationLog("_INBOX_me").log(forbidden(subject))
    assert f'"{subject}"' in texts(caplog)[0]


def test_a_subject_that_is_no_text(caplog: pytest.LogCaptureFixture) -> None:
    """It is shown as well as can be."""
    ViolationLog("_INBOX_me").log(forbidden(b"a.\xff"))
    assert '"a.\ufffd"' in texts(caplog)[0]


async def test_what_is_forbidden_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a real server forbids is in the log, as an error, and the connection goes on."""
    config = tmp_path / "config"
    permissions = '{publish: {deny: "No.>"}, subscribe: {deny: "No.>"}}'
    config.write_text(f"authorization {{users: [{{user: me, password: me, permissions: {permissions}}}]}}")
    server = NatsServer(tmp_path, "--config", str(config))
    server.start()
    try:
        async with connect(f"nats://me:me@127.0.0.1:{server.port}") as broker:
            connection = broker.connection
            connection.violations.on_any.append(ViolationLog("_INBOX_windshift").log)
            for subject in (b"No.A", b"No.B"):
                connection.publish(subject)
                connection.subscribe(subject, lambda _: None)
            for _ in range(2):  # an answer may overtake what the server has yet to say of the last subject
                await broker.api.call("INFO", None, in_seconds(30))
            assert connection.reconnects == 0
    finally:
        server.kill()
    errors = [record for record in caplog.records if "may not" in record.getMessage()]
    assert {record.levelname for record in errors} == {"ERROR"}
    assert [record.getMessage() for record in errors] == [
        f'NATS: this user may not {what} to "No.A"; what needs it fails' for what in ("publish", "subscribe")
    ]
