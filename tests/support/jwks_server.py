"""A web server for key sets, which can also misbehave."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

Answer: TypeAlias = Callable[[BaseHTTPRequestHandler], None]


class KeyServer:
    """A server on a loopback address.

    Attributes:
        url: where the key set is.
        answer: answers a request; it may be replaced at any time.
        requests: the paths that were asked for, and with which headers.
        closing: set when the server ends, so that no answer goes on after that.
    """

    def __init__(self, url: str, answer: Answer) -> None:
        self.url = url
        self.answer = answer
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.closing = threading.Event()


def content(body: bytes, status: int = 200, **headers: str) -> Answer:
    """Answer with a status and a body."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


@contextmanager
def key_server(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[KeyServer]:
    """Run a server in threads of its own; with a context it speaks TLS."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            try:
                server.answer(self)
            except OSError:
                pass  # the client has gone, which some tests are about

        do_POST = do_GET  # noqa: N815 -- the library's name

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # handshakes that fail, which some tests are about

    with Quiet(("127.0.0.1", 0), Handler) as web:
        if context is not None:
            web.socket = context.wrap_socket(web.socket, server_side=True)
        scheme, host = ("http", "127.0.0.1") if context is None else ("https", "localhost")
        server = KeyServer(f"{scheme}://{host}:{web.server_address[1]}/keys?v=1", answer)
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            web.shutdown()
            thread.join()
