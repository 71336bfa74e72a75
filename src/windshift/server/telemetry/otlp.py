"""OpenTelemetry's OTLP exporters, configured explicitly, with their logging captured.

This module and `otlp_signals` are imported only if there is a collector: that takes 0.1 s and 25 MB.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from windshift.server.config.telemetry import OtlpCompression, OtlpProtocol, SignalConfig
from windshift.server.config.tree import SETTINGS

T = TypeVar("T")

_EXPORTERS: Final = {
    "traces": ("trace_exporter", "OTLPSpanExporter"),
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
    "logs": ("_log_exporter", "OTLPLogExporter"),
}
"""Module and class, below `_PACKAGE` and the protocol."""
_PACKAGE: Final = "opentelemetry.exporter.otlp.proto"
_LOGGERS: Final = (f"{_PACKAGE}.grpc.exporter", "opentelemetry.exporter.otlp.common.http")
_MAX_TROUBLE: Final = 500
"""Characters kept of an exporter's message."""


class OtlpSender(Generic[T]):
    """Sends one signal with OpenTelemetry's exporter. Neither raises nor logs.

    Args:
        signal: "traces", "metrics" or "logs".
        config: the endpoint.
        timeout: for one batch, including retries.
        encode: converts a batch to the exporter's type.
        options: other arguments of the exporter.
    """

    def __init__(
        self,
        signal: str,
        config: SignalConfig,
        timeout: timedelta,
        encode: Callable[[Sequence[T]], object],
        **options: object,
    ) -> None:
        grpc = config.protocol is OtlpProtocol.GRPC
        module, name = _EXPORTERS[signal]
        path = f"{_PACKAGE}.{'grpc' if grpc else 'http'}.{module}"
        arguments = (_grpc_arguments if grpc else _http_arguments)(config)
        self._encode = encode
        self._captured = _LogCapture((*_LOGGERS, path))
        with _without_environment():
            self._exporter = getattr(import_module(path), name)(
                endpoint=config.endpoint, timeout=timeout.total_seconds(), **arguments, **options
            )

    @property
    def trouble(self) -> str:
        """The exporter's first warning about the current batch, or the last one if that was lost."""
        return self._captured.message

    def send(self, batch: Sequence[T], /) -> bool:
        """Send a batch. Blocks until the collector has it, or until the timeout."""
        with self._captured:
            try:
                result = self._exporter.export(self._encode(batch))
            except Exception as error:  # noqa: BLE001 - must not end the exporter's thread
                self._captured.message = f"the exporter failed: {type(error).__name__}"
                return False
        if result.name != "SUCCESS":
            return False
        self._captured.message = ""  # what was told of attempts before the last one
        return True

    def close(self) -> None:
        """Abort retries, and calls over gRPC."""
        self._exporter.shutdown()


class _LogCapture(logging.Filter):
    """While entered, keeps the first warning that the same thread logs, and drops the rest.

    Exporters log every attempt.
    """

    def __init__(self, loggers: Sequence[str]) -> None:
        super().__init__()
        self._loggers = [logging.getLogger(name) for name in loggers]
        self._thread = 0
        self.message = ""

    def __enter__(self) -> None:
        self.message = ""
        self._thread = threading.get_ident()
        for logger in self._loggers:
            logger.filters.insert(0, self)  # before the SDK's own filter, which drops repetitions

    def __exit__(self, *error: object) -> None:
        for logger in self._loggers:
            logger.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass records of other threads."""
        if record.thread != self._thread:
            return True
        if record.levelno >= logging.WARNING and not self.message:
            self.message = record.getMessage()[:_MAX_TROUBLE]
        return False


# --- Arguments of exporters -------------------------------------------------------------------------------


@contextmanager
def _without_environment() -> Iterator[None]:
    """Hide the variables that the configuration has read.

    Exporters would use them as defaults, in other units, and fail on empty ones.
    """
    names = (name for name in SETTINGS if name.startswith("OTEL_"))
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _grpc_arguments(config: SignalConfig) -> dict[str, Any]:
    import grpc  # noqa: PLC0415 - slow to import, and not needed over HTTP

    tls = config.tls
    credentials = None
    if not config.plaintext:
        credentials = grpc.ssl_channel_credentials(_bytes(tls.ca), _bytes(tls.key), _bytes(tls.certificate))
    compressed = config.compression is OtlpCompression.GZIP
    return {
        "insecure": config.plaintext,
        "credentials": credentials,
        "headers": tuple((name.lower(), value) for name, value in config.headers),
        "compression": grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression,
    }


def _http_arguments(config: SignalConfig) -> dict[str, Any]:
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415 - not needed over gRPC

    tls = config.tls
    compressed = config.compression is OtlpCompression.GZIP
    return {
        "certificate_file": _text(tls.ca),
        "client_key_file": _text(tls.key),
        "client_certificate_file": _text(tls.certificate),
        "headers": dict(config.headers),
        "compression": Compression.Gzip if compressed else Compression.NoCompression,
        "session": None if tls.ca is None else _session(str(tls.ca)),
    }


def _session(authority: str) -> object:
    """Return a session that trusts this authority, whatever REQUESTS_CA_BUNDLE says."""
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
