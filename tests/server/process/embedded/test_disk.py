"""What is made of looks at the disk, and of nats-server's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from windshift.server.process.embedded.disk import Disk, Space, Trouble, failure, look

MB = 10**6
ROOMY = Space(total=1000 * MB, free=500 * MB, files=1000, read_only=False)


def test_full_and_not() -> None:
    """It is full below the reserve, and takes writes again with half as much more."""
    disk = Disk(Path("/data"))
    assert not disk.seen(ROOMY, "", 1.0)
    assert disk.seen(ROOMY._replace(free=49 * MB), "", 2.0)
    assert (disk.trouble, disk.since) == (Trouble.FULL, 2.0)
    assert disk.described == "/data: 49.0 MB free of 1,000.0 MB"
    assert not disk.seen(ROOMY._replace(free=74 * MB), "", 3.0)
    assert disk.seen(ROOMY._replace(free=75 * MB), "", 4.0)
    assert (disk.trouble, disk.since) == (None, 4.0)


@pytest.mark.parametrize(
    ("space", "trouble"),
    [
        (ROOMY._replace(files=3), Trouble.FULL),
        (ROOMY._replace(read_only=True), Trouble.READ_ONLY),
        (None, Trouble.SILENT),
    ],
)
def test_other_troubles(space: Space | None, trouble: Trouble) -> None:
    """No files left, nothing may be written, no answer: nothing can be stored, and a restart is of no use."""
    disk = Disk(Path("/data"))
    disk.seen(space, "", 1.0)
    assert disk.trouble is trouble


def test_failed_writes() -> None:
    """What nats-server failed at stays so until it is started anew; that is of use once there is room."""
    disk = Disk(Path("/data"))
    disk.seen(ROOMY._replace(free=0), "no space left on device", 1.0)
    assert (disk.trouble, disk.since) == (Trouble.FULL, 1.0)
    disk.seen(ROOMY, "", 2.0)
    assert (disk.trouble, disk.since) == (Trouble.FAILED, 2.0)
    assert disk.described.endswith("; nats-server: no space left on device")
    disk.failed = ""
    assert disk.seen(ROOMY, "", 3.0)
    assert disk.trouble is None


@pytest.mark.parametrize("space", [ROOMY._replace(read_only=True), ROOMY._replace(free=1000)])
def test_failures_that_nobody_could_log(space: Space) -> None:
    """nats-server's log lies on the disk that takes nothing: it is started anew once that takes something."""
    disk = Disk(Path("/data"))
    disk.seen(space, "", 1.0)
    assert (disk.trouble is Trouble.FAILED, disk.since) == (False, 1.0)
    disk.seen(ROOMY, "", 2.0)
    assert (disk.trouble, disk.since) == (Trouble.FAILED, 2.0)


@pytest.mark.parametrize(
    ("total", "reserve"), [(64 * MB, 3_200_000), (10_000 * MB, 500 * MB), (10**12, 1 << 30)]
)
def test_reserve(total: int, reserve: int) -> None:
    """A twentieth is kept free, and not more than a gibibyte; the rest is what nats-server may store."""
    space = Space(total, total, 1000, read_only=False)
    assert (space.reserve, space.limit) == (reserve, total - reserve)


def test_a_look(tmp_path: Path) -> None:
    """What the system says of the directory; a trial leaves nothing behind, and tells where it fails."""
    space = look(tmp_path, tmp_path / "trial")
    assert 0 < space.free <= space.total
    assert not space.read_only
    assert list(tmp_path.iterdir()) == []
    assert look(tmp_path, tmp_path / "absent" / "trial").read_only


FULL = "no space left on device"
LINES = {
    "[ERR] Filestore [S] Critical write error: write /d/1.blk: no space left on device": FULL,
    "[ERR] JetStream failed to store a msg on stream '$G > S': write /d: disk quota exceeded": (
        "disk quota exceeded"
    ),
    "[WRN] Filesystem permission denied while writing msg, disabling JetStream: permission denied": (
        "permission denied"
    ),
    "[INF] Server is ready": "",
    "[ERR] JetStream file resource limits exceeded for server": "",
}


@pytest.mark.parametrize("line", LINES)
def test_failures_in_the_log(line: str) -> None:
    """The reason of the last failure."""
    before, after = "[1] [ERR] Critical write error: write: input/output error", "[1] [INF] Server is ready"
    assert failure([f"[1] 2026/01/01 00:00:00.0 {line}"]) == LINES[line]
    assert failure([before, line, after]) == (LINES[line] or "input/output error")
    assert failure([]) == ""
