"""Consuming: jobs that outlive calls, leases, and a stop that burns no attempt."""
