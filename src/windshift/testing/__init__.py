"""Tests of programs that use Windshift: a real server, stores in memory, and fixtures for pytest.

`pip install 'windshift[testing]'`. The fixtures are in `windshift.testing.plugin`, found by pytest itself.
Everything here is loaded when it is first used, because pytest loads the plugin in every project.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers; at run time `__getattr__` loads them
    from windshift.sdk.fakes import FakeStore, Published
    from windshift.testing.server import Options, Server, ServerFailed

__all__ = ["FakeStore", "Options", "Published", "Server", "ServerFailed"]


def __getattr__(name: str) -> Any:
    """Load what is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "windshift.sdk.fakes" if name in ("FakeStore", "Published") else "windshift.testing.server"
    value = globals()[name] = getattr(import_module(module), name)
    return value
