"""What a principal may do: the roles that it has, and the decision about one action."""

from __future__ import annotations

from typing import NamedTuple

from windshift.server.auth.actions import Action


class Decision(NamedTuple):
    """Whether an action is allowed, and the rule that decided, with its line in the file, for people."""

    allowed: bool
    rule: str


class Permissions:
    """What one principal may do."""

    def decide(self, action: Action) -> Decision:
        """Decide about an action. A deny wins over all that allows; what nothing allows is denied."""
        raise NotImplementedError

    def publishes(self, subject: str) -> bool:
        """Tell whether `Publish(subject)` is allowed, quickly: this is asked for every event."""
        raise NotImplementedError
