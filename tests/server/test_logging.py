"""Log records: where they go and what they look like."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import datetime

import pytest

from windshift.server.config import LogLevel
from windshift.server.logging import configure_logging


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Leave the process-wide logging as pytest had set it up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
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


def test_level() -> None:
    """What is below the level is not written; libraries report problems only."""
    stream = io.StringIO()
    configure_logging(LogLevel.DEBUG, readable=True, stream=stream)
    logging.getLogger("windshift.test").debug("ours")
    logging.getLogger("uvicorn.error").info("theirs")
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
