"""The data directory: who may have it, and who may read it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from windshift.server.embedded import DataDirectory, EmbeddedError


def mode(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


async def test_made_for_its_owner_alone(tmp_path: Path) -> None:
    """Directories and files are private, also where a looser directory was there before."""
    path = tmp_path / "some" / "data"
    (path / "jetstream").mkdir(parents=True, mode=0o755)
    directory = DataDirectory(path)
    await directory.acquire(0)
    directory.write_config("secret")
    os.close(directory.open_log())
    assert [mode(each) for each in (directory.run, path / "jetstream")] == [0o700, 0o700]
    assert [mode(each) for each in (directory.config, directory.log)] == [0o600, 0o600]
    directory.release()


async def test_one_at_a_time(tmp_path: Path) -> None:
    """A second server is told to go elsewhere, at once; after the first it may come."""
    first, second = DataDirectory(tmp_path), DataDirectory(tmp_path)
    await first.acquire(0)
    with pytest.raises(EmbeddedError, match=r"in use by another server.*WINDSHIFT_DATA_DIR"):
        await second.acquire(60)
    assert second.lock_fd == -1
    first.release()
    await second.acquire(0)
    second.release()


async def test_waits_for_what_a_dead_server_left(tmp_path: Path) -> None:
    """While a child of a dead server still holds the lock, a new server waits for it."""
    directory = DataDirectory(tmp_path)
    await directory.acquire(0)
    child = subprocess.Popen(  # noqa: ASYNC220 - quick
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[directory.lock_fd]
    )
    directory.release()
    dead = subprocess.Popen([sys.executable, "-c", ""])  # noqa: ASYNC220 - quick
    dead.wait()
    (tmp_path / "lock").write_text(f"{dead.pid}\n")
    with pytest.raises(EmbeddedError, match="in use"):
        await directory.acquire(0.05)
    child.communicate(b"\n")
    await directory.acquire(0)
    directory.release()


@pytest.mark.parametrize("path", ["file", "file/below"])
async def test_not_a_directory(tmp_path: Path, path: str) -> None:
    """A path that cannot be a directory is told in one line."""
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedError, match=r"^cannot write to the data directory .*WINDSHIFT_DATA_DIR$"):
        await DataDirectory(tmp_path / path).acquire(0)


async def test_tidy(tmp_path: Path) -> None:
    """What an earlier run left in the run directory goes; the rest stays."""
    directory = DataDirectory(tmp_path)
    await directory.acquire(0)
    directory.write_config("old")
    (directory.run / "nats-server_1.ports").write_text("{}")
    os.close(directory.open_log())
    directory.tidy()
    assert list(directory.run.iterdir()) == []
    assert directory.log.exists()
    directory.release()
