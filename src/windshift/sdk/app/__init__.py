"""Apps: handlers chosen by type and subject, run with a lifespan, middleware, and a stop in good order."""

from .app import App
from .consumer import AppConsumer, AppStream, dead_letter, drop, retry
from .injection import NotProvided
from .running import Running
from .trial import Trial

__all__ = [
    "App",
    "AppConsumer",
    "AppStream",
    "NotProvided",
    "Running",
    "Trial",
    "dead_letter",
    "drop",
    "retry",
]
