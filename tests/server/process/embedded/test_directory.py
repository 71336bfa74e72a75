"""The data directory: who may have it, and who may read it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from windshift.server.process.embedded.directory import DataDirectory
from windshift.server.process.errors import StartError


def mode(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Let the process make files that everybody may write to."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(directory: Path) -> dict[str, int]:
    """Return the permissions of a directory and of everything in it."""
    return {str(path.relative_to(directory)): mode(path) for path in (directory, *directory.rglob("*"))}


PRIVATE = {
    ".": 0o700,
    "lock": 0o600,
    "run": 0o700,
    "run/nats.conf": 0o600,
    "jetstream": 0o700,
    "nats-server.log": 0o600,
}


def make(directory: Path, permissions: int, *names: str) -> None:
    """Make empty files and, where the name ends with a slash, directories; then set the directory's mode."""
    for name in names:
        (directory / name).mkdir() if name.endswith("/") else (directory / name).touch()
    directory.chmod(permissions)


async def use(directory: DataDirectory) -> None:
    """Have everything made that is made in a data directory."""
    await directory.acquire(0)
    directory.write_config("secret")
    os.close(directory.open_log())
    directory.release()


@pytest.mark.usefixtures("open_umask")
async def test_made_for_its_owner_alone(tmp_path: Path) -> None:
    """Directories and files are private whatever the umask, and so is each directory on the way there."""
    await use(DataDirectory(tmp_path / "some" / "data"))
    assert modes(tmp_path / "some" / "data") == PRIVATE
    assert mode(tmp_path / "some") == 0o700


@pytest.mark.usefixtures("open_umask")
async def test_closed_where_it_was_open(tmp_path: Path) -> None:
    """A looser directory that was there before is closed, and what is in it."""
    make(
        tmp_path, 0o755, "run/", "run/nats.conf", "jetstream/", "lock", "nats-server.log", "nats-server.log.1"
    )
    await use(DataDirectory(tmp_path))
    assert modes(tmp_path) == {**PRIVATE, "nats-server.log.1": 0o600}


@pytest.mark.parametrize(("before", "warns"), [(0o755, False), (0o777, True), (0o1777, False)])
async def test_shared_with_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: int, warns: bool
) -> None:
    """A directory with other things in it stays as it is; where everybody may write the log warns of that."""
    make(tmp_path, before, "others/")
    await use(DataDirectory(tmp_path))
    seen = modes(tmp_path)
    assert seen.pop("others")
    assert seen == {**PRIVATE, ".": before}
    assert ("everybody may write" in caplog.text) is warns


async def test_one_at_a_time(tmp_path: Path) -> None:
    """A second server is told to go elsewhere, at once; after the first it may come."""
    first, second = DataDirectory(tmp_path), DataDirectory(tmp_path)
    await first.acquire(0)
    with pytest.raises(StartError, match=r"in use by another server.*WINDSHIFT_DATA_DIR"):
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
    with pytest.raises(StartError, match="in use"):
        await directory.acquire(0.05)
    child.communicate(b"\n")
    await directory.acquire(0)
    directory.release()


@pytest.mark.parametrize("path", ["file", "file/below"])
async def test_not_a_directory(tmp_path: Path, path: str) -> None:
    """A path that cannot be a directory is told in one line."""
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"^cannot write to the data directory .*WINDSHIFT_DATA_DIR$"):
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


def test_what_was_logged_since(tmp_path: Path) -> None:
    """Whole, also when nats-server has moved the file aside; what was there before does not count."""
    directory = DataDirectory(tmp_path)
    end = directory.log_end()
    directory.log.write_text("first\n")
    assert directory.logged_since(end) == ["first"]
    end = directory.log_end()
    assert directory.logged_since(end) == []
    with directory.log.open("a") as file:
        file.write("second\n")
    directory.log.rename(f"{directory.log}.2026.01.01.00.00.00.000000000")
    directory.log.write_text("third\n")
    assert directory.logged_since(end) == ["second", "third"]
    assert directory.logged_since(directory.log_end()) == []
