"""What is known of an encoder before its weights are: who reads it, and which encoders are refused. No torch here."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefprobe.errors import BadConfig, TemporaryFailure
from prefprobe.features.encoder import describe, embed
from prefprobe.sources import source_revision
from prefprobe.store.objects import ObjectStore
from prefprobe.study.pins import pin_sources
from tests.encoders import (
    DENSE,
    NETWORK,
    SENTENCE_T5,
    TEXTS,
    TRANSFORMER,
    TWO_POOLINGS,
    D,
    bert_files,
    pooling,
    study_of,
    write_bert,
    write_files,
)

SETTINGS = "config_sentence_transformers.json"
LIKE: dict[str, tuple[dict[str, Any], str, int]] = {  # files beside a BERT's, why numpy does not read them, d
    "mpnet": ({"config.json": {"model_type": "mpnet", "hidden_size": 768}}, "its model_type is mpnet", 768),
    "bge": ({"1_Pooling/config.json": pooling(pooling_mode_cls_token=True)[1]}, "it pools by cls", D),
    "e5": ({"config.json": {"model_type": "xlm-roberta", "hidden_size": 1024}}, "its model_type is xlm-roberta", 1024),
    "qwen": (
        {
            "1_Pooling/config.json": pooling(pooling_mode_mean_tokens=False, pooling_mode_lasttoken=True)[1],
            "config.json": {"model_type": "qwen3", "hidden_size": 1024},
            SETTINGS: {"prompts": {"query": "Instruct: …\nQuery:", "document": ""}, "default_prompt_name": None},
        },
        "it pools by lasttoken",
        1024,
    ),
    "sentence-t5": (SENTENCE_T5, "its modules are Transformer, Pooling, Dense, Normalize", 512),
    "gemma": (
        {"config.json": {"model_type": "gemma3", "text_config": {"hidden_size": 768}}},
        "its model_type is gemma3",
        768,
    ),
    "two poolings": (TWO_POOLINGS, "it pools by cls and mean", 2 * D),
    "cut vectors": ({SETTINGS: {"truncate_dim": 8}}, "it keeps a part of each vector (truncate_dim)", 8),
    "prompted": (
        {SETTINGS: {"prompts": {"clustering": "cluster: "}, "default_prompt_name": "clustering"}},
        "it puts 'cluster: ' before every text",
        D,
    ),
    "normalised tokens": (
        {"2_Normalize/config.json": {"module_input_name": "token_embeddings"}},
        "its Normalize is not for the whole text's vector",
        D,
    ),
    "too long": (
        {"sentence_bert_config.json": {"max_seq_length": 41}},
        "its texts are cut after 41 tokens and it has 40 positions",
        D,
    ),
    "no epsilon": (
        {"config.json": {k: v for k, v in bert_files()["config.json"].items() if k != "layer_norm_eps"}},
        "its config.json lacks layer_norm_eps",
        D,
    ),
    "elsewhere": (
        {"modules.json": [TRANSFORMER | {"path": "0_BERT"}, pooling()[0]]}
        | {f"0_BERT/{name}": bert_files()[name] for name in NETWORK},
        "its network lies in 0_BERT",
        D,
    ),
    "sharded": ({"model.safetensors.index.json": {}}, "its weights lie in several files", D),
}


def folder_like(name: str, folder: Path) -> str:
    write_files(folder, bert_files() | LIKE[name][0])
    return str(folder)


def test_a_bert_with_mean_pooling_is_read_in_numpy(tmp_path: Path) -> None:
    source = write_bert(tmp_path)
    found = describe(source, "")
    assert (found.beyond, found.prompt, found.width, found.longest) == (None, None, D, 24)
    counted: list[int] = []
    assert embed(source, TEXTS, advance=counted.append).shape == (len(TEXTS), D)
    assert counted == [1] * len(TEXTS)


@pytest.mark.parametrize("name", LIKE)
def test_who_reads_an_encoder_is_known_without_its_weights(tmp_path: Path, name: str) -> None:
    found = describe(folder_like(name, tmp_path), "")
    assert (found.beyond, found.width) == LIKE[name][1:]
    assert found.prompt == ("cluster: " if name == "prompted" else None)


def test_without_torch_the_next_step_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_like("bge", tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        BadConfig, match=r"install prefprobe\[torch\] \(on a cluster the template embed-torch"
    ) as caught:
        embed(source, TEXTS)
    why = f"{source}: it pools by cls, so it is read by sentence-transformers, and torch is not installed here"
    assert str(caught.value).startswith(why)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"modules.json": None}, r"no readable modules\.json"),
        ({"modules.json": "{"}, r"no readable modules\.json"),
        ({"modules.json": {}}, "names no module"),
        ({"modules.json": []}, "names no module"),
        ({"modules.json": [{"path": ""}]}, "not those of a sentence-transformers encoder"),
        ({"modules.json": [3]}, "not those of a sentence-transformers encoder"),
        ({"modules.json": [TRANSFORMER | {"path": "../other"}]}, "leads out of the encoder"),
        ({"modules.json": [TRANSFORMER | {"path": "/etc"}]}, "leads out of the encoder"),
        (
            {"modules.json": [TRANSFORMER | {"type": "modeling.Own"}]},
            r"code of its own \(modeling\.Own in modules\.json\)",
        ),
        ({"modules.json": [TRANSFORMER | {"type": "sentence_transformers_own.Own"}]}, "code of its own"),
        ({"modules.json": [TRANSFORMER | {"type": "sentence_transformers.models.Router"}]}, "queries and documents"),
        ({"1_Pooling/config.json": None}, r"no readable 1_Pooling/config\.json"),
        ({"1_Pooling/config.json": []}, "not those of a sentence-transformers encoder"),
        ({"config.json": None}, r"no readable config\.json"),
        ({"config.json": {"model_type": "bert", "auto_map": {"AutoModel": "m.M"}}}, r"auto_map in config\.json"),
        (
            {"tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["t.T", None]}}},
            r"auto_map in tokenizer_config\.json",
        ),
        ({"sentence_bert_config.json": {"tokenizer_name_or_path": "a/b"}}, "tokenizer lies elsewhere"),
        ({"sentence_bert_config.json": {"max_seq_length": "long"}}, "not those of a sentence-transformers encoder"),
        ({"adapter_config.json": {}}, "adapter of a network that lies elsewhere"),
        ({"adapter_config.json": {}, "config.json": None}, "adapter of a network that lies elsewhere"),
        ({SETTINGS: {"model_type": "SparseEncoder"}}, "a SparseEncoder gives no vector"),
        (
            {SETTINGS: {"default_prompt_name": "q", "prompts": {"query": "q: "}}},
            "default_prompt_name q and no such prompt",
        ),
        (
            {"modules.json": [TRANSFORMER, DENSE], "2_Dense/config.json": {"activation_function": "os.system"}},
            r"os\.system in 2_Dense/config\.json",
        ),
        ({"tokenizer.json": {}}, "not those of a sentence-transformers encoder"),
    ],
)
def test_what_is_no_encoder_is_refused_before_its_weights_are_read(
    tmp_path: Path, files: dict[str, Any], said: str
) -> None:
    write_files(tmp_path, bert_files() | {name: content for name, content in files.items() if content != "{"})
    for name, content in files.items():
        if content == "{":
            (tmp_path / name).write_text("{")
    with pytest.raises(BadConfig, match=said) as caught:
        describe(str(tmp_path), "")
    assert "\n" not in str(caught.value)


def test_a_file_is_no_encoder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(BadConfig, match=r"no readable modules\.json"):
        describe(str(tmp_path / "model.gguf"), "")


def test_weights_that_are_no_berts(tmp_path: Path) -> None:
    source = write_bert(tmp_path, {"config.json": bert_files()["config.json"] | {"num_hidden_layers": 3}})
    with pytest.raises(BadConfig, match=r"encoder\.layer\.2"):
        embed(source, TEXTS)
    for change in ({"hidden_size": 48}, {"num_attention_heads": 5}):
        write_files(tmp_path, {"config.json": bert_files()["config.json"] | change})
        with pytest.raises(BadConfig, match=r"other shapes than its config\.json"):
            embed(source, TEXTS)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(BadConfig, match=r"model\.safetensors cannot be read"):
        embed(source, TEXTS)


def test_only_encoders_that_numpy_does_not_read_have_the_pin_of_torch(tmp_path: Path) -> None:
    plain = write_bert(tmp_path / "plain")
    pooled = write_bert(tmp_path / "pooled", LIKE["bge"][0])
    pins = pin_sources(study_of(plain=plain, pooled=pooled), ObjectStore.open(str(tmp_path / "store")))
    named = {name: pin for name, pin in pins.items() if name.startswith("encoder.")}
    assert named == {
        "encoder.plain": source_revision(plain),
        "encoder.pooled": source_revision(pooled),
        "encoder.pooled.torch": "sentence-transformers",
    }


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """As much of the hub as its client asks for, of one repository in a folder."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.folder = Path()
        self.status: dict[str, int] = {}
        """What to answer instead to paths that hold a word."""
        self.read: list[str] = []


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        status = next((code for word, code in self.server.status.items() if word in self.path), 200)
        files = {f.relative_to(self.server.folder).as_posix(): f for f in self.server.folder.rglob("*") if f.is_file()}
        body = b""
        headers = {"X-Repo-Commit": COMMIT}
        if status != 200:
            headers["X-Error-Code"] = {403: "GatedRepo", 404: "RepoNotFound"}.get(status, "")
        elif "/tree/" in self.path:
            listed = [
                {"type": "file", "path": n, "size": f.stat().st_size, "oid": f"{i:040x}"}
                for i, (n, f) in enumerate(files.items())
            ]
            body = json.dumps(listed).encode()
        elif "/resolve/" in self.path:
            name = self.path.partition(f"/resolve/{COMMIT}/")[2]
            body = files[name].read_bytes()
            headers["ETag"] = f'"{abs(hash(name)):040x}"'
            if self.command == "GET":
                self.server.read.append(name)
        elif self.path.startswith("/api/models/"):
            body = json.dumps(
                {"id": "lab/encoder", "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}
            ).encode()
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        server.folder = tmp_path / "repository"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def test_of_a_hub_id_only_small_files_are_read_to_decide(hub: Hub, tmp_path: Path) -> None:
    local = write_bert(hub.folder)
    assert source_revision("lab/encoder") == COMMIT
    assert describe("lab/encoder", COMMIT).beyond is None
    assert {"config.json", "1_Pooling/config.json", "tokenizer.json"} <= set(hub.read)
    assert not [name for name in hub.read if name.endswith(".safetensors")]
    assert np.array_equal(embed("lab/encoder", TEXTS, revision=COMMIT), embed(local, TEXTS))
    assert "model.safetensors" in hub.read
    hub.shutdown()  # what was read once is not asked for again
    assert describe("lab/encoder", COMMIT).beyond is None


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        ({"/tree/": 503}, TemporaryFailure, "could not be downloaded"),
        ({"/resolve/": 503}, TemporaryFailure, "could not be downloaded"),
        ({"/tree/": 429}, TemporaryFailure, "could not be downloaded"),
        ({"/resolve/": 403}, BadConfig, "the hub answers 403"),
        ({"/tree/": 404}, BadConfig, "the hub answers 404"),
    ],
)
def test_a_hub_that_does_not_give_them(
    hub: Hub, status: dict[str, int], error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    write_bert(hub.folder)
    hub.status = status
    with pytest.raises(error, match=said):
        describe("lab/encoder", COMMIT)


def test_a_hub_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    hub.shutdown()
    hub.server_close()
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    with pytest.raises(TemporaryFailure, match="could not be downloaded"):
        describe("lab/encoder", COMMIT)


def test_pickled_weights_alone_are_refused_before_anything_is_downloaded(hub: Hub) -> None:
    write_files(hub.folder, bert_files())
    (hub.folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(BadConfig, match=r"holds no \*\.safetensors weights"):
        source_revision("lab/encoder")
