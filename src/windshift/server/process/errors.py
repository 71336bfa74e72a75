"""Why a server does not start, and how a process of it ended."""

from __future__ import annotations

from collections.abc import Mapping


class StartError(Exception):
    """The server cannot start. The text is for the operator, and says what to do.

    Attributes:
        what: a line for each thing that is wrong.
        remedy: what would help; empty = `what` says it.
        setting: the variable whose change would help, too; empty = none.
    """

    def __init__(self, what: str, remedy: str = "", setting: str = "") -> None:
        super().__init__(what, remedy, setting)
        self.what = what
        self.remedy = remedy
        self.setting = setting

    def __str__(self) -> str:
        return self.describe({})

    def describe(self, words: Mapping[str, str]) -> str:
        """Return the text; `words` has what to do where a setting is not changed by its variable."""
        change = self.setting and words.get(self.setting, f"set another {self.setting}")
        advice = ", or ".join(filter(None, (self.remedy, change)))
        return f"{self.what}; {advice}" if advice else self.what


def how_it_ended(status: int) -> str:
    """Describe the exit status of a process, which is negative if a signal ended it."""
    return f"exit status {status}" if status >= 0 else f"signal {-status}"
