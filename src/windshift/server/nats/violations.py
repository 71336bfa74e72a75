"""What the broker does not let this server's user do: told to the operator, and to whoever waits in vain.

The broker says so beside the stream of messages, and ends nothing over it: it just drops what was sent, or
does not subscribe. Each violation names the subject, but not which of several messages it was.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Final

from nats.errors import Error

from windshift.server.telemetry.seldom import Seldom

log = logging.getLogger(__name__)

Hook = Callable[[], None]

_TOLD: Final = re.compile('permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)
_KINDS: Final = re.compile(r"\$JS\.API\.\w+\.(MSG\.)?\w+|\$JS\.\w+|\$KV|_WS\.\w+|_INBOX")


class Violation(Error):
    """The broker refused to publish or to subscribe."""

    def __init__(self, subject: str, *, subscription: bool) -> None:
        super().__init__(f"may not {'subscribe to' if subscription else 'publish to'} {subject}")
        self.subject = subject
        self.is_subscription = subscription


def read_violation(text: str) -> Violation | None:
    """Read the broker's ``-ERR``, letters as it wrote them; `None` for any other."""
    found = _TOLD.search(text)
    if found is None:
        return None
    return Violation(found[2], subscription=found[1].lower() == "subscription")


class Violations:
    """Tells of violations.

    Args:
        inbox_prefix: what this server's inboxes begin with. The rest of such a subject is told nobody.
        interval: seconds between two log records of one kind: one operation of JetStream's API, say, of
            whatever stream, or an event of whatever subject.
    """

    def __init__(self, inbox_prefix: str, interval: float = 600.0) -> None:
        self._inbox_prefix = inbox_prefix + "."
        self._interval = interval
        self._seldom: dict[tuple[bool, str], Seldom] = {}
        self._hooks: dict[str, dict[object, Hook]] = {}
        self.on_publish: list[Callable[[str], None]] = []
        """Called, in order, with the subject of each message that was not let through. Must neither block nor
        raise.
        """

    def told(self, violation: Violation) -> None:
        """Pass on what the broker told."""
        self._log(violation)
        if violation.is_subscription:
            return
        for tell in self.on_publish:
            tell(violation.subject)
        for hook in list(self._hooks.get(violation.subject, {}).values()):
            hook()

    def watch(self, subject: str, hook: Hook) -> Hook:
        """Call `hook` when a message to this subject was not let through; stop when the result is called.

        The hook must neither block nor raise.
        """
        key = object()
        self._hooks.setdefault(subject, {})[key] = hook

        def stop() -> None:
            hooks = self._hooks.get(subject)
            if hooks is not None and hooks.pop(key, None) is not None and not hooks:
                del self._hooks[subject]

        return stop

    def shown(self, subject: str) -> str:
        """Return the subject as others may see it."""
        if subject.startswith(self._inbox_prefix):
            return self._inbox_prefix + ">"
        return subject

    def _log(self, violation: Violation) -> None:
        kind = _KINDS.match(violation.subject)
        key = (violation.is_subscription, kind[0] if kind else "")
        seldom = self._seldom.setdefault(key, Seldom(self._interval))
        if seldom.passes(time.monotonic()):
            skipped = seldom.take_skipped()
            log.error(
                'NATS: this user may not %s "%s"; what needs it fails',
                "subscribe to" if violation.is_subscription else "publish to",
                self.shown(violation.subject),
                extra={"more": skipped} if skipped else None,
            )
