"""`windshift run`, as a process: stops, reloads, workers, health, and handlers that do not behave."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path

import pytest

import windshift as ws
from tests.support.app import running_app
from tests.support.nats_server import NatsServer
from windshift.protos import test

Text = test.StringValue
LIMIT = 50.0
"""Seconds that anything may take on a busy machine."""

APP = """\
import asyncio, os, pathlib, sys, time
import windshift as ws
from windshift.protos import test

app = ws.App("shop")
consumer = app.consumer(app.stream("s", subjects=["s.>"]), "w", start=ws.START, timeout=20)
here = pathlib.Path(__file__).parent


def note(text):
    with (here / "notes").open("a") as notes:
        notes.write(f"{text}\\n")


"""
NOTE_WORKER = "note(f'worker {os.getpid()}')\n\n\n"
HANDLE = """\
@consumer.on
async def handle(text: test.StringValue):
    note(f"{text.value} by {os.getpid()}")
"""


@pytest.fixture(scope="module")
def server(nats_server: NatsServer) -> Iterator[str]:
    """Share a server; give its ``host:port``."""
    with running_app(nats_server.url) as address:
        yield address


class Run:
    """A `windshift run` in a directory with an app."""

    def __init__(self, directory: Path, address: str, namespace: str) -> None:
        self.directory = directory
        self.namespace = namespace
        self.environment = {
            **os.environ,
            "WINDSHIFT_ADDRESS": address,
            "WINDSHIFT_NAMESPACE": namespace,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, code: str) -> None:
        """Write the app."""
        (self.directory / "shop.py").write_text(APP + code)

    def start(
        self, *options: str, target: str = "shop:app", before: Sequence[str] = (), log: int | None = None
    ) -> None:
        """Start it, with options behind `run` and before it.

        Its log is a file descriptor, which is closed here, or the usual file.
        """
        with (self.directory / "err").open("ab") if log is None else os.fdopen(log, "wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "windshift", *before, "run", target, *options],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What it wrote."""
        path = self.directory / "err"
        return path.read_text() if path.exists() else ""

    @property
    def notes(self) -> list[str]:
        """What the app noted."""
        path = self.directory / "notes"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def workers(self) -> list[int]:
        """The process ids that the app noted."""
        return [int(note.removeprefix("worker ")) for note in self.notes if note.startswith("worker ")]

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    @property
    def has_taken_signals(self) -> bool:
        """Whether no signal waits until it has its turn at a processor. Only Linux tells."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status")
        return not status.exists() or "ShdPnd:\t0000000000000000" in status.read_text()

    async def ended(self) -> int:
        """Wait for its end, and return the exit status."""
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, LIMIT)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds."""
        try:
            async with asyncio.timeout(LIMIT):
                while not condition():  # noqa: ASYNC110 -- it is another process
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"waited in vain; {self.notes} {self.log}") from None

    def kill(self) -> None:
        """End it, and what it started."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(LIMIT)


@pytest.fixture
def run(tmp_path: Path, server: str, unique: Callable[[], str]) -> Iterator[Run]:
    """Prepare a run in a directory and a namespace of its own."""
    run = Run(tmp_path, server, unique())
    yield run
    run.kill()


Publish = Callable[[str], Awaitable[object]]


@pytest.fixture
async def publish(run: Run, server: str) -> AsyncIterator[Publish]:
    """Publish texts to the stream of the app."""
    async with ws.connect(server, namespace=run.namespace) as client:
        await client.streams.ensure("s", subjects=["s.>"])
        yield lambda text: client.publish("s.x", Text(value=text))


def ask(port: str, path: str) -> tuple[int, dict[str, str]]:
    """Ask a health endpoint."""
    connection = HTTPConnection("127.0.0.1", int(port), timeout=LIMIT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


async def test_it_handles_until_sigterm(run: Run, publish: Publish) -> None:
    """Events are handled, probes answered; SIGTERM finishes what is held, with status 0."""
    run.write(
        "@consumer.on\nasync def handle(text: test.StringValue):\n"
        "    note('begin')\n    await asyncio.sleep(0.5)\n    note('end')\n    1 / int(text.value)\n"
    )
    run.start("--health-port", "0", "--concurrency", "3")
    await run.until(lambda: "health on" in run.log)
    (port,) = re.findall(r"health on http://127\.0\.0\.1:(\d+)", run.log)
    await run.until(lambda: ask(port, "/readyz") == (200, {"status": "ok"}))
    assert ask(port, "/healthz") == (200, {"status": "ok"})
    assert ask(port, "/other")[0] == 404
    await publish("1")
    await publish("0")
    await run.until(lambda: run.notes.count("begin") == 2)
    run.signal()
    assert await run.ended() == 0
    assert run.notes.count("end") == 2
    assert re.search(r"WARNING windshift: event 2 on s\.x, attempt 1: retry: division by zero", run.log)
    assert "[s/w 2, attempt 1]" in run.log


async def test_an_app_of_dataclasses(run: Run) -> None:
    """The app says which codecs its client takes: it publishes and handles objects that are no messages."""
    run.write(
        "from contextlib import asynccontextmanager\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass Order:\n    number: int\n\n"
        "@asynccontextmanager\nasync def lifespan(app):\n"
        "    await app.client.publish('s.x', Order(2**60 + 1))\n    yield\n\n"
        "app = ws.App('shop', lifespan=lifespan, codecs=[ws.codecs.Dataclasses()])\n"
        "consumer = app.consumer(app.stream('s', subjects=['s.>']), 'w', start=ws.START)\n\n"
        "@consumer.on\nasync def handle(order: Order):\n    note(repr(order))\n"
    )
    run.start()
    await run.until(lambda: run.notes == [f"Order(number={2**60 + 1})"])
    run.signal()
    assert await run.ended() == 0, run.log


async def test_a_second_signal_ends_it_at_once(run: Run, publish: Publish) -> None:
    """Also while a handler blocks the event loop."""
    run.write(
        "@consumer.on\nasync def handle(text: test.StringValue):\n    note('begin')\n    time.sleep(60)\n"
    )
    run.start()
    await publish("1")
    await run.until(lambda: run.notes == ["begin"])
    run.signal()
    await run.until(lambda: run.has_taken_signals)  # two that wait at once are one
    await asyncio.sleep(0.1)
    run.signal()
    assert await run.ended() == 128 + signal.SIGTERM


THREAD = """\
@consumer.on
def handle(text: test.StringValue):
    note("begin")
    time.sleep(600)
"""
COROUTINE = """\
@consumer.on
async def handle(text: test.StringValue):
    note("begin")
    while True:
        try:
            await asyncio.sleep(600)
        except BaseException:
            pass
"""
TO_THREAD = """\
@consumer.on
async def handle(text: test.StringValue):
    note("begin")
    await asyncio.to_thread(time.sleep, 600)
"""
GENERATOR = """\
async def numbers():
    try:
        yield 1
    finally:
        await asyncio.sleep(600)


kept = numbers()


@consumer.on
async def handle(text: test.StringValue):
    await anext(kept)
    note("begin")
"""


LEFT_IN_A_THREAD = """\
def finish():
    while not (here / "go").exists():
        time.sleep(0.02)
    time.sleep(3)


async def wait():
    finished = asyncio.get_running_loop().run_in_executor(None, finish)
    while not finished.done():
        try:
            await asyncio.wait([finished])
        except asyncio.CancelledError:
            pass
    note("end")


tasks = []


@consumer.on
async def handle(text: test.StringValue):
    tasks.append(asyncio.create_task(wait()))
    note("begin")
"""


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (THREAD, "threads of handlers"),
        (COROUTINE, "tasks"),
        (TO_THREAD, "threads of to_thread"),
        (GENERATOR, "asynchronous generators"),
    ],
)
async def test_handlers_that_never_end_do_not_keep_it(
    run: Run, publish: Publish, body: str, what: str
) -> None:
    """A thread, also of `to_thread`, or a coroutine that goes on: after the grace it ends with status 1."""
    run.write(body)
    run.start("--grace", "0.2")
    await publish("1")
    await run.until(lambda: run.notes == ["begin"])
    run.signal()
    assert await run.ended() == 1
    assert f"shop: {what} do not end; ended by force" in run.log


async def test_what_a_handler_left_in_a_thread_has_the_rest_of_the_grace(run: Run, publish: Publish) -> None:
    """It is finished, with a task that waits for it, and the stop is in order."""
    run.write(LEFT_IN_A_THREAD)
    run.start("--grace", "600")
    await publish("1")
    await run.until(lambda: run.notes == ["begin"])
    run.signal()
    await run.until(lambda: "shop stops" in run.log)
    (run.directory / "go").touch()
    assert await run.ended() == 0, run.log
    assert run.notes == ["begin", "end"]


async def test_sys_exit_in_a_handler_ends_it(run: Run, publish: Publish) -> None:
    """The status is the handler's; the event goes to others."""
    run.write("@consumer.on\nasync def handle(text: test.StringValue):\n    sys.exit(5)\n")
    run.start()
    await publish("1")
    assert await run.ended() == 5


async def test_reload_starts_anew(run: Run, publish: Publish) -> None:
    """A change drains and starts anew; a broken file is waited for; a handler that runs is finished."""
    run.write(
        "@consumer.on\nasync def handle(text: test.StringValue):\n"
        "    note('first')\n    await asyncio.sleep(1)\n    note('done')\n"
    )
    run.start("--reload")
    await publish("1")
    await run.until(lambda: run.notes == ["first"])
    run.write("broken(\n")
    await run.until(lambda: "waiting for a file to change" in run.log)
    assert run.notes == ["first", "done"]
    assert "SyntaxError" in run.log
    run.write(HANDLE)
    await publish("2")
    await run.until(lambda: len(run.notes) == 3)
    assert run.process is not None
    assert run.notes[2] == f"2 by {run.process.pid}"
    run.signal()
    assert await run.ended() == 0


LAZY = """\
class Lazy(type(sys)):
    def __getattr__(self, name):
        raise RuntimeError("not installed")


sys.modules["lazy"] = Lazy("lazy")


"""


async def test_reload_beside_a_module_that_cannot_be_asked(run: Run) -> None:
    """One that loads what it stands for when it is asked for its file, and fails, is passed over."""
    run.write(LAZY + HANDLE)
    run.start("--reload")
    await run.until(lambda: "shop runs" in run.log)
    run.write(LAZY + HANDLE + "# changed\n")
    await run.until(lambda: run.log.count("shop runs") == 2)
    assert run.log.count("a file changed; starting anew") == 1
    run.signal()
    assert await run.ended() == 0


async def test_what_fails_to_say_when_to_stop(run: Run) -> None:
    """An `until` that raises ends the app, and its error is told; it is no orderly stop."""
    run.write(
        HANDLE + "\n\nasync def until():\n    raise LookupError('no such flag')\n\n\n"
        "app.run(until=until)\nsys.exit(3)\n"
    )
    run.start()
    assert await run.ended() == 1
    assert run.log.splitlines()[-1] == "LookupError: no such flag"


WAIT = """\
@consumer.on
async def handle(text: test.StringValue):
    note("begin")
    while not (here / "go").exists():
        await asyncio.sleep(0.02)
    note("end")


"""


async def test_a_signal_while_it_reloads(run: Run, publish: Publish) -> None:
    """What is held is finished, as without a signal, and nothing starts anew."""
    run.write(WAIT)
    run.start("--reload")
    await publish("1")
    await run.until(lambda: run.notes == ["begin"])
    run.write(WAIT + "# changed\n")
    await run.until(lambda: "shop stops" in run.log)
    run.signal()
    (run.directory / "go").touch()
    assert await run.ended() == 0
    assert run.notes == ["begin", "end"]
    assert run.log.count("shop runs") == 1


async def test_a_signal_while_an_error_ends_it(run: Run, server: str, publish: Publish) -> None:
    """The other consumers finish what they hold, and the status is that of the error."""
    run.write(
        f"{WAIT}other = app.consumer(app.streams[0], 'v', start=ws.START)\n\n\n"
        "@other.on\nasync def look(text: test.StringValue):\n    pass\n"
    )
    run.start()
    await publish("1")
    await run.until(lambda: run.notes == ["begin"])
    async with ws.connect(server, namespace=run.namespace) as client:
        await client.stream("s").consumers.delete("v")
    await run.until(lambda: "shop stops" in run.log)
    run.signal()
    (run.directory / "go").touch()
    assert await run.ended() == 1
    assert run.notes == ["begin", "end"]
    assert "windshift: the app failed: " in run.log


async def test_workers_are_started_again_and_stopped(run: Run, publish: Publish) -> None:
    """A killed worker is replaced; SIGTERM stops all; when the parent is killed, they stop by themselves."""
    run.write(HANDLE)
    run.start("--workers", "2")
    await run.until(lambda: run.log.count("shop runs") == 2)
    await publish("1")
    await run.until(lambda: len(run.notes) == 1)
    victim = int(run.notes[0].rpartition(" ")[2])
    os.kill(victim, signal.SIGKILL)
    await run.until(lambda: run.log.count("shop runs") == 3)
    assert re.search(r"worker \d was ended by SIGKILL; another one starts in 0\.5 s", run.log)
    run.signal()
    assert await run.ended() == 0
    assert run.log.count("shop stops") == 2
    run.start("--workers", "2")
    await run.until(lambda: run.log.count("shop runs") == 5)
    run.signal(signal.SIGKILL)
    await run.ended()
    await run.until(lambda: run.log.count("shop stops") == 4)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems set no limits of another process")
async def test_workers_that_cannot_be_started(run: Run) -> None:
    """Where the system has no room for another process, the others go on, and it is tried again."""
    run.write(NOTE_WORKER + HANDLE)
    run.start("--workers", "2")
    await run.until(lambda: run.log.count("shop runs") == 2)
    assert run.process is not None
    limits = resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))  # no pipe to a new process
    os.kill(run.workers[0], signal.SIGKILL)
    await run.until(lambda: "could not be started (Too many open files); another one starts in" in run.log)
    resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE, limits)
    await run.until(lambda: run.log.count("shop runs") == 3)
    run.signal()
    assert await run.ended() == 0
    assert run.log.count("shop stops") == 2


async def test_workers_whose_log_nobody_reads(run: Run) -> None:
    """One that ends is started again, and the others go on."""
    run.write(NOTE_WORKER + HANDLE)
    reader, writer = os.pipe()
    run.start("--workers", "2", log=writer)
    await run.until(lambda: len(run.workers) == 2)
    os.close(reader)
    first, second = run.workers
    os.kill(first, signal.SIGKILL)
    await run.until(lambda: len(run.workers) == 3)
    os.kill(second, 0)  # it is there
    run.signal()
    assert await run.ended() == 0


async def test_a_worker_that_starts_while_a_context_is_replaced(run: Run, server: str) -> None:
    """It is started again until it can be read; the others go on."""
    (run.directory / "windshift").mkdir()
    contexts = run.directory / "windshift" / "contexts.toml"
    contexts.write_text(f'[contexts.dev]\naddress = "{server}"\n')
    run.environment["XDG_CONFIG_HOME"] = str(run.directory)
    del run.environment["WINDSHIFT_ADDRESS"]
    run.write(NOTE_WORKER + HANDLE)
    run.start("--workers", "2", before=("--context", "dev"))
    await run.until(lambda: run.log.count("shop runs") == 2)
    whole = contexts.read_text()
    contexts.write_text("[contexts.dev")
    os.kill(run.workers[0], signal.SIGKILL)
    await run.until(lambda: re.search(r"worker \d ended with status 1; another one starts in", run.log))
    contexts.write_text(whole)
    await run.until(lambda: run.log.count("shop runs") == 3)
    run.signal()
    assert await run.ended() == 0
    assert run.log.count("shop stops") == 2


async def test_signals_while_workers_stop_since_there_is_no_such_app(run: Run, publish: Publish) -> None:
    """The others finish what they hold; a second signal kills them."""
    run.write(
        NOTE_WORKER + HANDLE + "    await asyncio.sleep(600)\n\n\nif (here / 'gone').exists():\n    del app\n"
    )
    run.start("--workers", "2", "--grace", "600")
    await publish("1")
    await run.until(lambda: len(run.workers) == 2 and len(run.notes) == 3)
    (run.directory / "gone").touch()
    busy = next(int(note.removeprefix("1 by ")) for note in run.notes if note.startswith("1 by "))
    (idle,) = {*run.workers} - {busy}
    os.kill(idle, signal.SIGKILL)
    await run.until(lambda: "shop stops" in run.log)
    run.signal()
    run.signal(signal.SIGINT)  # another one: two of a kind may become one
    assert await run.ended() == 2


async def test_a_signal_while_the_app_is_imported(run: Run) -> None:
    """Nothing has begun: it ends with 0, without starting the app."""
    run.write("note('import')\ntime.sleep(600)\n" + HANDLE)
    run.start()
    await run.until(lambda: run.notes == ["import"])
    run.signal()
    assert await run.ended() == 0
    assert "windshift: SIGTERM: stopped before it had started" in run.log


async def test_a_signal_while_workers_are_young(run: Run) -> None:
    """Workers that are not far enough to take signals are ended by them, which is in order."""
    run.write(HANDLE)
    (run.directory / "sitecustomize.py").write_text(
        "import os, pathlib, sys, time\nif '--worker-of' in sys.orig_argv:\n"
        "    pathlib.Path(f'young{os.getpid()}').touch()\n    time.sleep(600)\n"
    )
    run.environment["PYTHONPATH"] = str(run.directory)
    run.start("--workers", "2")
    await run.until(lambda: len(list(run.directory.glob("young*"))) == 2)
    run.signal()
    assert await run.ended() == 0


async def test_it_waits_for_a_server(run: Run, nats_server: NatsServer) -> None:
    """A server that is away is waited for, not ready meanwhile; SIGTERM ends the wait."""
    run.write(HANDLE)
    run.environment["WINDSHIFT_ADDRESS"] = "127.0.0.1:1"
    run.start("--health-port", "0")
    await run.until(lambda: "health on" in run.log)
    (port,) = re.findall(r"health on http://127\.0\.0\.1:(\d+)", run.log)
    assert ask(port, "/readyz") == (503, {"status": "unavailable", "reason": "starting"})
    await run.until(lambda: "shop waits for the server" in run.log)
    run.signal()
    assert await run.ended() == 0


async def test_options_say_which_server(run: Run, server: str, publish: Publish) -> None:
    """They win over the environment, before `run` and behind it, in each worker."""
    run.write(HANDLE)
    run.environment |= {"WINDSHIFT_ADDRESS": "127.0.0.1:1", "WINDSHIFT_NAMESPACE": "elsewhere"}
    run.start("--workers", "2", "--address", server, before=("--namespace", run.namespace))
    await run.until(lambda: run.log.count("shop runs") == 2)
    await publish("1")
    await run.until(lambda: run.notes)
    run.signal()
    assert await run.ended() == 0


async def test_a_context_says_which_server(run: Run, server: str, publish: Publish) -> None:
    """The one of the line, and not the selected one."""
    run.write(HANDLE)
    (run.directory / "windshift").mkdir()
    (run.directory / "windshift" / "contexts.toml").write_text(
        f'selected = "prod"\n[contexts.prod]\naddress = "127.0.0.1:1"\n[contexts.dev]\naddress = "{server}"\n'
    )
    run.environment["XDG_CONFIG_HOME"] = str(run.directory)
    del run.environment["WINDSHIFT_ADDRESS"]
    run.start(before=("--context", "dev"))
    await publish("1")
    await run.until(lambda: run.notes)
    run.signal()
    assert await run.ended() == 0


@pytest.mark.parametrize(
    ("target", "options", "status", "text"),
    [
        ("nothing:app", (), 2, "there is no module 'nothing'"),
        ("nothing:app", ("--workers", "2"), 2, "there is no module 'nothing'"),
        ("shop:other", (), 2, "shop:other: module 'shop' has no attribute 'other'"),
        ("shop:consumer", (), 2, "shop:consumer is a AppConsumer, not a windshift.App"),
        ("shop:app", ("--reload", "--workers", "2"), 2, "--reload goes with one worker"),
        ("shop:app", ("--address", "nowhere"), 2, "the address 'nowhere' is not right"),
        ("shop:app", ("--workers", "2", "--address", "nowhere"), 2, "the address 'nowhere' is not right"),
        ("shop:app", (), 1, "ValueError: the consumer 'w' has no handler"),
    ],
)
async def test_what_cannot_be_run(
    run: Run, target: str, options: tuple[str, ...], status: int, text: str
) -> None:
    """A wrong target or wrong options: status 2, and a line that says it; an app that cannot start: 1."""
    run.write("")
    run.start(*options, target=target)
    assert await run.ended() == status
    assert text in run.log


@pytest.mark.parametrize("error", ["BrokenPipeError()", "ConnectionRefusedError('no database')"])
@pytest.mark.parametrize("place", ["lifespan", "module"])
async def test_an_app_that_fails_as_a_file_does(run: Run, error: str, place: str) -> None:
    """It is not taken for output that nobody reads, or that cannot be written."""
    lifespan = "    yield\n" if place == "module" else f"    raise {error}\n    yield\n"
    run.write(
        "from contextlib import asynccontextmanager\n\n@asynccontextmanager\nasync def lifespan(app):\n"
        f"{lifespan}\napp = ws.App('shop', lifespan=lifespan)\n"
        "consumer = app.consumer(app.stream('s', subjects=['s.>']), 'w', start=ws.START)\n"
        + HANDLE
        + (f"raise {error}\n" if place == "module" else "")
    )
    run.start()
    assert await run.ended() == 1
    assert "shop.py" in run.log
    assert error.partition("(")[0] in run.log.splitlines()[-1]


async def test_denied_ends_it(run: Run) -> None:
    """What waiting will not mend is told in a line, with status 1."""
    run.write(HANDLE + "app.consumer(app.stream('x', ensure='never'), 'y', ensure='never').on(handle)\n")
    run.start()
    assert await run.ended() == 1
    assert "windshift: the app failed: stream" in run.log
    assert "STREAM_NOT_FOUND" in run.log
