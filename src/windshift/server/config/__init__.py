"""The configuration of a server: one tree, read from the environment once and verified whole."""

from __future__ import annotations

from windshift.server.config.authorization import auth_file
from windshift.server.config.health import health_address
from windshift.server.config.read import config_from_environment
from windshift.server.config.reader import ConfigurationError
from windshift.server.config.tree import (
    BatchConfig,
    ClientAuth,
    EmbeddedConfig,
    LimitsConfig,
    ListenConfig,
    LogLevel,
    NatsConfig,
    OtlpCompression,
    OtlpProtocol,
    SamplerConfig,
    ServerConfig,
    SignalConfig,
    TelemetryConfig,
    TlsFiles,
)
from windshift.server.config.variables import VARIABLES, Variable

__all__ = [
    "VARIABLES",
    "BatchConfig",
    "ClientAuth",
    "ConfigurationError",
    "EmbeddedConfig",
    "LimitsConfig",
    "ListenConfig",
    "LogLevel",
    "NatsConfig",
    "OtlpCompression",
    "OtlpProtocol",
    "SamplerConfig",
    "ServerConfig",
    "SignalConfig",
    "TelemetryConfig",
    "TlsFiles",
    "Variable",
    "auth_file",
    "config_from_environment",
    "health_address",
]
