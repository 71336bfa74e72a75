"""Log records: where they go and what they look like."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from datetime import datetime

import pytest

from windshift.conventions import SpanKind
from windshift.server.config.tree import LogLevel
from windshift.server.process.logging import configure_logging
from windshift.server.telemetry.tracer import Span, current_span


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Leave the process-wide logging as pytest had set it up; be in no call."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    token = current_span.set(None)
    yield
    current_span.reset(token)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_json_lines() -> None:
    """A machine gets one JSON object a line, with time, level, logger and whatever was given beside."""
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, readable=False, stream=stream)
    logging.getLogger("windshift.test").warning("%s\nlines", "two", extra={"stream": "orders"})
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert datetime.fromisoformat(record.pop("time")).utcoffset() is not None
    assert record == {
        "level": "warning",
        "logger": "windshift.test",
        "message": "two\nlines",
        "stream": "orders",
    }


def test_json_exception() -> None:
    """A traceback stays within its record's line."""
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, readable=False, stream=stream)
    try:
        raise RuntimeError("broken")  # noqa: TRY301 - the traceback is what is wanted
    except RuntimeError:
        logging.getLogger("windshift.test").exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "RuntimeError: broken" in json.loads(line)["exception"]


@pytest.mark.parametrize(("stream", "readable"), [(io.StringIO(), True), (Terminal(), False)])
def test_plain_lines(stream: io.StringIO, readable: bool) -> None:
    """Development mode and a terminal get lines for people."""
    configure_logging(LogLevel.INFO, readable=readable, stream=stream)
    logging.getLogger("windshift.test").info("hello")
    assert stream.getvalue().endswith(" INFO    windshift.test: hello\n")


HOSTILE = "line\nfeed\r\x1b[2J\u2028\u202e\x00\x85\ud800é"


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize("place", ["message", "field", "exception"])
def test_texts_of_clients_stay_in_their_place(readable: bool, place: str) -> None:
    """Nothing that a client sends begins a line, commands a terminal or hides text."""
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, readable=readable, stream=stream)
    _log_somewhere(place, HOSTILE)
    lines = stream.getvalue().split("\n")
    assert lines.pop() == ""
    assert all(line.isprintable() for line in lines)
    if readable:
        assert all(line.startswith("    ") for line in lines[1:])
        assert "\\x1b[2J" in stream.getvalue()
    else:
        (line,) = lines
        assert "line\\nfeed\\r\\u001b[2J" in line


def _log_somewhere(place: str, text: str) -> None:
    """Have a text of a client in a record."""
    log = logging.getLogger("windshift.test")
    match place:
        case "message":
            log.warning("%s", text)
        case "field":
            log.warning("here", extra={"method": text})
        case _:
            log.warning("here", exc_info=ValueError(text))


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize("place", ["message", "field", "exception"])
def test_texts_of_clients_are_bounded(readable: bool, place: str) -> None:
    """A hundred kilobytes do not get into the log, and the record says how much is missing."""
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, readable=readable, stream=stream)
    _log_somewhere(place, "x" * 100_000)
    assert len(stream.getvalue()) < 25_000
    assert re.search(r"\(\d+ (more|characters before)\)", stream.getvalue())


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize("place", ["message", "field", "exception"])
def test_credentials_of_urls_are_left_out(readable: bool, place: str) -> None:
    """Libraries repeat URLs that they were given: what stands before the host is nobody's business."""
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, readable=readable, stream=stream)
    _log_somewhere(place, "cannot reach nats://me:s3cret@host:4222, t0ken@[::1]:1; mail @ noon")
    text = stream.getvalue()
    assert "s3cret" not in text
    assert "t0ken" not in text
    assert "@host:4222" in text
    assert "mail @ noon" in text


def test_plain_fields() -> None:
    """People get the fields behind the message."""
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, readable=True, stream=stream)
    logging.getLogger("windshift.test").info("hello", extra={"code": "NOT_FOUND", "more": 3, "none": None})
    assert stream.getvalue().endswith(": hello code=NOT_FOUND more=3\n")


@pytest.mark.parametrize("readable", [True, False])
def test_traceback(readable: bool) -> None:
    """A traceback is there, with the error that it began with, in its record."""
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, readable=readable, stream=stream)
    try:
        try:
            raise RuntimeError("first")  # noqa: TRY301 - the traceback is what is wanted
        except RuntimeError as error:
            raise ValueError("second") from error
    except ValueError:
        logging.getLogger("windshift.test").exception("failed")
    assert re.search("RuntimeError: first.*ValueError: second", stream.getvalue(), re.DOTALL)


def test_span_of_the_call() -> None:
    """A record that is written during a call that is traced says which trace it belongs to."""
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, readable=False, stream=stream)
    span = Span(
        lambda _: None, SpanKind.SERVER, "4bf92f3577b34da6a3ce929d0e0e4736", "01", "", "", remote=True
    )
    token = current_span.set(span)
    logging.getLogger("windshift.test").info("during")
    current_span.reset(token)
    logging.getLogger("windshift.test").info("after")
    during, after = map(json.loads, stream.getvalue().splitlines())
    assert (during["trace_id"], during["span_id"]) == (span.trace_id, span.span_id)
    assert "trace_id" not in after


def test_level() -> None:
    """What is below the level is not written; libraries report problems only."""
    stream = io.StringIO()
    configure_logging(LogLevel.DEBUG, readable=True, stream=stream)
    logging.getLogger("windshift.test").debug("ours")
    logging.getLogger("urllib3.connectionpool").info("theirs")
    logging.getLogger("nats.aio.client").warning("their problem")
    configure_logging(LogLevel.ERROR, readable=True, stream=stream)
    logging.getLogger("windshift.test").warning("too low")
    logging.getLogger("nats.aio.client").warning("too low")
    assert [line.rpartition(": ")[2] for line in stream.getvalue().splitlines()] == ["ours", "their problem"]


def test_warnings_are_records() -> None:
    """Warnings of Python go to the log, not beside it."""
    stream = io.StringIO()
    configure_logging(LogLevel.INFO, readable=True, stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old", stacklevel=1)
    assert "py.warnings: " in stream.getvalue()
