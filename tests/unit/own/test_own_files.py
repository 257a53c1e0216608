"""Commands for files of one's own: what is refused with one sentence, and what is not estimable and why."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefprobe.cli import main

TRAIN, EVAL = [f"t{i:02d}" for i in range(18)], [f"e{i}" for i in range(8)]
LAYERS = (2, 5)
WIDTH = 4


def call(*args: object) -> int:
    try:
        main([str(a) for a in args])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def npz(**arrays: Any) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def features(ids: list[str], **instead: Any) -> bytes:
    rng = np.random.default_rng(0)
    worth = np.array([[len(ids) - i] for i in range(len(ids))])
    layers = {f"layer_{layer}": (rng.normal(size=(len(ids), WIDTH)) + worth).astype(np.float32) for layer in LAYERS}
    arrays = {"task_ids": np.array(ids), **layers, **instead}
    return npz(**{name: array for name, array in arrays.items() if array is not None})


def table(header: str, rows: list[str]) -> str:
    return "\n".join([header, *rows, ""])


def utilities(ids: list[str], mu: Callable[[int], object] = lambda i: (i * 7 % 11) / 4) -> str:
    return table("task_id,mu", [f"{id_},{mu(i)}" for i, id_ in enumerate(ids)])


TOPICS = table("task_id,topic", [f"{id_},{'xyz'[i % 3]}" for i, id_ in enumerate(TRAIN + EVAL)])
CHOICES = table(
    "task_a,task_b,choice", [f"{a},{b},{'ab'[(i + j) % 2]}" for i, a in enumerate(EVAL) for j, b in enumerate(EVAL[:i])]
)
FEATURES = features(TRAIN + EVAL)
GOOD: dict[str, str | bytes] = {
    "F.npz": FEATURES,
    "U.csv": utilities(TRAIN),
    "E.csv": utilities(EVAL),
    "T.csv": TOPICS,
    "C.csv": CHOICES,
}
OPTIONS = {"F": "--features", "U": "--utilities", "E": "--eval-utilities", "T": "--topics", "C": "--choices"}


def with_row(n: int, instead: str, of: str = "U.csv") -> str:
    """A good table whose row `n` (the header is 1) is another."""
    lines = str(GOOD[of]).split("\n")
    lines[n - 1] = instead
    return "\n".join(lines)


def array(values: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, values)
    return sink.getvalue()


def spoilt(layer: int, row: int, value: float, kind: type = np.float32) -> bytes:
    arrays = {name: a.astype(kind) if a.dtype.kind == "f" else a for name, a in np.load(io.BytesIO(FEATURES)).items()}
    arrays[f"layer_{layer}"][row, 1] = value
    return npz(**arrays)


X = np.ones((26, WIDTH), np.float32)
IDS = TRAIN + EVAL
LOG = "task_a,task_b,outcome,logit\n"
# the file instead of a good one, its content, what the sentence says, and the exit code
MALFORMED: dict[str, tuple[str, str | bytes, str, int]] = {
    "no features of a train task": (
        "F.npz",
        features(IDS[1:]),
        r"U\.csv row 2: task 't00' has no features in F\.npz \(1 ",
        66,
    ),
    "no features of eval tasks": (
        "F.npz",
        features(IDS[:-2]),
        r"E\.csv row 8: task 'e6' has no features in F\.npz \(2 ",
        66,
    ),
    "bits of bfloat16 that are none": (
        "F.npz",
        features(IDS, layer_5=None, layer_5_bfloat16=X),
        r"F\.npz: `layer_5_bfloat16` has the shape \(26, 4\) and the type float32, expected numbers \(n, d\)",
        78,
    ),
    "a layer in two types": (
        "F.npz",
        features(IDS, layer_5_bfloat16=X.astype(np.uint16)),
        r"F\.npz: has layer 5 in two types, expected it once; remove one",
        78,
    ),
    "no topic of a task": (
        "T.csv",
        TOPICS.replace("e3,x\n", "").replace("e3,y\n", "").replace("e3,z\n", ""),
        r"E\.csv row 5: task 'e3' has no topic in T\.csv",
        66,
    ),
    "a blank topic": ("T.csv", with_row(4, "t02, ", "T.csv"), r"U\.csv row 4: task 't02' has no topic in T\.csv", 66),
    "a topic that is a list": (
        "T.jsonl",
        '{"id": "t00", "topic": ["x"]}\n',
        r"T\.jsonl row 1: `topic` is \['x'\], expected a topic",
        78,
    ),
    "topics by two names": ("T.csv", "id,task_id,topic\nt00,t00,x\n", r"T\.csv row 2: has both `task_id` and `id`", 78),
    "topics without ids": ("T.csv", "task,topic\nt00,x\n", r"T\.csv row 2: no `task_id`, found task, topic", 78),
    "topics without topics": ("T.csv", "id,theme\nt00,x\n", r"T\.csv row 2: no `topic`, found id, theme", 78),
    "a topic twice": (
        "T.csv",
        with_row(5, "t02,x", "T.csv"),
        r"T\.csv row 5: task 't02' stands in T\.csv row 4 too",
        78,
    ),
    "a utility twice": ("U.csv", with_row(5, "t02,1.0"), r"U\.csv row 5: task 't02' stands in U\.csv row 4 too", 78),
    "a task in both sets": (
        "E.csv",
        with_row(3, "t07,1.0", "E.csv"),
        r"E\.csv row 3: task 't07' is in U\.csv too \(1 such",
        78,
    ),
    "the same file twice": ("E.csv", GOOD["U.csv"], r"E\.csv row 2: task 't00' is in U\.csv too \(18 such", 78),
    "mu NaN": ("U.csv", with_row(3, "t01,nan"), r"U\.csv row 3: `mu` is 'nan', expected a finite number", 78),
    "mu NaN in JSON": (
        "U.jsonl",
        '{"task_id": "t00", "mu": NaN}\n',
        r"U\.jsonl row 1: `mu` is nan, expected a finite",
        78,
    ),
    "mu infinite": (
        "E.parquet",
        parquet(task_id=EVAL, mu=[np.inf] * 8),
        r"E\.parquet row 1: `mu` is inf, expected a finite",
        78,
    ),
    "mu endless": ("U.jsonl", json.dumps({"task_id": "t00", "mu": 10**400}), r"U\.jsonl row 1: `mu` is 1000", 78),
    "mu beyond float32": (
        "U.csv",
        with_row(3, "t01,1e200"),
        r"U\.csv row 3: `mu` is 1e\+200, expected a finite number",
        78,
    ),
    "mu empty": ("U.csv", with_row(3, "t01,"), r"U\.csv row 3: `mu` is nothing, expected a finite number", 78),
    "mu true": ("U.jsonl", '{"task_id": "t00", "mu": true}\n', r"U\.jsonl row 1: `mu` is True", 78),
    "utilities of another name": (
        "U.csv",
        "task_id,utility\nt00,1\n",
        r"U\.csv row 2: no `mu`, found task_id, utility",
        78,
    ),
    "utilities by id": ("E.csv", "id,mu\ne0,1\n", r"E\.csv row 2: no `task_id`, found id, mu", 78),
    "empty utilities": ("U.csv", "", r"U\.csv: holds no utilities", 78),
    "utilities of a header": ("E.csv", "task_id,mu\n", r"E\.csv: holds no utilities", 78),
    "few train tasks": ("U.csv", utilities(TRAIN[:2]), r"U\.csv: holds 2 tasks, expected \d or more", 78),
    "few eval tasks": ("E.csv", utilities(EVAL[:2]), r"E\.csv: holds 2 tasks, expected \d or more", 78),
    "utilities as text": ("U.txt", GOOD["U.csv"], r"U\.txt: files of utilities end in \.parquet, \.jsonl, ", 78),
    "utilities as Excel": ("U.xlsx", b"PK", r"U\.xlsx: files of utilities end in \.parquet", 78),
    "topics as YAML": ("T.yaml", "t00: x\n", r"T\.yaml: files of topics end in", 78),
    "choices as text": ("C.txt", CHOICES, r"C\.txt: files of choices end in", 78),
    "empty choices": ("C.csv", "", r"C\.csv: holds no choices", 78),
    "choices without an outcome": ("C.csv", "task_a,task_b\ne0,e1\n", r"C\.csv row 2: no `choice` or `p_a`", 78),
    "p_a NaN": ("C.csv", "task_a,task_b,p_a\ne0,e1,nan\n", r"C\.csv row 2: `p_a` is 'nan'", 78),
    "a log with another word": (
        "C.csv",
        LOG + "e0,e1,tie,0\n",
        r"C\.csv row 2: `outcome` is 'tie', expected one of a, b, exact",
        78,
    ),
    "a log without a logit": (
        "C.csv",
        LOG + "e0,e1,exact,\n",
        r"C\.csv row 2: `logit` is nothing, expected a finite",
        78,
    ),
    "a log of a task against itself": (
        "C.csv",
        LOG + "e0,e0,a,\n",
        r"C\.csv row 2: `task_a` and `task_b` are both 'e0'",
        78,
    ),
    "a log under two prompts": (
        "C.csv",
        "task_a,task_b,outcome,prompt_id\ne0,e1,a,p\ne1,e0,b,q\n",
        r"C\.csv: these choices are under 2 system prompts",
        78,
    ),
    "a log of two kinds": (
        "C.csv",
        LOG + "e0,e1,exact,1\ne1,e0,a,\n",
        r"C\.csv: these choices are some exact and some",
        78,
    ),
    "a log that breaks off": (
        "C.jsonl",
        '{"task_a":"e0","task_b":"e1","outcome":"a"}\n{"task_a":"e0","task_b":"e1"}\n',
        r"C\.jsonl row 2: no `outcome`",
        78,
    ),
    "a row of features twice": ("F.npz", features([*IDS[:-1], IDS[0]]), r"F\.npz: the row t00 stands twice", 66),
    "features NaN": (
        "F.npz",
        spoilt(5, 3, np.nan),
        r"F\.npz: `layer_5` of task 't03' is not finite \(1 such tasks\)",
        78,
    ),
    "features beyond float32": (
        "F.npz",
        spoilt(2, 20, 1e200, np.float64),
        r"F\.npz: `layer_2` of task 'e2' is not finite",
        78,
    ),
    "features infinite": ("F.npz", spoilt(2, 20, -np.inf), r"F\.npz: `layer_2` of task 'e2' is not finite", 78),
    "no ids": ("F.npz", features(IDS, task_ids=None), r"F\.npz: holds layer_2, layer_5, expected `task_ids`", 78),
    "no layers": (
        "F.npz",
        npz(task_ids=np.array(IDS), X=X),
        r"F\.npz: holds task_ids, X, expected `task_ids` \(n,\) and",
        78,
    ),
    "a layer by name": ("F.npz", features(IDS, layer_last=X), r"F\.npz: has an array `layer_last`", 78),
    "a layer by two names": ("F.npz", features(IDS, layer_02=X), r"F\.npz: has an array `layer_02`", 78),
    "rows missing": ("F.npz", features(IDS, layer_2=X[1:]), r"F\.npz: `layer_2` has 25 rows, expected 26", 78),
    "a layer in three dimensions": (
        "F.npz",
        features(IDS, layer_2=X[None]),
        r"F\.npz: `layer_2` has the shape \(1, 26, 4\)",
        78,
    ),
    "a layer without columns": (
        "F.npz",
        features(IDS, layer_2=X[:, :0]),
        r"F\.npz: `layer_2` has the shape \(26, 0\)",
        78,
    ),
    "a layer of texts": (
        "F.npz",
        features(IDS, layer_2=X.astype(str)),
        r"F\.npz: `layer_2` has the shape \(26, 4\) and the type <U",
        78,
    ),
    "complex numbers": (
        "F.npz",
        features(IDS, layer_2=X.astype(complex)),
        r"F\.npz: `layer_2` .* the type complex128",
        78,
    ),
    "ids in a matrix": (
        "F.npz",
        features(IDS, task_ids=np.array([IDS])),
        r"F\.npz: `task_ids` has the shape \(1, 26\)",
        78,
    ),
    "ids as fractions": ("F.npz", features(IDS, task_ids=np.arange(26.0)), r"F\.npz: `task_ids` .* type float64", 78),
    "ids that need pickle": (
        "F.npz",
        features(IDS, task_ids=np.array(IDS, dtype=object)),
        r"F\.npz: cannot be read as NPZ \(Object arrays .*; give ids as text",
        78,
    ),
    "features without rows": (
        "F.npz",
        npz(task_ids=np.array([], str), layer_0=X[:0]),
        r"F\.npz: its features have no rows",
        66,
    ),
    "features empty": ("F.npz", b"", r"F\.npz: cannot be read as NPZ", 78),
    "features cut short": ("F.npz", FEATURES[:-30], r"F\.npz: cannot be read as NPZ", 78),
    "features in a single array": ("F.npz", array(X), r"F\.npz: is a single array, expected `task_ids`", 78),
    "features that are text": ("F.npz", "task_ids\n", r"F\.npz: cannot be read as NPZ", 78),
    "features by another suffix": ("F.npy", b"", r"F\.npy: features are an \.npz file", 78),
}


def arguments(folder: Path, instead: dict[str, str | bytes], without: str = "") -> list[object]:
    """Options for good files, some of them replaced."""
    folder.mkdir(exist_ok=True)
    replaced = {name[0]: name for name in instead}
    options: list[object] = []
    for name, content in {**GOOD, **instead}.items():
        if name[0] in without or name != replaced.get(name[0], name):
            continue
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        options += [OPTIONS[name[0]], folder / name]
    return options


def refused(code: int, out: Path, capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """The one sentence of a command that writes nothing."""
    capsys.readouterr()
    assert call(*args) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"prefprobe: [^\n]+; [^\n]+\.\n", said.err), said.err
    assert not out.exists()
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]
    return said.err


@pytest.mark.parametrize("command", ["probe", "hoo"])
@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_with_one_sentence(
    case: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, expected, code = MALFORMED[case]
    out = tmp_path / "out"
    said = refused(code, out, capsys, command, *arguments(tmp_path / "in", {name: content}), "--out", out)
    assert re.search(expected, said), said


@pytest.mark.parametrize("letter", OPTIONS)
@pytest.mark.parametrize("command", ["probe", "hoo"])
def test_a_missing_file_and_a_folder_are_refused(
    command: str, letter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = arguments(tmp_path / "in", {})
    path = Path(str(options[options.index(OPTIONS[letter]) + 1]))
    path.unlink()
    out = tmp_path / "out"
    assert "no such file" in refused(78, out, capsys, command, *options, "--out", out)
    path.mkdir()
    assert path.name in refused(78, out, capsys, command, *options, "--out", out)


def test_topics_of_which_no_fold_can_be_made_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def topics(of: Callable[[int], str]) -> str:
        return table("id,topic", [f"{id_},{of(i)}" for i, id_ in enumerate(IDS)])

    for content, extra, expected in (
        (topics(lambda _: "x"), (), r"T\.csv: topics: 1 \('x' of 18 train tasks\) are too few to hold out 1"),
        (topics(lambda i: "xy"[i % 2]), (), r"T\.csv: topics: 2 .* are too few to hold out 1"),
        (TOPICS, ("--holdout", 2), r"T\.csv: topics: 3 .* are too few to hold out 2, which takes 4"),
        (
            topics(lambda i: "w" if i < 2 else "xyz"[i % 3]),
            (),
            r"T\.csv: topics: 'w' has 2 train tasks, and a fold needs 3",
        ),
    ):
        out = tmp_path / "out"
        said = refused(78, out, capsys, "hoo", *arguments(tmp_path / "in", {"T.csv": content}), *extra, "--out", out)
        assert re.search(expected, said), said


def test_folds_take_topics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("hoo", *arguments(tmp_path / "in", {}, "T"), "--out", tmp_path / "out") == 78
    assert "--topics" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["probe", "hoo"])
def test_results_of_others_are_not_overwritten(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, out = arguments(tmp_path / "in", {}), tmp_path / "out"
    out.mkdir()
    assert call(command, *options, "--out", out) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert call(command, *options, "--out", out) == 78
    assert "write into a new folder" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def probed(folder: Path, instead: dict[str, str | bytes], without: str = "", command: str = "probe") -> dict[str, Any]:
    out = folder / f"out {len(list(folder.iterdir()))}"
    assert call(command, *arguments(folder / "in", instead, without), "--out", out) == 0
    read: dict[str, Any] = json.loads((out / f"{command}.json").read_text())
    return read


def test_everything_is_estimable_with_good_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert probed(tmp_path, {})["not_estimable"] == {}
    assert "trained on 18 tasks, tested on 8: raw utilities r = " in capsys.readouterr().out
    assert probed(tmp_path, {}, command="hoo")["folds"][0]["r"] is not None
    assert "3 folds leave out one topic each: mean r = " in capsys.readouterr().out


@pytest.mark.parametrize("without", ["T", ""])
def test_without_topics_or_with_one_nothing_is_demeaned(without: str, tmp_path: Path) -> None:
    one = table("id,topic", [f"{id_},x" for id_ in IDS])
    found = probed(tmp_path, {} if without else {"T.csv": one}, without)
    assert found["targets"]["demeaned"] is None
    assert found["shuffled"]["demeaned"] is None
    why = "No topics were given" if without else "All train tasks have the topic 'x'"
    assert why in found["not_estimable"]["targets.demeaned"]
    assert found["targets"]["raw"] == probed(tmp_path, {})["targets"]["raw"]
    weights = dict(np.load(tmp_path / "out 0" / "probes.npz"))
    assert {name.partition("_")[0] for name in weights} == {"raw"}
    predictions = (tmp_path / "out 0" / "predictions.csv").read_text()
    assert ("topic" in predictions) == (not without)
    assert "demeaned" not in predictions


def test_without_choices_there_is_no_accuracy(tmp_path: Path) -> None:
    found = probed(tmp_path, {}, "C")
    assert found["targets"]["raw"]["accuracy"] is None
    assert "--choices" in found["not_estimable"]["targets.raw.accuracy"] == found["not_estimable"]["ceiling.accuracy"]
    elsewhere = probed(tmp_path, {"C.csv": "task_a,task_b,choice\nt00,t01,a\nn1,n2,b\n"})
    assert "No choice with a direction" in elsewhere["not_estimable"]["targets.demeaned.accuracy"]
    log = probed(tmp_path, {"C.csv": LOG + "e0,e1,refusal,\ne1,e0,unparsed,\n"})
    assert "No choice with a direction" in log["not_estimable"]["targets.raw.accuracy"]
    folds = probed(tmp_path, {"C.csv": "task_a,task_b,choice\nt00,t01,a\n"}, command="hoo")
    assert folds["choices"] == {"accuracy": None, "n_choices": 0}
    assert "choices.accuracy" in folds["not_estimable"]


@pytest.mark.parametrize(
    ("instead", "why"),
    [
        ({"U.csv": utilities(TRAIN, lambda _: 0.5)}, "The predictions of all 8 tasks are the same."),
        ({"E.csv": utilities(EVAL, lambda _: 0.5)}, "The utilities to predict of all 8 tasks are the same."),
        ({"F.npz": features(IDS, layer_2=X, layer_5=X)}, "The predictions of all 8 tasks are the same."),
    ],
)
def test_what_is_constant_is_not_estimable_and_says_why(
    instead: dict[str, str | bytes], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = probed(tmp_path, instead)
    assert found["targets"]["raw"]["r"] is None
    assert found["not_estimable"]["targets.raw.r"] == why
    said = capsys.readouterr().out
    assert "raw utilities r not estimable" in said
    assert re.search(rf"Not estimable, targets\.raw\.r( and \d+ more)?: {re.escape(why)}", said)
    assert (
        ("targets.raw.R2" in found["not_estimable"]) == (found["targets"]["raw"]["R2"] is None) == ("E.csv" in instead)
    )
    crossed = probed(tmp_path, instead, command="hoo")
    if "E.csv" in instead:
        assert crossed["pooled"] is None
        assert crossed["not_estimable"]["pooled"] == "The utilities to predict of all 8 tasks are the same."
    else:
        assert crossed["mean"] is crossed["sd"] is None
        assert {f"folds[{f}].r" for f in range(3)} <= crossed["not_estimable"].keys()
        assert crossed["not_estimable"]["mean"] == "No fold has an r."


def test_whole_numbers_are_ids(tmp_path: Path) -> None:
    ids = [str(100 + i) for i in range(26)]
    renamed: dict[str, str | bytes] = {"F.npz": features(IDS, task_ids=np.arange(100, 126))}
    for name in ("U.csv", "E.csv", "T.csv", "C.csv"):
        renamed[name] = re.sub(r"\b[te]\d+\b", lambda found: ids[IDS.index(found[0])], str(GOOD[name]))
    assert probed(tmp_path, renamed)["targets"] == probed(tmp_path, {})["targets"]


def test_rows_that_are_not_measured_are_not_looked_at(tmp_path: Path) -> None:
    arrays = dict(np.load(io.BytesIO(features([*IDS, "more"]))))
    arrays["layer_2"][-1] = np.nan
    base = {name: array[:-1] for name, array in arrays.items()}
    more = TOPICS + "more,\nother,w\n"
    assert (
        probed(tmp_path, {"F.npz": npz(**arrays), "T.csv": more})["targets"]
        == probed(tmp_path, {"F.npz": npz(**base)})["targets"]
    )


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    assert call("probe", *arguments(tmp_path / "in", {}), "--out", tmp_path / "probe") == 0
    return tmp_path / "probe"


def test_scoring_what_does_not_fit_is_refused(probe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = np.ones((26, WIDTH + 1), np.float32)
    cases: list[tuple[bytes, tuple[object, ...], str]] = [
        (
            features(IDS, layer_2=wide, layer_5=wide),
            (),
            r"F\.npz: `layer_\d` has 5 columns, expected 4 as the probe in .*probe r",
        ),
        (npz(task_ids=np.array(IDS), layer_7=X), (), r"F\.npz: has no `layer_\d`, which the probe reads, but layers 7"),
        (
            spoilt(5, 0, np.nan),
            ("--layer", 5),
            r"F\.npz: `layer_5` of task 'e0' is not finite|of task 't00' is not finite",
        ),
        (
            FEATURES,
            ("--layer", 3),
            r"probe: holds no raw_3_w; its probes are demeaned_2, demeaned_5, raw_2, raw_5; name one of these by target",
        ),
    ]
    out = tmp_path / "s.csv"
    for content, extra, expected in cases:
        (tmp_path / "F.npz").write_bytes(content)
        said = refused(78, out, capsys, "score", probe, "--features", tmp_path / "F.npz", *extra, "--out", out)
        assert re.search(expected, said), said
    good = ("--features", tmp_path / "in" / "F.npz")
    said = refused(78, out, capsys, "score", probe / "probes.npz", *good, "--out", out)
    assert "name a folder with probes.npz and card.json" in said
    assert "expected a name that ends so" in refused(
        78, tmp_path / "s.xlsx", capsys, "score", probe, *good, "--out", tmp_path / "s.xlsx"
    )
    out.write_text("mine")
    assert call("score", probe, *good, "--out", out) == 78
    assert out.read_text() == "mine"


def at(position: object) -> bytes:
    """Features that say where they were read."""
    return features(IDS, about=np.array(json.dumps({"model": "m", "position": position})))


def test_features_of_another_position_than_the_probes_are_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, out = tmp_path / "G.npz", tmp_path / "s.csv"
    trained = {"unknown": FEATURES, "mean": at("mean"), "last": at("last")}
    for name, content in trained.items():
        assert call("probe", *arguments(tmp_path / name, {"F.npz": content}), "--out", tmp_path / f"{name}-probe") == 0
        assert json.loads((tmp_path / f"{name}-probe/card.json").read_text()).get("position", "unknown") == name
        given.write_bytes(at("task-last"))
        if name == "unknown":
            assert call("score", tmp_path / "unknown-probe", "--features", given) == 0
            continue
        said = refused(78, out, capsys, "score", tmp_path / f"{name}-probe", "--features", given, "--out", out)
        assert "G.npz: its activations were read at the position task-last, and those that the probe in" in said
        assert f"trained on at {name}; extract them with --position {name}, or train a probe at task-last." in said
        odd = [features(IDS, about=value) for value in (np.array([1.0]), np.array("{"), np.array('["position"]'))]
        for content in (at(name), FEATURES, at(None), *odd, *([at("turn:-1")] if name == "last" else [])):
            given.write_bytes(content)
            assert call("score", tmp_path / f"{name}-probe", "--features", given) == 0


def test_a_probe_that_is_spoilt_is_refused(probe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = dict(np.load(probe / "probes.npz"))
    card = (probe / "card.json").read_text()
    good, out = ("--features", tmp_path / "in" / "F.npz"), tmp_path / "s.csv"
    layer = json.loads(card)["best"]["raw"]["best_layer"]
    w = f"raw_{layer}_w"
    for spoilt_weights in (
        npz(**{**weights, w: weights[w] * np.nan}),
        npz(**{**weights, w: weights[w][None]}),
        npz(**{**weights, w: weights[w].astype(str)}),
        npz(**{**weights, w: np.array([{}], dtype=object)}),
        npz(**{name: value for name, value in weights.items() if name != w}),
        b"",
    ):
        (probe / "probes.npz").write_bytes(spoilt_weights)
        assert str(probe) in refused(78, out, capsys, "score", probe, *good, "--out", out)
    (probe / "probes.npz").write_bytes(npz(**weights))
    for spoilt_card in ("", "[]", "{}", '{"best": {"raw": null}}', '{"best": {"raw": {"best_layer": "x"}}}'):
        (probe / "card.json").write_text(spoilt_card)
        refused(78, out, capsys, "score", probe, *good, "--out", out)
    (probe / "card.json").unlink()
    assert "card.json: no such file" in refused(78, out, capsys, "score", probe, *good, "--out", out)


POINT = "experiment,prompt,task,dp,ds\n"
BAD_POINTS: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("P.csv", "", r"P\.csv: holds no points"),
    "header alone": ("P.csv", POINT, r"P\.csv: holds no points"),
    "suffix": ("P.tsv", POINT, r"P\.tsv: files of points end in \.parquet"),
    "no ds": (
        "P.csv",
        "experiment,prompt,task,dp\nc,p,t,1\n",
        r"P\.csv row 2: no `ds`, found experiment, prompt, task, dp",
    ),
    "no experiment": ("P.jsonl", '{"prompt":"p","task":"t","dp":0,"ds":0}\n', r"P\.jsonl row 1: no `experiment`"),
    "no prompt": ("P.csv", "experiment,task,dp,ds\nc,t,0,0\n", r"P\.csv row 2: no `prompt`, found"),
    "no task": ("P.csv", "experiment,prompt,dp,ds\nc,p,0,0\n", r"P\.csv row 2: no `task`, found"),
    "task by two names": (
        "P.csv",
        "experiment,prompt,task,task_id,dp,ds\nc,p,t,t,0,0\n",
        r"row 2: has both `task` and `task_id`",
    ),
    "sign by two names": (
        "P.csv",
        "experiment,prompt,task,sign,intended,dp,ds\nc,p,t,1,1,0,0\n",
        r"row 2: has both `sign` and `intended`",
    ),
    "dp NaN": ("P.csv", POINT + "c,p,t,nan,0\n", r"P\.csv row 2: `dp` is 'nan', expected a number from -1 to 1"),
    "ds NaN": (
        "P.jsonl",
        '{"experiment":"c","prompt":"p","task":"t","dp":0,"ds":NaN}\n',
        r"row 1: `ds` is nan, expected",
    ),
    "ds null": (
        "P.parquet",
        parquet(experiment=["c"], prompt=["p"], task=["t"], dp=[0.1], ds=pa.nulls(1)),
        r"row 1: `ds` is nothing",
    ),
    "ds beyond float32": (
        "P.csv",
        POINT + "c,p,t,0,1e200\n",
        r"P\.csv row 2: `ds` is 1e\+200, expected a finite number within",
    ),
    "dp in per cent": (
        "P.csv",
        POINT + "c,p,t,0.4,0\nc,p,u,-40,0\n",
        r"P\.csv row 3: `dp` is -40\.0, expected a number from -1 to 1; correct or remove the row",
    ),
    "sign from the second row on": (
        "P.jsonl",
        '{"experiment":"c","prompt":"p","task":"t","dp":0,"ds":0}\n'
        '{"experiment":"c","prompt":"p","task":"u","dp":0,"ds":0,"sign":1}\n',
        r"P\.jsonl row 2: has `sign`, unlike the rows before it, expected it in every row or in none; give it in every",
    ),
    "dp_se in the first row alone": (
        "P.jsonl",
        '{"experiment":"c","prompt":"p","task":"t","dp":0,"ds":0,"dp_se":0.1}\n'
        '{"experiment":"c","prompt":"p","task":"u","dp":0,"ds":0}\n',
        r"P\.jsonl row 2: lacks `dp_se`, unlike the rows before it, expected it in every row or in none;",
    ),
    "dp_se below 0": (
        "P.csv",
        "experiment,prompt,task,dp,ds,dp_se\nc,p,t,0,0,-0.5\n",
        r"P\.csv row 2: `dp_se` is -0\.5, expected a number from 0;",
    ),
    "dp_se NaN": (
        "P.csv",
        "experiment,prompt,task,dp,ds,dp_se\nc,p,t,0,0,x\n",
        r"P\.csv row 2: `dp_se` is 'x', expected",
    ),
    "twice": (
        "P.csv",
        POINT + "c,p,t,0,0\nd,p,t,0,0\nc,p,t,1,1\n",
        r"P\.csv row 4: task 't' under prompt 'p' of 'c' stands in P\.csv row 2 too",
    ),
    "blank prompt": ("P.csv", POINT + "c,,t,0,0\n", r"P\.csv row 2: `prompt` is nothing, expected a name"),
    "blank task": ("P.csv", POINT + "c,p,,0,0\n", r"P\.csv row 2: `task` is nothing, expected a task id"),
    "sign of 2": (
        "P.csv",
        "experiment,prompt,task,dp,ds,sign\nc,p,t,0,0,2\n",
        r"P\.csv row 2: `sign` is 2\.0, expected 1, -1",
    ),
    "on_target of yes": (
        "P.csv",
        "experiment,prompt,task,dp,ds,on_target\nc,p,t,0,0,yes\n",
        r"`on_target` is 'yes', expected true or false",
    ),
    "neutral of maybe": (
        "P.csv",
        "experiment,prompt,task,dp,ds,neutral\nc,p,t,0,0,maybe\n",
        r"row 2: `neutral` is 'maybe', expected true or false",
    ),
    "neutral and on target": (
        "P.csv",
        "experiment,prompt,task,dp,ds,neutral,on_target\nc,p,t,0,0,true,true\n",
        r"row 2: `neutral` is 'true', expected false, since the point is on target or has a sign; correct or",
    ),
    "neutral with a sign": (
        "P.jsonl",
        '{"experiment":"c","prompt":"p","task":"t","dp":0,"ds":0,"neutral":true,"sign":-1}\n',
        r"row 1: `neutral` is True, expected false",
    ),
    "encoder in part": (
        "P.csv",
        "experiment,prompt,task,dp,ds,ds_encoder\nc,p,t,0,0,1\nc,p,u,0,0,\n",
        r"row 3: `ds_encoder` is nothing, expected a number in every row or in none",
    ),
}


@pytest.mark.parametrize("case", BAD_POINTS)
def test_malformed_points_are_refused_with_one_sentence(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, expected = BAD_POINTS[case]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    out = tmp_path / "s.json"
    said = refused(78, out, capsys, "shift-stats", tmp_path / name, "--out", out)
    assert re.search(expected, said), said


def test_statistics_are_written_into_a_new_file_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points, out = tmp_path / "P.csv", tmp_path / "s.json"
    points.write_text(POINT + "c,p,t,0,0\n")
    assert "expected a name that ends so" in refused(
        78, tmp_path / "s.csv", capsys, "shift-stats", points, "--out", tmp_path / "s.csv"
    )
    out.write_text("mine")
    assert call("shift-stats", points, "--out", out) == 78
    assert "write into a new file" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert "cannot be written" in refused(
        78, tmp_path / "no", capsys, "shift-stats", points, "--out", points / "s.json"
    )


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points, out = tmp_path / "P.csv", tmp_path / "s.json"
    points.write_text(POINT + "c,p,t,0,0\n")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    assert "No space left on device" in refused(78, out, capsys, "shift-stats", points, "--out", out)
    assert list(tmp_path.iterdir()) == [points]


def described(folder: Path, rows: list[str], header: str = POINT) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    n = len(list(folder.iterdir()))
    (folder / f"P{n}.csv").write_text(header + "".join(row + "\n" for row in rows))
    assert call("shift-stats", folder / f"P{n}.csv", "--out", folder / f"s{n}.json") == 0
    found: dict[str, Any] = json.loads((folder / f"s{n}.json").read_text())["experiments"]
    return found


def test_points_without_variance_are_not_estimable_and_say_why(tmp_path: Path) -> None:
    grid = [(p, t, 0.01 * (p + 1) * (t - 1.5)) for p in range(4) for t in range(4)]
    flat = described(tmp_path, [f"c,p{p},t{t},0.5,{x}" for p, t, x in grid])["c"]
    assert flat["pearson"] is flat["spearman"] is flat["p"] is flat["low"] is None
    assert flat["not_estimable"]["pearson"] == "Δp is the same at all 16 points, so there is nothing to correlate."
    assert flat["n_signs"] == 16
    still = described(tmp_path, [f"c,p{p},t{t},{x},0.0" for p, t, x in grid])["c"]
    assert still["not_estimable"]["p"] == "Δs is the same at all 16 points, so there is nothing to correlate."
    small = described(tmp_path, [f"c,p{p},t{t},{x / 10},{x}" for p, t, x in grid])["c"]
    assert (small["sign_agreement"], small["n_signs"]) == (None, 0)
    assert "0.02" in small["not_estimable"]["sign_agreement"]
    assert small["pearson"] == pytest.approx(1)
    few = described(tmp_path, ["c,p,t,0.1,0.2", "c,p,u,0.3,0.1"])["c"]
    assert few["not_estimable"]["pearson"] == "There are 2 points, and a correlation takes 3."
    assert few["not_estimable"]["prompts.p.pearson"] == few["not_estimable"]["pearson"]
    holes = described(tmp_path, [f"c,p{p},t{t},{x},{x * x}" for p, t, x in grid if p == t])["c"]
    assert holes["pearson"] is not None
    assert holes["p"] is None
    assert "every task under every prompt" in holes["not_estimable"]["p"]


def test_what_is_on_target_is_said_by_a_column_by_signs_or_by_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cells = [(p, t, *rng.uniform(-1, 1, size=2)) for p in range(4) for t in range(5)]
    signs = [
        "experiment,prompt,task,dp,ds,sign\n",
        [f"c,p{p},t{t},{x},{y},{1 if p == t else 0}" for p, t, x, y in cells],
    ]
    words = ["experiment,prompt,task,dp,ds,on_target\n", [f"c,p{p},t{t},{x},{y},{p == t}" for p, t, x, y in cells]]
    by_sign, by_word = (described(tmp_path, list(rows), str(header))["c"] for header, rows in (signs, words))
    assert by_sign["on_target"] == by_word["on_target"]
    assert by_sign["on_target"]["n"] == 4
    nothing = described(tmp_path, [f"c,p{p},t{t},{x},{y}" for p, t, x, y in cells])["c"]
    assert nothing["on_target"] is None
    assert "on_target" in nothing["not_estimable"]
    assert nothing["statistics"]["on_target"] == nothing["statistics"]["pooled"]
    for key in ("n", "pearson", "low", "high", "p", "spearman", "sign_agreement", "prompts"):
        assert nothing[key] == by_sign[key] == by_word[key]


def test_noise_is_of_neutral_points_else_of_dp_se_else_not_measured(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    cells = [(p, t, *rng.uniform(-1, 1, size=2), int((p + t) % 2 == 0)) for p in range(4) for t in range(5)]
    rows = [f"c,p{p},t{t},{x},{y},{sign},0.25" for p, t, x, y, sign in cells]
    head = "experiment,prompt,task,dp,ds,sign,dp_se"
    given = described(tmp_path, rows, f"{head}\n")["c"]
    assert (given["noise"], given["noise_from"]) == (pytest.approx(0.25), "dp_se")
    assert "its standard error over comparison tasks (0.25)" in given["statistics"]["why"]
    neutral = [f"c,n,t{t},{(-1) ** t * 0.125},9,0,0.25,true" for t in range(5)]
    measured = described(tmp_path, [f"{row},false" for row in rows] + neutral, f"{head},neutral\n")["c"]
    assert (measured["noise"], measured["noise_from"]) == (pytest.approx(0.125), "neutral prompts")
    without = described(tmp_path, [row.rpartition(",")[0] for row in rows], "experiment,prompt,task,dp,ds,sign\n")["c"]
    assert without["noise"] is without["noise_from"] is None
    assert "the noise was not measured" in without["not_estimable"]["noise"]
    assert "noise" not in given["not_estimable"] | measured["not_estimable"]
    assert not without["statistics"]["estimable"]
    for key in ("n", "pearson", "low", "high", "p", "on_target", "corrected", "prompts"):
        assert given[key] == measured[key] == without[key] is not None
    alone = described(tmp_path, neutral, f"{head},neutral\n")["c"]
    assert alone["n"] == 0
    assert alone["not_estimable"]["pearson"] == "There are 0 points, and a correlation takes 3."


def test_what_cannot_be_corrected_says_why(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    cells = [(p, t, *rng.uniform(-1, 1, size=3)) for p in range(4) for t in range(5)]

    def of(sign: Any, encoder: bool = True) -> dict[str, Any]:
        columns = "experiment,prompt,task,dp,ds,sign" + (",ds_encoder" if encoder else "")
        rows = [f"c,p{p},t{t},{x},{y},{sign(p, t)}" + (f",{z}" if encoder else "") for p, t, x, y, z in cells]
        found: dict[str, Any] = described(tmp_path, rows, f"{columns}\n")["c"]
        return found

    whole = of(lambda p, t: int((p + t) % 2 == 0))
    assert not {key for key in whole["not_estimable"] if key.startswith(("corrected", "advantage"))}
    assert whole["corrected"]["low"] < whole["corrected"]["pearson"] < whole["corrected"]["high"]
    assert whole["advantage"]["low"] < whole["advantage"]["value"] < whole["advantage"]["high"]
    unheard = of(lambda p, t: int((p + t) % 2 == 0), encoder=False)
    assert unheard["corrected"] == whole["corrected"]
    assert unheard["advantage"] is None
    assert "ds_encoder" in unheard["not_estimable"]["advantage"]
    every = of(lambda p, t: 1)
    assert every["corrected"] is every["advantage"] is None
    assert "4 of 4 prompts, such as p0, have no off-target point" in every["not_estimable"]["corrected"]
    one_task = of(lambda p, t: int(t == 0))
    assert one_task["corrected"]["pearson"] is not None
    assert one_task["corrected"]["low"] is None
    assert "three tasks" in one_task["not_estimable"]["corrected.low"]
    assert "advantage.low" not in one_task["not_estimable"]
    unmoved = [f"c,p{p},t{t},{p / 5},{y},{int(t == p)}" for p, t, _, y, _ in cells]
    same = described(tmp_path, unmoved, "experiment,prompt,task,dp,ds,sign\n")["c"]
    assert same["corrected"]["pearson"] is None
    assert "the same at all points" in same["not_estimable"]["corrected.pearson"]


def test_statistics_of_an_experiment_do_not_depend_on_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = {e: [f"{e},p{p},t{t},{rng.uniform(-1, 1)},{rng.normal()}" for p in range(4) for t in range(4)] for e in "cd"}
    both = described(tmp_path, rows["c"] + rows["d"])
    assert both == described(tmp_path, rows["c"]) | described(tmp_path, rows["d"])
