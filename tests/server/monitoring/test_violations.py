"""What the broker does not let its user do, in the log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.broker import connect, in_seconds
from tests.support.nats_server import running_nats
from windshift.nats.protocol import ServerError, read_error
from windshift.server.monitoring.violations import ViolationLog


def read(kind: str, subject: str) -> ServerError:
    """Read what the broker says of a subject."""
    return read_error(f"'Permissions Violation for {kind} to \"{subject}\"'".encode())


def test_told_seldom(caplog: pytest.LogCaptureFixture) -> None:
    """One record for each kind in a while, whatever the names in it; inboxes are not shown."""
    violations = ViolationLog("_INBOX_me", interval=3600)
    subjects = [
        *(f"$JS.API.STREAM.MSG.GET.S{number}" for number in range(5)),
        *(f"$JS.API.STREAM.INFO.S{number}" for number in range(5)),
        *(f"orders.{number}" for number in range(5)),
        "_INBOX_me.secret.1",
    ]
    for subject in subjects:
        for kind in ("Publish", "Subscription"):
            violations.told(read(kind, subject))
    may_not = [record.getMessage() for record in caplog.records]
    for what in ("publish", "subscribe"):
        assert [text for text in may_not if f"may not {what} to" in text] == [
            f'NATS: this user may not {what} to "{subject}"; what needs it fails'
            for subject in (subjects[0], subjects[5], subjects[10], "_INBOX_me.>")
        ]


async def test_what_is_forbidden_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a real broker forbids is in the log once, as an error, and the connection goes on."""
    config = tmp_path / "config"
    may = '{publish: {deny: "No.>"}, subscribe: {deny: "No.>"}}'
    config.write_text(f"authorization {{ users: [{{user: me, password: me, permissions: {may}}}] }}")
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with connect(f"nats://me:me@127.0.0.1:{server.port}") as broker:
            connection = broker.connection
            connection.violations.on_any.append(ViolationLog("_INBOX_windshift").told)
            for subject in (b"No.A", b"No.B"):
                connection.publish(subject)
                connection.subscribe(subject, lambda _: None)
            async with asyncio.timeout(20):
                while caplog.text.count("this user may not") < 2:  # noqa: ASYNC110 - the log has no event
                    await asyncio.sleep(0.005)
            await broker.api.call("INFO", None, in_seconds(20))
            assert connection.reconnects == 0
    assert {record.levelname for record in caplog.records if "may not" in record.message} == {"ERROR"}
    assert caplog.text.count("this user may not") == 2
    assert 'may not publish to "No.A"' in caplog.text
    assert 'may not subscribe to "No.A"' in caplog.text
