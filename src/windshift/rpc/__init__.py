"""gRPC over HTTP/2 on asyncio: a server and a client that know nothing of Windshift.

The protocol engine is libnghttp2 (``ngh2``); messages are Protobuf. See ``Server`` and ``Channel``. What only
servers need is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .channel import Channel, ChannelState
from .client_call import ClientCall
from .connection import libnghttp2_version
from .options import ChannelOptions, ConnectionOptions
from .status import ChannelClosed, NoRoom, RpcError, StatusCode
from .threads import Threads, in_thread
from .tls import ReplaceableTls, client_tls, objection, server_tls

if TYPE_CHECKING:  # for type checkers; at run time `__getattr__` loads them
    from .admission import LOOPBACK, AdmissionOptions, includes
    from .call import ServerCall
    from .health import HealthService
    from .listening import close_sockets, hold_port, open_sockets
    from .reflection import reflection_services
    from .server import Server
    from .server_options import Failure, ServerOptions
    from .service import Interceptor, Method, Service

__all__ = [
    "LOOPBACK",
    "AdmissionOptions",
    "Channel",
    "ChannelClosed",
    "ChannelOptions",
    "ChannelState",
    "ClientCall",
    "ConnectionOptions",
    "Failure",
    "HealthService",
    "Interceptor",
    "Method",
    "NoRoom",
    "ReplaceableTls",
    "RpcError",
    "Server",
    "ServerCall",
    "ServerOptions",
    "Service",
    "StatusCode",
    "Threads",
    "client_tls",
    "close_sockets",
    "hold_port",
    "in_thread",
    "includes",
    "libnghttp2_version",
    "objection",
    "open_sockets",
    "reflection_services",
    "server_tls",
]

_LATE = {
    "admission": ("LOOPBACK", "AdmissionOptions", "includes"),
    "call": ("ServerCall",),
    "health": ("HealthService",),
    "listening": ("close_sockets", "hold_port", "open_sockets"),
    "reflection": ("reflection_services",),
    "server": ("Server",),
    "server_options": ("Failure", "ServerOptions"),
    "service": ("Interceptor", "Method", "Service"),
}
"""Module: the names that it has."""


def __getattr__(name: str) -> Any:
    """Load what servers need."""
    for module, names in _LATE.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
