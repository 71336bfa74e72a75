"""What the server tells about its work: traces, metrics, logs."""
