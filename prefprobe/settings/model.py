"""Settings of a model of which there are weights."""

import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from prefprobe.settings.base import Settings

DATE = datetime.date(2025, 1, 1)
"""The date that chat templates print unless another is given."""
NOT_MERGED = (
    "an adapter cannot be merged into quantised weights exactly; merge it into the weights first, save these, and name their "
    "folder as the source"
)
NO_GPUS = "`devices` is a number of GPUs, and `device: cpu` uses none"
Device = Literal["auto", "cpu", "cuda"]
Quantisation = Literal["8bit", "4bit"]
RENDERERS_OWN = frozenset(
    [
        "add_generation_prompt",
        "bos_token",
        "cls_token",
        "continue_final_message",
        "conversation",
        "date_string",
        "documents",
        "eos_token",
        "mask_token",
        "max_length",
        "messages",
        "pad_token",
        "padding",
        "raise_exception",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "sep_token",
        "strftime_now",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
        "unk_token",
    ]
)
"""Arguments of a chat template that whatever renders it sets itself."""


def templates_own(arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The arguments of a chat template, if none of them is one that the renderer sets; raises ValueError."""
    taken = sorted(set(arguments) & RENDERERS_OWN)
    if taken:
        raise ValueError(f"prompts are rendered with a {', '.join(taken)} of their own; the date is `date`")
    return arguments


class ModelSettings(Settings):
    """A causal language model."""

    source: str = Field(description="hub id, local folder, GGUF file, or package:NAME/PATH")
    name: str | None = Field(default=None, description="how the report calls it; the source if not given")
    revision: str | None = Field(default=None, description="hub commit; content digests identify everything else")
    adapter: str | None = Field(
        default=None, description="LoRA adapter (peft, safetensors) merged at load: hub id or folder"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="type of weights and passes"
    )
    device: Device = Field(default="auto", description="auto takes a GPU where there is one")
    devices: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda given: given is None,
        description="GPUs of a node over which the blocks are divided, refused where it has fewer; null: all visible ones where "
        "one does not hold the weights, else one",
    )
    quantisation: Quantisation | None = Field(
        default=None,
        exclude_if=lambda given: given is None,
        description="weights as bitsandbytes quantises them at load: LLM.int8() or NF4; null: as they are",
    )
    chat: bool = Field(default=True, description="render prompts with the chat template; false reads bare text")
    template: Annotated[dict[str, JsonValue], AfterValidator(templates_own)] = Field(
        default_factory=dict,
        description="arguments of the chat template, as in {enable_thinking: false}; `chat_template` names one of several",
    )
    date: datetime.date = Field(default=DATE, description="what chat templates print as today's date")

    @model_validator(mode="after")
    def _a_template_to_give_them_to(self) -> Self:
        if self.template and not self.chat:
            raise ValueError("`template` has arguments of a chat template, and `chat: false` uses none")
        return self

    @model_validator(mode="after")
    def _one_way_to_run_it(self) -> Self:
        if self.quantisation and self.adapter:
            raise ValueError(NOT_MERGED)
        if self.devices is not None and self.device == "cpu":
            raise ValueError(NO_GPUS)
        return self
