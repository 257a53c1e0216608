"""Merging an adapter into a model: all of it, or a sentence on what does not fit."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from prefprobe.errors import BadConfig
from prefprobe.sources import fetch


def merged(model: Any, adapter: str, revision: str) -> Any:
    """`model` with the adapter's weights merged into its own.

    Raises BadConfig for an adapter that is not of this model: a name in its configuration that the model has not, weights
    that are missing, have no place or another shape; and for one that cannot be merged.
    """
    folder = fetch(adapter, revision)
    if not (folder / "adapter_model.safetensors").exists():
        raise BadConfig(
            f"{adapter}: the adapter folder holds no adapter_model.safetensors; save it with peft as safetensors."
        )
    try:
        return _merged(model, adapter, folder)
    except KeyError as error:
        raise _misfit(adapter, f"lacks {error.args[0]}") from error
    except (ValueError, TypeError, RuntimeError, SafetensorError) as error:
        lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = next((line for line in lines if line.startswith("size mismatch")), lines[0])
        raise _misfit(adapter, f"cannot be merged into this model: {reason}") from error


def _merged(model: Any, adapter: str, folder: Path) -> Any:
    from peft import PeftConfig, PeftModel
    from peft.tuners.tuners_utils import BaseTuner

    config = PeftConfig.from_pretrained(str(folder))
    if config.task_type not in (None, "CAUSAL_LM"):
        raise _misfit(adapter, f"is made for the task {config.task_type}, expected CAUSAL_LM")
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    shared = {name for name, module in model.named_modules() if module in (head, embedding)}
    tied = head.weight is embedding.weight

    wrapped = PeftModel(model, config)
    if not isinstance(wrapped.base_model, BaseTuner):
        raise _misfit(adapter, f"is {config.peft_type.value}, which has no weights to merge")
    reached = {*wrapped.base_model.targeted_module_names, *wrapped.base_model.targeted_parameter_names}
    for name in _names(config):
        if not any(f".{full}".endswith(f".{name}") for full in reached):
            raise _misfit(adapter, f"changes {name}, which this model does not have")
    if tied and shared & reached:
        raise _misfit(
            adapter, f"changes {min(shared & reached)}, whose weights serve as embedding and as head in this model"
        )
    # what peft itself does where it reads an adapter, but for the result, which it drops
    mapping = getattr(model, "_checkpoint_conversion_mapping", None)
    result = wrapped.load_adapter(str(folder), wrapped.active_adapter, key_mapping=mapping)
    for keys, what in (
        (result.missing_keys, "has no weights for"),
        (result.unexpected_keys, "has weights without a place"),
    ):
        if keys:
            raise _misfit(adapter, f"{what}: {keys[0].replace(f'.{wrapped.active_adapter}', '')}")
    return wrapped.merge_and_unload()


def _names(config: Any) -> list[str]:
    """What the configuration says that the adapter changes, if it says so by names."""
    named = (getattr(config, key, None) for key in ("target_modules", "target_parameters"))
    return sorted(name for names in named if names and not isinstance(names, str) for name in names)


def _misfit(adapter: str, why: str) -> BadConfig:
    return BadConfig(f"{adapter}: the adapter {why}; give a LoRA adapter that was trained on this model.")
