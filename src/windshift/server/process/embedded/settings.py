"""The configuration file of the embedded nats-server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


@dataclass(frozen=True, slots=True)
class Settings:
    """What one start of nats-server is told. Everything else stays at nats-server's own defaults."""

    port: int
    """-1 lets nats-server choose a free one."""
    store: Path
    run: Path
    log: Path
    sync: str
    limit: int
    """Bytes that may be stored in all."""
    max_payload: int
    """Bytes of the largest message."""
    user: str
    password: str = field(repr=False)

    def render(self) -> str:
        """Write it down in nats-server's language.

        Loopback only, no monitoring port, and nobody gets in without the password.
        """
        return "\n".join(
            (
                'server_name: "windshift-embedded"',
                'host: "127.0.0.1"',
                f"port: {self.port}",
                f"max_payload: {self.max_payload}",
                f"ports_file_dir: {_quoted(self.run)}",
                f"log_file: {_quoted(self.log)}",
                "logfile_size_limit: 10MB",
                "logfile_max_num: 3",
                f"authorization {{ user: {_quoted(self.user)}, password: {_quoted(self.password)} }}",
                f"jetstream {{ store_dir: {_quoted(self.store)}, max_file_store: {self.limit}",
                f"sync_interval: {_quoted(self.sync)} }}",
                "",
            )
        )


def _quoted(text: object) -> str:
    return f'"{str(text).translate(_ESCAPES)}"'
