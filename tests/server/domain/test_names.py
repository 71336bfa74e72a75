"""The rules for names, against a reference that is written another way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windshift.server.domain import names
from windshift.server.domain.errors import InvalidField

Rule = Callable[[str, str], object]

CHARSET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
TOKEN_PARTS = [
    "orders",
    "a",
    "A-1",
    "_",
    "-",
    "*",
    ">",
    "",
    "$JS",
    "_INBOX",
    "_INBOXES",
    "_R_",
    "_WS",
    "ä",
    " ",
    "a b",
    "x*",
]
SUBJECTS = st.one_of(
    st.lists(st.sampled_from(TOKEN_PARTS), max_size=5).map(".".join),
    st.text(alphabet="ab.*>_-$ \n\0ä", max_size=12),
    st.integers(min_value=250, max_value=260).map(lambda n: "x" * n),
    st.integers(min_value=120, max_value=130).map(lambda n: ".".join("x" * n)),
)


def accepts(rule: Rule, value: str) -> bool:
    """Say whether a rule takes a value."""
    try:
        rule("field", value)
    except InvalidField:
        return False
    return True


def reference_subject(value: str, *, wildcards: bool, wild_first: bool) -> bool:
    """Say what the contract says, token by token, without regular expressions."""
    tokens = value.split(".")
    if len(value) > 255 or tokens[0].startswith(("$", "_INBOX", "_R_", "_WS")):
        return False
    for index, token in enumerate(tokens):
        wild = token == "*" or (token == ">" and index == len(tokens) - 1)
        if wild:
            if not wildcards or (index == 0 and not wild_first):
                return False
        elif not token or not set(token) <= CHARSET:
            return False
    return True


@given(SUBJECTS)
def test_published_subjects_and_keys(value: str) -> None:
    """A published subject and a key are plain tokens joined by single dots, at most 255 characters."""
    expected = reference_subject(value, wildcards=False, wild_first=False)
    assert accepts(names.subject, value) is expected
    assert accepts(names.key, value) is expected


@given(SUBJECTS)
def test_stream_subjects(value: str) -> None:
    """A stream's subject may hold wildcards after its first token."""
    assert accepts(names.stream_subject, value) is reference_subject(value, wildcards=True, wild_first=False)


@given(SUBJECTS)
def test_filters(value: str) -> None:
    """A filter may begin with a wildcard."""
    assert accepts(names.filter_subject, value) is reference_subject(value, wildcards=True, wild_first=True)


@pytest.mark.parametrize("rule", [names.subject, names.stream_subject, names.filter_subject])
def test_what_is_too_long_is_not_looked_at(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has room for half a megabyte, which takes a regular expression very long."""
    for pattern in ("_SUBJECT", "_STREAM_SUBJECT", "_FILTER"):
        monkeypatch.setattr(names, pattern, None)
    with pytest.raises(InvalidField, match="255 characters"):
        rule("field", "a." * 200_000)


@given(st.one_of(SUBJECTS, st.sampled_from(["KV_a", "OBJ_a", "WS_a", "KV", "WS", "kv_a"])))
def test_names(value: str) -> None:
    """A name is one token; streams and stores keep some prefixes to themselves."""
    token = bool(value) and len(value) <= 255 and set(value) <= CHARSET
    assert accepts(names.consumer_name, value) is token
    fits = len(value) <= 255 - len("KV_")
    assert accepts(names.store_name, value) is (token and fits and not value.startswith("WS_"))
    assert accepts(names.stream_name, value) is (token and not value.startswith(("KV_", "OBJ_", "WS_")))


@given(
    st.one_of(
        st.text(max_size=8),
        st.text(alphabet=" ~!aä\x7f\n", max_size=5),
        st.sampled_from(["k" * 256, "k" * 257]),
    )
)
def test_idempotency_keys(value: str) -> None:
    """An idempotency key is 1 to 256 printable ASCII characters without outer spaces."""
    printable = value.isascii() and value.isprintable()
    assert accepts(names.idempotency_key, value) is (
        printable and 1 <= len(value) <= 256 and value == value.strip()
    )


@pytest.mark.parametrize(
    ("type_url", "name"),
    [
        ("type.googleapis.com/acme.v1.Order", "acme.v1.Order"),
        ("https://host/path/Order", "Order"),
        ("acme.Order_2", "acme.Order_2"),
    ],
)
def test_type_name(type_url: str, name: str) -> None:
    """The type name is what follows the last slash."""
    assert names.type_name("data.type_url", type_url) == name


@pytest.mark.parametrize(
    "type_url",
    [
        "",
        "/",
        "type.googleapis.com/",
        "x/a..b",
        "x/.a",
        "x/1a",
        "x/a.1",
        "x/a b",
        "x/a\n",
        "x/ä",
    ],
)
def test_type_name_refused(type_url: str) -> None:
    """A type URL that does not end in a full Protobuf name is refused, and the field is named."""
    with pytest.raises(InvalidField) as caught:
        names.type_name("data.type_url", type_url)
    assert caught.value.metadata == {"field": "data.type_url"}


@pytest.mark.parametrize(
    ("rule", "value", "says"),
    [
        (names.subject, "", "empty"),
        (names.subject, "x" * 256, "255"),
        (names.subject, "$JS.API.STREAM.DELETE.X", "reserved"),
        (names.subject, "a.*", "wildcards are not allowed"),
        (names.stream_subject, ">", "begin with a wildcard"),
        (names.stream_subject, "a.>.b", "the last may be >"),
        (names.stream_name, "KV_cfg", "KV_"),
        (names.store_name, "a.b", "A-Z"),
    ],
)
def test_message_says_what_to_change(rule: Rule, value: str, says: str) -> None:
    """The message of a refusal says which rule was broken."""
    with pytest.raises(InvalidField, match=says):
        rule("field", value)
