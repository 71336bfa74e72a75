"""JetStream on `windshift.nats`: its API, writing, reading, pulling and settling, and key-value buckets."""
