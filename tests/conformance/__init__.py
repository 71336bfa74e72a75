"""What others wrote to tell whether an implementation is gRPC over HTTP/2: `python -m tests.conformance`."""
