"""The fault suite: real processes are killed, frozen and starved while clients work; every call is checked.

``python -m tests.faults --help``; what it proves, and what not, is in docs/reliability.md.
"""
