"""Values that the chart refuses, and that its schema says of every value what it is."""

import json
from typing import Any

import pytest
import yaml

from tests.chart.rendering import BASE, CHART, merged, refused, render

SCHEMA = json.loads((CHART / "values.schema.json").read_text("utf-8"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
# Objects whose keys are the user's own: labels, annotations, quantities, images and steps by name.
FREE = {
    *(("serviceAccount", "annotations"), ("images", "digests"), ("images", "overrides"), ("gpu", "nodeSelector")),
    *(("resources", "steps"), ("podLabels",), ("podAnnotations",), ("quota", "hard")),
    *(("devStore", "resources", "requests"), ("devStore", "resources", "limits")),
}


def objects_of(values: dict[str, Any], *above: str) -> list[tuple[str, ...]]:
    """The path of every object whose keys are the chart's."""
    below = [
        path
        for key, value in values.items()
        if isinstance(value, dict) and (*above, key) not in FREE
        for path in objects_of(value, *above, key)
    ]
    return [above, *below]


def nested(path: tuple[str, ...], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


@pytest.mark.parametrize("path", objects_of(VALUES), ids=".".join)
def test_a_key_that_the_chart_does_not_know_is_named(path: tuple[str, ...]) -> None:
    said = refused(merged(BASE, nested((*path, "misspelt"), "x")))
    assert "misspelt" in said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "missing property 'url'"),
        ({"store": None}, "missing property 'store'"),
        ({"store": {"url": "gs://bucket"}}, "/store/url"),
        ({"store": {"url": "s3://key:secret@bucket"}}, "/store/url"),
        ({"store": {"url": "bucket/prefix"}}, "/store/url"),
        ({"store": {"endpoint": "s3.example:9000"}}, "/store/endpoint"),
        ({"store": {"existingSecret": "Not_A_Name"}}, "/store/existingSecret"),
        ({"images": {"pullPolicy": "Sometimes"}}, "/images/pullPolicy"),
        ({"images": {"digests": {"prefprobe-extrct": "sha256:" + "a" * 64}}}, "prefprobe-extrct"),
        ({"images": {"digests": {"prefprobe-extract": "latest"}}}, "/images/digests/prefprobe-extract"),
        ({"images": {"overrides": {"extrct": "a:b"}}}, "extrct"),
        ({"gpu": {"limit": 0}}, "/gpu/limit"),
        ({"gpu": {"product": "two words"}}, "/gpu/product"),
        ({"resources": {"steps": {"extrct": {}}}}, "extrct"),
        ({"resources": {"cpu": {"request": {"cpu": 1}}}}, "request"),
        ({"resources": {"cpu": {"requests": {"memory": "4 GB"}}}}, "/resources/cpu/requests/memory"),
        ({"models": {"type": "disk"}}, "/models/type"),
        ({"models": {"type": "pvc"}}, "/models/pvc/claimName"),
        ({"models": {"image": "two words"}}, "/models/image"),
        ({"networkPolicy": {"egress": {"store": [{"from": []}]}}}, "from"),
        ({"devStore": {"enabled": True}, "store": {"existingSecret": ""}}, "/store/existingSecret"),
        ({"devStore": {"enabled": True}, "store": {"endpoint": "http://s3:9000"}}, "/store/endpoint"),
    ],
)
def test_a_value_that_cannot_be_is_refused(values: dict[str, Any], said: str) -> None:
    assert said in refused(merged(BASE, values) if values else {})


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return SCHEMA["definitions"][name] if name else schema


@pytest.mark.parametrize("path", objects_of(VALUES), ids=".".join)
def test_values_and_schema_have_the_same_keys_and_defaults(path: tuple[str, ...]) -> None:
    values, schema = VALUES, SCHEMA
    for key in path:
        values, schema = values[key], resolved(schema["properties"][key])
    known = schema["properties"]
    unset = {(): {"global"}, ("store",): {"url"}}.get(path, set())
    unset |= {"requests", "limits"} if path[:1] == ("resources",) else set()
    assert set(values) == set(known) - unset
    for key, value in values.items():
        default = known[key].get("default", resolved(known[key]).get("default"))
        assert default in (None, [], {}) or value == default, key


def test_every_key_is_described() -> None:
    def described(schema: dict[str, Any], *above: str) -> None:
        for key, each in schema.get("properties", {}).items():
            assert each.get("description"), ".".join((*above, key))
            described(each, *above, key)

    described(SCHEMA)


def test_the_base_is_taken() -> None:
    assert render({})
