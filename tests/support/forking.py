"""`windshift`, forked from a process that has imported it: imports are most of a start in a new interpreter.

Run as a program this is that process. It imports, then forks at each request. A child differs from one of
``python -m windshift`` in what belongs to its parent: its command line and environment as `ps` shows them,
and the signals that are ignored. A test of these says ``under=EXECUTED``, see `WindshiftProcess`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
POSSIBLE = hasattr(os, "pidfd_open")
"""Whether this system has what it takes: Linux has."""

_IMPORTED = (
    "windshift.cli",
    "windshift.cli.serve",
    "windshift.server.process.serve",
    "windshift.server.process.app",
)
_REQUEST = 1 << 17
"""Bytes that a request may have at the most: mostly the environment."""


class Forked:
    """A child, with the part of ``subprocess.Popen`` that tests need."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._reading = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit status (negative: the signal); None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended. Raises ``subprocess.TimeoutExpired``."""
        ended = select.poll()
        ended.register(self._status, select.POLLIN)
        if self.returncode is None and not ended.poll(None if timeout is None else timeout * 1000):
            raise subprocess.TimeoutExpired("windshift", timeout or 0)
        with self._reading:
            if self.returncode is None:
                self.returncode = int(os.read(self._status, 16))
                os.close(self._status)
            return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to stop."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class _Forker:
    """The process that forks, as seen from a test."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asking = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        atexit.register(self.close)

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], directory: Path, files: Sequence[int]
    ) -> Forked:
        status, theirs = os.pipe()
        request = json.dumps([list(arguments), dict(environment), str(directory), _umask()]).encode()
        with self._asking:
            socket.send_fds(self._control, [request], [*files, theirs])
            os.close(theirs)
            return Forked(int(self._control.recv(16)), status)

    def close(self) -> None:
        self._control.close()
        self._process.wait()


def _umask() -> int:
    """Return what ``os.umask`` would, which sets it."""
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each[:6] == "Umask:")
    return int(line[6:], 8)


@cache
def _forker() -> _Forker:
    return _Forker()


def fork(
    arguments: Sequence[str], environment: Mapping[str, str], directory: Path, files: Sequence[int]
) -> Forked:
    """Run ``windshift`` in a process group of its own. `files` are its stdin, stdout and stderr."""
    return _forker().fork(arguments, environment, directory, files)


# The process that forks


def _children(control: socket.socket) -> list[str] | None:
    """Fork at each request, and tell how children end. Return a child's arguments in it, None at the end."""
    running: dict[int, tuple[int, int]] = {}
    with selectors.DefaultSelector() as selector, control:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not control:
                    selector.unregister(key.fileobj)
                    _tell_end(key.fd, *running.pop(key.fd))
                    continue
                request, files, *_ = socket.recv_fds(control, _REQUEST, 4)
                if not request:
                    return None
                if (pid := os.fork()) == 0:
                    for pidfd, (_, status) in running.items():
                        os.close(pidfd)
                        os.close(status)
                    return _become(request, files)
                pidfd = os.pidfd_open(pid)
                running[pidfd] = pid, files.pop()
                selector.register(pidfd, selectors.EVENT_READ)
                for each in files:
                    os.close(each)
                control.send(str(pid).encode())


def _tell_end(pidfd: int, pid: int, status: int) -> None:
    _, ended = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):  # nobody wants to know
        os.write(status, str(os.waitstatus_to_exitcode(ended)).encode())
    os.close(status)
    os.close(pidfd)


def _become(request: bytes, files: list[int]) -> list[str]:
    """Be the child that was asked for, and return its arguments."""
    arguments: list[str]
    arguments, environment, directory, umask = json.loads(request)
    os.setpgid(0, 0)
    os.umask(umask)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    return arguments


def _main() -> None:
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    arguments = _children(socket.socket(fileno=int(sys.argv[1])))
    if arguments is not None:
        sys.argv[1:] = arguments
        importlib.import_module("windshift.cli").main(prog_name="windshift")


if __name__ == "__main__":
    _main()
