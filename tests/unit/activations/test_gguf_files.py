"""A GGUF file read in a fraction of the time holds what gguf's own reader finds in it, and is read once."""

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.model

gguf = pytest.importorskip("gguf")

from prefprobe.activations.gguf_files import read_once  # noqa: E402


def written(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_token_list(["<s>", "a", "Ω", " of"])
    writer.add_token_scores([0.5, -1.0, 2.0, 0.0])
    rows = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    writer.add_tensor("plain", rows)
    kind = gguf.GGMLQuantizationType.Q4_1
    writer.add_tensor("small", gguf.quants.quantize(rows, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_file_holds_the_same_and_is_read_once(tmp_path: Path) -> None:
    path = written(tmp_path / "x.gguf")
    own, names = gguf.GGUFReader(path), gguf.get_tensor_name_map
    with read_once():
        found = gguf.GGUFReader(path)
        assert gguf.GGUFReader(path) is found
        arch = gguf.MODEL_ARCH.LLAMA
        assert gguf.get_tensor_name_map(arch, 2) is gguf.get_tensor_name_map(arch, 2)
        assert gguf.get_tensor_name_map(arch, 2).mapping == names(arch, 2).mapping != names(arch, 3).mapping
    assert gguf.get_tensor_name_map is names
    assert type(gguf.GGUFReader(path)) is type(own)
    assert {k: f.contents() for k, f in found.fields.items()} == {k: f.contents() for k, f in own.fields.items()}
    assert [t.name for t in found.tensors] == ["plain", "small"]
    for mine, theirs in zip(found.tensors, own.tensors, strict=True):
        assert (mine.tensor_type, mine.shape.tolist()) == (theirs.tensor_type, theirs.shape.tolist())
        np.testing.assert_array_equal(
            gguf.dequantize(mine.data, mine.tensor_type), gguf.dequantize(theirs.data, theirs.tensor_type)
        )
