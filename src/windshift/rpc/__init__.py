"""gRPC over HTTP/2 on asyncio: a server and a client that know nothing of Windshift.

The protocol engine is libnghttp2 (``ngh2``); messages are Protobuf. See ``Server`` and ``Channel``.
"""

from .admission import LOOPBACK, AdmissionOptions, includes
from .call import ServerCall
from .channel import Channel, ChannelState
from .channel_options import ChannelOptions
from .client_call import ClientCall
from .connection_options import ConnectionOptions
from .health import HealthService
from .listening import open_sockets
from .metadata import Metadata
from .reflection import reflection_services
from .server import Server
from .server_options import Failure, ServerOptions
from .service import Interceptor, Method, Service
from .status import ChannelClosed, NoRoom, RpcError, StatusCode
from .tls import ReplaceableTls, client_tls, objection, server_tls

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
    "Metadata",
    "Method",
    "NoRoom",
    "ReplaceableTls",
    "RpcError",
    "Server",
    "ServerCall",
    "ServerOptions",
    "Service",
    "StatusCode",
    "client_tls",
    "includes",
    "objection",
    "open_sockets",
    "reflection_services",
    "server_tls",
]
