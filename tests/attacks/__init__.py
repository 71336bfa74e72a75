"""Hostile clients against a real server, and what an honest client beside them notices.

``python -m tests.attacks --help``. The table in docs/limits.md is of the last full run.
"""
