"""The configuration file of the embedded nats-server."""

from __future__ import annotations

from windshift.server.config.tree import EmbeddedConfig
from windshift.server.process.embedded.directory import DataDirectory

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def nats_settings(
    config: EmbeddedConfig, directory: DataDirectory, *, port: int, limit: int, user: str, password: str
) -> str:
    """Write down what one start is told; everything else stays at nats-server's own defaults.

    Loopback only, no monitoring port, and nobody gets in without the password. With the port -1 nats-server
    chooses a free one. `limit` is how many bytes it may store.
    """
    return "\n".join(
        (
            'server_name: "windshift-embedded"',
            'host: "127.0.0.1"',
            f"port: {port}",
            f"max_payload: {config.max_payload}",
            f"ports_file_dir: {_quoted(directory.run)}",
            f"log_file: {_quoted(directory.log)}",
            "logfile_size_limit: 10MB",
            "logfile_max_num: 3",
            f"authorization {{ user: {_quoted(user)}, password: {_quoted(password)} }}",
            f"jetstream {{ store_dir: {_quoted(directory.path)}, max_file_store: {limit}",
            f"sync_interval: {_quoted(config.sync)} }}",
            "",
        )
    )


def _quoted(text: object) -> str:
    return f'"{str(text).translate(_ESCAPES)}"'
