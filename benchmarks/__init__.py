"""Benchmarks of the server, beside a plain ``grpc.aio`` server and nats-py alone. See README.md."""
