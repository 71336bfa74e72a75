"""Who calls, and what they may do: values and decisions, without gRPC and without NATS."""
