"""JetStream on `windshift.nats`: its API, writes, pulls, acknowledgements and key-value buckets."""
