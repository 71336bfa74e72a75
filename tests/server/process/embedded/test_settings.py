"""The configuration file that nats-server is given."""

from __future__ import annotations

from pathlib import Path

from windshift.server.process.embedded.settings import Settings


def settings(path: Path) -> Settings:
    """Make settings with everything below `path`."""
    return Settings(
        port=-1,
        store=path,
        run=path / "run",
        log=path / "log",
        sync="1s",
        limit=1000,
        max_payload=2048,
        user="u",
        password='p"\\',
    )


def test_rendered() -> None:
    """Loopback, no monitoring port, a password, the largest message, and the flush interval."""
    assert settings(Path("/data")).render() == (
        'server_name: "windshift-embedded"\n'
        'host: "127.0.0.1"\n'
        "port: -1\n"
        "max_payload: 2048\n"
        'ports_file_dir: "/data/run"\n'
        'log_file: "/data/log"\n'
        "logfile_size_limit: 10MB\n"
        "logfile_max_num: 3\n"
        'authorization { user: "u", password: "p\\"\\\\" }\n'
        'jetstream { store_dir: "/data", max_file_store: 1000\n'
        'sync_interval: "1s" }\n'
    )


def test_password_is_not_shown() -> None:
    """A record or a traceback that shows the settings does not show the password."""
    assert 'p"' not in repr(settings(Path("/data")))
