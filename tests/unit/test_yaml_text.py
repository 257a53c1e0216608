"""YAML with keys that stand once, and with merges."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prefprobe.errors import BadConfig
from prefprobe.yaml_text import parse_yaml

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc<1", min_size=1), inner, max_size=4),
    max_leaves=12,
)


@given(plain, st.booleans())
def test_plain_values_come_back(value, flow):
    text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
    assert parse_yaml(text, "x") == parse_yaml(text.encode(), "x") == yaml.safe_load(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n",
        "a: &a {x: 1}\nb: &b {y: 2, x: 4}\nc: {<<: [*a, *b], z: 5}\n",
        "a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\n",
        # the merged mapping is read after the one that merges it
        "a: &a {x: 1}\nb: {in: &b {<<: *a, x: 2}}\nc: {<<: *b}\n",
        "a: &a {x: 1}\nb: *a\nc: *a\n",
        "1: a\n'1': b\n",
    ],
)
def test_merges_and_aliases_are_as_in_yaml(text):
    assert parse_yaml(text, "x") == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\na: 2\n", 2),
        ("a: 1\n'a': 2\n", 2),
        ("a: 1\n? a\n: 2\n", 2),
        ("a: &a {x: 1}\nb: {<<: *a, y: 1,\n  y: 2}\n", 3),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n", 4),
        ("- - {b: 1,\n     b: 1}\n", 2),
        ("a: 1\nb: {a: 1}\na: 1\n", 3),
    ],
)
def test_a_key_that_stands_twice_is_refused(text, line):
    with pytest.raises(BadConfig, match=rf"^my\.yaml line {line}: not valid YAML \(the key '\S+' stands twice\)\.$"):
        parse_yaml(text, "my.yaml")


@pytest.mark.parametrize(
    "text", [b"a: \xff", "a: \0", "a: 2024-13-01", "a: !!int b", "a: !!bool b", "[" * 10_000, "a: !!python/tuple [1]"]
)
def test_what_is_no_plain_value_is_one_sentence(text):
    with pytest.raises(BadConfig, match=r"^my\.yaml( line 1)?: not valid YAML \([^\n]+\)\.$"):
        parse_yaml(text, "my.yaml")
