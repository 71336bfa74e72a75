"""Who may make stores, read keys and write them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.authorization.rows import ALLOWED, DENIED, INVALID, NO_STORE, Answer, Row
from tests.authorization.world import World
from tests.support.client import any_of
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as pb

_STORES: dict[str, dict[str, Answer]] = {
    "keys": {"s-#": ALLOWED, "s-": ALLOWED, "s": DENIED, "S-#": DENIED, "xs-#": DENIED, "cfg": DENIED},
    "keys-holes": {"s-lock": ALLOWED, "s-locked": DENIED, "s-locked-#": DENIED, "WS_x": INVALID},
    "keys-read": {"cfg": DENIED, "c-#": DENIED},
    "keys-write": {"cfg": DENIED},
    "halves-and-keys": {"s-#": ALLOWED, "vault": DENIED},
    "all": {"cfg": ALLOWED, "": INVALID},
}

_READ_AND_WRITTEN: dict[str, dict[tuple[str, str], tuple[Answer, Answer]]] = {
    # How Get, and Set and Delete, are answered.
    "keys": {
        ("cfg", "billing.a"): (ALLOWED, ALLOWED),
        ("cfg", "billing.a.b"): (ALLOWED, ALLOWED),
        ("cfg", "billing.new"): (ALLOWED, ALLOWED),
        ("cfg", "billing"): (DENIED, DENIED),
        ("cfg", "billingx.a"): (DENIED, DENIED),
        ("cfg", "Billing.a"): (DENIED, DENIED),
        ("cfg", "secret.a"): (DENIED, DENIED),
        ("cfg", "absent"): (DENIED, DENIED),
        ("cfg", "*"): (INVALID, INVALID),
        ("cfg", ">"): (INVALID, INVALID),
        ("cfg", "billing..a"): (INVALID, INVALID),
        ("cfg", "billing.>"): (INVALID, INVALID),
        ("cfg", ""): (INVALID, INVALID),
        ("vault", "billing.a"): (DENIED, DENIED),
        ("absent", "billing.a"): (DENIED, DENIED),
        ("cf", "billing.a"): (DENIED, DENIED),
        ("cfgx", "billing.a"): (DENIED, DENIED),
    },
    "keys-star": {
        ("cfg", "billing.a"): (ALLOWED, ALLOWED),
        ("cfg", "billing.a.b"): (DENIED, DENIED),
        ("cfg", "billing"): (DENIED, DENIED),
        ("cfg", "billing.*"): (INVALID, INVALID),
        ("cfg", "billing.>"): (INVALID, INVALID),
    },
    "keys-read": {
        ("cfg", "billing.a"): (ALLOWED, DENIED),
        ("cfg", "secret.a"): (DENIED, DENIED),
        ("gone", "billing.a"): (NO_STORE, DENIED),
        ("vault", "billing.a"): (DENIED, DENIED),
    },
    "keys-write": {
        ("cfg", "billing.a"): (DENIED, ALLOWED),
        ("gone", "billing.a"): (DENIED, NO_STORE),
    },
    "keys-holes": {
        ("cfg", "billing.a"): (ALLOWED, DENIED),
        ("cfg", "secret.a"): (DENIED, DENIED),
        ("cfg", "secret"): (ALLOWED, DENIED),
        ("cfg", "a.hidden"): (DENIED, DENIED),
        ("cfg", "a.hidden.b"): (ALLOWED, DENIED),
        ("vault", "billing.a"): (DENIED, DENIED),
    },
    "halves-and-keys": {
        ("vault", "open.a"): (ALLOWED, ALLOWED),
        ("cfg", "billing.a"): (ALLOWED, ALLOWED),
        ("vault", "billing.a"): (DENIED, DENIED),
        ("cfg", "open.a"): (DENIED, DENIED),
    },
    "ann": {("cfg", "billing.a"): (DENIED, DENIED)},
    "all": {("absent", "a"): (NO_STORE, NO_STORE), ("cfg", "a..b"): (INVALID, INVALID)},
}


def _ensuring(who: str, store: str, answer: Answer) -> Row:
    def request(world: World) -> pb.EnsureStoreRequest:
        return pb.EnsureStoreRequest(store=store.replace("#", world.name("n")))

    return Row("StateService/EnsureStore", who, request, answer, store)


# Listing keys: by principal, store and filter (empty = all).

_LISTED: dict[str, dict[tuple[str, str], Answer]] = {
    "keys": {
        ("cfg", "billing.>"): ALLOWED,
        ("cfg", "billing.*"): ALLOWED,
        ("cfg", "*.a"): DENIED,
        ("cfg", ""): DENIED,
        ("vault", "billing.>"): DENIED,
        ("cfg", "a..b"): INVALID,
    },
    "keys-write": {("cfg", "billing.>"): DENIED},
    "keys-holes": {("cfg", "billing.b.>"): ALLOWED, ("cfg", ""): DENIED, ("cfg", "secret.>"): DENIED},
}

# Transactions: by principal, and store, keys that are written, and keys that are checked.

_Keys = tuple[str, ...]
_TRANSACTED: dict[str, dict[tuple[str, _Keys, _Keys], Answer]] = {
    "keys": {
        ("cfg", ("billing.a", "billing.b"), ("billing.none", "billing.nil")): ALLOWED,
        ("cfg", ("billing.a",), ()): ALLOWED,
        ("cfg", ("billing.a", "secret.a"), ()): DENIED,
        ("cfg", ("billing.a",), ("secret.a",)): DENIED,
        ("vault", ("billing.a",), ()): DENIED,
        ("absent", ("billing.a",), ()): DENIED,
        ("cfg", ("billing.*",), ()): INVALID,
        ("cfg", ("billing.a",), ("billing.>",)): INVALID,
        ("cfg", (), ("billing.a",)): INVALID,
    },
    "keys-read": {
        ("cfg", ("billing.a",), ()): DENIED,
        ("cfg", ("billing.a",), ("billing.none",)): DENIED,
    },
    "keys-write": {
        ("cfg", ("billing.new",), ()): ALLOWED,
        ("cfg", ("billing.new",), ("billing.none",)): DENIED,
        ("gone", ("billing.a",), ()): NO_STORE,
    },
    "keys-holes": {("cfg", ("billing.a",), ()): DENIED},
    "halves-and-keys": {
        ("vault", ("open.a",), ("open.none",)): ALLOWED,
        ("vault", ("open.a",), ("billing.none",)): DENIED,
        ("vault", ("billing.a",), ("open.none",)): DENIED,
    },
    "ann": {("cfg", ("billing.a",), ()): DENIED},
    "all": {("absent", ("a",), ()): NO_STORE, ("WS_x", ("a",), ()): INVALID},
}


def _transaction(store: str, written: _Keys, checked: _Keys) -> pb.TransactRequest:
    return pb.TransactRequest(
        store=store,
        writes=[pb.TransactRequest.Write(key=key, set={"value": any_of("x")}) for key in written],
        checks=[pb.TransactRequest.Check(key=key, absent=True) for key in checked],
    )


# Deleting a store takes the right to manage it, and to write all of its keys.

_DROPPED: dict[str, dict[str, Answer]] = {
    "keys": {"s-#": DENIED},
    "keys-write": {"cfg": DENIED},
    "keeper-of-stores": {"s-#": ALLOWED, "cfg": DENIED, "WS_x": INVALID},
}


def _dropping(who: str, store: str, answer: Answer) -> Row:
    def request(world: World) -> pb.DeleteStoreRequest:
        return pb.DeleteStoreRequest(store=drop(world) if "#" in store else store)

    return Row("StateService/DeleteStore", who, request, answer, store)


def drop(world: World) -> str:
    """Make a store that may go; give its name."""
    return world.admin.ensure_store(world.name("s-"))


def _rows() -> Iterator[Row]:
    for who, answers in _STORES.items():
        for store, answer in answers.items():
            yield _ensuring(who, store, answer)
    for who, answers in _DROPPED.items():
        for store, answer in answers.items():
            yield _dropping(who, store, answer)
    yield from _of_several_keys()
    for who, by_key in _READ_AND_WRITTEN.items():
        for (store, key), (read, written) in by_key.items():
            about = f"{store} {key}"
            set_ = pb.SetRequest(store=store, key=key, value=any_of("x"))
            yield Row("StateService/Get", who, pb.GetRequest(store=store, key=key), read, about)
            yield Row("StateService/History", who, pb.HistoryRequest(store=store, key=key), read, about)
            yield Row("StateService/Delete", who, pb.DeleteRequest(store=store, key=key), written, about)
            yield Row("StateService/Set", who, set_, written, about)


def _of_several_keys() -> Iterator[Row]:
    for who, listed in _LISTED.items():
        for (store, filter_), answer in listed.items():
            request = pb.ListKeysRequest(store=store, filter=filter_)
            about = f"{filter_ or 'all'} of {store}"
            yield Row("StateService/ListKeys", who, request, answer, about)
            following = pb.WatchRequest(store=store, filter=filter_)
            yield Row("StateService/Watch", who, following, answer, about)
    for who, transacted in _TRANSACTED.items():
        for (store, written_, checked), answer in transacted.items():
            about = f"{store} {' '.join(written_)} if {' '.join(checked)}"
            yield Row("StateService/Transact", who, _transaction(store, written_, checked), answer, about)


ROWS = list(_rows())
