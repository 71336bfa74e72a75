"""A blocked event loop is noticed, and ended if that lasts; a process that was stopped is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

LIMIT = 60
"""Seconds that anything may take on a slow machine."""

PROGRAM = """
import asyncio, faulthandler, json, logging, os, sys, threading, time
from windshift.server.config.tree import LogLevel
from windshift.server.process.logging import configure_logging
from windshift.server.process.watchdog import Watchdog

def in_the_way():
    while True:
        time.sleep(0.01)

def spin():
    while True:
        pass

def until_noticed(watchdog):
    while not watchdog.stalls:
        time.sleep(0.01)

def start(thread):
    raise RuntimeError("can't start new thread")

async def main():
    watchdog = Watchdog({limit}, lambda: print("ending", flush=True), tick=0.05, log_after=0.3)
    watchdog.start()
    print("running", flush=True)
    await asyncio.sleep({pause})
    print("blocking", flush=True)
    {block}
    await asyncio.sleep(1)
    watchdog.stop()
    print("stalls", watchdog.stalls, flush=True)

configure_logging(LogLevel.INFO, readable=False)
asyncio.run(main())
"""


@contextmanager
def program(block: str, limit: float = 1.0, pause: float = 0.0) -> Iterator[subprocess.Popen[str]]:
    """Run a loop that is blocked by this statement."""
    source = PROGRAM.format(block=block, limit=limit, pause=pause)
    with subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("block", ["in_the_way()", "spin()"])
def test_a_blocked_loop_ends_the_process(block: str) -> None:
    """One record has the stacks of all threads, and the exit status says what happened."""
    with program(block) as process:
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 70
    assert out.splitlines() == ["running", "blocking", "ending"]
    first, last = err.splitlines()
    assert "the event loop has been blocked for 0.3" in first
    assert f"in {block.removesuffix('()')}" in first
    assert "thread MainThread" in first
    assert "ending the process" in last


def test_a_loop_that_goes_on() -> None:
    """A stall is counted, and its end told; the process goes on."""
    with program("until_noticed(watchdog)", limit=30) as process:
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert out.splitlines()[-1] == "stalls 1"
    assert "the event loop runs again" in err


def test_without_a_limit_the_process_goes_on() -> None:
    """0 means that only the log tells."""
    with program("until_noticed(watchdog); time.sleep(0.7)", limit=0) as process:
        out, _ = process.communicate(timeout=LIMIT)
    assert (process.returncode, out.splitlines()[-1]) == (0, "stalls 1")


def test_logging_that_is_blocked() -> None:
    """What holds up the loop holds up logging as well; the stacks are written all the same."""
    with program("logging.getLogger().handlers[0].acquire(); in_the_way()") as process:
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 70
    assert "logging is blocked" in err
    assert "in in_the_way" in err
    assert out.splitlines()[-1] == "ending"


def test_no_thread_to_log_in() -> None:
    """A process that may start no more threads ends without a word."""
    with program("threading.Thread.start = start; in_the_way()") as process:
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (70, "")
    assert out.splitlines()[-1] == "ending"


def test_nobody_reads_the_log() -> None:
    """A full pipe, in which the loop is stuck itself, does not keep the process from ending."""
    with program("os.write(2, bytes(10_000_000))") as process:
        assert process.wait(timeout=LIMIT) == 70


def test_a_process_that_was_stopped() -> None:
    """It was stopped as a whole, for longer than the limit, and nothing is wrong with it."""
    with program("pass", limit=1.0, pause=2.0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(process.pid, signal.SIGCONT)
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1] == "stalls 0"
