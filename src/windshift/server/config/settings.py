"""Settings: how the fields of the configuration declare them, and how they are read.

Each setting is declared in one place, the field with its value: name, parser, meaning, default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Generic, TypeAlias, TypedDict, TypeVar, Unpack, cast

from windshift.server.config.parsers import Parser
from windshift.server.config.unknown import PREFIX, unknown

T = TypeVar("T")

_SOURCE: Final = "source"
_NEVER_EMPTY: Final = (PREFIX, "GRPC_TLS_", "NATS_")
"""How the names of variables begin that are errors when empty: without the value that was meant, the server
would be open, or in plain text, or have an embedded NATS without data."""


class ConfigurationError(Exception):
    """One or more variables have wrong values. `problems` holds a line for each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """One environment variable. An empty value counts as absent, and is an error too where that is unsafe."""

    name: str
    parser: Parser[T]
    meaning: str
    default: str | None = None
    """The value when absent, as text. None: absence has no such value."""
    otherwise: str = ""
    """What applies instead of a default, in words."""
    fallback: Callable[[Reader], T | None] | None = None
    """Returns the value when absent; on None the default applies."""
    needs: tuple[str, ...] = ()
    """Settings of which at least one must be set too."""

    @property
    def description(self) -> str:
        """The meaning, with the range or the choices."""
        hint = self.parser.hint
        return f"{self.meaning.removesuffix('.')} ({hint})." if hint else self.meaning

    @property
    def shown_default(self) -> str:
        """The default as users see it; empty where there is none."""
        return self.default or self.otherwise

    @property
    def settings(self) -> tuple[Setting[T]]:
        """This one alone; a section has several."""
        return (self,)

    def read(self, reader: Reader) -> T | None:
        """Return the value, or None if it is absent and has no default."""
        return reader.value(self)


class Reader:
    """Reads settings from a mapping and collects everything that is wrong with them.

    A wrong value reads as if absent, so that the others are checked too; `finish` raises.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._values: dict[str, Any] = {}
        self._problems: list[str] = []

    def finish(self) -> None:
        """Raise `ConfigurationError` if anything was wrong."""
        if self._problems:
            raise ConfigurationError(tuple(self._problems))

    def problem(self, name: str, text: str) -> None:
        """Record what is wrong with a setting, once. The text must not contain secrets."""
        line = f"{name}: {text}"
        if line not in self._problems:
            self._problems.append(line)

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """Record a problem for each variable of ours that is not among the known ones."""
        for name, text in unknown(self._environment.items(), known).items():
            self.problem(name, text)

    def text(self, name: str) -> str | None:
        """Return the text of a variable without surrounding blanks; None when absent or empty."""
        return self._environment.get(name, "").strip() or None

    def is_set(self, name: str) -> bool:
        """Whether there is such a variable, empty or not."""
        return name in self._environment

    def value(self, setting: Setting[T]) -> T | None:
        """Return the value of a setting, or None if it is absent and has no default."""
        if setting.name not in self._values:
            self._values[setting.name] = self._parse(setting)
        value: T | None = self._values[setting.name]
        return value

    def _parse(self, setting: Setting[T]) -> T | None:
        text, parser = self.text(setting.name), setting.parser
        if text is None:
            if setting.name.startswith(_NEVER_EMPTY) and self.is_set(setting.name):
                self.problem(setting.name, "it is set, and empty; give it a value, or unset it")
            return self._absent(setting)
        try:
            value: T | None = parser.parse(text)
            wrong = parser.check(value)
        except ValueError as error:
            value = self._absent(setting)
            wrong = f"{text!r} is not allowed; use {parser.allowed}" if parser.allowed else str(error)
        if wrong:
            self.problem(setting.name, wrong)
        if value is not None and setting.needs and not any(map(self.text, setting.needs)):
            them = "them" if len(setting.needs) > 1 else "it"
            self.problem(setting.name, f"needs {' and '.join(setting.needs)}; set {them} too")
        return value

    def _absent(self, setting: Setting[T]) -> T | None:
        value = None if setting.fallback is None else setting.fallback(self)
        if value is None and setting.default is not None:
            return setting.parser.parse(setting.default)
        return value


# --- Fields -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Section(Generic[T]):
    """A configuration class, and where each of its fields comes from."""

    kind: type[T]
    parts: Mapping[str, Source]
    heading: str = ""

    @classmethod
    def of(cls, kind: type[T], heading: str = "") -> Section[T]:
        """Make the section that the fields of a class declare."""
        declared: Any = kind
        return cls(kind, {each.name: each.metadata[_SOURCE] for each in fields(declared)}, heading)

    @property
    def settings(self) -> tuple[Setting[Any], ...]:
        """All settings below, in order."""
        return tuple(each for part in self.parts.values() for each in part.settings)

    def read(self, reader: Reader) -> T:
        """Read every field and make the object."""
        return self.kind(**{name: part.read(reader) for name, part in self.parts.items()})

    def with_settings(self, replace: Callable[[Setting[Any]], Setting[Any]]) -> Section[T]:
        """Return this section with every setting replaced; none may be computed."""
        parts: dict[str, Source] = {
            name: part.with_settings(replace) if isinstance(part, Section) else replace(*part.settings)
            for name, part in self.parts.items()
        }
        return Section(self.kind, parts)


@dataclass(frozen=True, slots=True)
class Computed(Generic[T]):
    """A value that a function makes of several settings."""

    read: Callable[[Reader], T]
    settings: tuple[Setting[Any], ...]


Source: TypeAlias = Setting[Any] | Section[Any] | Computed[Any]
"""Where the value of a field comes from."""


class _More(TypedDict, total=False):
    otherwise: str
    fallback: Callable[[Reader], Any]
    needs: tuple[str, ...]


def setting(name: str, parser: Parser[T], meaning: str, default: str, **more: Unpack[_More]) -> T:
    """Declare a field that is a setting with a default."""
    return cast("T", _field(Setting(name, parser, meaning, default, **more)))


def optional(name: str, parser: Parser[T], meaning: str, **more: Unpack[_More]) -> T | None:
    """Declare a field that is a setting without a default."""
    return cast("T | None", _field(Setting(name, parser, meaning, **more)))


def section(kind: type[T], heading: str = "", **parts: Setting[Any]) -> T:
    """Declare a field that is a section, of these settings or else of those that its class declares."""
    return cast("T", _field(Section(kind, parts, heading) if parts else Section.of(kind, heading)))


def computed(read: Callable[[Reader], T], *settings: Setting[Any]) -> T:
    """Declare a field whose value `read` makes of these settings."""
    return cast("T", _field(Computed(read, settings)))


def _field(source: Source) -> object:
    """Make a field whose default is what an empty environment gives."""
    secret = isinstance(source, Setting) and source.parser.secret
    return field(default_factory=lambda: source.read(Reader({})), metadata={_SOURCE: source}, repr=not secret)
