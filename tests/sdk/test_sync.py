"""The client without asyncio: the same names, in threads, forked processes, and beside other loops."""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import windshift as ws
from windshift import sdk
from windshift.protos import test
from windshift.sdk import facade

Text = test.StringValue
STUB = Path(sdk.__file__).with_name("sync.pyi")


@pytest.fixture
def client(server: str, unique: Callable[[], str]) -> Iterator[ws.sync.Client]:
    """Connect to the shared server, in a namespace that no other test uses."""
    with ws.sync.connect(server, namespace=unique()) as client:
        yield client


def texts(*values: str) -> list[Text]:
    """Return messages."""
    return [Text(value=value) for value in values]


def test_the_facades_have_what_their_types_say() -> None:
    """Each class of the stub is there, with its methods and their parameters."""
    for kind in ast.parse(STUB.read_text()).body:
        if not isinstance(kind, ast.ClassDef):
            continue
        facade = getattr(ws.sync, kind.name)
        assert facade.__doc__
        for function in kind.body:
            if isinstance(function, ast.FunctionDef) and not function.name.startswith("_"):
                decorators = [*map(ast.unparse, function.decorator_list)]
                if "property" in decorators:  # it is handed through, as attributes are
                    continue
                arguments = function.args
                positional = (*arguments.posonlyargs, *arguments.args, arguments.vararg)
                named = (*arguments.kwonlyargs, arguments.kwarg)
                names = [each.arg for each in (*positional, *named) if each is not None]
                parameters = list(inspect.signature(getattr(facade, function.name)).parameters)
                assert set(names) <= set(parameters) if "overload" in decorators else names == parameters
    with pytest.raises(AttributeError, match="Nothing"):
        _ = ws.sync.Nothing  # type: ignore[attr-defined] # that is the point


def test_publish_consume_and_look(client: ws.sync.Client) -> None:
    """Streams, receipts, handlers, dead letters and events, without a loop of the caller's own."""
    stream = client.streams.ensure("s", subjects=["s.>"])
    consumer = stream.consumers.ensure("c", start=ws.START)
    assert client.publish("s.x", Text(value="a")).id == 1
    assert [r.id for r in client.publish_many(texts("b", "c"), subject="s.x", in_flight=1)] == [2, 3]
    with client.publisher() as out:
        future = out.send("s.x", Text(value="d"))
        assert future.result(5).id == 4
    seen: list[tuple[str, bool]] = []

    def handle(delivery: ws.sync.Delivery[Text]) -> None:
        main = threading.current_thread() is threading.main_thread()
        seen.append((delivery.event.data.value, main))
        delivery.ping()
        if delivery.event.data.value == "c":
            raise ws.GiveUp("no")
        if delivery.event.data.value == "d":
            delivery.drop()

    with consumer.running(handle, types=[Text], concurrency=1):
        consumer.idle()
    assert seen == [("a", False), ("b", False), ("c", False), ("d", False)]
    letters = list(client.dead_letters.list(stream="s"))
    assert [(letter.event.id, letter.reason) for letter in letters] == [(3, "no")]
    (group,) = client.dead_letters.summarize("reason", stream="s").groups
    assert (group.keys["reason"], group.count, client.dead_letters.count(stream="s")) == ("no", 1, 1)
    assert [stored.event.data.value for stored in stream.events.read()] == ["a", "b", "c", "d"]
    assert client.stream("s").info().events == 4
    assert [info.name for info in client.streams.list()] == ["s"]
    with pytest.raises(ws.StreamNotFound):
        client.stream("none").info()


def test_a_publish_that_failed_tells_where(client: ws.sync.Client) -> None:
    """Its future has the traceback, each time; the errors at the end of the block have none, or that one."""
    client.streams.ensure("s", subjects=["s.>"])

    def publish() -> None:
        with client.publisher() as out:
            future = out.send("s.x", object())
            assert isinstance(error := future.exception(60), TypeError)
            assert error.__traceback__ is None
            for _ in range(2):
                with pytest.raises(TypeError) as caught:
                    future.result()
                assert "payloads.py" in str(caught.traceback[-1].path)

    with pytest.raises(ExceptionGroup, match="1 events were not published"):
        publish()


def test_iterate_over_deliveries(client: ws.sync.Client) -> None:
    """A delivery is settled by its block, or rejected by an exception; a loop may be left at any time."""
    stream = client.streams.ensure("s", subjects=["s.>"])
    consumer = stream.consumers.ensure("c", start=ws.START)
    client.publish_many(texts("a", "b", "c"), subject="s.x", in_flight=1)
    with consumer.subscribe(types=[Text]) as deliveries:
        for delivery in deliveries:
            with delivery:
                if delivery.event.data.value == "a":
                    raise ws.Drop
            if delivery.event.data.value == "b":
                break
    assert consumer.info().settled_to == 2
    with pytest.raises(ZeroDivisionError), consumer.subscribe() as deliveries:
        _ = 1 // (next(iter(deliveries)).event.attempt * 0)
    for item in stream.events.tail(start=ws.START):
        assert isinstance(item, ws.StoredEvent)
        break


def test_stores(client: ws.sync.Client) -> None:
    """Values are read, written and changed; a change that calls the client is an error, and no deadlock."""
    store = client.stores.ensure("s", Text)
    assert store.get("k") is None
    store.create("k", Text(value="1"))
    assert store.modify("k", lambda value: Text(value=value.value + "2")).value == Text(value="12")

    def publish(value: Text) -> None:
        client.publish("s.x", value)

    with pytest.raises(ws.WrongLoop, match="its own thread"):
        store.modify("k", publish)
    assert [entry.key for entry in store.list()] == ["k"]
    assert client.store("s", Text).name == "s"


def test_an_iterable_runs_beside_the_client_and_may_use_it(client: ws.sync.Client) -> None:
    """What `publish_many` takes may be a generator that asks the server itself."""
    client.streams.ensure("s", subjects=["s.>"])

    def produce() -> Iterator[ws.Publish]:
        for number in range(250):
            if number % 100 == 0:
                client.stream("s").info()
            yield ws.Publish("s.x", Text(value=str(number)))

    assert len(client.publish_many(produce())) == 250
    with pytest.raises(ZeroDivisionError):
        client.publish_many((Text(value=str(1 // number)) for number in (1, 0)), subject="s.x")


def test_a_batch_is_taken_in_the_callers_thread(client: ws.sync.Client) -> None:
    """What `publish_atomic` takes may be a generator that asks the server itself; others go on meanwhile."""
    client.streams.ensure("s", subjects=["s.>"])

    def produce() -> Iterator[ws.Publish]:
        assert threading.current_thread() is threading.main_thread()
        for number in range(3):
            yield ws.Publish("s.x", Text(value=str(client.stream("s").info().events + number)))

    assert [receipt.id for receipt in client.publish_atomic(produce())] == [1, 2, 3]
    left = iter(range(10_000))
    with pytest.raises(ws.InvalidField, match="at most 1,000"):
        client.publish_atomic((Text(value=str(number)) for number in left), subject="s.x")
    assert len(list(left)) == 10_000 - 1_001
    with pytest.raises(ZeroDivisionError):
        client.publish_atomic((Text(value=str(1 // number)) for number in (1, 0)), subject="s.x")
    assert client.stream("s").info().events == 3


def test_an_iterable_keeps_its_thread(client: ws.sync.Client) -> None:
    """It may hold what belongs to a thread, such as a cursor of a database; the thread ends with it."""
    client.streams.ensure("s", subjects=["s.>"])
    threads: set[threading.Thread] = set()

    def produce(last: object) -> Iterator[object]:
        for _ in range(250):
            threads.add(threading.current_thread())
            yield Text()
        yield last

    client.publish_many(produce(Text()), subject="s.x")
    with pytest.raises(ws.PublishManyError):
        client.publish_many(produce(object()), subject="s.x")
    first, second = threads
    for thread in (first, second):
        thread.join(30)
        assert not thread.is_alive()


def test_nothing_that_was_taken_of_an_iterable_is_lost(client: ws.sync.Client) -> None:
    """What it gave before it broke is published; what was taken beside a failure is among the results."""
    stream = client.streams.ensure("s", subjects=["s.>"])
    taken = 0

    def produce(last: object) -> Iterator[object]:
        nonlocal taken
        for taken in range(1, 51):
            yield last if taken == 2 else Text()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.publish_many(produce(Text()), subject="s.x")
    assert stream.info().events == 50
    with pytest.raises(ws.PublishManyError) as caught:
        client.publish_many(produce(object()), subject="s.x", in_flight=1)
    receipt, error, *others = caught.value.results
    assert receipt == ws.PublishReceipt(51)
    assert isinstance(error, TypeError)
    assert others == [None] * (taken - 2)


def test_threads_share_a_client(client: ws.sync.Client) -> None:
    """Calls of many threads at once each get their own answer."""
    client.streams.ensure("s", subjects=["s.>"])
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda text: client.publish("s.x", text), texts(*map(str, range(200)))))
    assert sorted(receipt.id for receipt in receipts) == list(range(1, 201))


async def test_beside_a_running_loop(client: ws.sync.Client) -> None:
    """As in a notebook: the loop of the caller is blocked for the call, and otherwise left alone."""
    client.streams.ensure("s", subjects=["s.>"])
    assert client.publish("s.x", Text()).id == 1
    await asyncio.sleep(0)


def test_an_asynchronous_handler_is_refused(client: ws.sync.Client) -> None:
    """It would get a delivery that it cannot await."""

    async def handle(delivery: object) -> None:
        """Do nothing."""

    consumer = client.streams.ensure("s", subjects=["s.>"]).consumers.ensure("c")

    class Handler:
        func = staticmethod(print)  # as a partial has one

        async def __call__(self, delivery: object) -> None:
            """Do nothing."""

    for asynchronous in (handle, functools.partial(handle), Handler()):
        with pytest.raises(TypeError, match="plain function"):
            consumer.run(asynchronous)

    def each(delivery: object) -> Iterator[None]:
        yield

    with pytest.raises(TypeError, match="does not yield"):
        consumer.run(each)


def test_a_handler_that_exits_ends_nothing_else(client: ws.sync.Client) -> None:
    """`sys.exit` in a handler is a failed attempt, and the client goes on."""
    consumer = client.streams.ensure("s", subjects=["s.>"]).consumers.ensure("c", start=ws.START)
    client.publish("s.x", Text())

    def handle(delivery: ws.sync.Delivery[object]) -> None:
        if delivery.event.attempt == 1:
            sys.exit(3)

    with consumer.running(handle):
        consumer.idle()
    assert client.publish("s.x", Text()).id == 2


def program(server: str, namespace: str, code: str) -> list[str]:
    """Return the command for a program with a client."""
    start = f"""
        import os, signal, sys, threading, time
        import windshift as ws
        from windshift.protos import test
        Text = test.StringValue
        server = dict(address={server!r}, namespace={namespace!r})
        client = ws.sync.connect(**server)
        stream = client.streams.ensure("s", subjects=["s.>"])
        consumer = stream.consumers.ensure("c", start=ws.START)
    """
    return [sys.executable, "-W", "error", "-c", textwrap.dedent(start) + textwrap.dedent(code)]


def output(command: list[str]) -> str:
    """Run a program that ends by itself, and return all that it prints."""
    done = subprocess.run(
        command, check=True, timeout=50, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_goes_on_with_the_client(server: str, unique: Callable[[], str]) -> None:
    """Parent and children use one client and what came from it, while a subscription of the parent runs."""
    code = """
        seen = []
        running = consumer.running(lambda delivery: seen.append(delivery.event.id))
        with running, consumer.subscribe() as deliveries:
            client.publish("s.x", Text())
            children = []
            for _ in range(3):
                child = os.fork()
                if not child:
                    try:
                        for _ in range(20):
                            client.publish("s.x", Text())
                        stream.info()
                        try:
                            next(deliveries)
                        except ws.WrongLoop:
                            os._exit(0)
                    finally:
                        os._exit(1)
                children.append(child)
                client.publish("s.x", Text())
            print([os.waitpid(child, 0)[1] for child in children])
            for delivery in deliveries:
                delivery.retry()
                break
            client.publish("s.x", Text())
        print(stream.info().events)
    """
    assert output(program(server, unique(), code)) == "[0, 0, 0]\n65\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_of_a_pool(server: str, unique: Callable[[], str]) -> None:
    """Processes that were forked off after the first call, as by gunicorn with preload, have the client."""
    code = """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        def work(number):
            return client.publish("s.x", Text()).id > 0, os.getpid()
        context = multiprocessing.get_context("fork")
        client.publish("s.x", Text())
        with context.Pool(2) as pool, ProcessPoolExecutor(2, mp_context=context) as executor:
            done = [*pool.map(work, range(20)), *executor.map(work, range(20))]
        print(all(stored for stored, _ in done), os.getpid() in {process for _, process in done})
        print(client.publish("s.x", Text()).id, stream.info().events)
    """
    assert output(program(server, unique(), code)) == "True False\n42 42\n"


def test_a_client_is_not_sent_to_another_process(server: str) -> None:
    """It says so, where processes are not forked but begun anew and get what they work with."""
    with ws.sync.connect(server) as client:
        for what in (client, client.stream("s"), client.store("s")):
            with pytest.raises(TypeError, match="cannot be sent to another process: connect there"):
                pickle.dumps(what)
    with pytest.raises(TypeError, match="cannot be sent to another process: connect there"):
        pickle.dumps(ws.connect(server).stream("s"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_may_leave_the_blocks_of_its_parent(server: str, unique: Callable[[], str]) -> None:
    """What a child closes on its way out is not the parent's connection."""
    code = """
        with client:
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                print(client.publish("s.x", Text()).id)
        if not child:
            sys.exit()
    """
    assert output(program(server, unique(), code)) == "1\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_have_an_asynchronous_client(
    server: str, unique: Callable[[], str]
) -> None:
    """Its loop does not run there; the parent goes on."""
    code = f"""
        import asyncio
        async def main():
            async with ws.connect({server!r}) as client:
                await client.ready()
                if not (child := os.fork()):
                    try:
                        await client.ready()
                    except ws.WrongLoop:
                        os._exit(0)
                    finally:
                        os._exit(1)
                print(os.waitpid(child, 0)[1])
                await client.ready()
        asyncio.run(main())
    """
    assert output(program(server, unique(), code)) == "0\n"


def test_an_interrupt_ends_a_call_and_no_more(server: str, unique: Callable[[], str]) -> None:
    """Ctrl-C finishes what is being handled, settles it, and is raised; the client can be used further."""
    code = """
        client.publish("s.x", Text())
        def handle(delivery):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            print("handled")
        try:
            consumer.run(handle)
        except KeyboardInterrupt:
            print("interrupted")
        print(consumer.info().settled_to)
        with consumer.subscribe() as deliveries:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                next(deliveries)
            except KeyboardInterrupt:
                print("interrupted")
        try:
            with consumer.running(handle):
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print(client.publish("s.x", Text()).id)
    """
    expected = "handled\ninterrupted\n1\ninterrupted\n2\n"
    assert output(program(server, unique(), code)) == expected


def test_threads_go_on_when_the_main_one_has_ended(server: str, unique: Callable[[], str]) -> None:
    """A consumer handles on in its thread, each event once, and clients connect."""
    code = """
        begun = threading.Event()
        attempts = []
        def handle(delivery):
            attempts.append(delivery.event.attempt)
            begun.set()
        def consume():
            with consumer.running(handle):
                client.publish("s.x", Text())
                threading.main_thread().join()
                with ws.sync.connect(**server) as another:
                    another.publish_many([Text()] * 3, subject="s.x")
                consumer.idle(30)
            print(attempts)
        threading.Thread(target=consume).start()
        begun.wait()
    """
    assert output(program(server, unique(), code)) == "[1, 1, 1, 1]\n"


def test_an_iterable_that_gives_nothing_keeps_no_process(server: str, unique: Callable[[], str]) -> None:
    """Ctrl-C ends `publish_many` and the program."""
    code = """
        def produce():
            yield Text()
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait()
        try:
            client.publish_many(produce(), subject="s.x")
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert output(program(server, unique(), code)) == "interrupted\n"


def test_the_process_ends_whatever_is_open(server: str, unique: Callable[[], str]) -> None:
    """A program that leaves everything open ends at once, and prints nothing."""
    code = """
        tail = stream.events.tail()
        threading.Thread(target=lambda: next(tail), daemon=True).start()
        context = consumer.subscribe()
        deliveries = context.__enter__()
        publisher = client.publisher().__enter__()
        publisher.send("s.x", Text())
        ws.sync.shared()
    """
    assert output(program(server, unique(), code)) == ""


async def test_who_gives_up_a_receipt_is_told_nothing() -> None:
    """Nor is the program: the event may be stored later all the same."""
    told: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    inside = loop.create_future()
    receipt = facade._future(inside)
    assert receipt.cancel()
    inside.set_result(1)
    await asyncio.sleep(0)
    assert told == []


def test_signals_are_left_alone() -> None:
    """The client installs no signal handlers."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
