"""A client's namespace: a prefix of the names and subjects that it sends, taken off what it receives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

NAMESPACE = re.compile(r"[A-Za-z0-9_]{1,32}")


class Names(NamedTuple):
    """How names and subjects of a client are called at the server.

    A namespace keeps tests and developers on a shared server apart. It is naming, not protection.

    Attributes:
        namespace: letters, digits and `_`; empty = none.
    """

    namespace: str = ""

    def name(self, name: str) -> str:
        """Return what the server calls a stream or store.

        Raises:
            TypeError: it is no text.
        """
        if not isinstance(name, str):
            raise TypeError(f"a name is a text, not {name!r}")
        return f"{self.namespace}-{name}" if self.namespace and name else name

    def subject(self, subject: str) -> str:
        """Return what the server calls a subject, or a filter of subjects.

        Raises:
            TypeError: it is no text.
        """
        if not isinstance(subject, str):
            raise TypeError(f"a subject is a text, not {subject!r}")
        return f"{self.namespace}.{subject}" if self.namespace and subject else subject

    def subjects(self, subjects: Sequence[str]) -> list[str]:
        """Return what the server calls several.

        Raises:
            TypeError: it is one string, whose characters would be taken for subjects.
        """
        if isinstance(subjects, str):
            raise TypeError(f"subjects are a list: [{subjects!r}]")
        return [self.subject(subject) for subject in subjects]

    def owns(self, name: str) -> bool:
        """Say whether a stream or store of the server belongs to this namespace."""
        return not self.namespace or name.startswith(f"{self.namespace}-")

    def bare_name(self, name: str) -> str:
        """Return what the client calls a stream or store of the server."""
        return name.removeprefix(f"{self.namespace}-") if self.namespace else name

    def bare_subject(self, subject: str) -> str:
        """Return what the client calls a subject of the server."""
        return subject.removeprefix(f"{self.namespace}.") if self.namespace else subject
