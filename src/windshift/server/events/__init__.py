"""Events: streams, consumers, publishing, consuming and dead letters. Knows neither gRPC nor Protobuf."""
