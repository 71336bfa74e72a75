"""State: stores of values by key, with compare-and-swap. Knows neither gRPC nor Protobuf."""
