"""The header of a GGUF file: its metadata and the shapes of its tensors. Weights are not read, and torch is not needed."""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from prefprobe.errors import BadConfig

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type number in the file → format of `struct`."""
_STRING, _ARRAY = 8, 9
_SPECIAL = (3, 4)
"""Kinds of tokens that stand for themselves wherever they occur: control tokens, and a user's own."""


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself."""

    metadata: dict[str, Any]
    parameters: int

    def of_architecture(self, name: str) -> Any:
        """A value of the architecture's own, such as block_count; None if it is not there."""
        return self.metadata.get(f"{self.metadata.get('general.architecture')}.{name}")

    def token(self, name: str) -> str:
        """A special token by its use, `bos` or `eos`; "" if there is none."""
        number = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
        return "" if number is None else str(self.metadata["tokenizer.ggml.tokens"][number])

    def tokenizer(self) -> Tokenizer | None:
        """A byte-level BPE of the file's own vocabulary, None for another kind.

        Words are split as GPT-2 does, whatever the file asks for: counts come out within a few per cent.
        """
        if self.metadata.get("tokenizer.ggml.model") != "gpt2":
            return None
        tokens = self.metadata["tokenizer.ggml.tokens"]
        merges = [tuple(merge.split(" ", 1)) for merge in self.metadata["tokenizer.ggml.merges"]]
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        kinds = self.metadata.get("tokenizer.ggml.token_type", [])
        tokenizer.add_special_tokens([t for t, kind in zip(tokens, kinds, strict=False) if kind in _SPECIAL])
        return tokenizer


def read_header(path: Path) -> Header:
    """The header of `path`. Raises BadConfig if it is not a GGUF file."""
    with path.open("rb") as file:
        try:
            if file.read(4) != b"GGUF":
                raise BadConfig(
                    f"{path.name}: not a GGUF file that transformers can read: it does not begin with GGUF."
                )
            _, tensors, values = _unpack(file, "IQQ")
            metadata = {_string(file): _value(file, *_unpack(file, "I")) for _ in range(values)}
            return Header(metadata, sum(_elements(file) for _ in range(tensors)))
        except (struct.error, UnicodeDecodeError, KeyError, OverflowError) as error:
            raise BadConfig(
                f"{path.name}: not a GGUF file that transformers can read: its header is broken."
            ) from error


def _elements(file: BinaryIO) -> int:
    """Number of weights of the tensor that is described next."""
    _string(file)
    shape = _unpack(file, f"{_unpack(file, 'I')[0]}Q")
    _unpack(file, "IQ")  # how it is quantised, and where it is
    return math.prod(shape)


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _unpack(file, _SCALARS[kind])[0]
    of, length = _unpack(file, "IQ")
    if of in _SCALARS:
        return list(_unpack(file, f"{length}{_SCALARS[of]}"))
    return [_value(file, of) for _ in range(length)]


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    return file.read(length).decode()


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))
