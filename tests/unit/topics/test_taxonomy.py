"""Taxonomies: those that come with the package, and every way in which one's own can be wrong, in one sentence."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from prefprobe.errors import BadConfig
from prefprobe.store.objects import ObjectStore
from prefprobe.tasks.pool import read_tasks
from prefprobe.topics.taxonomy import BUILTIN, TAXONOMIES, Taxonomy, load_taxonomy, taxonomy_path

STUDY = [
    *("coding", "content_generation", "fiction", "harmful_request", "knowledge_qa", "math", "model_manipulation"),
    *("persuasive_writing", "security_legal", "sensitive_creative", "summarization", "value_conflict", "other"),
]


def values(**changes: Any) -> dict[str, Any]:
    labels = [{"name": name, "description": f"All {name}.", "boundary": "None."} for name in ("red", "blue", "other")]
    return {"name": "own", "version": 1, "labels": labels, **changes}


def test_the_study_has_the_twelve_published_labels_and_other(tmp_path: Path) -> None:
    assert load_taxonomy("study", ObjectStore.open(str(tmp_path))).names == STUDY


def test_the_demo_has_the_topics_of_its_tasks_and_other(tmp_path: Path) -> None:
    found = load_taxonomy("demo", ObjectStore.open(str(tmp_path)))
    assert {task.topic for task in read_tasks(["demo"])} | {"other"} == set(found.names)


@pytest.mark.parametrize("name", BUILTIN)
def test_a_boundary_case_names_the_labels_that_it_lies_between(name: str) -> None:
    taxonomy = Taxonomy.parse((TAXONOMIES / f"{name}.yaml").read_bytes(), name)
    assert [label.name for label in taxonomy.labels if label.name != "other" and label.name not in label.boundary] == []
    assert len({label.description for label in taxonomy.labels}) == len(taxonomy.labels)


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(values()))
    found = load_taxonomy(str(tmp_path / "own.yaml"), ObjectStore.open(str(tmp_path)))
    assert (found.names, found.title) == (["red", "blue", "other"], "own, version 1")


def label(**changes: Any) -> list[dict[str, Any]]:
    first, *others = values()["labels"]
    return [{k: v for k, v in (first | changes).items() if v is not ...}, *others]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (values(labels=[*label(), label()[0]]), "own.yaml: the label red stands twice"),
        (values(labels=[*label(), label()[0] | {"name": "RED"}]), "the label red stands twice"),
        (values(labels=label(description=...)), "own.yaml: `labels.0.description` of the label red is missing"),
        (
            values(labels=label(boundary=" ")),
            "`labels.0.boundary` of the label red is not as expected: a text that is not",
        ),
        (values(labels=label(description=None)), "`labels.0.description` of the label red is not as expected"),
        (values(labels=label(name="dark red")), "`labels.0.name` of the label dark red is not as expected"),
        (values(labels=label(name=...)), "`labels.0.name` is missing"),
        (
            values(labels=label()[:2]),
            "`labels` is not as expected: a list of three labels or more, of which one is `other`",
        ),
        (values(labels={"a": 1}), "`labels` is not as expected: a list of three labels or more"),
        (
            values(labels=["a", "b", "other"]),
            "`labels.0` is not as expected: a mapping of name, version and labels, and a",
        ),
        (values(labels=label(colour="x")), "`labels.0.colour` of the label red is no key of a taxonomy"),
        (values(labels=[*label()[:2], {"name": "more", "description": "M", "boundary": "N"}]), "no label `other`"),
        (values(version="1"), "`version` is not as expected"),
        (values(version=...), "`version`"),
        ({"labels": label()}, "`name` is missing"),
        (values(labels="red"), "`labels` is not as expected"),
        (values(labels=["red", "blue", "other"]), "`labels.0`"),
        (["red"], "own.yaml: the file is not as expected"),
        (None, "own.yaml: the file is not as expected"),
    ],
)
def test_a_file_that_is_wrong_is_told_so_by_key_and_label(tmp_path: Path, wrong: Any, said: str) -> None:
    path = tmp_path / "own.yaml"
    plain = {k: v for k, v in wrong.items() if v is not ...} if isinstance(wrong, dict) else wrong
    path.write_text(yaml.safe_dump(plain))
    with pytest.raises(BadConfig) as refused:
        load_taxonomy(str(path), ObjectStore.open(str(tmp_path)))
    assert said in str(refused.value)
    assert str(refused.value).count("\n") == 0


def test_a_key_that_stands_twice_and_a_file_that_is_none(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path))
    with pytest.raises(BadConfig, match="'name' stands twice"):
        Taxonomy.parse("name: a\nname: b\n", "own.yaml")
    for named in ("studi", str(tmp_path), "store:inputs/none.yaml"):
        with pytest.raises(BadConfig, match=r"no such object|there is no taxonomy"):
            taxonomy_path(named, store)
