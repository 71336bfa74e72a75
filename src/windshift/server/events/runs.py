"""The runs of a consumer through its stream: another one begins whenever the consumer is moved.

What was settled in a run before is delivered anew, and may end anew. JetStream forgets it by itself; what
Windshift keeps beside that (the ends in doubt, dead letters, what servers remember) is told apart by the run,
whose number lies in the consumer's metadata.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Self

from windshift.nats.jetstream.api import ConsumerState, JsonObject, metadata_of, with_metadata
from windshift.nats.times import NANOSECONDS, Time, parse_rfc3339

_METADATA_KEY: Final = "windshift.run"
SKEW_NS: Final = 60 * NANOSECONDS
"""How far clocks of servers and nats-servers may be apart."""
BEGINNING: Final = Time(0, 0)
"""Before everything that was ever written."""


class Run(NamedTuple):
    """One run of a consumer.

    Attributes:
        created: when the consumer was made, as the broker writes it.
        number: when it was moved last, in nanoseconds since 1970, always more than before; 0 = never.
        position: the last position of the stream of dead letters when it began, or when the consumer first
            had dead letters; None = it has none, or an earlier version made it.
    """

    created: str = ""
    number: int = 0
    position: int | None = None

    @classmethod
    def of(cls, state: ConsumerState) -> Self:
        """Read the present run of a consumer."""
        number, _, position = str(metadata_of(state.config).get(_METADATA_KEY, "")).partition(".")
        if not (number.isdecimal() and position.isdecimal()):
            return cls(state.created)
        return cls(state.created, int(number), int(position))

    @property
    def name(self) -> str:
        """What tells it from all other runs of consumers of this name."""
        return f"{self.created} {self.number}" if self.number else self.created

    def follows(self, other: Run) -> bool:
        """Whether the same consumer was moved since another run of it."""
        return self.created == other.created and self.number > other.number

    def has(self, position: int, time: Time) -> bool:
        """Whether what was written to the stream of dead letters was written in this run.

        What is older is of a consumer that had its name before, or of a run before. Positions tell without
        clocks; they begin anew if somebody deletes the stream, which this sees when clocks are about right.
        """
        created = parse_rfc3339(self.created) or BEGINNING
        if self.position is None:
            return time >= created
        is_much_later = time.unix_ns > max(self.number, created.unix_ns) + SKEW_NS
        return position > self.position or is_much_later


ALWAYS: Final = Run()
"""Has everything: there is no earlier run."""


def with_run(config: JsonObject, run: Run) -> JsonObject:
    """Return the configuration of a consumer that is in this run."""
    return with_metadata(config, _METADATA_KEY, f"{run.number}.{run.position or 0}")
