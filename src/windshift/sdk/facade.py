"""The synchronous client, derived from the asynchronous one at run time.

Each asynchronous class gets a facade with the same names: coroutines are run to their end, asynchronous
iterators and context managers become plain ones, and what they return gets a facade in turn.
`scripts/sync.py` writes the types, `sync.pyi`, from the same code.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
)
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from itertools import islice
from types import GenericAlias, TracebackType
from typing import Any, NoReturn

from .calling import NOT_SENT
from .functions import check_handler, is_async
from .portal import Portal, portal

_SDK = "windshift.sdk."
_MOST_TAKEN = 1_001
"""Values of an iterable that are taken for a call: one more than any takes, so that it refuses them."""
_END = object()


class Facade:
    """An object of the asynchronous client, without `await`.

    Its methods, and the attributes that it hands through, are those of the object behind it.
    """

    __slots__ = ("_async",)

    def __init__(self, behind: Any) -> None:
        self._async = behind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return outside(getattr(self._async, name), portal())

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in dir(self._async) if name[0] != "_")})

    def __repr__(self) -> str:
        return repr(self._async)

    def __reduce__(self) -> NoReturn:
        raise TypeError(NOT_SENT)


@functools.cache
def facade_of(kind: type) -> type[Facade]:
    """Return the facade of an asynchronous class."""
    names: dict[str, Any] = {
        "__slots__": (),
        "__doc__": kind.__doc__,
        "__module__": "windshift.sync",
        "__qualname__": kind.__name__,
    }
    for name, member in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_"):
            names[name] = _method(name, member)
    if hasattr(kind, "__aenter__"):
        names["__enter__"], names["__exit__"] = _method("__aenter__"), _method("__aexit__")
    if hasattr(kind, "__class_getitem__"):
        names["__class_getitem__"] = classmethod(GenericAlias)
    return type(kind.__name__, (Facade,), names)


@functools.cache
def is_asynchronous(kind: type) -> bool:
    """Say whether a class of the client has methods that must be awaited, or return what is asynchronous."""
    return kind.__module__.startswith(_SDK) and any(
        inspect.iscoroutinefunction(inspect.unwrap(member))
        or inspect.isasyncgenfunction(inspect.unwrap(member))
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if name == "__aenter__" or not name.startswith("_")
    )


def find(name: str) -> type[Facade]:
    """Return the facade of the asynchronous class with this name.

    Raises:
        AttributeError: there is none.
    """
    for module in [module for path, module in sys.modules.items() if path.startswith(_SDK)]:
        kind = vars(module).get(name)
        if isinstance(kind, type) and is_asynchronous(kind):
            return facade_of(kind)
    raise AttributeError(f"module 'windshift.sync' has no attribute {name!r}")


def outside(value: Any, where: Portal) -> Any:
    """Return what another thread may have of a value: its facade, or itself."""
    kind: type = type(value)
    if is_asynchronous(kind):
        return facade_of(kind)(value)
    if isinstance(value, AsyncIterator):
        return _Iterator(value, where)
    if isinstance(value, AbstractAsyncContextManager):
        return _Context(value, where)
    return value


def _method(name: str, original: Any = None) -> Any:
    """Return a method that does in the portal's thread what the asynchronous one does."""
    parameters = inspect.signature(original).parameters if original is not None else {}
    adapt: dict[str, Callable[[Any], Any]] = {}
    for parameter in parameters.values():
        if parameter.annotation == "Handler":
            adapt[parameter.name] = _handler
        elif "AsyncIterable" in str(parameter.annotation):
            adapt[parameter.name] = _asynchronous
        elif "Iterable" in str(parameter.annotation):
            adapt[parameter.name] = _taken
    order = list(parameters)[1:]

    def method(self: Facade, *arguments: Any, **named: Any) -> Any:
        if adapt:
            arguments = (
                tuple(adapt.get(key, _same)(value) for key, value in zip(order, arguments, strict=False))
                + arguments[len(order) :]
            )
            named = {key: adapt.get(key, _same)(value) for key, value in named.items()}
        bound = getattr(self._async, name)
        where = portal()
        return outside(where.run(lambda: _call(bound, arguments, named)), where)

    if original is not None:
        functools.update_wrapper(method, original)
        del method.__wrapped__  # type: ignore[attr-defined] # it is asynchronous, and this is not
        method.__signature__ = inspect.signature(original)  # type: ignore[attr-defined] # for help() and editors
    return method


async def _call(bound: Any, arguments: Any, named: Any) -> Any:
    result = bound(*arguments, **named)
    if isinstance(result, Awaitable):
        result = await result
    return _future(result) if isinstance(result, asyncio.Future) else result


def _same(value: Any) -> Any:
    return value


class _Future(Future[Any]):
    """The future of another thread for one of the loop; its error has the traceback that the loop's keeps."""

    def __init__(self, inside: asyncio.Future[Any]) -> None:
        super().__init__()
        self._inside = inside

    def result(self, timeout: float | None = None) -> Any:
        error = self.exception(timeout)
        if error is not None and error.__traceback__ is None:
            self._inside.result()  # which gives it back, once
        return super().result()


def _future(inside: asyncio.Future[Any]) -> Future[Any]:
    future = _Future(inside)

    def done(inside: asyncio.Future[Any]) -> None:
        if inside.cancelled():
            future.cancel()
        elif not future.set_running_or_notify_cancel():
            pass  # nobody waits for it any more
        elif (error := inside.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(inside.result())

    inside.add_done_callback(done)
    return future


def _handler(handler: Any) -> Callable[[Any], object]:
    """Return a handler of deliveries that hands on their facade. It runs in threads of its own."""
    check_handler(handler)
    if is_async(handler):
        raise TypeError("a handler of the synchronous client is a plain function")

    def handle(delivery: Any) -> object:
        kind: type = type(delivery)
        try:
            return handler(facade_of(kind)(delivery))
        except SystemExit as error:
            raise RuntimeError("the handler called sys.exit") from error

    return handle


def _asynchronous(values: Any) -> Any:
    """Return an iterable whose own code runs in a thread: it may take its time, and use the client."""
    from .publishing import Ahead  # noqa: PLC0415 -- who consumes needs none of it

    return values if isinstance(values, list | tuple | AsyncIterable) else Ahead(values)


def _taken(values: Any) -> Any:
    """Return what an iterable gives. Its own code runs in the caller's thread, and may use the client."""
    return values if isinstance(values, list | tuple | str) else list(islice(values, _MOST_TAKEN))


class _Iterator:
    def __init__(self, behind: AsyncIterator[Any], where: Portal) -> None:
        self._behind = behind
        self._portal = where

    def __iter__(self) -> _Iterator:
        return self

    def __next__(self) -> Any:
        value = self._portal.run(lambda: anext(self._behind, _END))
        if value is _END:
            raise StopIteration
        return outside(value, self._portal)

    def close(self) -> None:
        if isinstance(self._behind, AsyncGenerator):
            self._portal.run(self._behind.aclose)

    def __del__(self) -> None:
        if isinstance(self._behind, AsyncGenerator):
            self._portal.start(self._behind.aclose)


class _Context:
    """Enters and leaves an asynchronous context manager, in one task."""

    def __init__(self, manager: AbstractAsyncContextManager[Any], where: Portal) -> None:
        self._manager = manager
        self._portal = where

    def __enter__(self) -> Any:
        return outside(self._portal.run(self._enter), self._portal)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return self._portal.run(lambda: self._leave(error))

    async def _enter(self) -> Any:
        loop = asyncio.get_running_loop()
        self._entered: asyncio.Future[Any] = loop.create_future()
        self._left: asyncio.Future[BaseException | None] = loop.create_future()
        self._task = loop.create_task(self._own())
        try:
            await asyncio.wait({self._entered, self._task}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait({self._task})
            raise
        if self._task.done():
            self._task.result()
        return self._entered.result()

    async def _own(self) -> bool:
        """Hold the block open until it is left; say whether it swallows what left it."""
        error: BaseException | None = None
        async with self._manager as value:
            self._entered.set_result(value)
            error = await self._left
            if isinstance(error, Exception):
                raise error
            if error is not None:  # Ctrl-C and the like would end the thread; it is raised outside
                raise asyncio.CancelledError
        return error is not None

    async def _leave(self, error: BaseException | None) -> bool:
        self._left.set_result(error)
        try:
            return await self._task
        except asyncio.CancelledError:
            if error is not None and not isinstance(error, Exception):
                return False
            raise
        except Exception as raised:
            if raised is error:
                return False
            raise
