"""Permissions violations, passed on to whoever would otherwise wait in vain.

The server reports one with ``-ERR`` and keeps the connection: it drops the message, or does not subscribe. It
names the subject, but not which of several messages it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from windshift.nats.protocol import Kind, ServerError

Hook: TypeAlias = Callable[[], None]


class Violations:
    """Passes violations on to hooks. No hook may block or raise.

    Attributes:
        on_any: called, in order, with every violation: its kind says whether it was about publishing or
            subscribing.
        on_publish: called, in order, with the subject of each message that was dropped.
    """

    def __init__(self) -> None:
        self.on_any: list[Callable[[ServerError], None]] = []
        self.on_publish: list[Callable[[bytes], None]] = []
        self._hooks: dict[bytes, dict[object, Hook]] = {}

    def told(self, violation: ServerError) -> None:
        """Pass on what the server said."""
        for hear in self.on_any:
            hear(violation)
        if violation.kind is Kind.PUBLISH_FORBIDDEN:
            for tell in self.on_publish:
                tell(violation.subject)
            for hook in list(self._hooks.get(violation.subject, {}).values()):
                hook()

    def watch(self, subject: bytes, hook: Hook) -> Hook:
        """Call `hook` when a message to this subject was dropped; stop when the result is called."""
        key = object()
        self._hooks.setdefault(subject, {})[key] = hook

        def stop() -> None:
            hooks = self._hooks.get(subject)
            if hooks is not None and hooks.pop(key, None) is not None and not hooks:
                del self._hooks[subject]

        return stop
