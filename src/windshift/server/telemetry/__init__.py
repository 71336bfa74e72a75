"""Telemetry: traces, metrics and logs, and how they are exported."""
