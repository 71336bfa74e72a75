"""A collector of traces and metrics that drops what it is sent.

    python -m benchmarks.collector

It prints its port and runs until it is terminated.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc

_SERVICES = ("trace.v1.TraceService", "metrics.v1.MetricsService", "logs.v1.LogsService")


def main() -> None:
    """Serve."""
    server = grpc.server(ThreadPoolExecutor(2))
    drop: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(lambda *_: b"")
    for name in _SERVICES:
        handler = grpc.method_handlers_generic_handler(
            f"opentelemetry.proto.collector.{name}", {"Export": drop}
        )
        server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
