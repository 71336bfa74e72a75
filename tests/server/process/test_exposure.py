"""What is said about a server that others can reach."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

import pytest

from windshift.server.config.read import config_from_environment
from windshift.server.config.tree import ServerConfig
from windshift.server.process.exposure import is_readable, warn

ANY = "0.0.0.0"  # noqa: S104 - nothing listens


def configured(directory: Path, *files: str, **environment: str) -> ServerConfig:
    """Make a configuration in which these variables name a file that exists."""
    file = directory / "file"
    file.touch()
    return config_from_environment({"HOME": "/", **dict.fromkeys(files, str(file)), **environment})


TLS = ("GRPC_TLS_CERT", "GRPC_TLS_KEY")
CERTIFICATES = (*TLS, "GRPC_TLS_CLIENT_CA")
AUTH = "WINDSHIFT_AUTH_FILE"


@pytest.mark.parametrize(
    ("host", "files", "found"),
    [
        ("127.0.0.1", (), (False, False)),
        ("127.0.0.1", (AUTH,), (False, False)),
        (ANY, (), (True, False)),
        (ANY, TLS, (True, False)),
        (ANY, (AUTH,), (False, True)),
        (ANY, (*TLS, AUTH), (False, False)),
        (ANY, CERTIFICATES, (False, False)),
    ],
)
def test_what_is_unsafe(tmp_path: Path, host: str, files: tuple[str, ...], found: tuple[bool, bool]) -> None:
    """Open to everybody, or read by everybody on the way: neither on loopback."""
    config = configured(tmp_path, *files, GRPC_HOST=host, WINDSHIFT_INSECURE="true")
    assert (config.is_open, is_readable(config)) == found


async def test_an_open_server_is_warned_of_again_and_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever reads the last hours of the log finds it."""
    config = configured(tmp_path, GRPC_HOST=ANY, WINDSHIFT_INSECURE="true")
    task = asyncio.create_task(warn(config, 8080, timedelta(milliseconds=1)))
    async with asyncio.timeout(30):
        while len(caplog.records) < 3:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)
    task.cancel()
    text = (
        "serving other machines without authorization: whoever reaches 0.0.0.0:8080 may do everything. "
        "WINDSHIFT_INSECURE allows it; set WINDSHIFT_AUTH_FILE, or GRPC_HOST=127.0.0.1"
    )
    assert {(record.levelno, record.getMessage()) for record in caplog.records} == {(logging.WARNING, text)}


async def test_tokens_in_plain_text_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once: a proxy that ends TLS is nothing unusual."""
    await warn(configured(tmp_path, AUTH, GRPC_HOST=ANY), 8080)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "serving other machines without TLS"
    ]


async def test_a_safe_server_is_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On loopback there is nothing to say, whatever is set."""
    await warn(configured(tmp_path, WINDSHIFT_INSECURE="true"), 8080)
    assert not caplog.records
