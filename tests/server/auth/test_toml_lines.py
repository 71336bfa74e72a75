"""The lines of keys and elements, against documents whose values are their lines."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from windshift.server.auth.toml_lines import Path, line_numbers

DOCUMENT = """\
# a comment
a = 2
b.c.d = 3
"b" . 'e.f' = 4

t = { x = 6, y.z = 6, "q\\u0041" = { r = 6 } }
list = [ # not an element
  8, # nor this
  [9, [9]], { k = 9 },
  # nor this
  11,
]
many = \"\"\"
not = "a key"
\"\"\"
[tab]
k = 17
deny.publish = [18]
[tab.sub."dotted.name"]
k = 20
[[many_tables]]
k = 22
inner = { k = 23 }
[many_tables.inner_table]
k = 25
[[many_tables.nested]]
k = 27
[[many_tables]]
k = 29
[[many_tables.nested]]
k = 31
[[many_tables.nested]] # again
k = 33
"""


def numbers(value: object, path: Path = ()) -> Iterator[tuple[Path, int]]:
    """Return the paths of all numbers."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from numbers(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from numbers(each, (*path, index))
    elif isinstance(value, int):
        yield path, value


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines_of_values(newline: str) -> None:
    """Every number in the document is the line in which it stands."""
    lines = line_numbers(DOCUMENT.replace("\n", newline))
    found = list(numbers(tomllib.loads(DOCUMENT)))
    assert len(found) == 21
    assert [(path, lines[path]) for path, _ in found] == found


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("tab",), 16),
        (("tab", "sub"), 19),
        (("tab", "deny"), 18),
        (("many",), 13),
        (("list",), 7),
        (("list", 1), 9),
        (("many_tables",), 21),
        (("many_tables", 0), 21),
        (("many_tables", 1), 28),
        (("many_tables", 1, "nested", 1), 32),
        (("many_tables", 0, "inner_table"), 24),
        ((), 1),
    ],
)
def test_lines_of_tables(path: Path, line: int) -> None:
    """Tables and arrays have the line in which they are first mentioned."""
    assert line_numbers(DOCUMENT)[path] == line


KEYS = st.one_of(
    st.text(alphabet="abc-_1", min_size=1, max_size=3),
    st.text(alphabet="a.\"\\' \täé=]}#\U0001f600", max_size=4)
    .map(lambda text: json.dumps(text, ensure_ascii=False)[1:-1])
    .map(lambda text: f'"{text}"'),
)


@given(st.lists(KEYS, min_size=1, max_size=6, unique_by=lambda key: key.strip('"')))
def test_any_key(keys: list[str]) -> None:
    """A key is found however it is written."""
    document = "\n".join(f"{key} = {line}" for line, key in enumerate(keys, start=1))
    lines = line_numbers(document)
    for path, line in numbers(tomllib.loads(document)):
        assert lines[path] == line


LINES = [
    *("a = 1", "a.b = [", "1,", "{ b = 2 }", "]", "[a]", "[[a]]", "[a.b]", "[[a.b]]", "# [", "", "b = ["),
    *("c = 2027-01-01 00:00:00", "c = 'x#'", '"]\\"" = "y]\\""', 'b = """', '""x"""""', "c = '''", "'''''"),
    *("b = { c = 1, a.b = [[], [1]] }", "'a' . \"b\" = 1.5e3"),
]


def paths(value: object, path: Path = ()) -> Iterator[Path]:
    """Return the paths of all values."""
    yield path
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(each, (*path, key))


@given(st.lists(st.sampled_from(LINES), max_size=8).map("\n".join))
@settings(max_examples=50, suppress_health_check=[HealthCheck.filter_too_much])  # most are no documents
def test_any_document(text: str) -> None:
    """Every value of any document has a line, and nothing else has."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assume(False)
    assert set(line_numbers(text)) == set(paths(document))
