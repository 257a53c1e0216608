"""What is put into a prompt is found in it, whatever the chat template."""

import datetime
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefprobe.activations.dates import variables, written
from prefprobe.activations.templates import arguments_of, chosen, read_by, renderer
from prefprobe.activations.turns import Turns, check_thought
from prefprobe.errors import BadConfig
from prefprobe.settings import ModelSettings
from tests import chat_templates as made

DAY = datetime.date(2025, 1, 1)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
texts = st.text(st.sampled_from("ab <>|{}%'\"\n\té"), max_size=12) | st.sampled_from(
    ["user", "{{ x }}", "None", "</think>"]
)


def turns(template: str, day: datetime.date = DAY, **arguments: Any) -> Turns:
    return Turns(renderer(template, arguments, day, SPECIAL))


def shown(of: Turns, text: str, system: str | None = None) -> str:
    return "".join(piece.string for piece in of.pieces(text, system))


@pytest.mark.parametrize("name", made.PLAIN)
def test_a_text_and_a_system_prompt_are_found_in_the_prompt(name: str) -> None:
    template, folded = made.PLAIN[name]
    of = turns(template)
    assert of.folded == folded
    assert (of.thought, of.closing) == ("", "")

    @settings(max_examples=60, deadline=None)
    @given(texts.filter(str.strip), st.none() | texts)
    def found(text: str, system: str | None) -> None:
        pieces = of.pieces(text, system)
        if folded and system is not None and not system.strip():
            system = None
        own = [piece.string.strip() for piece in pieces if piece.given]
        times = 2 if template == made.TWICE else 1
        assert sorted(own) == sorted([text.strip()] * times + ([] if system is None else [system.strip()]))
        assert "None" not in "".join(piece.string for piece in pieces if not piece.given)

    found()


@pytest.mark.parametrize("name", [name for name, (_, folded) in made.PLAIN.items() if folded])
def test_a_folded_system_prompt_stands_at_the_head_of_the_users_turn(name: str) -> None:
    of = turns(made.PLAIN[name][0])
    assert shown(of, "Hello", "Be kind.") == shown(of, "Be kind.\n\nHello")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (made.WANTS_TOOLS, "renders no plain conversation (This model needs tools)"),
        (made.MUTE, "renders no plain conversation (it leaves the text out)"),
        ("{{ messages[0].content + 1 }}", "renders no plain conversation (can only concatenate"),
        (made.SHOUTS, "renders no plain conversation (it leaves the text out)"),
    ],
)
def test_a_template_that_renders_no_conversation_is_refused_in_its_own_words(template: str, said: str) -> None:
    with pytest.raises(BadConfig) as refused:
        turns(template)
    assert said in str(refused.value)
    assert str(refused.value).count(". ") == 0


@pytest.mark.parametrize(
    ("template", "text", "system"),
    [
        (made.CUTS, "x" * 31, None),
        (made.CUTS, "x", "y" * 31),
        (made.TAKES_FLAGS, "Count /no_think please", None),
        (made.CHATML.replace("m.content", "m.content | e"), "1 < 2", None),
        ("{% if 'no' in messages[0].content %}{{ raise_exception('rude') }}{% endif %}" + made.CHATML, "no", None),
    ],
)
def test_a_text_that_the_template_alters_is_refused_with_the_text(template: str, text: str, system: str | None) -> None:
    of = turns(template)
    assert "Fine" in shown(of, "Fine", "Be kind.")
    with pytest.raises(BadConfig, match=f"the text “{(system or text)[:20]}"):
        of.pieces(text, system)


def test_what_a_template_does_around_a_text_for_its_sake_is_refused() -> None:
    of = turns("{% if 'rain' in messages[0].content %}<wet>{% endif %}" + made.CHATML)
    with pytest.raises(BadConfig, match="the text “It rains”"):
        of.pieces("It rains")


@pytest.mark.parametrize(
    ("template", "arguments", "closing", "thought"),
    [
        (made.SWITCHED, {}, "<think>\n\n</think>\n\n", ""),
        (made.SWITCHED, {"enable_thinking": False}, "", ""),
        (made.FORGOTTEN, {}, "", "<think>\n"),
        (made.FORGOTTEN, {"no_thoughts": True}, "", ""),
        (made.KEPT_OPEN, {}, "", "<think>"),
        (made.CHANNELS, {}, "<|channel|>final<|message|>", ""),
        (made.NO_ANSWERS, {}, "", ""),
        (made.NO_ANSWERS_THINKING, {}, "", "[THINK]"),
        (made.FORGOTTEN.replace("<think>\n", "<|muse|>"), {}, "", "<|muse|>"),
        (made.FORGOTTEN.replace("{{ m.content.split", "<|said|>{{ m.content.split"), {}, "", "<think>\n"),
        (made.INST, {}, "", ""),
        (made.SYSTEM_IN_LAST_TURN, {}, "", ""),
    ],
)
def test_the_answer_stands_after_the_thought_or_nowhere(
    template: str, arguments: dict[str, Any], closing: str, thought: str
) -> None:
    of = turns(template, **arguments)
    assert (of.closing, of.thought) == (closing, thought)
    assert {of.closing_after(None), of.closing_after("Be kind.")} == {closing}
    assert shown(of, "Hello")  # activations are read all the same
    names = arguments_of(read_by(template, arguments))
    if not thought:
        return check_thought(of, names)
    with pytest.raises(BadConfig) as refused:
        check_thought(of, names)
    assert f"`{thought.strip()}`" in str(refused.value)
    assert all(word in str(refused.value) for word in ("choices.engine: api", *names))
    assert ("`template`" in str(refused.value)) == bool(names)  # nothing is advised that cannot be done
    return None


def days() -> Iterator[datetime.date]:
    draw = random.Random(0)
    yield from (
        datetime.date(2024, 2, 29),
        datetime.date(2023, 1, 1),
        datetime.date(2024, 12, 30),
        datetime.date(1970, 1, 1),
    )
    yield from (datetime.date.fromordinal(draw.randint(719163, 760000)) for _ in range(300))


@pytest.mark.parametrize("letter", "aAbBcdDeFgGhHIjklmMnpPrRSTtuUVwWxXyYzZ%C")
def test_dates_are_written_as_the_c_library_does_in_english(letter: str) -> None:
    for day in days():
        midnight = datetime.datetime.combine(day, datetime.time())
        for form in (f"%{letter}", f"%-{letter}", f"%_{letter}", f"%0{letter}", f"x %{letter}y"):
            if form[1] in "-_0" and letter not in "demHIjMSUWVuwyYkl":
                continue
            assert written(day, form) == midnight.strftime(form), (day, form)


def test_a_date_in_seconds_does_not_know_where_it_is() -> None:
    assert [written(day, "%s") for day in (datetime.date(1970, 1, 1), DAY)] == ["0", "1735689600"]
    with pytest.raises(ValueError, match="%Q"):
        written(DAY, "on %Q")


def test_what_the_date_is_follows_from_the_setting_alone() -> None:
    day = datetime.date(2031, 5, 9)
    of = turns(made.DATED, day)
    assert "Today is 09 May 2031, Friday, 00:00; yesterday was the 8." in shown(of, "Hello")
    assert shown(turns(made.DATE_STRING, day), "Hello").startswith("09 May 2031\n")
    assert variables(DAY)["date_string"] == "01 Jan 2025"


def test_arguments_are_those_that_the_template_reads() -> None:
    with pytest.raises(BadConfig, match=r"`enable_thinkng` is no argument .* \(it takes enable_thinking\)"):
        read_by(made.SWITCHED, {"enable_thinkng": False})
    with pytest.raises(BadConfig, match=r"`x` .* \(it takes none\)"):
        read_by(made.DATED, {"x": 1})
    assert arguments_of(read_by(made.SWITCHED, {"enable_thinking": False})) == ["enable_thinking"]


@pytest.mark.parametrize("name", ["tools", "strftime_now", "messages", "tokenize", "bos_token"])
def test_what_renders_a_prompt_sets_its_own_arguments(name: str) -> None:
    with pytest.raises(ValueError, match=f"a {name} of their own"):
        ModelSettings(source="x", template={name: 1})


def test_bare_text_takes_no_arguments() -> None:
    with pytest.raises(ValueError, match="`chat: false` uses none"):
        ModelSettings(source="x", chat=False, template={"a": 1})


@pytest.mark.parametrize("template", [made.RANDOM, "{{ lipsum() }}" + made.CHATML, made.BROKEN])
def test_templates_that_no_prompt_can_be_made_of_twice(template: str) -> None:
    with pytest.raises(BadConfig, match=r"random words|not valid"):
        read_by(template, {})


@pytest.mark.parametrize(
    ("templates", "arguments", "expected"),
    [
        ("one", {"a": 1}, ("one", {"a": 1})),
        ({"default": "one", "rag": "two"}, {}, ("one", {})),
        ({"default": "one", "rag": "two"}, {"chat_template": "rag", "a": 1}, ("two", {"a": 1})),
        ({"rag": "two"}, {"chat_template": "rag"}, ("two", {})),
        ({"rag": "two", "tools": "three"}, {}, "has the chat templates rag and tools and says not which"),
        ("one", {"chat_template": "rag"}, "has the chat templates default and has none called rag"),
        ("one", {"chat_template": ["rag"]}, r"has none called \['rag'\]"),
        (None, {}, "has no chat template; let a base model read bare text"),
    ],
)
def test_one_of_several_templates_is_named(templates: Any, arguments: dict[str, Any], expected: Any) -> None:
    if isinstance(expected, tuple):
        assert chosen(templates, arguments) == expected
        return
    with pytest.raises(BadConfig, match=expected):
        chosen(templates, arguments)
