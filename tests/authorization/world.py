"""What the authorization matrix is about: streams, consumers, stores, dead letters and principals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from tests.authorization.callers import Caller, Callers, callers_of
from tests.authorization.policies import ALL, one_for_each, principal, put, token_of
from tests.authorization.witness import Witness
from tests.support.app import running_app
from tests.support.nats_server import NatsServer
from tests.wire.burying import bury
from tests.wire.management import ensure_consumer
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

SHOP_EVENTS = ("shop.a.b", "shop.a.c", "shop.secret.x", "shop.x.hidden", "shop.z")
"""Subjects of the events in the stream SHOP, one each."""

NAMED_LIKE_GENERATED = "0123456789abcdef01234567"
"""A durable consumer of SHOP that somebody gave such a name."""

NOBODY, STRANGER = "(nobody)", "(stranger)"
"""Who shows nothing, and who knows a principal's name but not its secret."""

ROLES = (
    ALL
    + """
[role.nothing]

[role.refused]
publish = [">"]
streams.manage = ["*"]
streams.view = ["*"]
streams.purge = ["*"]
streams.ephemeral = ["*"]
streams.bind = [">"]
streams.consume = ["*"]
streams.subjects = [">"]
streams.delete = ["*"]
consumers = { use = ["*"], reject = ["*"], delete = ["*"], control = ["*"] }
stores = { manage = ["*"], read = ["*"], write = ["*"], keys = [">"] }
dead_letters = { read = ["*"], replay = ["*"], purge = ["*"], consumers = ["*"] }
server = { observe = ["*"], control = ["*"] }
deny.server = { observe = ["*"], control = ["*"] }
deny.publish = [">"]
deny.streams.manage = ["*"]
deny.streams.view = ["*"]
deny.streams.purge = ["*"]
deny.streams.ephemeral = ["*"]
deny.streams.bind = [">"]
deny.streams.consume = ["*"]
deny.streams.subjects = [">"]
deny.streams.delete = ["*"]
deny.consumers = { use = ["*"], reject = ["*"], delete = ["*"], control = ["*"] }
deny.stores = { manage = ["*"], read = ["*"], write = ["*"], keys = [">"] }
deny.dead_letters = { read = ["*"], replay = ["*"], purge = ["*"], consumers = ["*"] }

# Who sees, and throws out

[role.observes]
server = { observe = ["*"] }

[role.observes-some]
server = { observe = ["a*"] }

[role.observes-holes]
server = { observe = ["*"] }
deny.server.observe = ["all"]

[role.controls]
server = { control = ["tail", "builder*"] }

[role.controls-holes]
server = { control = ["*"] }
deny.server.control = ["builder*"]

# Who publishes

[role.exact]
publish = ["orders.a.b", "orders"]

[role.star]
publish = ["orders.*"]

[role.tail]
publish = ["orders.>"]

[role.middle]
publish = ["orders.*.b"]

[role.holes]
publish = ["orders.>"]
deny.publish = ["orders.secret.>", "orders.*.hidden"]

[role.only-denies]
deny.publish = ["orders.a.>"]

# Who makes streams

[role.builder]
streams = { manage = ["b-*"], bind = ["b.>"], consume = ["SHOP", "GONE"], subjects = ["shop.a.>"] }

[role.builder-star]
streams = { manage = ["b-*"], bind = ["b.*"] }

[role.builder-one]
streams = { manage = ["b-one"], bind = ["b.one.*"] }

[role.builder-holes]
streams = { manage = ["b-*"], bind = ["b.>"], consume = ["*"], subjects = [">"] }
deny.streams.manage = ["b-locked*"]
deny.streams.bind = ["b.*.internal"]
deny.streams.consume = ["PAY*"]
deny.streams.subjects = ["shop.secret.>"]

[role.builder-purger]
streams = { manage = ["b-*"], bind = ["b.>"], purge = ["b-*"], subjects = [">"] }

[role.builder-purger-part]
streams = { manage = ["b-*"], bind = ["b.>"], purge = ["b-*"], subjects = ["b.>"] }

[role.stream-purger]
streams = { purge = ["b-*"], subjects = [">"] }

[role.binder]
streams = { bind = ["b.>"], consume = ["SHOP"], subjects = ["shop.>"] }

[role.namer]
streams = { manage = ["b-*"] }

# Who consumes

[role.ann]
streams = { consume = ["SHOP", "GONE"], ephemeral = ["SHOP"], subjects = ["shop.a.>"] }
consumers = { use = ["ann-*"], reject = ["ann-*"], delete = ["ann-*"] }

[role.ann-star]
streams = { consume = ["SHOP"], subjects = ["shop.*"] }
consumers = { use = ["ann-*"] }

[role.ann-holes]
streams = { consume = ["SHOP"], subjects = ["shop.>"] }
consumers = { use = ["ann-*"], delete = ["ann-*"] }
deny.streams.subjects = ["shop.secret.>", "shop.*.hidden"]
deny.consumers = { use = ["ann-private*"], delete = ["ann-kept*"] }

[role.ann-wide]
streams = { consume = ["SHOP"], ephemeral = ["S*"], subjects = [">"] }
consumers = { use = ["ann-*"], delete = ["ann-*"] }

[role.ephemeral]
streams = { consume = ["SHOP"], ephemeral = ["SHOP"], subjects = ["shop.a.>"] }

[role.ephemeral-elsewhere]
streams = { consume = ["SHOP"], ephemeral = ["PAYMENTS"], subjects = ["shop.a.>"] }

[role.ephemeral-denied]
streams = { consume = ["SHOP"], ephemeral = ["*"], subjects = ["shop.a.>"] }
consumers = { use = ["ann-*"] }
deny.streams.ephemeral = ["SH*"]

[role.only-ephemeral]
streams.ephemeral = ["*"]

[role.prefix]
streams = { consume = ["SH*"], subjects = ["shop.a.>"] }
consumers = { use = ["*"], delete = ["*"] }

# Who has two roles: neither alone gives what both together would

[role.half-streams]
streams = { consume = ["SHOP"], ephemeral = ["SHOP"], subjects = ["shop.z"] }

[role.half-consumers]
streams = { consume = ["PAYMENTS"], subjects = ["payments.>"] }
consumers = { use = ["ann-*"], delete = ["ann-*"] }

# Who looks and manages

[role.viewer]
streams = { view = ["SHOP", "GONE"] }

[role.explains]
streams = { view = ["SHO*", "GONE", "KV_cfg"] }
server = { observe = ["*"] }

[role.viewer-holes]
streams = { view = ["*"] }
deny.streams.view = ["PAY*"]

[role.keeper]
streams = { purge = ["SPARE"], subjects = ["spare.a.>"], delete = ["spare-*"] }

[role.pauser]
streams = { consume = ["SHOP"], subjects = ["shop.z"] }
consumers = { control = ["ann-*"] }

[role.mover]
streams = { consume = ["SHOP"], subjects = [">"] }
consumers = { use = ["ann-*"], control = ["ann-*"] }

[role.controller]
streams = { consume = ["SHOP"], subjects = [">"] }
consumers = { use = ["*"], control = ["*"] }

[role.mover-narrow]
streams = { consume = ["SHOP"], subjects = ["shop.a.>"] }
consumers = { use = ["ann-*"], control = ["ann-*"] }

# Who keeps state

[role.keys]
stores = { manage = ["s-*"], read = ["cfg"], write = ["cfg"], keys = ["billing.>"] }

[role.keys-star]
stores = { read = ["cfg"], write = ["cfg"], keys = ["billing.*"] }

[role.keys-read]
stores = { read = ["c*", "gone"], keys = ["billing.>"] }

[role.keys-write]
stores = { write = ["c*", "gone"], keys = ["billing.>"] }

[role.keys-holes]
stores = { manage = ["*"], read = ["*"], write = ["*"], keys = [">"] }
deny.stores.manage = ["s-locked*"]
deny.stores.read = ["vault"]
deny.stores.write = ["vault", "cfg"]
deny.stores.keys = ["secret.>", "*.hidden"]

[role.keeper-of-stores]
stores = { manage = ["s-*"], write = ["s-*"], keys = [">"] }

[role.half-keys]
stores = { read = ["vault"], write = ["vault"], keys = ["open.>"] }

# Who sees to dead letters

[role.reader]
dead_letters = { read = ["LEDGER"], consumers = ["ann-*"] }

[role.replayer]
dead_letters = { replay = ["LEDGER"], consumers = ["ann-*"] }

[role.purger]
dead_letters = { purge = ["LEDGER"], consumers = ["ann-*"] }

[role.undertaker]
dead_letters = { read = ["LEDGER"], replay = ["LEDGER"], purge = ["LEDGER"], consumers = ["ann-*"] }

[role.sexton]
dead_letters = { read = ["LEDGER"], replay = ["LEDGER"], purge = ["LEDGER"], consumers = ["*"] }

[role.sexton-holes]
dead_letters = { read = ["*"], replay = ["*"], purge = ["*"], consumers = ["*"] }
deny.dead_letters = { read = ["PAY*"], replay = ["PAY*"], purge = ["PAY*"], consumers = ["bob-*"] }
"""
)


def policy() -> str:
    """Write the file: a principal for each role, and some with two."""
    names = [line[6:-1] for line in ROLES.splitlines() if line.startswith("[role.")]
    more = (
        principal("halves", "half-streams", "half-consumers")
        + principal("halves-and-keys", "half-keys", "keys")
        + principal("prefix-and-ephemeral", "prefix", "only-ephemeral")
        + principal("builder-and-purger", "builder", "stream-purger")
        + principal("star-and-refused", "star", "only-denies", "tail")
    )
    return ROLES + one_for_each(names) + more


class World:
    """A server with rules, on a broker of its own."""

    def __init__(self, nats: NatsServer, callers: Callers, witness: Witness) -> None:
        self.nats = nats
        self.callers = callers
        self.witness = witness
        self.admin = self.caller("all")
        self._numbers = count(1)

    def caller(self, who: str) -> Caller:
        """Return the client of a principal."""
        if who == NOBODY:
            return self.callers.with_metadata(())
        if who == STRANGER:
            return self.callers.with_token(token_of("all", version=2))
        return self.callers.with_token(token_of(who))

    def name(self, prefix: str) -> str:
        """Return a name or subject that nothing else has."""
        return f"{prefix}{next(self._numbers)}"

    def consumer(self, prefix: str, *subjects: str, stream: str = "SHOP") -> str:
        """Make a durable consumer; give its name."""
        return self.named_consumer(self.name(prefix), *subjects, stream=stream)

    def named_consumer(self, name: str, *subjects: str, stream: str = "SHOP") -> str:
        """Make a durable consumer of all events of these subjects."""
        start = {"from": {"start": True}}
        return ensure_consumer(self.admin, stream, name=name, subjects=list(subjects), **start)

    def ephemeral(self, *subjects: str, owner: str = "all") -> str:
        """Make an ephemeral consumer of SHOP; give its id. Without an owner it is one made without rules."""
        start = {"from": {"start": True}}
        name = ensure_consumer(self.caller(owner or "all"), "SHOP", subjects=list(subjects), **start)
        if not owner:
            stored = self.witness.consumer("SHOP", name)
            assert stored is not None
            assert stored["config"]["metadata"].pop("windshift.owner") == "all"
            request = {"stream_name": "SHOP", "config": stored["config"], "action": "update"}
            assert "error" not in self.witness.ask(f"CONSUMER.CREATE.SHOP.{name}", request)
        return name

    def named_like_generated(self, *subjects: str) -> str:
        """Make a durable consumer of SHOP whose name looks like a generated one; give it."""
        return self.named_consumer(self.name("").zfill(24), *subjects)

    def letter(self, consumer: str, stream: str = "LEDGER") -> str:
        """Make a dead letter of a new event; give its id."""
        seq = self.admin.publish(f"{stream.lower()}.x")
        (letter,) = bury(self.nats, stream, seq, consumer=consumer)
        return letter

    def letters(self) -> int:
        """Count all dead letters."""
        stored = self.witness.stream("WS_DEAD_LETTERS")
        assert stored is not None
        return int(stored["state"]["messages"])

    def effects(self) -> dict[str, Any]:
        """Return all that a call could change, and nothing that changes by itself."""
        everything = self.witness.everything()
        for stream in [name for name in everything["consumers"] if name.startswith(("WS_", "KV_"))]:
            del everything["consumers"][stream]
        for stream in everything["streams"].values():
            stream["state"].pop("consumer_count")
            if stream["config"].keys() & {"mirror", "sources"}:
                del stream["state"]  # it is filled in its own time
        return everything


def furnish(world: World) -> None:
    """Make what the rows are about."""
    admin = world.admin
    admin.ensure_stream("ORDERS", "orders.>", "orders", "ordersx.>")
    admin.ensure_stream("SHOP", "shop.>")
    admin.ensure_stream("PAYMENTS", "payments.>")
    admin.ensure_stream("LEDGER", "ledger.>")
    admin.ensure_stream("SPARE", "spare.a.>", "spare.x")
    for subject in (*SHOP_EVENTS, "payments.x"):
        admin.publish(subject)
    world.named_consumer(NAMED_LIKE_GENERATED, "shop.a.b")
    for stream in ("LEDGER", "PAYMENTS"):
        for consumer in ("ann-1", "bob-1"):
            world.named_consumer(consumer, stream=stream)
    for store in ("cfg", "vault"):
        admin.ensure_store(store)
        for key in ("billing.a", "billing.a.b", "billing", "billingx.a", "secret.a", "open.a", "a.hidden"):
            admin.set(store, key)
    world.letter("ann-1")
    world.letter("bob-1")
    world.letter("ann-1", "PAYMENTS")


@contextmanager
def running_world(directory: Path, more: str = "") -> Iterator[World]:
    """Run a broker and a server with rules, and `more` of them, for the length of a block."""
    nats = NatsServer(directory)
    nats.start()
    file = put(directory / "auth.toml", policy() + more)
    try:
        with (
            running_app(nats.url, WINDSHIFT_AUTH_FILE=str(file)) as address,
            callers_of(address) as callers,
        ):
            witness = Witness(nats)
            world = World(nats, callers, witness)
            furnish(world)
            yield world
            witness.close()
    finally:
        nats.kill()


def subscribe(stream: str, consumer: str, window: int = 50) -> pb.EventsRequest:
    """Make the first message of a consume call."""
    subscribe = pb.EventsRequest.Subscribe(stream=stream, consumer=consumer, max_processing_events=window)
    return pb.EventsRequest(subscribe=subscribe)
