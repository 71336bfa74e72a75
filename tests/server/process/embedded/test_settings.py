"""The configuration file that nats-server is given."""

from __future__ import annotations

from pathlib import Path

from windshift.server.config.tree import EmbeddedConfig
from windshift.server.process.embedded.directory import DataDirectory
from windshift.server.process.embedded.settings import nats_settings


def test_rendered() -> None:
    """Loopback, no monitoring port, a password, the largest message, and the flush interval."""
    config = EmbeddedConfig(Path("/data"), sync="1s", max_payload=2048)
    directory = DataDirectory(config.data_dir)
    assert nats_settings(config, directory, port=-1, limit=1000, user="u", password='p"\\') == (
        'server_name: "windshift-embedded"\n'
        'host: "127.0.0.1"\n'
        "port: -1\n"
        "max_payload: 2048\n"
        'ports_file_dir: "/data/run"\n'
        'log_file: "/data/nats-server.log"\n'
        "logfile_size_limit: 10MB\n"
        "logfile_max_num: 3\n"
        'authorization { user: "u", password: "p\\"\\\\" }\n'
        'jetstream { store_dir: "/data", max_file_store: 1000\n'
        'sync_interval: "1s" }\n'
    )
