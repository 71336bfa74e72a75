"""The configuration of a server: one tree, read from the environment once and verified whole."""

from __future__ import annotations

from windshift.server.config.read import config_from_environment
from windshift.server.config.reader import ConfigurationError
from windshift.server.config.tree import (
    EmbeddedConfig,
    ListenConfig,
    LogLevel,
    NatsConfig,
    OtlpProtocol,
    ServerConfig,
    SignalConfig,
    TelemetryConfig,
    TlsFiles,
)
from windshift.server.config.variables import VARIABLES, Variable

__all__ = [
    "VARIABLES",
    "ConfigurationError",
    "EmbeddedConfig",
    "ListenConfig",
    "LogLevel",
    "NatsConfig",
    "OtlpProtocol",
    "ServerConfig",
    "SignalConfig",
    "TelemetryConfig",
    "TlsFiles",
    "Variable",
    "config_from_environment",
]
