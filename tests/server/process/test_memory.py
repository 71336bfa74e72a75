"""How much clients may make the server hold."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from windshift.server.process import memory

GIB = 1 << 30


@pytest.mark.parametrize(
    ("physical", "container", "held"),
    [
        (16 * GIB, "max", 4 * GIB),
        (16 * GIB, str(2 * GIB), GIB // 2),
        (16 * GIB, str(2**63 - 4096), 4 * GIB),
        (16 * GIB, str(GIB // 8), GIB // 16),
        (16 * GIB, None, 4 * GIB),
        (0, None, GIB // 16),
    ],
)
def test_a_quarter_of_the_memory_that_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, physical: int, container: str | None, held: int
) -> None:
    """Of the machine or of the container, whichever has less, and never too little to work with."""
    file = tmp_path / "memory.max"
    if container is not None:
        file.write_text(container)
    monkeypatch.setattr(memory, "_CONTROL_GROUPS", (file,))
    monkeypatch.setattr(memory, "_physical", lambda: physical)
    assert memory.memory_to_hold() == held


_PAGES = """
import resource
from windshift.server.process.memory import keep_large_blocks
{}
body = bytes(2_000_000)
for _ in range(3):
    b"%b %b" % (body, body[:1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    b"%b %b" % (body, body[:1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_large_blocks_are_kept() -> None:
    """Their pages are not fetched anew each time."""

    def pages(call: str) -> int:
        told = subprocess.run([sys.executable, "-c", _PAGES.format(call)], stdout=subprocess.PIPE, check=True)
        return int(told.stdout)

    assert pages("keep_large_blocks()") < pages("") / 10


_RESIDENT = """
from windshift.server.process.memory import give_free_blocks_back, keep_large_blocks
keep_large_blocks()
blocks = [bytes(range(256)) * 200 for _ in range(400)]
last = bytes(range(256)) * 200  # keeps the end of the heap from shrinking by itself
del blocks
give_free_blocks_back()
print(int(open("/proc/self/statm").read().split()[1]) * 4096)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_free_blocks_are_given_back() -> None:
    """Twenty megabytes of them are not resident any more."""

    def resident(program: str) -> int:
        told = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
        return int(told.stdout)

    kept = resident(_RESIDENT.replace("give_free_blocks_back()\nprint", "print"))
    assert resident(_RESIDENT) < kept - 10_000_000


def test_this_machine_has_memory() -> None:
    """As every one that says so."""
    assert memory.memory_to_hold() >= GIB // 16
