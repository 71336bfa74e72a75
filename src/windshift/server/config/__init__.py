"""The configuration of a server: one tree, read from the environment once and validated as a whole."""

from __future__ import annotations

from windshift.server.config.read import auth_file, config_from_environment, health_address
from windshift.server.config.settings import ConfigurationError, Setting
from windshift.server.config.telemetry import (
    BatchConfig,
    OtlpCompression,
    OtlpProtocol,
    SamplerConfig,
    SignalConfig,
    TelemetryConfig,
    TlsFiles,
)
from windshift.server.config.tree import (
    GROUPS,
    SETTINGS,
    ClientAuth,
    EmbeddedConfig,
    LimitsConfig,
    ListenConfig,
    LogLevel,
    NatsConfig,
    ServerConfig,
)

__all__ = [
    "GROUPS",
    "SETTINGS",
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
    "Setting",
    "SignalConfig",
    "TelemetryConfig",
    "TlsFiles",
    "auth_file",
    "config_from_environment",
    "health_address",
]
