"""The audit log."""

from __future__ import annotations

import logging
from math import inf
from typing import Any

import pytest

from windshift.server.auth.audit import AUDIT, Audit, Caller
from windshift.server.auth.authenticate import Identity
from windshift.server.auth.permissions import Permissions
from windshift.server.auth.policy import Principal
from windshift.server.config.tree import LogLevel
from windshift.server.domain.errors import PermissionDenied, QuotaExceeded, Unauthenticated
from windshift.server.process.logging import configure_logging

ANN = Identity(Principal("ann", Permissions()), "token 12345678", inf)
CALLER = Caller("/a.B/C", "10.0.0.1:5", ANN)
STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Give what a record has beside what every record has."""
    return {name: value for name, value in vars(record).items() if name not in STANDARD}


def test_denied(caplog: pytest.LogCaptureFixture) -> None:
    """A call that was denied leaves a record of who wanted what, and which rule was against it."""
    Audit().denied(
        CALLER, PermissionDenied("ann", "publish to 'a.b'", "publish", "a.b", "no role of ann allows it"), 0
    )
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert fields(record) == {
        "event": "denied",
        "reason": "PERMISSION_DENIED",
        "method": "/a.B/C",
        "peer": "10.0.0.1:5",
        "principal": "ann",
        "credential": "token 12345678",
        "verb": "publish",
        "resource": "a.b",
        "rule": "no role of ann allows it",
    }


def test_unknown_callers(caplog: pytest.LogCaptureFixture) -> None:
    """A call of somebody unknown leaves a record of why, which the client is not told."""
    error = Unauthenticated("the token is nobody's")
    Audit().denied(Caller("/a.B/C", "10.0.0.1:5"), error, 0)
    (record,) = caplog.records
    assert fields(record) == {
        "event": "denied",
        "reason": "UNAUTHENTICATED",
        "method": "/a.B/C",
        "peer": "10.0.0.1:5",
        "why": "the token is nobody's",
    }
    assert "nobody" not in error.message


def test_quotas_that_are_reached(caplog: pytest.LogCaptureFixture) -> None:
    """Calls beyond a quota are all counted, and one in ten seconds leaves a record, with how many did not."""
    audit = Audit()
    for now in (0, 1, 2, 9.9, 10.1):
        audit.denied(CALLER, QuotaExceeded("max_rps", 5), now)
    assert audit.denials["QUOTA_EXCEEDED"] == 5
    assert [fields(record).get("more") for record in caplog.records] == [None, 3]


def test_floods(caplog: pytest.LogCaptureFixture) -> None:
    """Who is denied all the time leaves 300 records in ten seconds, and how many did not."""
    audit, denied = Audit(), PermissionDenied("ann", "publish to 'a'", "publish", "a", "no role allows it")
    for now in (0, 1, 9, 11):
        for _ in range(500):
            audit.denied(CALLER, denied, now)
    assert audit.denials["PERMISSION_DENIED"] == 2000
    assert len(caplog.records) == 600
    assert {
        position: more
        for position, record in enumerate(caplog.records)
        if (more := fields(record).get("more"))
    } == {300: 1200}


def test_floods_hide_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """Each principal has a share of its own, and so have denials and quotas."""
    audit = Audit()
    bob = Caller("/a.B/C", "10.0.0.1:5", ANN._replace(principal=Principal("bob", Permissions())))
    denied = PermissionDenied("ann", "publish to 'a'", "publish", "a", "no role allows it")
    for _ in range(2000):
        audit.denied(Caller("/a.B/C", "10.0.0.1:5"), Unauthenticated("the token is nobody's"), 0)
        audit.denied(CALLER, denied, 0)
        audit.denied(CALLER, QuotaExceeded("max_rps", 5), 0)
    caplog.clear()
    for error in (Unauthenticated("expired"), denied, QuotaExceeded("max_rps", 5)):
        audit.denied(bob, error, 0)
    assert len(caplog.records) == 3


def test_a_guess_at_a_token_is_not_hidden(caplog: pytest.LogCaptureFixture) -> None:
    """Calls without credentials, those that name nobody, and those that name somebody have shares."""
    audit, stranger = Audit(), Caller("/a.B/C", "10.0.0.1:5")
    floods = [
        Unauthenticated("there is no token", about=about) for about in ("(nothing)", "", "ann", "issuer x")
    ]
    for error in floods:
        for _ in range(1000):
            audit.denied(stranger, error, 0)
    assert len(caplog.records) == 4 * 300
    audit.denied(stranger, Unauthenticated("it names root, but is not one of its tokens", about="root"), 0)
    assert len(caplog.records) == 4 * 300 + 1


def test_floods_of_what_is_managed(caplog: pytest.LogCaptureFixture) -> None:
    """They fill no disk: 300 records in ten seconds, 30 of calls that failed, of each principal."""
    audit = Audit()
    bob = Caller("/a.B/C", "10.0.0.1:5", ANN._replace(principal=Principal("bob", Permissions())))
    with caplog.at_level(logging.INFO):
        for _ in range(500):
            audit.managed(CALLER, "ORDERS", "OK", 0)
            audit.managed(CALLER, "ORDERS", "NOT_FOUND", 0)
        assert len(caplog.records) == 330
        caplog.clear()
        audit.managed(bob, "ORDERS", "OK", 0)
        audit.managed(CALLER, "ORDERS", "OK", 10)
    assert [fields(record).get("more") for record in caplog.records] == [None, 200]


def test_managed(caplog: pytest.LogCaptureFixture) -> None:
    """A call that manages something leaves a record of what, and of how it ended."""
    with caplog.at_level(logging.INFO):
        Audit().managed(CALLER, "ORDERS", "OK", 0)
    (record,) = caplog.records
    assert fields(record) == {
        "event": "managed",
        "resource": "ORDERS",
        "code": "OK",
        "method": "/a.B/C",
        "peer": "10.0.0.1:5",
        "principal": "ann",
        "credential": "token 12345678",
    }


def test_floods_of_what_is_read(caplog: pytest.LogCaptureFixture) -> None:
    """They fill no disk, and hide nothing that is managed."""
    audit = Audit()
    with caplog.at_level(logging.INFO):
        for _ in range(500):
            audit.read(CALLER, "ORDERS > -", 0)
        assert len(caplog.records) == 300
        audit.managed(CALLER, "ORDERS", "OK", 0)
        audit.read(CALLER, "ORDERS > -", 10)
    managed, read = caplog.records[300:]
    assert (fields(managed)["event"], fields(read)["event"]) == ("managed", "read")
    assert fields(read)["more"] == 200


def test_whatever_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    """Records are written though LOG_LEVEL is above them."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure_logging(LogLevel.ERROR, readable=False)
        Audit().managed(CALLER, "ORDERS", "OK", 0)
        logging.getLogger("other").warning("not this")
    finally:
        root.handlers[:], root.level = before
    written = capsys.readouterr().err
    assert AUDIT in written
    assert "not this" not in written
