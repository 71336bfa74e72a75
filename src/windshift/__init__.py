"""Windshift: events and state for services, over gRPC and NATS JetStream."""

__version__: str
"""Version of the installed package; pyproject.toml is its only source."""


def __getattr__(name: str) -> str:
    """Look the version up when somebody asks: an import of the package should cost nothing."""
    if name == "__version__":
        from importlib.metadata import version

        return version("windshift")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
