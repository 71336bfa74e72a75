"""What may be said of a function before it is called: whether it is asynchronous, and can be a handler."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable


def is_async(function: Callable[..., object]) -> bool:
    """Say whether this is a coroutine function, or an object that is called like one."""
    call = _without_partial(function)
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__)


def check_handler(handler: Callable[..., object]) -> None:
    """Raise TypeError if this is no function, or a generator, whose body would never run."""
    if not callable(handler):
        raise TypeError(f"a handler is a function, given without calling it, not {handler!r}")
    call = _without_partial(handler)
    for function in (call, type(call).__call__):
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"a handler handles one event, and does not yield: {handler!r}")


def _without_partial(function: Callable[..., object]) -> Callable[..., object]:
    return function.func if isinstance(function, functools.partial) else function
