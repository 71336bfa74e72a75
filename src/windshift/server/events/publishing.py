"""Publishing, one event at a time or many."""

from __future__ import annotations

from windshift.nats.jetstream.api import JetStream
from windshift.nats.jetstream.writes import Writes
from windshift.server.events.atomic import AtomicPublisher
from windshift.server.events.counts import Counts
from windshift.server.events.pipeline import Pipeline
from windshift.server.events.publish import Publisher
from windshift.server.events.targets import Targets
from windshift.server.telemetry.tracer import Tracer


class Publishing:
    """The ways in which events are stored.

    Attributes:
        one: stores one event.
        many: stores many, each for itself.
        atomic: stores several, all or none.
    """

    def __init__(self, api: JetStream, writes: Writes, counts: Counts, tracer: Tracer | None) -> None:
        self.one = Publisher(api, writes, counts, tracer)
        targets = Targets(api)
        self.many = Pipeline(self.one, writes, targets)
        self.atomic = AtomicPublisher(self.one, api, writes, targets)
