"""A file system that is soon full: a tmpfs of its own, where this user may mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_MEGABYTE = 1 << 20


class SmallDisk:
    """A mounted file system, and a file of somebody else that takes its room away."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._hog = directory / "hog"

    def fill(self) -> None:
        """Take all room there is."""
        with self._hog.open("ab", buffering=0) as file:
            for size in (_MEGABYTE, 4096, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def leave(self, megabytes: float) -> None:
        """Take all room but so much."""
        with self._hog.open("ab", buffering=0) as file:
            while self.free > megabytes * _MEGABYTE:
                file.write(bytes(64 * 1024))

    def make_room(self) -> None:
        """Give the room back."""
        self._hog.unlink()

    def resize(self, megabytes: int) -> None:
        """Make it larger or smaller."""
        _run("mount", "-o", f"remount,size={megabytes}m", str(self.directory), check=True)

    @property
    def free(self) -> int:
        """Bytes that are left."""
        found = subprocess.run(
            ["stat", "--file-system", "--format=%a %S", str(self.directory)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        return int(found[0]) * int(found[1])


@contextmanager
def small_disk(directory: Path, megabytes: int = 32) -> Iterator[SmallDisk]:
    """Mount one there for as long as the block lasts; skip the test where that is not allowed."""
    directory.mkdir(parents=True)
    if not _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)):
        pytest.skip("nothing may be mounted here")
    try:
        yield SmallDisk(directory)
    finally:
        _run("umount", "--lazy", str(directory))


def _run(*command: str, check: bool = False) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=check).returncode == 0
    except FileNotFoundError:
        return False
