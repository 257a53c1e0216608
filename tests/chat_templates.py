"""Chat templates in the manner of real ones, and tiny tokenizers to read what they print."""

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

ANSWER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
CHATML = "{% for m in messages %}" + TURN + "{% endfor %}" + ANSWER
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are useful.<|im_end|>\n{% endif %}" + CHATML
)
DATED = (
    "{% set today = strftime_now('%d %B %Y') %}"
    "<|im_start|>system\nToday is {{ today }}, {{ strftime_now('%A') }}, {{ strftime_now('%H:%M') }}; yesterday was the "
    "{{ strftime_now('%d')|int - 1 }}.{% if messages[0].role == 'system' %}\n{{ messages[0].content }}{% endif %}<|im_end|>\n"
    "{% for m in messages %}{% if m.role != 'system' %}" + TURN + "{% endif %}{% endfor %}" + ANSWER
)
DATE_STRING = (
    "{% if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ date_string }}\n" + CHATML
)
RAISES_ON_SYSTEM = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}" + ANSWER
)
PASSES_OVER = (
    "{% for m in messages %}{% if m.role in ('user', 'assistant') %}" + TURN + "{% endif %}{% endfor %}" + ANSWER
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'user' and m.role != 'assistant' %}{{ m.nothing.here }}{% endif %}"
    + (TURN + "{% endfor %}" + ANSWER)
)
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'text' %}"
    "{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}" + ANSWER
)
PARTS_OF_USER = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'user' %}{{ m.content[0]['text'] }}{% else %}"
    "{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}" + ANSWER
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}<<SYS>>\n{{ m.content }}\n<</SYS>>\n\n"
    "{% elif m.role == 'user' %}[INST] {{ m.content.strip() }} [/INST]{% else %} {{ m.content.strip() }} {{ eos_token }}"
    "{% endif %}{% endfor %}"
)
SYSTEM_IN_LAST_TURN = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {% if loop.last and system is defined %}{{ system }}\n\n{% endif %}"
    "{{ m.content }}[/INST]{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
BLANK_LINE = (  # as GLM-4: answers begin with a line break, which the prompt does not
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
MARKS = (  # as DeepSeek
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }} poem\n\n"
    "{% elif m.role == 'user' %}<｜User｜>{{ m.content }}{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}"
    "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n{% generation %}{{ m.content }}"
    "{% endgeneration %}<|im_end|>\n{% else %}" + TURN + "{% endif %}{% endfor %}" + ANSWER
)
TWICE = "{% for m in messages %}" + TURN + "{% if m.role == 'user' %}" + TURN + "{% endif %}{% endfor %}" + ANSWER

LISTS_PRINTED = (
    "{% for m in messages %}{% if m.role == 'system' and m.content is string %}{{ m.nothing.here }}{% endif %}"
    + (TURN + "{% endfor %}" + ANSWER)
)
COLON = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}<|im_start|>assistant:"

PLAIN = {  # each with whether a system prompt is folded into the user's turn
    "chatml": (CHATML, False),
    "default system": (DEFAULT_SYSTEM, False),
    "dated": (DATED, False),
    "date string": (DATE_STRING, False),
    "raises": (RAISES_ON_SYSTEM, True),
    "passes over": (PASSES_OVER, True),
    "undefined": (NO_SYSTEM, True),
    "parts": (PARTS, False),
    "parts of the user": (PARTS_OF_USER, False),
    "inst": (INST, False),
    "last turn": (SYSTEM_IN_LAST_TURN, False),
    "blank line": (BLANK_LINE, False),
    "generation": (GENERATION, False),
    "twice": (TWICE, False),
    "lists printed": (LISTS_PRINTED, True),
    "colon": (COLON, False),
}

LOOP = "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant"
ELSE = "{% else %}" + TURN + "{% endif %}{% endfor %}" + ANSWER
SWITCHED = (  # a thought that an argument closes, and that finished answers have closed
    LOOP + "\n<think>\n\n</think>\n\n{{ m.content }}<|im_end|>\n" + ELSE
    + "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    + "<think>\n\n</think>\n\n{% endif %}"
)  # fmt: skip
FORGOTTEN = (  # a thought is opened, and finished answers have none
    LOOP + "\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n" + ELSE
    + "{% if add_generation_prompt and not no_thoughts %}<think>\n{% endif %}"
)  # fmt: skip
KEPT_OPEN = LOOP + "\n<think>\n{{ m.content }}" + ELSE + "{% if add_generation_prompt %}<think>\n{% endif %}"
CHANNELS = (
    LOOP + "<|channel|>final<|message|>{{ m.content }}<|im_end|>{% else %}<|im_start|>{{ m.role }}<|message|>{{ m.content }}"
    "<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)  # fmt: skip
NO_ANSWERS = LOOP + "{{ raise_exception('questions only') }}" + ELSE
NO_ANSWERS_THINKING = NO_ANSWERS + "{% if add_generation_prompt %}[THINK]{% endif %}"

WANTS_TOOLS = "{% if not tools %}{{ raise_exception('This model needs tools') }}{% endif %}" + CHATML
MUTE = "{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>\n{% endfor %}" + ANSWER
SHOUTS = CHATML.replace("m.content", "m.content | upper")
CUTS = CHATML.replace("m.content", "m.content[:30]")
TAKES_FLAGS = (
    "{% for m in messages %}"
    + TURN.replace("m.content", "m.content | replace('/no_think', '')")
    + "{% endfor %}"
    + (ANSWER + "{% if '/no_think' in messages[0].content %}<think></think>{% endif %}")
)
RANDOM = "{{ ['a', 'b'] | random }}" + CHATML
BROKEN = "{% for m in messages %}"

WORDS = (" Task", "Task", " A", " B", "user", "system", "assistant", "INST", " the", "Hello", " is", "poem")
CONTROLS = ("<|im_start|>", "<|im_end|>", "<|channel|>", "<|message|>", "<s>", "</s>")


def byte_level(template: Any = None, controls: Sequence[Any] = CONTROLS, bos: bool = False, **more: Any) -> Any:
    """As Qwen and SmolLM: bytes, and words that carry the space before them. `bos`: a text begins with <s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(*_vocabulary(alphabet, [word.replace(" ", "Ġ") for word in WORDS])))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _wrapped(tokenizer, template, controls, bos, **more)


def metaspace(
    template: Any = None, controls: Sequence[Any] = CONTROLS, bos: bool = True, first: bool = False, **more: Any
) -> Any:
    """As Llama 2: a text that is read alone gets a space before it; with `first` only what begins the whole text."""
    alphabet = [f"<0x{n:02X}>" for n in range(256)] + [chr(n) for n in range(33, 127)] + ["▁"]
    vocabulary, merges = _vocabulary(alphabet, [word.replace(" ", "▁") for word in WORDS])
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True))
    if first:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return _wrapped(tokenizer, template, controls, bos, **more)


def _vocabulary(alphabet: Sequence[str], words: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Every word is made of its letters from left to right."""
    merges = [(word[:k], word[k]) for word in words for k in range(1, len(word))]
    tokens = dict.fromkeys([*alphabet, *("".join(pair) for pair in merges)])
    return {token: n for n, token in enumerate(tokens)}, list(dict.fromkeys(merges))


def _wrapped(tokenizer: Tokenizer, template: Any, controls: Sequence[Any], bos: bool, **more: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer.add_special_tokens(list(controls))
    start, end = controls[-2:]
    if bos:
        pair = [(start, tokenizer.token_to_id(start))]
        tokenizer.post_processor = processors.TemplateProcessing(f"{start} $A", special_tokens=pair)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=start, eos_token=end, **more)
    made.chat_template = template
    return made
