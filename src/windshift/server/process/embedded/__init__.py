"""The embedded nats-server: a child process that is started, watched and stopped."""
