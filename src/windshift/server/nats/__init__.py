"""The only place that speaks to NATS: the connection, its replies, JetStream's API on the wire."""
