"""What OpenTelemetry's exporters of all kinds are told, and how they are kept from talking.

Imported only when there is a collector.
"""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from windshift.server.config import VARIABLES, OtlpCompression, SignalConfig

_LONGEST_TROUBLE: Final = 500
_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.common.http",
)

T = TypeVar("T")


@contextmanager
def without_environment() -> Iterator[None]:
    """Hide the variables that the configuration has read while an exporter is made.

    Exporters look there for what they were not told, understand some units otherwise, and stumble over empty
    values.
    """
    hidden = {each.name: os.environ[each.name] for each in VARIABLES if each.name in os.environ}
    telemetry = {name: value for name, value in hidden.items() if name.startswith("OTEL_")}
    for name in telemetry:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(telemetry)


def grpc_arguments(config: SignalConfig, timeout: timedelta) -> dict[str, Any]:
    """Give the arguments of an exporter over gRPC; they are the same for every kind."""
    import grpc  # noqa: PLC0415 - slow to import, and not needed over HTTP

    tls = config.tls
    credentials = None
    if not config.plaintext:
        credentials = grpc.ssl_channel_credentials(_bytes(tls.ca), _bytes(tls.key), _bytes(tls.certificate))
    compressed = config.compression is OtlpCompression.GZIP
    return {
        "endpoint": config.endpoint,
        "insecure": config.plaintext,
        "credentials": credentials,
        "headers": tuple((name.lower(), value) for name, value in config.headers),
        "timeout": timeout.total_seconds(),
        "compression": grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression,
    }


def http_arguments(config: SignalConfig, timeout: timedelta) -> dict[str, Any]:
    """Give the arguments of an exporter over HTTP."""
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415 - as above, for gRPC

    tls = config.tls
    compressed = config.compression is OtlpCompression.GZIP
    return {
        "endpoint": config.endpoint,
        "certificate_file": _text(tls.ca),
        "client_key_file": _text(tls.key),
        "client_certificate_file": _text(tls.certificate),
        "headers": dict(config.headers),
        "timeout": timeout.total_seconds(),
        "compression": Compression.Gzip if compressed else Compression.NoCompression,
        "session": None if tls.ca is None else _session(str(tls.ca)),
    }


def _session(authority: str) -> object:
    """Make a session of requests that trusts this authority, whatever REQUESTS_CA_BUNDLE says."""
    from requests import Session  # noqa: PLC0415 - as above

    class TrustingSession(Session):
        def merge_environment_settings(self, *arguments: Any, **named: Any) -> Any:
            settings = super().merge_environment_settings(*arguments, **named)
            settings["verify"] = authority
            return settings

    return TrustingSession()


def _bytes(file: Path | None) -> bytes | None:
    return None if file is None else file.read_bytes()


def _text(file: Path | None) -> str | None:
    return None if file is None else str(file)


class Silence(logging.Filter):
    """Keeps what the exporter says in the thread that exports out of the log, and remembers it.

    It says something on every attempt; whoever exports says it once.

    Args:
        loggers: where it says it.
    """

    def __init__(self, loggers: Sequence[str]) -> None:
        super().__init__()
        self._loggers = loggers
        for name in loggers:  # first of all: others there drop what was said before
            logging.getLogger(name).filters.insert(0, self)
        self.heard = ""
        self._thread = 0

    def end(self) -> None:
        """Let it talk again."""
        for name in self._loggers:
            logging.getLogger(name).removeFilter(self)

    def listen(self) -> None:
        """Begin anew, for this thread."""
        self._thread = threading.get_ident()
        self.heard = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let pass what other threads say."""
        if record.thread != self._thread:
            return True
        if record.levelno >= logging.WARNING and not self.heard:  # the first reason tells most
            self.heard = record.getMessage()[:_LONGEST_TROUBLE]
        return False


class Sender(ABC, Generic[T]):
    """Sends batches of one kind by an exporter of OpenTelemetry's, which never raises and never logs here.

    Args:
        make: makes the exporter, which then finds none of our variables in the environment.
        over_http: the logger of its variant over HTTP.
    """

    def __init__(self, make: Callable[[], Any], over_http: str) -> None:
        self._silence = Silence((*_LOGGERS, over_http))
        with without_environment():
            self._exporter = make()

    @property
    def trouble(self) -> str:
        """What the exporter said of the batch that is being sent, or was sent last."""
        return self._silence.heard

    def send(self, batch: Sequence[T], /) -> bool:
        """Send a batch. Blocks until the collector has it, or the timeout is over."""
        self._silence.listen()
        try:
            return self.export(batch)
        except Exception as error:  # noqa: BLE001 - an exporter's mistake must not end the thread
            self._silence.heard = f"the exporter failed: {type(error).__name__}"
            return False

    def close(self) -> None:
        """Break off retries, and what gRPC has under way."""
        self._exporter.shutdown()
        self._silence.end()

    @abstractmethod
    def export(self, batch: Sequence[T]) -> bool:
        """Hand a batch to the exporter in its own types, and say whether the collector took it."""
