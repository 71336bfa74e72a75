"""Files that are loaded again when they change."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from windshift.server.background.reloading import (
    Changes,
    NotUsable,
    State,
    Watched,
    refuse_pipes,
    state_of,
)

LIMIT = 30.0


def state(*versions: int | None) -> State:
    """Make what a poll sees of files; None for one that is not there."""
    return tuple(None if version is None else (1, version, 10, version, version) for version in versions)


# When to load


def decided(*seen: State, files: int = 1) -> list[bool]:
    """Return what was decided at each poll, of files that were at 1; what is due is loaded at once."""
    changes = Changes()
    changes.loaded(state(*[1] * files), 0, refused=False)
    decisions = []
    for number, each in enumerate(seen):
        decisions.append(changes.due(each, number))
        if decisions[-1]:
            changes.loaded(each, number, refused=False)
    return decisions


def test_nothing_is_loaded_while_nothing_changes() -> None:
    """What was loaded is not loaded again."""
    assert decided(state(1), state(1), state(1)) == [False, False, False]


def test_a_change_is_loaded_once_it_rests() -> None:
    """Polls must have seen it for a second, and then it is known."""
    assert decided(state(2), state(2), state(2), state(2)) == [False, True, False, False]


def test_a_file_that_is_being_written_is_left_alone() -> None:
    """As long as every poll sees something else, nothing is loaded."""
    assert decided(state(2), state(3), state(4), state(4)) == [False, False, False, True]


def test_a_change_that_was_taken_back_is_none() -> None:
    """A file that was away for a moment, and is the same again."""
    assert decided(state(None), state(1), state(1)) == [False, False, False]


def test_a_file_that_is_gone_has_changed() -> None:
    """It is tried, so that somebody is told; and its return is a change again."""
    assert decided(state(None), state(None), state(1), state(1)) == [False, True, False, True]


@pytest.mark.parametrize("later", [state(2, 1), state(1, 2), state(1, None), state(2, 2)])
def test_one_file_of_a_group_is_enough(later: State) -> None:
    """Files of a group are loaded together."""
    assert decided(later, later, files=2) == [False, True]


def test_what_was_refused_is_tried_again_later() -> None:
    """Not at each poll; what is loaded in the end is left alone."""
    changes = Changes(retry=30)
    assert changes.loaded(state(1), 0, refused=True)
    assert [changes.due(state(1), now) for now in (0, 1, 29, 30)] == [False, False, False, True]
    assert not changes.loaded(state(1), 30, refused=True)
    assert [changes.due(state(1), now) for now in (31, 60)] == [False, True]
    assert not changes.loaded(state(1), 60, refused=False)
    assert not changes.due(state(1), 1000)


def test_what_was_not_loaded_yet_is_due() -> None:
    """Without a first load, the first that rests is loaded."""
    changes = Changes()
    assert [changes.due(state(1), now) for now in (0, 1)] == [False, True]


# What tells versions apart


def test_signatures(tmp_path: Path) -> None:
    """Content, its replacement, rights, and where a symbolic link leads: each makes another state."""
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
        (directory / "file").write_text("same")
    link, path = tmp_path / "link", tmp_path / "link" / "file"
    link.symlink_to(first)
    states = [state_of([path]), state_of([path])]
    assert states.pop() == states[0]
    (first / "file").write_text("longer")
    states.append(state_of([path]))
    (first / "file").chmod(0o400)
    states.append(state_of([path]))
    (tmp_path / "new").symlink_to(second)
    (tmp_path / "new").replace(link)
    states.append(state_of([path]))
    (second / "file").unlink()
    states.append(state_of([path]))
    assert len(set(states)) == 5
    assert states[-1] == (None,)


# With files


class Counted(Changes):
    """Counts the polls."""

    polls = 0

    def due(self, state: State, now: float) -> bool:
        self.polls += 1
        return super().due(state, now)


class Numbers:
    """Loads a number from each of two files, which must be the same."""

    def __init__(self, directory: Path) -> None:
        self.files = (directory / "one", directory / "two")
        self.taken: list[int] = []
        self.loads = 0
        self.broken = False
        self.write(1)
        self.watched = Watched("numbers", self.files, self.load, self.taken.append, poll=0.02, retry=LIMIT)

    def write(self, number: int | str, files: tuple[Path, ...] = ()) -> None:
        for file in files or self.files:
            new = file.with_suffix(".new")
            new.write_text(str(number))
            new.replace(file)

    def load(self) -> int:
        self.loads += 1
        if self.broken:
            raise ZeroDivisionError
        one, two = (file.read_text() for file in self.files)
        if one != two:
            raise NotUsable("the numbers differ")
        return int(one)


@pytest.fixture
def numbers(tmp_path: Path) -> Numbers:
    """Write the files."""
    return Numbers(tmp_path)


@asynccontextmanager
async def watching(numbers: Numbers) -> AsyncIterator[Watched[int]]:
    """Load, and watch for as long as the block lasts."""
    numbers.watched.start()
    task = asyncio.create_task(numbers.watched.watch())
    try:
        yield numbers.watched
    finally:
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()


async def until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 - what it waits for is not told by an event
            await asyncio.sleep(0.01)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged as an error."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_change_is_taken(numbers: Numbers, caplog: pytest.LogCaptureFixture) -> None:
    """In the event loop, with a word in the log."""
    caplog.set_level(logging.INFO)
    async with watching(numbers) as watched:
        assert (numbers.taken, watched.reloads) == ([1], 0)
        numbers.write(2)
        await until(lambda: numbers.taken[-1] == 2)
        assert (watched.reloads, watched.failures, watched.failing) == (1, 0, False)
        assert f"reloaded numbers: {numbers.files[0]}, {numbers.files[1]}" in caplog.messages


async def test_what_is_broken_is_not_taken(numbers: Numbers, caplog: pytest.LogCaptureFixture) -> None:
    """What was there stays, one error is logged however long it lasts, and the next good version is taken."""
    counted = numbers.watched._changes = Counted()
    async with watching(numbers) as watched:
        numbers.write(2, numbers.files[:1])
        await until(lambda: watched.failing)
        polls = counted.polls
        await until(lambda: counted.polls >= polls + 5)
        assert (numbers.taken, watched.failures) == ([1], 1)
        names = f"{numbers.files[0]}, {numbers.files[1]}"
        assert errors(caplog) == [
            f"cannot reload numbers from {names}; what was loaded before stays: the numbers differ"
        ]
        numbers.write(2, numbers.files[1:])
        await until(lambda: not watched.failing)
        assert (numbers.taken, watched.failures, watched.reloads) == ([1, 2], 1, 1)
        numbers.write(3, numbers.files[:1])
        await until(lambda: watched.failures == 2)


async def test_a_file_that_disappears(numbers: Numbers, caplog: pytest.LogCaptureFixture) -> None:
    """It counts as broken, and its return as a change."""
    async with watching(numbers) as watched:
        kept = numbers.files[0].rename(numbers.files[0].with_suffix(".kept"))
        await until(lambda: watched.failing)
        assert errors(caplog)[0].endswith(f"stays: {numbers.files[0]}: No such file or directory")
        kept.rename(numbers.files[0])
        await until(lambda: not watched.failing)
        assert (numbers.taken, watched.failures) == ([1, 1], 1)


async def test_an_error_that_nobody_thought_of(numbers: Numbers, caplog: pytest.LogCaptureFixture) -> None:
    """It keeps what was there too, does not end the watch, and has a traceback in the log."""
    async with watching(numbers) as watched:
        numbers.broken = True
        numbers.write(2)
        await until(lambda: watched.failing)
        (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
        assert record.exc_info
        assert record.getMessage().endswith("stays: ZeroDivisionError")
        numbers.broken = False
        numbers.write(3)
        await until(lambda: numbers.taken == [1, 3])


async def test_a_failure_that_passes_by_itself(numbers: Numbers) -> None:
    """What was refused is tried again after a while, though the files are the same."""
    numbers.watched._changes = Changes(retry=0.05)
    async with watching(numbers) as watched:
        numbers.broken = True
        numbers.write(2)
        await until(lambda: watched.failing)
        numbers.broken = False
        await until(lambda: numbers.taken == [1, 2])
        assert (watched.failures, watched.failing) == (1, False)


async def test_on_demand(numbers: Numbers, caplog: pytest.LogCaptureFixture) -> None:
    """At once and changed or not, and the log has each result."""
    watched = numbers.watched
    watched.start()
    await watched.reload()
    numbers.write(2)
    await watched.reload()
    assert (numbers.taken, watched.reloads) == ([1, 1, 2], 2)
    numbers.write(3, numbers.files[:1])
    await watched.reload()
    await watched.reload()
    assert (numbers.taken, watched.failures, watched.failing, len(errors(caplog))) == ([1, 1, 2], 2, True, 2)


async def test_demands_at_once(numbers: Numbers) -> None:
    """They are met one after the other."""
    numbers.watched.start()
    await asyncio.gather(*(numbers.watched.reload() for _ in range(5)))
    assert numbers.watched.reloads == 5


async def test_a_first_load_that_fails(numbers: Numbers) -> None:
    """There is nothing to go on with: the caller is told, by one kind of error."""
    numbers.write(2, numbers.files[:1])
    with pytest.raises(NotUsable, match="the numbers differ"):
        numbers.watched.start()
    numbers.files[1].unlink()
    with pytest.raises(NotUsable, match="two: No such file or directory"):
        numbers.watched.start()
    assert (numbers.taken, numbers.watched.failures) == ([], 0)


async def test_a_symbolic_link_that_leads_elsewhere(tmp_path: Path) -> None:
    """As Kubernetes swaps the contents of a mounted secret: nothing is touched but one link."""
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "file").symlink_to("..data/file")
    os.utime(tmp_path / "v2" / "file", ns=(1, 1))
    taken: list[str] = []
    file = tmp_path / "file"
    watched = Watched("links", [file], file.read_text, taken.append, poll=0.02)
    watched.start()
    task = asyncio.create_task(watched.watch())
    (tmp_path / "..new").symlink_to("v2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    await until(lambda: taken == ["v1", "v2"])
    task.cancel()
    await asyncio.wait((task,))


# Files that are none, and file systems that hang


class Hangs(Numbers):
    """Files whose reading hangs as long as `answers` is not set; then all that hung comes to its end."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.answers = threading.Event()
        self.answers.set()
        self.watched = Watched(
            "numbers", self.files, self.load, self.taken.append, poll=0.02, retry=0.02, timeout=0.1
        )

    def load(self) -> int:
        self.answers.wait(LIMIT)
        return super().load()


@pytest.fixture
def hanging(tmp_path: Path) -> Hangs:
    """Write files that can be read, until that is changed."""
    return Hangs(tmp_path)


async def test_a_file_system_that_hangs(hanging: Hangs, caplog: pytest.LogCaptureFixture) -> None:
    """What was loaded stays, with one error however long it lasts; later everything is taken as usual."""
    async with watching(hanging) as watched:
        hanging.answers.clear()
        hanging.write(2)
        await until(lambda: watched.failing)
        await asyncio.sleep(1)
        hung = "cannot reload numbers from .*; what was loaded before stays: reading does not come to an end"
        assert [re.match(hung, error) is not None for error in errors(caplog)] == [True]
        hanging.answers.set()
        await until(lambda: not watched.failing)
        assert hanging.taken == [1, 2]
        hanging.write(3)
        await until(lambda: hanging.taken == [1, 2, 3])


async def test_threads_of_a_file_system_that_hangs(hanging: Hangs) -> None:
    """There are only so many of them, and nothing waits for them."""
    before = threading.active_count()
    async with watching(hanging) as watched:
        hanging.answers.clear()
        hanging.write(2)
        await until(lambda: watched.failing)
        await asyncio.sleep(1)
        assert threading.active_count() <= before + 5
        failures = watched.failures
        await watched.reload()
        assert watched.failures == failures + 1
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "windshift-files")
    hanging.answers.set()


async def test_threads_that_cannot_be_started(
    numbers: Numbers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The watch outlives that."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with watching(numbers) as watched:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            await until(lambda: watched.failing)
        numbers.write(2)
        await until(lambda: numbers.taken[-1] == 2)
        assert len(errors(caplog)) == 1


def test_what_is_no_file(tmp_path: Path) -> None:
    """Pipes, sockets and devices are refused unread; whether others can be read shows when they are."""
    pipe, listening, link = tmp_path / "pipe", tmp_path / "socket", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(listening))
        for path in (pipe, link, listening, Path("/dev/zero")):
            with pytest.raises(NotUsable, match=f"{path}: not a file"):
                refuse_pipes([tmp_path, path])
    (tmp_path / "file").write_text("")
    refuse_pipes([tmp_path / "file", tmp_path / "missing", tmp_path])
