"""What is freed at once, and not left to the garbage collector, which holds up everybody while it looks."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collector() -> Iterator[None]:
    """Have the garbage collector rest for the length of the block."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alive(*kinds: type) -> list[str]:
    """Name the kinds of which there are objects."""
    return sorted({type(each).__name__ for each in gc.get_objects() if type(each) in kinds})
