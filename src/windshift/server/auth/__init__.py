"""Who calls, and what they may do: plain values and decisions, without gRPC and without NATS."""
