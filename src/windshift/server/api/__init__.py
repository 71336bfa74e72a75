"""The gRPC services: Protobuf to the domain and back. No rule is decided here."""
