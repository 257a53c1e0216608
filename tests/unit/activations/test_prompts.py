"""Prompts as tokens: by tiny tokenizers of two kinds, against what transformers itself renders and reads."""

import datetime
import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

from prefprobe.activations.prompts import PromptFormat
from prefprobe.activations.templates import renderer
from prefprobe.activations.turns import Turns
from prefprobe.errors import BadConfig
from prefprobe.plan.prompts import PromptLengths
from prefprobe.settings.model import DATE
from tests import chat_templates as made

pytestmark = pytest.mark.model
DAY = datetime.date(2031, 5, 9)
LABELS = ("Task A:", "Task B:")
TEXTS = ("Hello", " the poem\n", "a  b", "Is {{ this }} é 雪?", "user")
RENAMED = [chr(0xE000 + k) for k in range(len(made.CONTROLS))]
"""Control tokens of the same tokenizer under names that no text holds: what its other text is read as, to compare with."""
parts = st.sampled_from([*made.CONTROLS, "a", " the", "\n", " ", "poem", "<"])
mixed = st.lists(parts | st.sampled_from(["é", "雪", "  "]), min_size=1, max_size=6).map("".join)
quoting = st.lists(parts, min_size=1, max_size=6).map("".join)


def kinds() -> dict[str, Callable[..., Any]]:
    return {
        "byte-level": made.byte_level,
        "metaspace": made.metaspace,
        "first": functools.partial(made.metaspace, first=True),
    }


def joint(tokenizer: Any, strings: Sequence[str], bare: bool = False) -> list[list[int]]:
    return [list(tokenizer(string, add_special_tokens=bare)["input_ids"]) for string in strings]


def shown(tokenizer: Any, text: str, system: str | None, **arguments: Any) -> str:
    turns = [{"role": "user", "content": text}]
    turns = turns if system is None else [{"role": "system", "content": system}, *turns]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **arguments))


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("name", made.PLAIN)
def test_a_plan_counts_what_the_model_reads(kind: str, name: str) -> None:
    tokenizer = kinds()[kind](made.PLAIN[name][0])
    prompts = [(text, system) for text in TEXTS for system in (None, "Be kind.", "You are\nrude. ")]
    render = renderer(tokenizer.chat_template, {}, DAY, {"bos_token": "<s>", "eos_token": "</s>"})
    lengths = PromptLengths(True, tokenizer._tokenizer, Turns(render))
    tokens = PromptFormat(tokenizer, day=DAY).tokens_many(prompts)
    assert lengths.mean(prompts) == sum(map(len, tokens)) / len(prompts)


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("name", ["chatml", "default system", "inst", "last turn", "generation"])
def test_prompts_are_those_of_transformers(kind: str, name: str) -> None:
    tokenizer = kinds()[kind](made.PLAIN[name][0])
    of = PromptFormat(tokenizer)
    for text in TEXTS:
        for system in (None, "Be kind."):
            assert of.tokens(text, system) == joint(tokenizer, [shown(tokenizer, text, system)])[0]
    assert of.tokens("Hello", "Be kind.").count(tokenizer.bos_token_id) == (name in ("inst", "last turn"))


def test_what_a_template_does_with_json_is_what_it_does_in_transformers() -> None:
    tokenizer = made.byte_level("{{ messages | tojson(indent=2) }}{{ bos_token }}{{ x | tojson }}")
    turns = [{"role": "user", "content": "é <'&"}]
    render = renderer(tokenizer.chat_template, {"x": {"b": None}}, DATE, tokenizer.special_tokens_map)
    assert render(turns, True) == tokenizer.apply_chat_template(turns, tokenize=False, x={"b": None})


def test_the_clock_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import chat_template_utils

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Later":
            return cls(2040, 12, 31, 23, 59)

    tokenizer = made.byte_level(made.DATED)
    before = PromptFormat(tokenizer).tokens("Hello", "Be kind.")
    chat_template_utils._compile_jinja_template.cache_clear()
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    assert "31 December 2040" in shown(tokenizer, "Hello", None)  # of itself it would be read
    assert PromptFormat(tokenizer).tokens("Hello", "Be kind.") == before
    other = PromptFormat(tokenizer, day=DAY)
    assert other.tokens("Hello", "Be kind.") != before
    assert other.describe()["date"] == "2031-05-09"
    assert PromptFormat(made.byte_level(made.DATE_STRING)).describe()["date"] == DATE.isoformat()
    assert "date" not in PromptFormat(made.byte_level(made.CHATML), day=DAY).describe()


def test_arguments_reach_the_template() -> None:
    tokenizer = made.byte_level({"default": made.CHATML, "quiet": made.SWITCHED})
    arguments = {"chat_template": "quiet", "enable_thinking": False}
    of = PromptFormat(tokenizer, template=arguments)
    assert tokenizer.decode(of.tokens("Hello")).endswith("</think>\n\n")
    assert of.describe()["template"] == arguments
    assert tokenizer.decode(PromptFormat(tokenizer).tokens("Hello")).endswith("assistant\n")
    with pytest.raises(BadConfig, match="`enable_thinking` is no argument"):
        PromptFormat(tokenizer, template={"enable_thinking": False})
    with pytest.raises(BadConfig, match="`template` has arguments of a chat template, and bare text uses none"):
        PromptFormat(tokenizer, chat=False, template={"enable_thinking": False})


@pytest.mark.parametrize("name", ["default system", "raises", "parts", "inst", "dated", "bare"])
@pytest.mark.parametrize("kind", kinds())
def test_control_tokens_in_a_text_are_text(kind: str, name: str) -> None:
    """The same tokenizer with its control tokens under other names reads the text as text: the ids must be its own."""
    template, chat = (made.CHATML, False) if name == "bare" else (made.PLAIN[name][0], True)
    renamed = template
    for old, new in zip(made.CONTROLS, RENAMED, strict=True):
        renamed = renamed.replace(old, new)
    tokenizer, oracle = kinds()[kind](template), kinds()[kind](renamed, RENAMED)
    of, expected = PromptFormat(tokenizer, chat=chat), PromptFormat(oracle, chat=chat)
    read = 0

    @settings(max_examples=80, deadline=None)
    @given(quoting.filter(str.strip), st.none() | quoting.filter(str.strip))
    def same(text: str, system: str | None) -> None:
        nonlocal read
        try:
            ids = of.tokens(text, system)
        except BadConfig as refused:
            assert "control token" in str(refused)  # noqa: PT017 - a refusal is right where it is not exact
            return
        read += any(control in text for control in made.CONTROLS)
        assert ids == expected.tokens(text, system)

    same()
    assert read > 20


@pytest.mark.parametrize("name", ["chatml", "default system", "inst", "last turn", "bare"])
@pytest.mark.parametrize("kind", kinds())
def test_a_texts_tokens_are_those_that_hold_its_characters(kind: str, name: str) -> None:
    """Against the lengths of decoded beginnings of the prompt, which know nothing of offsets."""
    template, chat = (made.CHATML, False) if name == "bare" else (made.PLAIN[name][0], True)
    tokenizer = kinds()[kind](template)
    of = PromptFormat(tokenizer, chat=chat)
    apart = 0

    @settings(max_examples=60, deadline=None)
    @given(mixed.filter(str.strip), st.sampled_from([None, "the poem", "a"]))
    def found(text: str, system: str | None) -> None:
        nonlocal apart
        try:
            ids = of.tokens(text, system)
        except BadConfig:  # a control token that cannot be read as text
            return
        apart += any(control in text for control in made.CONTROLS)
        start, stop = of.located(text, system)
        begun = [tokenizer.decode(ids[:k]) for k in range(len(ids) + 1)]
        ends = [len(said.rstrip("\ufffd")) for said in begun]  # of characters that are whole
        shown = next(piece.string for piece in of._pieces(text, system) if piece.task)
        behind = len(tokenizer.decode(of.tokens("Q", system)).rpartition("Q")[2])
        first = ends[-1] - behind - len(shown.lstrip())
        last = first + len(shown.strip())
        assert ends[start] <= first < len(begun[start + 1]), (text, system)
        assert ends[stop - 1] < last <= ends[stop], (text, system)

    found()
    assert apart > 5


def test_a_text_whose_tokens_cannot_be_told_is_refused() -> None:
    twice = made.byte_level("{% for m in messages %}{{ m.content }}/{{ m.content }}{% endfor %}")
    with pytest.raises(BadConfig, match=r"^the prompt prints a task's text more than once"):
        PromptFormat(twice).located("Hello")
    lower = made.byte_level(made.CHATML)
    lower._tokenizer.normalizer = normalizers.Lowercase()
    assert PromptFormat(lower).located("hello")
    with pytest.raises(BadConfig, match=r"^the text “Hello” is not found in its tokens as it is"):
        PromptFormat(lower).located("Hello")


def test_marks_of_the_template_that_are_not_called_special_open_no_turns() -> None:
    """As DeepSeek's turns, and the thoughts of many: no tokenizer splits them, so that a text with one is refused."""
    tokenizer = made.byte_level(made.MARKS)
    marks = ["<｜User｜>", "<｜Assistant｜>", "</think>", "<h1>", "\n\n", "poem"]
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in marks])
    of = PromptFormat(tokenizer)
    for mark in marks[:3]:
        for prompt in [(f"a {mark} b", None), ("a", f"Be kind.{mark}")]:
            with pytest.raises(BadConfig, match=f"holds the control token {mark}, which"):
                of.tokens(*prompt)
    for mark in marks[3:]:  # which the template does not print, or any text may hold
        assert of.tokens(f"a {mark} b") == joint(tokenizer, [shown(tokenizer, f"a {mark} b", None)])[0]


def test_a_control_token_that_cannot_be_read_as_text_is_named() -> None:
    """One too short to be told from a twin, and one that the normaliser makes of other letters."""
    short = made.byte_level(made.CHATML, (*made.CONTROLS, "<>"))
    with pytest.raises(BadConfig, match="the text “if a <> b” holds the control token <>, which"):
        PromptFormat(short).tokens("if a <> b")
    wide = made.byte_level(made.CHATML)
    wide._tokenizer.normalizer = normalizers.NFKC()
    wide._tokenizer.add_special_tokens([AddedToken("<wide>", special=True, normalized=True)])
    of = PromptFormat(wide)
    assert of.tokens("ｗｉｄｅ") == of.tokens("wide")
    with pytest.raises(BadConfig, match="the text “a ＜ｗｉｄｅ＞” holds the control token <wide>, which"):
        of.tokens("a ＜ｗｉｄｅ＞")


@pytest.mark.parametrize("unknown", [None, "</s>"])
def test_a_tokenizer_that_does_not_heed_is_found_out(unknown: str | None) -> None:
    more: dict[str, Any] = {} if unknown is None else {"unk_token": unknown}
    tokenizer = made.byte_level(made.CHATML, **more)
    kind = type(tokenizer)

    def deaf(self: Any, *of: Any, split_special_tokens: bool = False, **how: Any) -> Any:
        return kind.__call__(self, *of, **how)

    tokenizer.__class__ = type("Deaf", (kind,), {"__call__": deaf})
    with pytest.raises(BadConfig, match="holds the control token </s>, which"):
        PromptFormat(tokenizer).tokens("a </s> b")


@pytest.mark.parametrize("kind", ["swallows", "joins"])
def test_a_text_is_cut_out_where_it_is_exact(kind: str) -> None:
    """At the text, behind a control token that swallows the line break between them; at the control tokens, where the
    template's last blank and the text's first word are one token."""
    swallowing = "{% for m in messages %}<|turn|>\n{{ m.content }}<|im_end|>{% endfor %}<|turn|>\n"
    make, template = {"swallows": (made.metaspace, swallowing), "joins": (made.byte_level, made.COLON)}[kind]
    turn = AddedToken("<|turn|>", special=True, rstrip=True)
    renamed = template
    for old, new in zip(made.CONTROLS, RENAMED, strict=True):
        renamed = renamed.replace(old, new)
    of = PromptFormat(make(template, (turn, *made.CONTROLS)))
    assert of.tokens("the <|im_end|> x") == PromptFormat(make(renamed, (turn, *RENAMED))).tokens("the <|im_end|> x")


def test_an_unknown_token_that_is_spelt_out_is_text_and_what_is_unknown_is_none() -> None:
    tokenizer = made.byte_level(made.CHATML, unk_token="</s>")
    of = PromptFormat(tokenizer)
    assert tokenizer.unk_token_id not in of.tokens("a </s> b")
    assert tokenizer.decode(of.tokens("a </s> b")) == tokenizer.decode(of.tokens("a <xs> b")).replace("<xs>", "</s>")


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("name", ["chatml", "inst", "last turn", "blank line", "dated", "bare"])
def test_labels_are_what_they_add_to_the_prompt(kind: str, name: str) -> None:
    tokenizer = kinds()[kind](made.CHATML if name == "bare" else made.PLAIN[name][0])
    of = PromptFormat(tokenizer, chat=name != "bare")
    prompts = [(text, system) for text in TEXTS for system in (None, "Be kind.")]
    asked = of.asked_many(prompts, *LABELS)
    assert asked == [of.asked(*prompt, *LABELS) for prompt in prompts]
    for prompt, found in zip(prompts, asked, strict=True):
        assert found.prompt == of.tokens(*prompt)
        text = "".join(piece.string for piece in of._pieces(*prompt))
        a, b = joint(tokenizer, [text + label for label in LABELS], bare=name == "bare")
        if a[: len(found.prompt)] == found.prompt:
            begun = [*found.prompt, *found.shared]
            assert a[: len(begun) + 1] == [*begun, found.a]
            assert b[: len(begun) + 1] == [*begun, found.b]
            assert found.a != found.b
        else:
            assert of.describe()["merged"]


@pytest.mark.parametrize("name", ["chatml", "inst"])
def test_labels_behind_a_text_with_control_tokens(name: str) -> None:
    tokenizer = made.byte_level(made.PLAIN[name][0])
    of = PromptFormat(tokenizer)
    quoted, plain = of.asked_many([("a <|im_end|> b", None), ("a b", None)], *LABELS)
    assert quoted.prompt == of.tokens("a <|im_end|> b")
    assert quoted[1:] == plain[1:]


def test_a_label_alone_is_other_tokens_than_behind_a_prompt() -> None:
    """The fault that tokenising together mends."""
    tokenizer = made.metaspace(made.CHATML, first=True)
    found = PromptFormat(tokenizer).asked("Hello", None, *LABELS)
    alone = joint(tokenizer, [LABELS[0]])[0]
    assert alone[: len(found.shared)] != found.shared
    assert tokenizer.convert_ids_to_tokens(found.shared) == ["Task"]


def test_a_boundary_that_merges_is_crossed_and_said() -> None:
    tokenizer = made.byte_level(made.CHATML + " ")
    of = PromptFormat(tokenizer)
    assert not of.describe()["merged"]
    found = of.asked("Hello", None, *LABELS)
    whole = joint(tokenizer, [shown(tokenizer, "Hello", None) + label for label in LABELS])
    assert whole[0][: len(found.prompt)] != found.prompt
    assert tokenizer.decode([*found.prompt, *found.shared, found.a]) == shown(tokenizer, "Hello", None) + "Task A"
    assert of.describe()["merged"]


@pytest.mark.parametrize("labels", [("Task", "Task A"), ("A", "A b")])
def test_labels_of_which_one_begins_the_other(labels: tuple[str, str]) -> None:
    for chat in (True, False):
        with pytest.raises(
            BadConfig, match="begins with the other as this tokenizer reads them; choose labels that differ"
        ):
            PromptFormat(made.byte_level(made.CHATML), chat=chat).check_labels(*labels)


@pytest.mark.parametrize("template", [made.SWITCHED, made.CHANNELS])
def test_a_thought_is_closed_as_the_template_closes_it(template: str) -> None:
    tokenizer = made.byte_level(template)
    of = PromptFormat(tokenizer)
    closing = of.describe()["closing"]
    for text, system in [("Hello", None), ("Hello", "Be kind."), ("a <|im_end|>", None)]:
        found = of.asked(text, system, *LABELS)
        before = of.tokens(text, system)
        assert found.prompt[: len(before)] == before  # activations are of the prompt as it is rendered
        assert found.prompt[len(before) :] == joint(tokenizer, [closing])[0]
    answered = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Task A: yes"}]
    finished = joint(tokenizer, [tokenizer.apply_chat_template(answered, tokenize=False)])[0]
    found = of.asked("Hello", None, *LABELS)
    assert finished[: len(found.prompt) + len(found.shared) + 1] == [*found.prompt, *found.shared, found.a]


def test_a_thought_that_stays_open_takes_no_label() -> None:
    of = PromptFormat(made.byte_level(made.FORGOTTEN))
    assert of.tokens("Hello")
    with pytest.raises(BadConfig, match=r"begins an answer with `<think>`.*it takes no_thoughts\)"):
        of.check_labels(*LABELS)
    with pytest.raises(BadConfig, match="within a thought"):
        of.asked("Hello", None, *LABELS)
    PromptFormat(made.byte_level(made.FORGOTTEN), template={"no_thoughts": True}).check_labels(*LABELS)


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("bos", [True, False])
def test_bare_text_has_the_beginning_that_its_tokenizer_gives(kind: str, bos: bool) -> None:
    tokenizer = kinds()[kind](bos=bos)
    of = PromptFormat(tokenizer, chat=False)
    for text in TEXTS:
        assert of.tokens(text) == list(tokenizer(text)["input_ids"])
        assert of.tokens(text, "Be kind.") == list(tokenizer(f"Be kind.\n\n{text}")["input_ids"])
    assert of.tokens("<s>Hello")[:2].count(tokenizer.bos_token_id) == bos
    assert of.describe() == {"chat": False, "template": {}, "folded": None, "closing": None, "merged": False}


def test_a_slow_tokenizer_that_ends_a_text_itself() -> None:
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    assert tokenizer("x")["input_ids"][-1] == tokenizer.eos_token_id
    bare = PromptFormat(tokenizer, chat=False)
    assert tokenizer.decode(bare.tokens("Hello")) == "Hello"
    found = bare.asked("Hello </s> you", "Be kind.", *LABELS)
    assert tokenizer.eos_token_id not in found.prompt
    assert bytes(token - 3 for token in [*found.prompt, *found.shared, found.a]) == b"Be kind.\n\nHello </s> youTask A"
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    assert PromptFormat(tokenizer).tokens("a</s>b").count(tokenizer.eos_token_id) == 1
