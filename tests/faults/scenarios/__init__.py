"""The scenarios. Importing this package registers all of them, in the order of the report."""

from . import publishing  # noqa: F401 - registers itself
